//! A column whose common values the planner's sample misses: found by its figures, and its estimates before and after a step.

use super::{DEADLINE, endpoint, now, read, role};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::{Distributions, Observation};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Undo, Verification, find};
use groundskeeper_core::{Finding, SystemId, SystemKind};
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_systems::postgres::{Endpoint, deep};
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::future::pending;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const CHECK: &str = "postgres.statistics_too_coarse";
const PATIENCE: Duration = Duration::from_mins(1);

/// 120,000 rows: three fifths have one of 30 values, the others each have one of their own. The lists have 20 places.
async fn skewed() -> (PostgresServer, Client) {
    let options = PostgresOptions::default().set("autovacuum", "off").set("default_statistics_target", "20");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE \"Chunks\" (\"of tenant\" int, same int);
             INSERT INTO \"Chunks\" SELECT CASE WHEN n % 5 < 3 THEN (n / 5) % 30 ELSE 1000 + n END, 1 + n % 2
               FROM generate_series(1, 120000) n;
             CREATE INDEX ON \"Chunks\" (same, \"of tenant\")",
        )
        .await
        .unwrap();
    // What is counted later than that would make its statistics look stale.
    counted(&client).await;
    client.batch_execute("ANALYZE \"Chunks\"").await.unwrap();
    counted(&client).await;
    (server, client)
}

async fn distributions(url: &str) -> Distributions {
    deep::look(&endpoint(url), DEADLINE * 2).await.unwrap().distributions.unwrap()
}

async fn judged(url: &str) -> Status {
    let mut reading = read(url).await;
    reading.outcome.as_mut().unwrap().deep = Some(Box::new(deep::look(&endpoint(url), DEADLINE * 2).await.unwrap()));
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, &Observation::Postgres(reading), None, &Tuning::default(), now());
    judged.into_iter().find(|judgement| judgement.check == CHECK).unwrap().status
}

async fn found(url: &str) -> Finding {
    match judged(url).await {
        Status::Failing { mut findings } if findings.len() == 1 => findings.remove(0),
        other => panic!("{other:?}"),
    }
}

async fn step(url: &str) -> Step {
    let mut proposals = (find("postgres.raise_statistics_target").unwrap().propose)(&found(url).await);
    assert_eq!(proposals.len(), 1, "{proposals:?}");
    proposals.remove(0).step
}

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), PATIENCE, pending())).await
}

async fn state(at: &Endpoint, step: &Step) -> StepState {
    capture(at, step, DEADLINE).await.unwrap()
}

/// How many rows the planner expects of a value.
async fn estimate(client: &Client, value: i32) -> f64 {
    let explain = format!("EXPLAIN SELECT * FROM \"Chunks\" WHERE \"of tenant\" = {value}");
    let plan: String = client.query(&explain, &[]).await.unwrap()[0].get(0);
    plan.split_once("rows=").unwrap().1.split(' ').next().unwrap().parse().unwrap()
}

async fn target(client: &Client) -> Option<i32> {
    let sql = "SELECT attstattarget::int4 FROM pg_attribute WHERE attrelid = '\"Chunks\"'::regclass AND attname = 'of tenant'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn set(client: &Client, target: u32) {
    let alter = format!("ALTER TABLE \"Chunks\" ALTER COLUMN \"of tenant\" SET STATISTICS {target}");
    client.batch_execute(&alter).await.unwrap();
}

