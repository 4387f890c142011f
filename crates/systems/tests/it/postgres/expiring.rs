//! Deleting what a rule does not keep, and every reason not to: on a live server.

use super::{DEADLINE, endpoint, now, role};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::SignedDuration;
use std::future::pending;
use std::time::Duration;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn expire(table: &str, column: &str) -> Step {
    Step::DeleteExpired {
        system: SystemId::new(SystemKind::Postgres, "main"),
        database: "postgres".into(),
        schema: "public".into(),
        table: table.into(),
        column: column.into(),
        before: now() - SignedDuration::from_hours(24 * 30),
        keep_seconds: 24 * 30 * 3600,
        export: false,
    }
}

pub(super) async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), PATIENCE, pending())).await
}

async fn state(at: &Endpoint, step: &Step) -> StepState {
    capture(at, step, DEADLINE).await.unwrap()
}

fn due(state: &StepState) -> u64 {
    let StepState::Expired { rows, .. } = state else { panic!("{state:?}") };
    *rows
}

/// 6,000 sessions of which 4,000 are older than a month, and one that never ends.
pub(super) async fn sessions() -> (PostgresServer, Client) {
    let options = PostgresOptions::default().set("autovacuum", "off").set("log_min_duration_statement", "0");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE \"User Sessions\" (id int PRIMARY KEY, \"ends at\" timestamptz);
             INSERT INTO \"User Sessions\" SELECT n, now() - interval '90 days' + n * interval '1 second'
               FROM generate_series(1, 4000) n;
             INSERT INTO \"User Sessions\" SELECT n, now() - interval '1 day' FROM generate_series(4001, 6000) n;
             INSERT INTO \"User Sessions\" VALUES (0, NULL), (-1, 'infinity'), (-2, '-infinity');
             CREATE INDEX ON \"User Sessions\" (\"ends at\")",
        )
        .await
        .unwrap();
    client.batch_execute("ANALYZE").await.unwrap();
    (server, client)
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

fn refused(outcome: Result<(), ActError>, word: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
}

#[tokio::test]
async fn old_rows_go_in_batches_and_young_ones_stay() {
    let (server, client) = sessions().await;
    let keeper = role(&server, "keeper", "").await;
    client
        .batch_execute("GRANT SELECT, DELETE, UPDATE (id) ON \"User Sessions\" TO keeper; GRANT pg_monitor TO keeper")
        .await
        .unwrap();
    let (at, step) = (endpoint(&keeper), expire("User Sessions", "ends at"));
    let before = state(&at, &step).await;
    assert!(
        matches!(before, StepState::Expired { rows: 4001, is_more: false, oldest: Some(_), referred: 0 }),
        "{before:?}"
    );
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    assert_eq!(after, StepState::Expired { rows: 0, is_more: false, oldest: None, referred: 0 });
    let helped = Verification::Helped("4,001 rows deleted, none of that age is left".into());
    assert_eq!(step.verify(&before, &after), helped);
    assert_eq!(count(&client, "\"User Sessions\"").await, 2_002);
    let log = std::fs::read_to_string(server.log_file()).unwrap();
    assert!(log.matches("WITH chosen AS").count() >= 4, "each batch is a statement of its own");
    run(&at, &step).await.unwrap();
    assert_eq!(count(&client, "\"User Sessions\"").await, 2_002, "once more does nothing");
}

#[tokio::test]
async fn rows_that_somebody_has_locked_are_left_and_told() {
    let (server, client) = sessions().await;
    let (at, step) = (endpoint(&server.url()), expire("User Sessions", "ends at"));
    let before = state(&at, &step).await;
    client.batch_execute("BEGIN; SELECT * FROM \"User Sessions\" WHERE id IN (1, 2000) FOR UPDATE").await.unwrap();
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    assert_eq!(due(&after), 2);
    let Verification::Helped(told) = step.verify(&before, &after) else { panic!() };
    assert_eq!(told, "3,999 rows deleted; 2 are left: locked by somebody, or written meanwhile");
    client.batch_execute("COMMIT").await.unwrap();
    run(&at, &step).await.unwrap();
    assert_eq!(due(&state(&at, &step).await), 0);
}

#[tokio::test]
async fn it_ends_at_once_when_it_is_told_to_and_what_is_done_stays_done() {
    let (server, _client) = sessions().await;
    let (at, step) = (endpoint(&server.url()), expire("User Sessions", "ends at"));
    let journalled = JournalledStep::recorded(1, step.clone());
    let error = Box::pin(apply(&at, &journalled, PATIENCE, std::future::ready(()))).await.unwrap_err();
    assert!(matches!(error, ActError::Interrupted(_)), "{error}");
    let left = due(&state(&at, &step).await);
    assert!(left > 0 && left < 4_001, "{left}");
}

