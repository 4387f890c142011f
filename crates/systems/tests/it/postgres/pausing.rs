//! A deletion goes no further ahead of autovacuum than that can follow, and does not wait where it never comes.

use super::{endpoint, now};
use groundskeeper_core::remedy::{JournalledStep, Step};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::act::{ActError, apply};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::SignedDuration;
use std::collections::BTreeSet;
use std::future::pending;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Long enough for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_mins(5);
/// All of them are due. Autovacuum comes at 80,050 dead rows, by its defaults.
const ROWS: i64 = 400_000;
/// From one look to the next no more go than this.
const BETWEEN_LOOKS: i64 = 55_000;

async fn logs(options: PostgresOptions) -> (PostgresServer, Client) {
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(&format!(
            "CREATE TABLE logs (made timestamptz);
             INSERT INTO logs SELECT '2020-01-01'::timestamptz + n * interval '1 second' FROM generate_series(1, {ROWS}) n;
             CREATE INDEX ON logs (made)"
        ))
        .await
        .unwrap();
    client.batch_execute("VACUUM (ANALYZE) logs").await.unwrap();
    (server, client)
}

async fn delete(url: String) -> Result<(), ActError> {
    let step = Step::DeleteExpired {
        system: SystemId::new(SystemKind::Postgres, "main"),
        database: "postgres".into(),
        schema: "public".into(),
        table: "logs".into(),
        column: "made".into(),
        before: now() - SignedDuration::from_hours(24 * 30),
        keep_seconds: 24 * 30 * 3600,
        export: false,
    };
    Box::pin(apply(&endpoint(&url), &JournalledStep::recorded(1, step), PATIENCE, pending())).await
}

async fn left(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM logs", &[]).await.unwrap().get(0)
}

/// The run ended for this time, with the reason, and has got on.
async fn ended(server: &PostgresServer, off: &str) {
    let error = delete(server.url()).await.unwrap_err();
    assert!(matches!(error, ActError::Failed { .. }) && error.retryable(), "{error}");
    let told = error.to_string();
    assert!(told.contains(&format!("but it is off {off}; vacuum the table, and the next run goes on")), "{told}");
    assert!(told.contains("rows were deleted before that, and stay deleted"), "{told}");
}

#[tokio::test]
async fn where_autovacuum_is_off_a_run_ends_far_past_the_trigger_and_the_next_one_goes_on() {
    let (server, client) = logs(PostgresOptions::default().set("autovacuum", "off")).await;
    ended(&server, "on this server").await;
    // Not before twice the trigger, and then at the next look.
    let first = ROWS - left(&client).await;
    assert!((160_101..160_101 + BETWEEN_LOOKS).contains(&first), "{first}");

    client.batch_execute("ALTER TABLE logs SET (autovacuum_enabled = off)").await.unwrap();
    client.batch_execute("ALTER SYSTEM SET autovacuum = on").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let until = Instant::now() + PATIENCE;
    while server.client().await.query_one("SHOW autovacuum", &[]).await.unwrap().get::<_, &str>(0) != "on" {
        assert!(Instant::now() < until, "the server does not take it up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ended(&server, "for this table").await;
    let second = ROWS - first - left(&client).await;
    assert!(
        (100_000..100_000 + BETWEEN_LOOKS).contains(&second),
        "each run gets on by 100,000 rows at least: {second}"
    );
    for _ in 0..2 {
        if delete(server.url()).await.is_ok() {
            break;
        }
    }
    assert_eq!(left(&client).await, 0);
}

#[tokio::test]
async fn where_autovacuum_is_on_a_run_waits_until_it_was_there_and_goes_on() {
    let (server, client) =
        logs(PostgresOptions::default().set("autovacuum", "on").set("autovacuum_naptime", "1s")).await;
    client
        .batch_execute(
            "ALTER TABLE logs SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000,
                                   autovacuum_vacuum_cost_delay = 0)",
        )
        .await
        .unwrap();
    // Autovacuum leaves a table alone that somebody else keeps from it; a deletion does not mind that lock.
    let holder = server.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE logs IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let deleting = tokio::spawn(delete(server.url()));
    // It looks again and again, and nothing goes meanwhile.
    let looks =
        "SELECT query_start::text FROM pg_stat_activity WHERE application_name = 'groundskeeper' AND state = 'idle'
                    AND query LIKE '%autovacuum_vacuum_max_threshold%'";
    let (mut seen, mut paused_at) = (BTreeSet::<String>::new(), ROWS);
    let until = Instant::now() + PATIENCE;
    while seen.len() < 3 {
        assert!(Instant::now() < until && !deleting.is_finished(), "it does not pause");
        let left = left(&client).await;
        if left < paused_at {
            seen.clear();
            paused_at = left;
        }
        seen.extend(client.query(looks, &[]).await.unwrap().iter().map(|row| row.get(0)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((100_000..100_001 + BETWEEN_LOOKS).contains(&(ROWS - paused_at)), "{paused_at}");

    holder.batch_execute("ROLLBACK").await.unwrap();
    deleting.await.unwrap().unwrap();
    assert_eq!(left(&client).await, 0);
    let vacuums = "SELECT pg_stat_get_autovacuum_count('logs'::regclass)";
    assert!(client.query_one(vacuums, &[]).await.unwrap().get::<_, i64>(0) >= 1);
}