#[tokio::test]
async fn a_value_that_the_sample_missed_is_estimated_right_after_one_step() {
    let (server, client) = skewed().await;
    let sql =
        "SELECT v FROM generate_series(0, 29) v WHERE NOT v::text = ANY (SELECT unnest(most_common_vals::text::text[])
                 FROM pg_stats WHERE tablename = 'Chunks' AND attname = 'of tenant') ORDER BY 1 LIMIT 1";
    let missed: i32 = client.query_one(sql, &[]).await.unwrap().get(0);
    let count = format!("SELECT count(*)::float8 FROM \"Chunks\" WHERE \"of tenant\" = {missed}");
    let actual: f64 = client.query_one(&count, &[]).await.unwrap().get(0);
    let before = estimate(&client, missed).await;
    assert!(before * 5.0 < actual, "{before} of {actual}");

    let untouched = target(&client).await;
    let (at, step) = (endpoint(&server.url()), step(&server.url()).await);
    assert_eq!(
        step.statement(),
        "ALTER TABLE \"public\".\"Chunks\" ALTER COLUMN \"of tenant\" SET STATISTICS 40; ANALYZE \"public\".\"Chunks\" (\"of tenant\")"
    );
    let was = state(&at, &step).await;
    run(&at, &step).await.unwrap();
    let is = state(&at, &step).await;
    let Verification::Helped(gain) = step.verify(&was, &is) else { panic!("{was:?} {is:?}") };
    assert!(gain.starts_with("20 -> 30 common values, and there are no more"), "{gain}");
    let after = estimate(&client, missed).await;
    assert!((0.5..2.0).contains(&(after / actual)), "{after} of {actual}");
    assert_eq!(judged(&server.url()).await, Status::Ok);
    let again = run(&at, &step).await.unwrap_err();
    assert!(matches!(again, ActError::Precondition { .. }), "{again}");
    assert_eq!(target(&client).await, Some(40));

    // What somebody chooses himself after the plan stays, whether we go up or back.
    let Undo::By(undo) = step.undo(&was) else { panic!("nothing puts it back") };
    set(&client, 5_000).await;
    for late in [&step, &undo] {
        let error = run(&at, late).await.unwrap_err();
        assert!(
            matches!(&error, ActError::Precondition { reason, .. } if reason.contains("another target")),
            "{error}"
        );
    }
    assert_eq!(target(&client).await, Some(5_000));
    set(&client, 40).await;

    // The very value of the catalogue comes back: -1, and nothing from 17 on.
    run(&at, &undo).await.unwrap();
    assert!(matches!(undo.verify(&is, &state(&at, &undo).await), Verification::Helped(_)));
    assert_eq!(target(&client).await, untouched);
    // Another sample misses others of them.
    assert!(matches!(judged(&server.url()).await, Status::Failing { .. }), "and so does the error");
}

#[tokio::test]
async fn what_is_even_small_unused_or_stale_is_left_out_and_what_is_hidden_is_named() {
    let (server, client) = skewed().await;
    let seen = distributions(&server.url()).await;
    assert_eq!((seen.seen, seen.full.len(), seen.hidden.len()), (2, 1, 0), "{seen:?}");
    let watcher = role(&server, "watcher", "").await;
    client.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let Status::Unknown(unknown) = judged(&watcher).await else { panic!("hidden is not ok") };
    assert!(unknown.reason.contains("GRANT SELECT ON \"public\".\"Chunks\" TO \"watcher\""), "{unknown:?}");
    client.batch_execute("GRANT SELECT ON \"Chunks\" TO watcher").await.unwrap();
    let wanted = step(&watcher).await;
    let error = run(&endpoint(&watcher), &wanted).await.unwrap_err();
    assert!(matches!(&error, ActError::Denied { fix, .. } if fix.contains("member of the table's owner")), "{error}");

    client.batch_execute("UPDATE \"Chunks\" SET same = 3 WHERE \"of tenant\" < 20").await.unwrap();
    counted(&client).await;
    assert_eq!(distributions(&server.url()).await.full, [], "its statistics are of another table by now");
    client.batch_execute("ANALYZE \"Chunks\"; DROP INDEX \"Chunks_same_of tenant_idx\"").await.unwrap();
    counted(&client).await;
    assert_eq!(distributions(&server.url()).await.full, [], "nobody uses it");
    // A statement that compares it is a use as well.
    client.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    client.query("SELECT count(*) FROM \"Chunks\" c WHERE c.\"of tenant\" = $1", &[&7]).await.unwrap();
    assert_eq!(distributions(&server.url()).await.full.len(), 1);
}

