//! Sets go, and what stays is whole: by our own eyes and by plain restic's.

use crate::scene::{BUDGET, KEY, Scene, files, now};
use groundskeeper_backup::{Error, Retention, Vault};
use groundskeeper_core::receipt::{Receipt, Rung, SetId};
use groundskeeper_core::retention::{Dismissal, Keep, Reason, Verdict};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn day(number: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_hours(24 * number)).unwrap()
}

/// Keeps the last set, and the data of others for a while.
fn keeping_one(scene: &Scene, grace: SignedDuration) -> Vault {
    let keep = Keep { last: 1, ..Keep::NOTHING };
    scene.vault.clone().keeping(Retention { keep, grace, ..Retention::default() })
}

/// A set each day, each with a table of its own that is dropped the next day.
async fn days(scene: &Scene, count: i64) -> Vec<Receipt> {
    let client = scene.server.client().await;
    let mut made = Vec::new();
    for number in 0..count {
        let fill = format!(
            "DROP TABLE IF EXISTS passing; CREATE TABLE passing AS SELECT n, md5(random()::text || '{number}') \
             FROM generate_series(1, 20000) n; CHECKPOINT"
        );
        client.batch_execute(&fill).await.unwrap();
        made.push(scene.vault.make(Vec::new(), day(number)).await.unwrap());
    }
    made
}

