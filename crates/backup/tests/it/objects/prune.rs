//! Sets go from an object store, and nobody who makes, proves or restores one meanwhile is harmed, on whatever machine.

use super::faults::foreign;
use super::{PREFIX, Remote, place};
use crate::scene::now;
use groundskeeper_backup::place::Storage;
use groundskeeper_backup::{Error, Retention, Vault};
use groundskeeper_core::receipt::{Receipt, Rung, SetId};
use groundskeeper_core::retention::{Keep, Reason, Verdict};
use groundskeeper_testing::Fault;
use jiff::{SignedDuration, Timestamp};

fn day(number: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_hours(24 * number)).unwrap()
}

fn keeping_one(vault: Vault, grace: SignedDuration) -> Vault {
    let keep = Keep { last: 1, ..Keep::NOTHING };
    vault.keeping(Retention { keep, grace, ..Retention::default() })
}

/// A set each day, each with a table of its own that is dropped the next day.
async fn days(remote: &Remote, count: i64) -> Vec<Receipt> {
    let client = remote.scene.server.client().await;
    let mut made = Vec::new();
    for number in 0..count {
        let fill = format!(
            "DROP TABLE IF EXISTS passing; CREATE TABLE passing AS SELECT n, md5(random()::text || '{number}') \
             FROM generate_series(1, 20000) n; CHECKPOINT"
        );
        client.batch_execute(&fill).await.unwrap();
        made.push(remote.vault.make(Vec::new(), day(number)).await.unwrap());
    }
    made
}

async fn sets(remote: &Remote) -> Vec<SetId> {
    remote.elsewhere().receipts().await.unwrap().into_iter().map(|receipt| receipt.set).collect()
}

/// Restic finds nothing wrong, and nobody's marks are left.
async fn is_clean(remote: &Remote) {
    let check = remote.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
    assert_eq!(remote.objects("holds").await, Vec::<String>::new());
    assert_eq!(remote.objects("groundskeeper.lock").await, Vec::<String>::new());
}

async fn restores(remote: &Remote, set: &SetId) {
    let verified = remote.elsewhere().verify(Some(set), day(90)).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    let into = remote.scene.folder.path().join(format!("restored-{set}"));
    assert_eq!(remote.elsewhere().restore(Some(set), None, &into).await.unwrap().parts.len(), 2);
    std::fs::remove_dir_all(into).unwrap();
}

