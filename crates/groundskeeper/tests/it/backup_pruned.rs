//! Retention as its users meet it: what would go, who may remove it, and what is never in its way.

use crate::backup::Scene;
use crate::scene::Said;
use groundskeeper::app::api::{ActionResult, ActionView, AuditView, BackupPruneView, TaskRunView};
use groundskeeper_core::policy::Outcome;
use groundskeeper_core::receipt::SetId;
use std::time::Duration;

const ONE: &str = "[backup.keep]\nlast = 1\ndaily = 0\nweekly = 0\nmonthly = 0\n";

/// A keeper with so many sets that keeps one of them.
async fn with_sets(count: u32, more: &str) -> (Scene, Vec<SetId>) {
    let scene = Scene::with_repository().await;
    scene.configure(&format!("{ONE}{more}"));
    for number in 0..count {
        scene.fill(&format!("filled_{number}"), 5_000).await;
        scene.fine(&["backup", "run"]).await;
    }
    let sets = scene.list().await.sets.into_iter().map(|set| set.set).collect();
    (scene, sets)
}

async fn sets(scene: &Scene) -> Vec<SetId> {
    scene.list().await.sets.into_iter().map(|set| set.set).collect()
}

#[tokio::test]
async fn a_plan_tells_the_reason_of_every_set_and_only_apply_removes_and_is_journalled() {
    let (scene, made) = with_sets(3, "").await;
    let told = scene.fine(&["backup", "prune"]).await;
    assert!(told.contains("stays  the newest set") && told.contains("goes   no rule keeps it"), "{told}");
    assert!(told.contains("2 sets of 3 go, which frees") && told.contains("Nothing was changed"), "{told}");
    let view: BackupPruneView = scene.place.json(&["backup", "prune"]).await;
    assert_eq!(view.plan.removed().map(|judged| judged.set.clone()).collect::<Vec<_>>(), made[1..]);
    assert!(view.action.is_none() && view.plan.freed.later > 0, "{view:?}");
    let run: TaskRunView = scene.place.json(&["task", "run", "retention"]).await;
    assert!(run.ok && run.summary.starts_with("2 sets of 3 would go"), "{run:?}");
    assert_eq!(sets(&scene).await, made, "without `apply = true` the task only tells");

    let applied = scene.fine(&["backup", "prune", "--apply"]).await;
    assert!(applied.contains("✓ 2 sets removed"), "{applied}");
    assert_eq!(sets(&scene).await, made[..1]);
    let actions: Vec<ActionView> = scene.place.json(&["actions"]).await;
    let pruned = &actions[0];
    assert!(pruned.remedy == "backup.prune_repository" && pruned.statement.contains(made[2].as_str()), "{pruned:?}");
    assert!(matches!(&pruned.result, ActionResult::Ended { outcome: Outcome::Helped, .. }), "{pruned:?}");
    let audit: AuditView = scene.place.json(&["audit"]).await;
    let intent = audit.entries.iter().find(|entry| entry.what == "intent").unwrap();
    assert!(intent.detail.contains(made[1].as_str()), "{intent:?}");
    assert!(scene.fine(&["backup", "prune"]).await.contains("0 sets of 1 go"));
    assert!(scene.fine(&["backup", "verify"]).await.contains("✓ 2 intact"));
}

#[tokio::test]
async fn the_task_removes_sets_in_the_window_when_the_configuration_says_so() {
    let (scene, made) = with_sets(2, "apply = true\n[maintenance]\nwindows = []\n").await;
    let held: TaskRunView = scene.place.json(&["task", "run", "retention"]).await;
    assert!(held.ok && held.summary.contains("held back: no maintenance window is configured"), "{held:?}");
    assert_eq!(sets(&scene).await, made);
    scene.configure(&format!("{ONE}apply = true\n[maintenance]\nwindows = [\"daily 00:00-24:00\"]\n"));
    scene.fine(&["pause", "--reason", "a person looks first"]).await;
    let held: TaskRunView = scene.place.json(&["task", "run", "retention"]).await;
    assert!(held.summary.contains("held back: paused"), "{held:?}");
    scene.fine(&["resume"]).await;
    let dry: TaskRunView = scene.place.json(&["task", "run", "retention", "--dry-run"]).await;
    assert!(dry.ok && sets(&scene).await == made, "{dry:?}");
    let run: TaskRunView = scene.place.json(&["task", "run", "retention"]).await;
    assert!(run.ok && run.summary.starts_with("1 set removed"), "{run:?}");
    assert_eq!(sets(&scene).await, made[..1]);
}

#[tokio::test]
async fn a_restore_replaces_only_what_was_named_and_moves_it_aside() {
    let (scene, _) = with_sets(1, "").await;
    let into = scene.place.path().join("restored");
    let restore = ["backup", "restore", "--only", "postgres.main", "--into", into.to_str().unwrap()];
    scene.fine(&restore).await;
    std::fs::write(into.join("postgres.main/of-mine"), "mine").unwrap();
    for (more, said) in [
        (&[][..], "move it aside with --replace"),
        (&["--replace"], "give --confirm NAME"),
        (&["--replace", "--confirm", "another"], "`another` is not `restored`; nothing was changed"),
    ] {
        let refused = scene.place.run(&[&restore, more].concat()).await;
        assert!(refused.code == 2 && refused.err.contains(said), "{refused:?}");
        assert_eq!(std::fs::read_dir(&into).unwrap().count(), 1);
    }
    let told = scene.fine(&[&restore[..], &["--replace", "--confirm", "restored"]].concat()).await;
    assert!(told.contains("it is moved aside to") && told.contains("what was there is in "), "{told}");
    assert!(into.join("postgres.main/data").exists() && !into.join("postgres.main/of-mine").exists());
    assert_eq!(std::fs::read_dir(&into).unwrap().count(), 2);
}

/// A restore that is stopped in the middle is still one; a dead one is not.
#[tokio::test]
async fn a_set_that_is_being_restored_stays_and_a_dead_restore_holds_nothing() {
    let (scene, made) = with_sets(2, "").await;
    let into = scene.place.path().join("restored");
    let arguments = ["backup", "restore", "--set", made[1].as_str(), "--into", into.to_str().unwrap()];
    let mut restore = scene.place.start(&arguments);
    let signal = |child: &tokio::process::Child, name: &str| {
        let id = child.id().expect("the restore was over before it was seen").to_string();
        assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
    };
    while !into.exists() {
        assert!(restore.try_wait().unwrap().is_none(), "the restore ended");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    signal(&restore, "-STOP");
    let held: Said = scene.place.run(&["backup", "prune", "--apply"]).await;
    assert!(held.code == 0 && held.out.contains("stays  it is being restored"), "{held:?}");
    assert_eq!(sets(&scene).await, made);
    signal(&restore, "-CONT");
    assert!(restore.wait().await.unwrap().success());
    assert!(into.join("postgres.main/data/PG_VERSION").exists());

    std::fs::remove_dir_all(&into).unwrap();
    let mut restore = scene.place.start(&arguments);
    while !into.exists() {
        assert!(restore.try_wait().unwrap().is_none(), "the restore ended");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    signal(&restore, "-STOP");
    restore.kill().await.unwrap();
    scene.fine(&["backup", "prune", "--apply"]).await;
    assert_eq!(sets(&scene).await, made[..1]);
}
