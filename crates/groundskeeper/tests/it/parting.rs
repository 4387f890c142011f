//! Whole partitions that a rule does not keep: dropped once a proven backup set has their rows, and not before.

use crate::backup::Scene;
use crate::scene::{Database, GRANTS, Place};
use groundskeeper::app::api::{ActionResult, BackupTryView};
use groundskeeper_core::policy::Outcome;
use groundskeeper_core::receipt::Rung;
use tokio_postgres::Client;

const RULE: &str = "[maintenance]\nwindows = [\"daily 00:00-24:00\"]\n[[postgres.main.retention]]\ntable = \"audit\"\n\
                    column = \"at\"\nkeep = \"90d\"\n";
const DROP: &str = "ALTER TABLE \"public\".\"audit\" DETACH PARTITION \"public\".\"old\" CONCURRENTLY; DROP TABLE";

/// A table with a partition that is older than the rule keeps, and one that is not.
async fn audit(database: &Database) -> Client {
    let owner = database.app("docrag").await;
    owner
        .batch_execute(
            "CREATE TABLE audit (id int, at timestamptz) PARTITION BY RANGE (at);
             CREATE TABLE old PARTITION OF audit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
             CREATE TABLE young PARTITION OF audit FOR VALUES FROM ('2021-01-01') TO (MAXVALUE);
             INSERT INTO audit SELECT n, '2020-06-01'::timestamptz + n * interval '1 minute' FROM generate_series(1, 500) n;
             INSERT INTO audit SELECT n, now() FROM generate_series(501, 600) n",
        )
        .await
        .unwrap();
    owner
}

async fn rows(owner: &Client) -> i64 {
    owner.query_one("SELECT count(*) FROM audit", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn without_backups_an_expired_partition_stays_and_each_run_says_so() {
    let database = Database::start(GRANTS).await;
    let owner = audit(&database).await;
    let place = Place::new(&database.config("autonomy = \"assist\"", RULE));
    let app = place.app().await;
    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    let told =
        "retention of public.audit by at: old is expired and stays: only a partition that a proven backup set contains";
    assert!(!run.ok && run.details[0].starts_with(told), "{run:?}");
    assert!(run.details[0].contains("no [backup] is configured"), "{run:?}");
    let in_part = |line: &String| line.contains("young (FROM") && line.contains("is expired in part");
    assert!(run.details.iter().any(in_part), "{run:?}");
    let planned = app.plan().await.unwrap();
    assert!(planned.plan.items.is_empty() && planned.unread[0].1.contains("old is expired and stays"), "{planned:?}");
    assert_eq!(rows(&owner).await, 600);
}

#[tokio::test]
async fn a_partition_is_dropped_when_the_newest_proven_set_has_its_rows() {
    let scene = Scene::with_repository().await;
    let admin = scene.database.server.client().await;
    admin.batch_execute("GRANT app, pg_signal_backend TO keeper").await.unwrap();
    let owner = audit(&scene.database).await;
    scene.configure_as("autonomy = \"assist\"", RULE);
    let maintain = async |dry: bool| {
        let app = scene.place.app().await;
        app.task_run("database-maintenance", dry, "ann").await.unwrap()
    };
    let prove = async || {
        scene.fine(&["backup", "run"]).await;
        let drilled: BackupTryView = scene.place.json(&["backup", "drill"]).await;
        assert_eq!(drilled.receipt.proven(), Some(Rung::Faithful), "{drilled:?}");
        drilled.receipt.set
    };
    scene.fine(&["backup", "run"]).await;
    let unproven = maintain(false).await;
    assert!(!unproven.ok && unproven.details[0].contains("no backup set was shown to hold"), "{unproven:?}");

    let set = prove().await;
    let told = maintain(true).await;
    let statement = |line: &String| line.starts_with(DROP) && line.contains(set.as_str()) && line.ends_with("would do");
    assert!(told.ok && told.details.iter().any(statement), "{told:?}");

    // Somebody writes to it after the set.
    owner.batch_execute("INSERT INTO old VALUES (0, '2020-07-01')").await.unwrap();
    let refused = maintain(false).await;
    assert!(refused.details.iter().any(|line| line.contains("make a set and prove it")), "{refused:?}");
    assert_eq!(rows(&owner).await, 601);

    let set = prove().await;
    let run = maintain(false).await;
    let dropped = run.actions.iter().find(|action| action.statement.starts_with(DROP)).unwrap();
    assert!(run.ok && matches!(&dropped.result, ActionResult::Ended { outcome: Outcome::Helped, .. }), "{run:?}");
    assert_eq!(rows(&owner).await, 100);
    let undo = scene.place.run(&["undo", &dropped.entry.unwrap().to_string()]).await;
    assert!(undo.out.contains(&format!("backup restore --set {set} --only postgres.main")), "{undo:?}");
    let again = maintain(false).await;
    assert!(again.ok && again.actions.is_empty(), "{again:?}");
}
