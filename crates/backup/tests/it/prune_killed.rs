//! `kill -9` in the middle of a prune, at both of its phases.

use crate::scene::{BUDGET, Scene, now, settings};
use groundskeeper_backup::{Retention, Vault};
use groundskeeper_core::receipt::{Rung, SetId};
use groundskeeper_core::retention::Keep;
use jiff::{SignedDuration, Timestamp};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FOLDER: &str = "GROUNDSKEEPER_TEST_PRUNE";

fn day(number: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_hours(24 * number)).unwrap()
}

/// Marks, and deletes what was marked before.
fn keeping_one(vault: Vault) -> Vault {
    let keep = Keep { last: 1, ..Keep::NOTHING };
    vault.keeping(Retention { keep, grace: SignedDuration::ZERO, ..Retention::default() })
}

/// The process that is killed.
#[ignore = "the other half of killed_at_any_moment_every_kept_set_restores, which starts it"]
#[tokio::test(flavor = "multi_thread")]
async fn a_prune_of_its_own() {
    let folder = std::env::var(FOLDER).expect("started by hand");
    let vault = keeping_one(Vault::new(settings("postgres://nobody@127.0.0.1:1/none", Path::new(&folder))));
    let plan = vault.plan_prune(day(90)).await.unwrap();
    let going: Vec<SetId> = plan.removed().map(|judged| judged.set.clone()).collect();
    vault.prune(&going, day(90)).await.unwrap();
}

fn start(scene: &Scene) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "prune_killed::a_prune_of_its_own"])
        .env(FOLDER, scene.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn another_set(scene: &Scene, number: i64) -> SetId {
    let change = format!(
        "DROP TABLE IF EXISTS passing; CREATE TABLE passing AS SELECT n, md5(random()::text || '{number}') \
         FROM generate_series(1, 20000) n; CHECKPOINT"
    );
    scene.server.client().await.batch_execute(&change).await.unwrap();
    scene.vault.make(Vec::new(), day(number)).await.unwrap().set
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_every_kept_set_restores() {
    const MOMENTS: u32 = 10;
    let scene = Scene::new().await;
    let alive = another_set(&scene, 0).await;
    scene.vault.verify(None, day(0)).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, day(0)).await.unwrap();
    assert!(drilled.proven() >= Some(Rung::Alive), "{drilled:?}");
    for number in 1..3 {
        another_set(&scene, number).await;
    }
    let began = Instant::now();
    assert!(start(&scene).wait().unwrap().success());
    let whole = began.elapsed();
    let (mut killed, mut newest) = (0, alive.clone());
    for moment in 0..MOMENTS {
        newest = another_set(&scene, 3 + i64::from(moment)).await;
        let mut child = start(&scene);
        // The first half of it is the start of the process and the stretching of the key.
        let wait = whole / 2 + whole / 2 * moment / MOMENTS + Duration::from_millis(u64::from(moment) * 7 % 13);
        tokio::time::sleep(wait).await;
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let check = scene.restic(&["check"]);
        assert!(check.status.success(), "after {wait:?}: {check:?}");
        let listed: Vec<SetId> = scene.vault.receipts().await.unwrap().into_iter().map(|set| set.set).collect();
        assert!(listed.contains(&newest) && listed.contains(&alive), "after {wait:?}: {listed:?}");
        for set in [&newest, &alive] {
            let verified = scene.vault.verify(Some(set), day(80)).await.unwrap();
            assert_eq!(verified.failed().count(), 0, "after {wait:?}: {verified:?}");
        }
    }
    assert!(killed > 0, "every prune was over before it was killed");
    assert!(start(&scene).wait().unwrap().success());
    let listed: Vec<SetId> = scene.vault.receipts().await.unwrap().into_iter().map(|set| set.set).collect();
    assert_eq!(listed, [newest, alive]);
    let check = scene.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
    for set in listed {
        let into = scene.folder.path().join(format!("restored-{set}"));
        assert_eq!(scene.vault.restore(Some(&set), None, &into).await.unwrap().parts.len(), 2);
    }
}