#[tokio::test]
async fn a_rule_that_cannot_be_carried_out_harmlessly_is_refused_with_the_reason() {
    let (server, client) = sessions().await;
    let at = endpoint(&server.url());
    let watcher = endpoint(&role(&server, "watcher", "").await);
    let sessions = expire("User Sessions", "ends at");
    let error = run(&watcher, &sessions).await.unwrap_err();
    assert!(
        matches!(error, ActError::Denied { .. }) && error.to_string().contains("grant SELECT, DELETE and"),
        "{error}"
    );
    refused(run(&at, &expire("User Sessions", "id")).await, "id is of the type int4");
    refused(run(&at, &expire("User Sessions", "gone")).await, "it has no column gone");
    refused(run(&at, &expire("gone", "ends at")).await, "the table is gone");
    assert_eq!(state(&at, &expire("gone", "ends at")).await, StepState::Gone);

    client
        .batch_execute(
            "CREATE TABLE bare (id int, made date);
             CREATE TABLE partial (made date); CREATE INDEX ON partial (made) WHERE made > '2020-01-01';
             CREATE TABLE parted (made date) PARTITION BY LIST (made); CREATE INDEX ON parted (made);
             CREATE TABLE watched (made timestamp); CREATE INDEX ON watched (made);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
             CREATE TRIGGER note BEFORE DELETE ON watched FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await
        .unwrap();
    refused(run(&at, &expire("bare", "made")).await, "no index begins with made");
    refused(run(&at, &expire("partial", "made")).await, "no index begins with made");
    refused(run(&at, &expire("parted", "made")).await, "it is partitioned");
    refused(run(&at, &expire("watched", "made")).await, "triggers");
    assert_eq!(count(&client, "\"User Sessions\"").await, 6_003);
}

#[tokio::test]
async fn what_is_deleted_along_is_bounded_or_the_rule_is_refused() {
    let (server, client) = sessions().await;
    let (at, step) = (endpoint(&server.url()), expire("User Sessions", "ends at"));
    client
        .batch_execute(
            "CREATE TABLE events (id serial PRIMARY KEY, session int REFERENCES \"User Sessions\" ON DELETE CASCADE);
             INSERT INTO events (session) SELECT id FROM \"User Sessions\" WHERE id > 0",
        )
        .await
        .unwrap();
    refused(run(&at, &step).await, "events_session_fkey of events has no index");
    client.batch_execute("CREATE INDEX ON events (session); ANALYZE events").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE late (session int REFERENCES \"User Sessions\" ON DELETE CASCADE);
             CREATE INDEX ON late (session); INSERT INTO late SELECT 1 FROM generate_series(1, 9)",
        )
        .await
        .unwrap();
    refused(run(&at, &step).await, "was never analyzed");
    client.batch_execute("DROP TABLE late").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE marks (event int REFERENCES events ON DELETE CASCADE); CREATE INDEX ON marks (event)",
        )
        .await
        .unwrap();
    refused(run(&at, &step).await, "that are referred to in turn");
    client.batch_execute("DROP TABLE marks").await.unwrap();
    // Somebody holds a row that goes along: they go first.
    let holder = server.client().await;
    holder.batch_execute("BEGIN; SELECT * FROM events WHERE session = 1500 FOR UPDATE").await.unwrap();
    let deleting = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    holder.batch_execute("COMMIT").await.unwrap();
    deleting.await.unwrap().unwrap();
    assert_eq!(due(&state(&at, &step).await), 0);
    assert_eq!(count(&client, "events").await, 2_000);

    client
        .batch_execute("INSERT INTO events (session) SELECT 5000 FROM generate_series(1, 400000); ANALYZE")
        .await
        .unwrap();
    refused(run(&at, &step).await, "rows for each of this table");
}

