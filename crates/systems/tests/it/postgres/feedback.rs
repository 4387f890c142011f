//! A standby that keeps its primary from cleaning up, for a query of its own.

use super::{mended, only, run, until_so, write};
use groundskeeper_core::finding::Target;
use groundskeeper_testing::{PostgresOptions, PostgresServer};

const CHECK: &str = "postgres.xmin_held_back";
const LIMITS: [(&str, f64); 1] = [("warning", 50.0)];

/// Waits until the standby has replayed all that there is, and has since told several times what it still needs.
async fn heard(server: &PostgresServer) {
    let client = server.client().await;
    let row = client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap();
    let replayed = format!("replay_lsn >= '{}'", row.get::<_, String>(0));
    until_so(server, &format!("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE {replayed})")).await;
    let row = client.query_one("SELECT (clock_timestamp() + interval '3 s')::text", &[]).await.unwrap();
    let told = format!("backend_xmin IS NOT NULL AND reply_time > '{}'", row.get::<_, String>(0));
    until_so(server, &format!("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE {told})")).await;
}

#[tokio::test]
async fn a_standby_whose_query_keeps_dead_rows_on_its_primary_is_named() {
    let options = PostgresOptions::default()
        .set("autovacuum", "off")
        .set("hot_standby_feedback", "on")
        .set("wal_receiver_status_interval", "1s");
    let server = PostgresServer::start_with(options).await.unwrap();
    run(&server, &["CREATE TABLE notes (id int)"]).await;
    let replica = server.standby("replica").await.unwrap();
    write(&server, 100).await;
    heard(&server).await;
    // What it told last may be older than what was written last.
    mended(&server, CHECK, &LIMITS).await;

    let reader = replica.client().await;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM notes").await.unwrap();
    write(&server, 100).await;
    heard(&server).await;
    let found = only(&server, CHECK, &LIMITS).await;
    assert_eq!(found.offenders.len(), 1, "{found:#?}");
    assert_eq!(found.offenders[0].target, Target::Standby { name: "replica".into() });
    assert!(found.summary.contains(" transactions: the standby replica may still want to see it"), "{}", found.summary);
    // What the finding says is what shows it.
    assert!(found.fix.starts_with("Look on replica for long queries: "), "{}", found.fix);
    let (_, statement) = found.fix.split_once(": ").unwrap();
    let shown = queries(&replica, statement).await;
    assert!(shown.iter().any(|query| query.contains("SELECT count(*) FROM notes")), "{shown:?}");

    reader.batch_execute("COMMIT").await.unwrap();
    mended(&server, CHECK, &LIMITS).await;
    write(&server, 100).await;
    heard(&server).await;
    // It only replays again.
    mended(&server, CHECK, &LIMITS).await;
}

/// The queries that the statement shows.
async fn queries(server: &PostgresServer, statement: &str) -> Vec<String> {
    let rows = server.client().await.query(statement, &[]).await.unwrap();
    rows.iter().filter_map(|row| row.get::<_, Option<String>>("query")).collect()
}