/// Every file of the repository.
fn all(scene: &Scene) -> BTreeMap<PathBuf, Vec<u8>> {
    files(&scene.repository()).into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

fn is_clean(scene: &Scene) {
    let check = scene.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
}

async fn sets(scene: &Scene) -> Vec<SetId> {
    scene.vault.receipts().await.unwrap().into_iter().map(|receipt| receipt.set).collect()
}

/// What every set that stays must still be able to do.
async fn restores(scene: &Scene, set: &SetId) {
    let verified = scene.vault.verify(Some(set), day(90)).await.unwrap();
    assert!(verified.failed().all(|(rung, _)| rung > Rung::Intact) || verified.parts.is_empty(), "{verified:?}");
    let into = scene.folder.path().join(format!("restored-{set}"));
    assert_eq!(scene.vault.restore(Some(set), None, &into).await.unwrap().parts.len(), 2);
    std::fs::remove_dir_all(into).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_kept_is_and_restic_finds_nothing_wrong_at_each_phase() {
    let scene = Scene::new().await;
    let made = days(&scene, 4).await;
    let [alive, lost, old, newest] = [0, 1, 2, 3].map(|at| made[at].set.clone());
    scene.vault.drill(Some(&alive), BUDGET, day(3)).await.unwrap();
    let proven = scene.vault.verify(Some(&alive), day(3)).await.unwrap();
    assert!(proven.proven() >= Some(Rung::Alive), "{proven:?}");
    std::fs::remove_file(scene.repository().join(format!("receipts/{lost}.json"))).unwrap();
    let vault = keeping_one(&scene, SignedDuration::from_hours(24));

    let before = all(&scene);
    let plan = vault.plan_prune(day(4)).await.unwrap();
    assert!(before == all(&scene), "a plan changes no byte");
    let verdicts: Vec<(&SetId, &Verdict)> = plan.sets.iter().map(|judged| (&judged.set, &judged.verdict)).collect();
    assert_eq!(verdicts.iter().map(|(set, _)| *set).collect::<Vec<_>>(), [&newest, &old, &lost, &alive]);
    assert_eq!(*verdicts[1].1, Verdict::Removed { because: Dismissal::NoRule });
    assert_eq!(*verdicts[2].1, Verdict::Kept { because: vec![Reason::ReceiptLost] });
    assert_eq!(*verdicts[3].1, Verdict::Kept { because: vec![Reason::NewestAlive] });
    assert!(plan.freed.later > 0 && plan.freed.now == 0, "{plan:?}");

    let named = [old.clone(), alive.clone()];
    let pruned = vault.prune(&named, day(4)).await.unwrap();
    assert_eq!((pruned.removed, pruned.spared), (vec![old.clone()], vec![alive.clone()]), "a plan is no order");
    assert_eq!(sets(&scene).await, [newest.clone(), lost.clone(), alive.clone()]);
    assert!(!scene.repository().join(format!("receipts/{old}.json")).exists());
    let packs = scene.files("data");
    is_clean(&scene);

    let early = vault.prune(&[], day(4)).await.unwrap();
    assert!(early.freed.now == 0 && early.freed.waiting > 0, "{early:?}");
    assert!(packs.iter().all(|pack| pack.exists()), "the grace has not passed");
    is_clean(&scene);
    let late = keeping_one(&scene, SignedDuration::ZERO);
    assert!(late.plan_prune(day(5)).await.unwrap().freed.now > 0);
    let late = late.prune(&[], day(5)).await.unwrap();
    assert!(late.freed.now > 0 && packs.iter().any(|pack| !pack.exists()), "{late:?}");
    is_clean(&scene);

    for set in [&newest, &lost, &alive] {
        restores(&scene, set).await;
    }
    let listed = std::fs::read(scene.repository().join("receipts/verified-packs.json")).unwrap();
    let verified: Vec<String> = serde_json::from_slice(&listed).unwrap();
    let there: Vec<String> =
        scene.files("data").iter().map(|pack| pack.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert!(!verified.is_empty() && verified.iter().all(|pack| there.contains(pack)));
    assert_eq!(vault.plan_prune(day(6)).await.unwrap().removed().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_removes_nothing() {
    let scene = Scene::new().await;
    let made = days(&scene, 2).await;
    let vault = keeping_one(&scene, SignedDuration::ZERO);
    let (before, earlier) = (all(&scene), day(-30));
    let plan = vault.plan_prune(earlier).await.unwrap();
    let is_kept =
        |verdict: &Verdict| matches!(verdict, Verdict::Kept { because } if because.contains(&Reason::ClockBehind));
    assert!(plan.sets.iter().all(|judged| is_kept(&judged.verdict)) && !plan.is_due(), "{plan:?}");
    let pruned = vault.prune(std::slice::from_ref(&made[0].set), earlier).await.unwrap();
    assert!(pruned.removed.is_empty() && pruned.spared == [made[0].set.clone()], "{pruned:?}");
    let lock = scene.repository().join("groundskeeper.lock");
    let mut after = all(&scene);
    after.remove(&lock);
    assert!(before.into_iter().filter(|(file, _)| *file != lock).eq(after));
    let pruned = vault.prune(std::slice::from_ref(&made[0].set), day(2)).await.unwrap();
    assert_eq!(pruned.removed, [made[0].set.clone()]);
}

/// The backup stands still while the prune tries, because the server's process that sends it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_while_a_backup_runs_is_refused_and_harms_neither_set() {
    let scene = Scene::new().await;
    let first = days(&scene, 1).await.remove(0);
    let client = scene.server.client().await;
    let fill = "CREATE TABLE much AS SELECT n, (SELECT string_agg(md5(random()::text || n || m), '') \
                FROM generate_series(1, 60) m) FROM generate_series(1, 20000) n";
    client.batch_execute(fill).await.unwrap();
    let vault = scene.vault.clone();
    let making = tokio::spawn(async move { vault.make(Vec::new(), day(1)).await });
    let sender = loop {
        let sql = "SELECT pid FROM pg_stat_replication WHERE state = 'backup'";
        if let Some(row) = client.query_opt(sql, &[]).await.unwrap() {
            break row.get::<_, i32>(0).to_string();
        }
        assert!(!making.is_finished(), "the backup was over before it was seen");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    };
    let signal = |name: &str| Command::new("kill").args([name, &sender]).status().unwrap();
    assert!(signal("-STOP").success());
    let refused = keeping_one(&scene, SignedDuration::ZERO).prune(std::slice::from_ref(&first.set), day(2)).await;
    assert!(signal("-CONT").success());
    let second = making.await.unwrap().unwrap();
    assert!(matches!(&refused, Err(Error::Busy(process)) if *process == std::process::id().to_string()), "{refused:?}");
    for set in [&first.set, &second.set] {
        restores(&scene, set).await;
    }
    is_clean(&scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_restic_at_work_is_waited_for_and_its_snapshots_stay() {
    let scene = Scene::new().await;
    let made = days(&scene, 2).await;
    let vault = keeping_one(&scene, SignedDuration::ZERO);
    let mut restic = Command::new("restic")
        .args(["--no-cache", "backup", "--stdin", "--tag", "of-somebody-else", "--repo"])
        .arg(scene.repository())
        .env("RESTIC_PASSWORD", KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let is_locked =
        || std::fs::read_dir(scene.repository().join("locks")).is_ok_and(|mut locks| locks.next().is_some());
    while !is_locked() {
        assert!(restic.try_wait().unwrap().is_none());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let refused = vault.prune(std::slice::from_ref(&made[0].set), day(2)).await.unwrap_err();
    assert!(refused.retryable() && refused.to_string().contains("`restic unlock`"), "{refused}");
    let mut input = restic.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"somebody else's").unwrap();
    drop(input);
    assert!(restic.wait().unwrap().success());

    let pruned = vault.prune(std::slice::from_ref(&made[0].set), day(2)).await.unwrap();
    assert_eq!(pruned.removed, [made[0].set.clone()]);
    let listed = scene.restic(&["snapshots", "--json"]);
    let snapshots: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let tags: Vec<&str> = snapshots.iter().filter_map(|snapshot| snapshot["tags"][0].as_str()).collect();
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    assert!(tags.contains(&"of-somebody-else"), "{tags:?}");
    vault.prune(&[], day(3)).await.unwrap();
    is_clean(&scene);
}

/// Index files come and go while others read them.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_beside_a_prune_reads_the_whole_of_it() {
    let scene = Scene::new().await;
    let made = days(&scene, 4).await;
    let vault = keeping_one(&scene, SignedDuration::ZERO);
    let old: Vec<SetId> = made[..3].iter().map(|receipt| receipt.set.clone()).collect();
    let into = scene.folder.path().join("restored");
    let pruning = async {
        for set in &old {
            vault.prune(std::slice::from_ref(set), day(5)).await.unwrap();
        }
    };
    let reading = async {
        for _ in 0..20 {
            let listed = scene.vault.receipts().await.unwrap();
            assert_eq!(listed[0].set, made[3].set);
        }
    };
    let newest = scene.vault.restore(Some(&made[3].set), None, &into);
    let ((), (), restored) = tokio::join!(pruning, reading, newest);
    assert_eq!(restored.unwrap().parts.len(), 2);
    assert_eq!(sets(&scene).await, [made[3].set.clone()]);
    is_clean(&scene);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_repository_loses_no_set() {
    let scene = Scene::new().await;
    let made = days(&scene, 2).await;
    let largest = scene.files("data").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest).unwrap();
    let vault = keeping_one(&scene, SignedDuration::ZERO);
    let error = vault.plan_prune(day(2)).await.unwrap_err();
    assert!(!error.to_string().is_empty());
    assert!(vault.prune(std::slice::from_ref(&made[0].set), day(2)).await.is_err());
    assert_eq!(sets(&scene).await, [made[1].set.clone(), made[0].set.clone()]);
}