#[tokio::test]
async fn rows_that_others_refer_to_stay_and_are_counted() {
    let (server, client) = sessions().await;
    let keeper = role(&server, "keeper", "IN ROLE pg_monitor").await;
    let (at, step) = (endpoint(&keeper), expire("User Sessions", "ends at"));
    client
        .batch_execute(
            "GRANT SELECT, DELETE, UPDATE (id) ON \"User Sessions\" TO keeper;
             CREATE TABLE \"Orders\" (id serial PRIMARY KEY, \"of\" int REFERENCES \"User Sessions\");
             INSERT INTO \"Orders\" (\"of\") SELECT n FROM generate_series(1, 6000, 40) n UNION ALL SELECT NULL",
        )
        .await
        .unwrap();
    refused(run(&at, &step).await, "CREATE INDEX CONCURRENTLY ON \"public\".\"Orders\" (of)");
    client.batch_execute("CREATE INDEX ON \"Orders\" (\"of\"); ANALYZE").await.unwrap();
    let denied = run(&at, &step).await.unwrap_err().to_string();
    assert!(denied.contains("grant SELECT (of) on \"public\".\"Orders\" to keeper"), "{denied}");
    client.batch_execute("GRANT SELECT (\"of\") ON \"Orders\" TO keeper").await.unwrap();

    let before = state(&at, &step).await;
    assert!(matches!(before, StepState::Expired { rows: 3901, referred: 100, .. }), "{before:?}");
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    let Verification::Helped(told) = step.verify(&before, &after) else { panic!("{after:?}") };
    assert_eq!(told, "3,901 rows deleted, none of that age is left; 100 stay, because others refer to them");
    assert_eq!(count(&client, "\"User Sessions\"").await, 2_102);
    assert_eq!(count(&client, "\"Orders\"").await, 151);
    // What is referred to no more goes with the next run.
    client.batch_execute("DELETE FROM \"Orders\" WHERE \"of\" < 2000").await.unwrap();
    run(&at, &step).await.unwrap();
    assert_eq!(due(&state(&at, &step).await), 0);
    assert_eq!(count(&client, "\"User Sessions\"").await, 2_052);
}

