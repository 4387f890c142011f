//! What others rename, swap or drop while old rows are being deleted: told as what it is, something that was begun.

use super::{DEADLINE, endpoint, now};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::SignedDuration;
use std::future::pending;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_mins(2);
/// So many are due: more than are deleted between two looks at the table.
const DUE: i64 = 60_000;
const YOUNG: i64 = 100;

/// A deletion that has begun, and rests between two of its batches or is in one of them.
struct Begun {
    server: PostgresServer,
    client: Client,
    at: Endpoint,
    step: Step,
    work: JoinHandle<Result<(), ActError>>,
}

impl Begun {
    async fn new() -> Self {
        let server = PostgresServer::start_with(PostgresOptions::default().set("autovacuum", "off")).await.unwrap();
        server.client().await.batch_execute("CREATE DATABASE shop").await.unwrap();
        let client = server.client_at(&server.url_for("postgres", server.password(), "shop")).await;
        client
            .batch_execute(&format!(
                "CREATE TABLE logs (id int, made timestamptz);
                 INSERT INTO logs SELECT n, '2020-01-01'::timestamptz + n * interval '1 second' FROM generate_series(1, {DUE}) n;
                 INSERT INTO logs SELECT {DUE} + n, now() FROM generate_series(1, {YOUNG}) n;
                 CREATE INDEX logs_made ON logs (made)"
            ))
            .await
            .unwrap();
        client.batch_execute("ANALYZE").await.unwrap();
        let at = endpoint(&server.url());
        let step = Step::DeleteExpired {
            system: SystemId::new(SystemKind::Postgres, "main"),
            database: "shop".into(),
            schema: "public".into(),
            table: "logs".into(),
            column: "made".into(),
            before: now() - SignedDuration::from_hours(24 * 30),
            keep_seconds: 24 * 30 * 3600,
            export: false,
        };
        let oldest = async || client.query_one("SELECT min(made)::text FROM logs", &[]).await.unwrap().get(0);
        let first: String = oldest().await;
        let work = tokio::spawn({
            let (at, step) = (at.clone(), JournalledStep::recorded(1, step.clone()));
            async move { Box::pin(apply(&at, &step, PATIENCE, pending())).await }
        });
        while oldest().await == first {
            assert!(!work.is_finished(), "it ended before its first batch");
        }
        Self { server, client, at, step, work }
    }

    async fn left(&self, table: &str) -> i64 {
        self.client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
    }

    /// The failure, which tells how many rows are gone.
    async fn failed(&mut self, why: &str, table: &str) {
        let error = (&mut self.work).await.unwrap().unwrap_err();
        assert!(matches!(error, ActError::Failed { .. }), "it was begun, so that it is no precondition: {error}");
        let left = self.left(table).await;
        assert!((YOUNG..DUE + YOUNG).contains(&left), "{left}");
        let told = error.to_string().replace(',', "");
        let gone = format!("{why}; {} rows were deleted before that and stay deleted", DUE + YOUNG - left);
        assert!(told.contains(&gone), "{told}: {gone}");
    }
}

#[tokio::test]
async fn a_table_that_is_renamed_meanwhile_is_told_with_what_was_deleted_before() {
    let mut begun = Begun::new().await;
    begun.client.batch_execute("ALTER TABLE logs RENAME TO old").await.unwrap();
    begun.failed("the table is gone", "old").await;
    assert_eq!(capture(&begun.at, &begun.step, DEADLINE).await.unwrap(), StepState::Gone);
    // Where nothing was begun, nothing is told to have been.
    let again = JournalledStep::recorded(2, begun.step.clone());
    let error = Box::pin(apply(&begun.at, &again, PATIENCE, pending())).await.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason == "the table is gone"), "{error}");
}

#[tokio::test]
async fn a_table_that_loses_its_index_meanwhile_is_read_no_further_and_told() {
    let mut begun = Begun::new().await;
    begun.client.batch_execute("DROP INDEX logs_made").await.unwrap();
    begun.failed("no index begins with made: each batch would read the whole table", "logs").await;
}

#[tokio::test]
async fn a_table_that_becomes_a_partition_meanwhile_takes_nobody_else_with_it() {
    let mut begun = Begun::new().await;
    // The usual way to partition a table that is there: it gets another name and becomes a part of a new one.
    begun
        .client
        .batch_execute(
            "BEGIN; ALTER TABLE logs RENAME TO old;
             CREATE TABLE logs (id int, made timestamptz) PARTITION BY LIST (id);
             CREATE TABLE others PARTITION OF logs DEFAULT;
             INSERT INTO others SELECT n, '2020-01-01' FROM generate_series(1, 6000) n;
             COMMIT",
        )
        .await
        .unwrap();
    begun.failed("the table has become another one meanwhile", "old").await;
    assert_eq!(begun.left("others").await, 6_000);
    assert_eq!(begun.left(&format!("old WHERE id > {DUE}")).await, YOUNG);
}

#[tokio::test]
async fn a_database_that_is_dropped_meanwhile_ends_it_and_is_gone() {
    let begun = Begun::new().await;
    let Begun { server, client, at, step, work } = begun;
    drop(client);
    server.client().await.batch_execute("DROP DATABASE shop WITH (FORCE)").await.unwrap();
    let error = work.await.unwrap().unwrap_err();
    assert!(matches!(error, ActError::Failed { .. } | ActError::Unreachable(_)), "{error}");
    let error = capture(&at, &step, DEADLINE).await.unwrap_err();
    assert!(matches!(error, ActError::Gone { .. }), "{error}");
}