fn one(set: &SetId) -> &[SetId] {
    std::slice::from_ref(set)
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_go_in_two_phases_and_restic_finds_nothing_wrong_after_each() {
    let remote = Remote::new().await;
    let made = days(&remote, 2).await;
    let (old, newest) = (&made[0].set, &made[1].set);
    let vault = keeping_one(remote.vault.clone(), SignedDuration::from_hours(24));
    remote.proxy.take_asked();
    let plan = vault.plan_prune(day(2)).await.unwrap();
    assert!(plan.freed.later > 0 && plan.freed.now == 0 && plan.removed().count() == 1, "{plan:?}");
    assert!(remote.proxy.take_asked().iter().all(|(method, _)| *method != "PUT" && *method != "DELETE"));
    let packs = remote.objects("data/").await;
    assert_eq!(vault.prune(one(old), day(2)).await.unwrap().removed, one(old));
    assert_eq!(sets(&remote).await, one(newest));
    assert!(remote.objects("receipts/").await.iter().all(|name| !name.contains(old.as_str())));
    assert!(vault.prune(&[], day(2)).await.unwrap().freed.waiting > 0, "the grace has not passed");
    // What a pack still has that is needed may be in a new one by now; the old one waits.
    let waiting = remote.objects("data/").await;
    assert!(packs.iter().all(|pack| waiting.contains(pack)), "{packs:?} {waiting:?}");
    is_clean(&remote).await;
    let late = keeping_one(remote.vault.clone(), SignedDuration::ZERO).prune(&[], day(4)).await.unwrap();
    assert!(late.freed.now > 0 && remote.objects("data/").await.len() < waiting.len(), "{late:?}");
    is_clean(&remote).await;
    restores(&remote, newest).await;
}

/// The backup stands still in the middle while the other machine tries.
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_while_a_backup_runs_on_another_machine_is_refused_and_harms_neither_set() {
    let remote = Remote::new().await;
    let first = days(&remote, 1).await.remove(0);
    let client = remote.scene.server.client().await;
    client
        .batch_execute("CREATE TABLE more AS SELECT md5(random()::text) FROM generate_series(1, 20000)")
        .await
        .unwrap();
    remote.proxy.misbehave(|asked| (asked.method == "PUT" && asked.path.contains("/data/")).then_some(Fault::Gate));
    let vault = remote.vault.clone();
    let making = tokio::spawn(async move { vault.make(Vec::new(), day(1)).await });
    remote.proxy.somebody_waits().await;
    let pruner = keeping_one(remote.elsewhere(), SignedDuration::ZERO);
    let refused = pruner.prune(one(&first.set), day(2)).await;
    let second = pruner.make(Vec::new(), day(2)).await;
    assert!(!making.is_finished());
    remote.proxy.open_gate();
    assert!(matches!(&refused, Err(Error::Busy(who)) if who.contains(" on ")), "{refused:?}");
    assert!(matches!(&second, Err(Error::Busy(_))), "{second:?}");
    let second = making.await.unwrap().unwrap();
    for set in [&first.set, &second.set] {
        restores(&remote, set).await;
    }
    is_clean(&remote).await;
}

/// And the other way round. A restore of what goes waits for the end, and is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_a_proof_and_a_restore_while_a_prune_runs_on_another_machine_wait_or_are_refused() {
    let remote = Remote::new().await;
    let made = days(&remote, 2).await;
    let (old, newest) = (made[0].set.clone(), &made[1].set);
    let deletes = |method: &str, path: &str| method == "DELETE" && path.contains("/snapshots/");
    remote.proxy.misbehave(move |asked| deletes(asked.method.as_str(), &asked.path).then_some(Fault::Gate));
    let pruner = keeping_one(remote.vault.clone(), SignedDuration::ZERO);
    let going = old.clone();
    let pruning = tokio::spawn(async move { pruner.prune(one(&going), day(2)).await });
    remote.proxy.somebody_waits().await;
    let other = remote.elsewhere();
    assert!(matches!(other.make(Vec::new(), day(2)).await, Err(Error::Busy(_))));
    assert!(matches!(other.verify(None, day(2)).await, Err(Error::Busy(_))));
    let into = remote.scene.folder.path().join("going");
    let (late, set) = (other.clone(), old.clone());
    let restoring = tokio::spawn(async move { late.restore(Some(&set), None, &into).await });
    while remote.objects(&format!("holds/{old}/")).await.len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let into = remote.scene.folder.path().join("newest");
    assert_eq!(other.restore(Some(newest), None, &into).await.unwrap().parts.len(), 2);
    assert!(!restoring.is_finished() && !pruning.is_finished());
    remote.proxy.open_gate();
    assert_eq!(pruning.await.unwrap().unwrap().removed, one(&old));
    let told = restoring.await.unwrap().unwrap_err();
    assert!(matches!(&told, Error::NoSet(set) if set.contains(old.as_str())), "{told:?}");
    restores(&remote, newest).await;
    is_clean(&remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_another_machine_restores_stays_with_everything_that_it_needs() {
    let remote = Remote::new().await;
    let made = days(&remote, 3).await;
    let (gone, held, newest) = (&made[0].set, &made[1].set, &made[2].set);
    let pruner = keeping_one(remote.elsewhere(), SignedDuration::ZERO);
    assert_eq!(pruner.prune(one(gone), day(3)).await.unwrap().removed, one(gone));
    remote.proxy.misbehave(|asked| (asked.method == "GET" && asked.path.contains("/data/")).then_some(Fault::Gate));
    let (vault, set) = (remote.vault.clone(), held.clone());
    let into = remote.scene.folder.path().join("restored");
    let restoring = tokio::spawn(async move { vault.restore(Some(&set), None, &into).await });
    remote.proxy.somebody_waits().await;
    let plan = pruner.plan_prune(day(4)).await.unwrap();
    let verdict = &plan.sets.iter().find(|judged| judged.set == *held).unwrap().verdict;
    assert!(matches!(verdict, Verdict::Kept { because } if because.contains(&Reason::InUse)), "{plan:?}");
    let packs = remote.objects("data/").await;
    let pruned = pruner.prune(one(held), day(4)).await.unwrap();
    assert_eq!((pruned.removed, pruned.spared, pruned.freed.now), (Vec::new(), vec![held.clone()], 0));
    let there = remote.objects("data/").await;
    assert!(packs.iter().all(|pack| there.contains(pack)), "not even what was marked before");
    remote.proxy.open_gate();
    assert_eq!(restoring.await.unwrap().unwrap().parts.len(), 2);
    assert_eq!(pruner.prune(one(held), day(4)).await.unwrap().removed, one(held));
    assert_eq!(sets(&remote).await, one(newest));
    is_clean(&remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hold_of_a_dead_restore_counts_until_the_store_says_that_it_is_old() {
    let remote = Remote::new().await;
    let made = days(&remote, 2).await;
    let old = &made[0].set;
    // And the claim of a prune that was killed.
    for name in ["1", "going"] {
        remote.server.put(&format!("{PREFIX}/holds/{old}/{name}"), foreign("")).await.unwrap();
    }
    let vault = keeping_one(remote.vault.clone(), SignedDuration::ZERO);
    assert_eq!(vault.prune(one(old), day(2)).await.unwrap().spared, one(old));
    remote.proxy.misbehave(|asked| (asked.path.trim_end_matches('/') == "/backups").then_some(Fault::OfLongAgo));
    assert_eq!(vault.prune(one(old), day(2)).await.unwrap().removed, one(old));
    is_clean(&remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_obeys_no_conditions_takes_backups_and_loses_no_set() {
    let remote = Remote::new().await;
    remote.proxy.misbehave(|_| Some(Fault::Unconditional));
    let made = days(&remote, 2).await;
    let vault = keeping_one(remote.vault.clone(), SignedDuration::ZERO);
    let refused = vault.prune(one(&made[0].set), day(2)).await.unwrap_err();
    assert!(refused.to_string().contains("no set is removed from it"), "{refused}");
    assert_eq!(sets(&remote).await, [made[1].set.clone(), made[0].set.clone()]);
    is_clean(&remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_in_the_middle_of_a_prune_leave_every_kept_set_whole() {
    let remote = Remote::new().await;
    let made = days(&remote, 3).await;
    let newest = &made[2].set;
    let storage = Storage { retry_for: std::time::Duration::ZERO, ..remote.storage() };
    let vault = keeping_one(remote.vault_of(place(storage)), SignedDuration::ZERO);
    let going: Vec<SetId> = made[..2].iter().map(|receipt| receipt.set.clone()).collect();
    let changes = |method: &str| matches!(method, "PUT" | "DELETE");
    let mut failed = 0;
    for after in [1, 4, 6, 8] {
        let seen = std::sync::atomic::AtomicU64::new(0);
        remote.proxy.misbehave(move |asked| {
            let number =
                seen.fetch_add(u64::from(changes(asked.method.as_str())), std::sync::atomic::Ordering::Relaxed);
            (changes(asked.method.as_str()) && number >= after).then_some(Fault::Answer(400, "ExpiredToken"))
        });
        match vault.prune(&going, day(4)).await {
            Ok(_) => break,
            Err(error) => assert!(error.to_string().contains("the credentials have expired"), "{error}"),
        }
        failed += 1;
        remote.proxy.behave();
        assert!(sets(&remote).await.contains(newest), "after {after} changes");
        let into = remote.scene.folder.path().join(format!("after-{after}"));
        // Past the lock that could not be taken away: it is a restore.
        assert_eq!(remote.elsewhere().restore(Some(newest), None, &into).await.unwrap().parts.len(), 2);
        std::fs::remove_dir_all(into).unwrap();
    }
    assert!(failed > 2, "only {failed} prunes were broken off");
    remote.proxy.behave();
    vault.prune(&going, day(5)).await.unwrap();
    vault.prune(&[], day(6)).await.unwrap();
    assert_eq!(sets(&remote).await, one(newest));
    restores(&remote, newest).await;
    is_clean(&remote).await;
}