#[tokio::test]
async fn a_table_of_several_columns_or_partitions_or_the_table_itself_may_refer() {
    let (server, client) = sessions().await;
    let (at, step) = (endpoint(&server.url()), expire("User Sessions", "ends at"));
    client
        .batch_execute(
            "ALTER TABLE \"User Sessions\" ADD COLUMN part int DEFAULT 1, ADD UNIQUE (part, id),
               ADD COLUMN after int REFERENCES \"User Sessions\";
             CREATE INDEX ON \"User Sessions\" (after);
             UPDATE \"User Sessions\" SET after = 100 WHERE id = 5000;
             CREATE TABLE pairs (id int, part int, FOREIGN KEY (part, id) REFERENCES \"User Sessions\" (part, id)) PARTITION BY LIST (part);
             CREATE TABLE pairs_1 PARTITION OF pairs FOR VALUES IN (1, NULL); CREATE INDEX ON pairs (id, part);
             INSERT INTO pairs VALUES (200, 1), (300, NULL)",
        )
        .await
        .unwrap();
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    assert!(matches!(after, StepState::Expired { rows: 0, referred: 2, .. }), "{after:?}");
    let left =
        client.query("SELECT id FROM \"User Sessions\" WHERE id BETWEEN 1 AND 4000 ORDER BY 1", &[]).await.unwrap();
    assert_eq!(left.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [100, 200]);
}

#[tokio::test]
async fn many_rows_that_others_refer_to_are_gone_through_in_batches_and_stop_nothing() {
    let (server, client) = sessions().await;
    let (at, step) = (endpoint(&server.url()), expire("User Sessions", "ends at"));
    client
        .batch_execute(
            "CREATE TABLE orders (session int REFERENCES \"User Sessions\"); CREATE INDEX ON orders (session);
             INSERT INTO orders SELECT n FROM generate_series(1, 3900) n; ANALYZE",
        )
        .await
        .unwrap();
    run(&at, &step).await.unwrap();
    let left = state(&at, &step).await;
    assert!(matches!(left, StepState::Expired { rows: 0, referred: 3_900, .. }), "{left:?}");
    let batches = || std::fs::read_to_string(server.log_file()).unwrap().matches("WITH chosen AS").count();
    let first = batches();
    assert!(first >= 8, "none of the {first} batches of two passes goes through them all");
    // All of one age, and those that stay are among the others.
    client
        .batch_execute(
            "CREATE TABLE days (id int PRIMARY KEY, made date); CREATE INDEX ON days (made);
             INSERT INTO days SELECT n, '2020-01-01' FROM generate_series(1, 6000) n;
             CREATE TABLE marks (day int REFERENCES days); CREATE INDEX ON marks (day);
             INSERT INTO marks SELECT n FROM generate_series(1, 6000) n WHERE n <= 2000 OR n % 3 = 0; ANALYZE",
        )
        .await
        .unwrap();
    let of_days = expire("days", "made");
    run(&at, &of_days).await.unwrap();
    let left = state(&at, &of_days).await;
    assert!(matches!(left, StepState::Expired { rows: 0, referred: 3_334, .. }), "{left:?}");
    assert!(batches() - first >= 6, "{} batches", batches() - first);
}

#[tokio::test]
async fn a_reference_that_comes_between_makes_a_batch_be_chosen_anew_and_loses_nothing() {
    // From 18 on a key that restricts has an error of its own.
    for rule in ["NO ACTION", "RESTRICT"] {
        refer_meanwhile(rule).await;
    }
}

async fn refer_meanwhile(rule: &str) {
    let (server, client) = sessions().await;
    let (at, step) = (endpoint(&server.url()), expire("User Sessions", "ends at"));
    client
        .batch_execute(&format!(
            "CREATE TABLE orders (id serial PRIMARY KEY, session int REFERENCES \"User Sessions\" ON DELETE {rule});
             CREATE INDEX ON orders (session); INSERT INTO orders (session) VALUES (6000); ANALYZE"
        ))
        .await
        .unwrap();
    // Somebody refers to rows all over the table while it is being emptied.
    let busy = server.client().await;
    let referring = tokio::spawn(async move {
        for n in (0..4_000).rev().step_by(7) {
            let sql = format!("INSERT INTO orders (session) SELECT id FROM \"User Sessions\" WHERE id = {n}");
            // The row may just be going.
            let _ = busy.batch_execute(&sql).await;
        }
    });
    run(&at, &step).await.unwrap();
    referring.await.unwrap();
    let dangling =
        "SELECT count(*) FROM orders o WHERE NOT EXISTS (SELECT 1 FROM \"User Sessions\" s WHERE s.id = o.session)";
    assert_eq!(client.query_one(dangling, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(due(&state(&at, &step).await), 0);
}

#[tokio::test]
async fn dates_and_times_without_a_zone_are_utc() {
    let (server, client) = sessions().await;
    client
        .batch_execute(
            "ALTER ROLE postgres SET TimeZone = 'Pacific/Auckland';
             CREATE TABLE logs (made timestamp); CREATE INDEX ON logs (made);
             INSERT INTO logs SELECT (now() AT TIME ZONE 'UTC') - interval '30 days' + n * interval '1 hour'
               FROM generate_series(-5, 5) n WHERE n <> 0;
             CREATE TABLE days (made date); CREATE INDEX ON days (made);
             INSERT INTO days SELECT (now() AT TIME ZONE 'UTC')::date - n FROM generate_series(0, 60) n",
        )
        .await
        .unwrap();
    let at = endpoint(&server.url());
    for (table, left) in [("logs", 5), ("days", 30)] {
        run(&at, &expire(table, "made")).await.unwrap();
        let count = count(&client, table).await;
        assert!((left..=left + 1).contains(&count), "{table}: {count}");
    }
}

#[tokio::test]
async fn a_slot_that_keeps_much_ends_it_before_the_disk_is_full() {
    let options = PostgresOptions::default().set("autovacuum", "off").set("wal_level", "replica");
    let server = PostgresServer::start_with(options.set("max_slot_wal_keep_size", "64MB")).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "SELECT pg_create_physical_replication_slot('replica', true);
             CREATE TABLE logs (made date, line text);
             INSERT INTO logs SELECT '2020-01-01', repeat('x', 500) FROM generate_series(1, 100000);
             CREATE INDEX ON logs (made)",
        )
        .await
        .unwrap();
    let error = run(&endpoint(&server.url()), &expire("logs", "made")).await.unwrap_err();
    assert!(error.to_string().contains("the slot replica keeps as much WAL as it may"), "{error}");
    assert!(!error.retryable());
}

#[tokio::test]
async fn a_clock_that_is_ahead_deletes_nothing() {
    let (server, client) = sessions().await;
    let Step::DeleteExpired { system, database, schema, table, column, .. } = expire("User Sessions", "ends at") else {
        panic!()
    };
    let before = now() - SignedDuration::from_hours(24 * 29);
    let keep_seconds = 24 * 30 * 3600;
    let ahead = Step::DeleteExpired { system, database, schema, table, column, before, keep_seconds, export: false };
    refused(run(&endpoint(&server.url()), &ahead).await, "by the server's clock");
    assert_eq!(count(&client, "\"User Sessions\"").await, 6_003);
}

#[tokio::test]
async fn rows_that_a_policy_hides_make_a_rule_fail_and_not_look_fulfilled() {
    let (server, client) = sessions().await;
    let keeper = endpoint(&role(&server, "keeper", "IN ROLE pg_monitor").await);
    client
        .batch_execute(
            "GRANT ALL ON \"User Sessions\" TO keeper; ALTER TABLE \"User Sessions\" ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON \"User Sessions\" USING (id < 0)",
        )
        .await
        .unwrap();
    let error = capture(&keeper, &expire("User Sessions", "ends at"), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("BYPASSRLS"), "{error}");
}