#[tokio::test]
async fn a_migration_goes_first_and_has_the_last_word() {
    let (server, client) = skewed().await;
    let (at, step) = (endpoint(&server.url()), step(&server.url()).await);
    let was = state(&at, &step).await;
    let migration = server.client().await;
    migration.batch_execute("BEGIN; ALTER TABLE \"Chunks\" ADD COLUMN more int").await.unwrap();
    let working = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    migration.batch_execute("COMMIT").await.unwrap();
    working.await.unwrap().unwrap();
    assert_eq!(target(&client).await, Some(40));

    // A migration that chooses a target itself, while we wait for it, has the last word.
    let Undo::By(undo) = step.undo(&was) else { panic!("nothing puts it back") };
    migration
        .batch_execute("BEGIN; ALTER TABLE \"Chunks\" ALTER COLUMN \"of tenant\" SET STATISTICS 5000")
        .await
        .unwrap();
    let working = tokio::spawn({
        let at = at.clone();
        async move { run(&at, &undo).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    migration.batch_execute("COMMIT").await.unwrap();
    let error = working.await.unwrap().unwrap_err();
    assert!(matches!(error, ActError::Precondition { .. }), "{error}");
    assert_eq!(target(&client).await, Some(5_000));
    set(&client, 40).await;

    client.batch_execute("ALTER TABLE \"Chunks\" DROP COLUMN \"of tenant\"").await.unwrap();
    assert_eq!(state(&at, &step).await, StepState::Gone);
    let error = run(&at, &step).await.unwrap_err();
    assert!(matches!(error, ActError::Precondition { .. }), "{error}");
}

#[tokio::test]
async fn a_table_that_is_renamed_before_it_is_analyzed_gets_its_old_target_back() {
    let (server, client) = skewed().await;
    let (at, step) = (endpoint(&server.url()), step(&server.url()).await);
    let (was, untouched) = (state(&at, &step).await, target(&client).await);
    // ANALYZE opens the indexes, and to set a target does not.
    let busy = server.client().await;
    let moving = "BEGIN; ALTER INDEX \"Chunks_same_of tenant_idx\" SET TABLESPACE pg_default";
    busy.batch_execute(moving).await.unwrap();
    let working = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    let until = Instant::now() + PATIENCE;
    while target(&client).await != Some(40) {
        assert!(Instant::now() < until, "the target is not set");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A new table of that name, with a target of its own, is not touched.
    client
        .batch_execute(
            "BEGIN; ALTER TABLE \"Chunks\" RENAME TO \"Old\"; CREATE TABLE \"New\" (\"of tenant\" int); COMMIT;
             ALTER TABLE \"New\" ALTER COLUMN \"of tenant\" SET STATISTICS 40",
        )
        .await
        .unwrap();
    let error = working.await.unwrap().unwrap_err();
    assert!(matches!(error, ActError::Failed { .. }), "it was begun: {error}");
    assert!(error.to_string().contains("the table is gone; its target was set, and it was not analyzed"), "{error}");
    busy.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("ALTER TABLE \"New\" RENAME TO \"Chunks\"").await.unwrap();

    let Undo::By(undo) = step.undo(&was) else { panic!("nothing puts it back") };
    let left = state(&at, &undo).await;
    assert!(matches!(left, StepState::Column { figures, .. } if figures.target == Some(40)), "{left:?}");
    assert!(!undo.has_nothing_to_undo(&left));
    run(&at, &undo).await.unwrap();
    let after = state(&at, &undo).await;
    assert!(matches!(undo.verify(&left, &after), Verification::Helped(_)), "{after:?}");
    assert!(undo.has_nothing_to_undo(&after));
    assert_eq!(target(&client).await, Some(40), "that of the new table");
    client.batch_execute("DROP TABLE \"Chunks\"; ALTER TABLE \"Old\" RENAME TO \"Chunks\"").await.unwrap();
    assert_eq!(target(&client).await, untouched);
    client.batch_execute("DROP TABLE \"Chunks\"").await.unwrap();
    assert_eq!(state(&at, &undo).await, StepState::Gone, "there is nothing left to put back");
}
