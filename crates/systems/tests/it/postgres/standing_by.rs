//! A standby that streams: what cannot be done there, what it is not blamed for, and that the primary's work waits for it.

use super::{DEADLINE, client_as, endpoint, now, parting, read, role, seen, sequences};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::Observation;
use groundskeeper_core::remedy::setting::{Change, Parameter, SettingValue};
use groundskeeper_core::remedy::{JournalledStep, Reindexing, Step, StepState, Undo, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_systems::postgres::{Endpoint, deep};
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::SignedDuration;
use std::collections::BTreeSet;
use std::future::pending;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_mins(2);

fn system() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

async fn run_within(at: &Endpoint, step: &Step, deadline: Duration) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), deadline, pending())).await
}

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    run_within(at, step, PATIENCE).await
}

async fn state(at: &Endpoint, step: &Step) -> StepState {
    capture(at, step, DEADLINE).await.unwrap()
}

fn names() -> (SystemId, String, String) {
    (system(), "postgres".into(), "public".into())
}

fn reindex(table: &str, index: &str) -> Step {
    let ((system, database, schema), table, index) = (names(), table.into(), index.into());
    let because = Reindexing::Bloated { percent: 200, wasted: 500_000 };
    Step::Reindex { system, database, schema, table, index, because }
}

fn expire(table: &str, column: &str) -> Step {
    let ((system, database, schema), table, column) = (names(), table.into(), column.into());
    let (keep_seconds, before) = (30 * 24 * 3600, now() - SignedDuration::from_hours(24 * 30));
    Step::DeleteExpired { system, database, schema, table, column, before, keep_seconds, export: false }
}

/// Until the standby has replayed everything that the primary has written.
async fn until_caught_up(primary: &Client) {
    let here: String = primary.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let sql =
        format!("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= '{here}')");
    until(primary, &sql).await;
}

async fn until(client: &Client, sql: &str) {
    let give_up = Instant::now() + PATIENCE;
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < give_up, "{sql}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_only_a_primary_can_do_is_refused_on_a_standby_with_the_reason() {
    let (server, client) = parting::audit().await;
    client
        .batch_execute(
            "CREATE TABLE events (id serial PRIMARY KEY, made date); INSERT INTO events VALUES (7, '2020-01-01');
             CREATE INDEX ON events (made); ANALYZE events",
        )
        .await
        .unwrap();
    let at = endpoint(&server.url());
    let contained = parting::proven(&at, &client, "old_1").await;
    let dropping = parting::dropping(&at, "old_1", &contained).await;
    let Undo::By(attaching) = dropping.undo(&state(&at, &dropping).await) else { panic!() };
    let (table, column): (String, String) = ("events".into(), "id".into());
    let (system, database, schema) = names();
    let steps = [
        Step::Vacuum {
            system: system.clone(),
            database: database.clone(),
            schema: schema.clone(),
            table: table.clone(),
        },
        Step::Analyze {
            system: system.clone(),
            database: database.clone(),
            schema: schema.clone(),
            table: table.clone(),
        },
        Step::DropLeftovers {
            system: system.clone(),
            database: database.clone(),
            schema: schema.clone(),
            table: table.clone(),
            relation: None,
        },
        Step::SetStatistics { system, database, schema, table, column, target: Some(200), seen: None, relation: None },
        reindex("events", "events_pkey"),
        expire("events", "made"),
        expire("Audit", "at"),
        sequences::asked_for(&server.url(), "events_id_seq").await,
        dropping,
        *attaching,
    ];
    let replica = server.standby("replica").await.unwrap();
    until_caught_up(&client).await;
    let there = endpoint(&replica.url());
    for step in &steps {
        let error = run(&there, step).await.unwrap_err();
        let is_told =
            matches!(&error, ActError::Precondition { reason, .. } if reason.contains("the server is a standby"));
        assert!(is_told, "{}: {error:?}", step.statement());
    }
    // The primary itself does all of that.
    run(&at, &steps[0]).await.unwrap();
}

#[tokio::test]
async fn what_is_a_standbys_own_can_be_changed_there() {
    let server = PostgresServer::start().await.unwrap();
    let app = role(&server, "app", "").await;
    let replica = server.standby("replica").await.unwrap();
    until_caught_up(&server.client().await).await;
    let there = endpoint(&replica.url());

    let to_replica = app.replace(&server.port().to_string(), &replica.port().to_string());
    let leaky = client_as(&replica, &to_replica, "leaky").await;
    leaky.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let sessions = seen(&replica.url()).await.activity.unwrap().sessions;
    let session = sessions.iter().find(|session| session.application == "leaky").unwrap();
    let (pid, backend_start) = (session.pid, session.backend_start);
    let ending = Step::EndIdleSession { system: system(), pid, backend_start, idle_seconds: 0 };
    run(&there, &ending).await.unwrap();
    assert_eq!(state(&there, &ending).await, StepState::Gone);

    let value = |text: &str| SettingValue::try_from(text).unwrap();
    let (from, to) = (value("4MB"), Change::Set { value: value("7MB") });
    let change = Step::AlterSystem { system: system(), setting: Parameter::WorkMem, from, to };
    let before = state(&there, &change).await;
    run(&there, &change).await.unwrap();
    let after = state(&there, &change).await;
    assert!(matches!(change.verify(&before, &after), Verification::Helped(_)), "{after:?}");
    let Undo::By(back) = change.undo(&before) else { panic!() };
    run(&there, &back).await.unwrap();
    assert!(back.has_nothing_to_undo(&state(&there, &back).await));
    assert_eq!(state(&endpoint(&server.url()), &change).await, before, "the primary has its own");
}

/// What is failing, and what is not known.
async fn judged(url: &str) -> (BTreeSet<String>, Vec<String>) {
    let mut reading = read(url).await;
    reading.outcome.as_mut().unwrap().deep = Some(Box::new(deep::look(&endpoint(url), DEADLINE * 2).await.unwrap()));
    let small = ["postgres.index_duplicate", "postgres.index_overlapping", "postgres.index_unused"];
    let tuning =
        small.iter().fold(Tuning::default(), |tuning, check| tuning.with_threshold(check, "minimum_size", 1.0));
    let tuning = tuning
        .with_threshold("postgres.index_unused", "days", 0.0)
        .with_threshold("postgres.index_unused", "minimum_age", 0.0)
        .with_threshold("postgres.prepared_transaction_forgotten", "warning", 0.0)
        .with_threshold("postgres.transaction_id_age", "warning", 0.000_000_1)
        .with_threshold("postgres.xmin_held_back", "warning", 1.0)
        .with_threshold("postgres.superusers_many", "warning", 1.0);
    let judged = judge_all(&system(), &Observation::Postgres(reading), None, &tuning, now());
    let failing = judged.iter().filter(|one| matches!(one.status, Status::Failing { .. })).map(|one| one.check.clone());
    let unknown = judged.iter().filter_map(|one| match &one.status {
        Status::Unknown(_) => Some(one.check.clone()),
        _ => None,
    });
    (failing.collect(), unknown.collect())
}

/// All that can be wrong within a database: only its primary can mend it.
const FAULTS: &[&str] = &[
    "CREATE TABLE people (id bigint PRIMARY KEY)",
    "CREATE TABLE chunks (id serial PRIMARY KEY, author int REFERENCES people, word text)",
    "INSERT INTO chunks (word) SELECT md5(n::text) FROM generate_series(1, 20000) n",
    "INSERT INTO chunks VALUES (2000000000)",
    "CREATE INDEX chunks_word ON chunks (word)",
    "CREATE INDEX chunks_word_again ON chunks (word)",
    "CREATE INDEX chunks_word_id ON chunks (word, id)",
    "CREATE TABLE events (id serial PRIMARY KEY)",
    "INSERT INTO events VALUES (3)",
    "CREATE TABLE log (line text)",
    "INSERT INTO log SELECT repeat('x', 200) FROM generate_series(1, 20000)",
    "DELETE FROM log WHERE ctid > '(10,1)'",
    "ALTER TABLE chunks ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
    "ALTER TABLE chunks DISABLE TRIGGER ALL",
    "CREATE TABLE twice AS SELECT 1 AS id FROM generate_series(1, 2)",
    "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "CREATE FUNCTION open() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
    "CREATE ROLE boss SUPERUSER LOGIN",
    "ANALYZE chunks",
];

const SEEN_ON_PRIMARY: &[&str] = &[
    "autovacuum_off",
    "constraint_not_validated",
    "dead_rows_past_trigger",
    "foreign_key_types_differ",
    "foreign_key_without_index",
    "index_duplicate",
    "index_invalid",
    "index_overlapping",
    "prepared_transaction_forgotten",
    "primary_key_missing",
    "schema_public_create",
    "search_path_open",
    "sequence_behind",
    "statistics_stale",
    "superusers_many",
    "transaction_id_age",
    "trigger_disabled",
    "xmin_held_back",
];

#[tokio::test]
async fn a_standby_is_not_blamed_for_what_only_its_primary_can_mend() {
    let options = PostgresOptions::default().set("autovacuum", "off").set("max_prepared_transactions", "2");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    for fault in FAULTS {
        client.batch_execute(fault).await.unwrap_or_else(|error| panic!("{fault}: {error}"));
    }
    assert!(client.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY failed ON twice (id)").await.is_err());
    client.batch_execute("BEGIN; INSERT INTO log VALUES ('y'); PREPARE TRANSACTION 'lost'").await.unwrap();
    client.batch_execute("INSERT INTO log VALUES ('z')").await.unwrap();
    // What a session has counted is told a second later otherwise.
    counted(&client).await;
    let replica = server.standby("replica").await.unwrap();
    until_caught_up(&client).await;

    let (on_primary, unknown_on_primary) = judged(&server.url()).await;
    let (on_standby, unknown) = judged(&replica.url()).await;
    // Of its own files, programs, settings and logins; that statements are not counted there, which its primary mends; and how far the
    // numbers of transactions have come: where nobody looks after the primary, nobody else would tell.
    let own = [
        "checksums_off",
        "crash_unsafe",
        "grants_excessive",
        "minor_version_behind",
        "settings_unsuited",
        "statements_missing",
        "transaction_id_age",
    ];
    let is_own = |check: &String| own.iter().any(|own| check.strip_prefix("postgres.") == Some(own));
    let others: Vec<&String> = on_standby.iter().filter(|check| !is_own(check)).collect();
    assert_eq!(others, [""; 0]);
    assert!(unknown.iter().all(|check| unknown_on_primary.contains(check)), "{unknown:#?}");
    // All of that is seen where it can be mended.
    let missed: Vec<&&str> =
        SEEN_ON_PRIMARY.iter().filter(|name| !on_primary.contains(&format!("postgres.{name}"))).collect();
    assert_eq!(missed, [&""; 0], "{on_primary:#?}");
}

/// A table whose rows are all due, too many to be gone within a second.
async fn due(client: &Client) {
    client
        .batch_execute(
            "CREATE TABLE logs (made date, line text); CREATE INDEX ON logs (made);
             INSERT INTO logs SELECT '2020-01-01', repeat('x', 60) FROM generate_series(1, 600000)",
        )
        .await
        .unwrap();
    client.batch_execute("ANALYZE logs").await.unwrap();
}

async fn rows(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM logs", &[]).await.unwrap().get(0)
}

/// When our session asked last what asks for a pause, while it asks for nothing else.
async fn pausing(client: &Client) -> Option<String> {
    let sql = "SELECT query_start::text FROM pg_stat_activity
                WHERE application_name = 'groundskeeper' AND query LIKE '%pg_stat_replication%'";
    client.query(sql, &[]).await.unwrap().first().map(|row| row.get(0))
}

#[tokio::test]
async fn a_standby_that_replays_late_is_waited_for_and_then_the_work_goes_on() {
    // Autovacuum clears away what is deleted, and has to be waited for otherwise.
    let server = PostgresServer::start_with(PostgresOptions::default().set("autovacuum_naptime", "1s")).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE notes (id int, word text); CREATE INDEX notes_word ON notes (word);
             INSERT INTO notes SELECT n, md5(n::text) FROM generate_series(1, 30000) n; DELETE FROM notes WHERE id % 30 > 0",
        )
        .await
        .unwrap();
    client.batch_execute("VACUUM ANALYZE notes").await.unwrap();
    let replica = server.standby("replica").await.unwrap();
    until_caught_up(&client).await;
    let replaying = replica.client().await;
    replaying.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    due(&client).await;
    until(&client, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > 70000000 FROM pg_stat_replication")
        .await;

    let at = endpoint(&server.url());
    let (reindex, expire) = (reindex("notes", "notes_word"), expire("logs", "made"));
    let error = run(&at, &reindex).await.unwrap_err();
    let is_told = |reason: &str| reason.contains("the standby replica is") && reason.ends_with(" behind");
    assert!(matches!(&error, ActError::Precondition { reason, .. } if is_told(reason)), "{error:?}");

    let error = run_within(&at, &expire, Duration::from_secs(10)).await.unwrap_err();
    let why = "it paused until its time was over: the standby replica is behind";
    assert!(matches!(&error, ActError::Failed { message, retryable: true, .. } if message == why), "{error:?}");
    let left = rows(&client).await;
    assert!(left > 0, "it did not wait");

    let deleting = tokio::spawn({
        let at = at.clone();
        async move { run(&at, &expire).await }
    });
    // It asks again and again, and deletes nothing meanwhile.
    let mut asked = BTreeSet::new();
    let (mut now, give_up) = (None, Instant::now() + PATIENCE);
    while asked.len() < 3 {
        assert!(Instant::now() < give_up && !deleting.is_finished(), "it does not wait");
        if let Some(when) = pausing(&client).await
            && asked.insert(when)
        {
            let left = rows(&client).await;
            if now.is_some_and(|now| now != left) {
                asked.clear();
            }
            now = Some(left);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(rows(&client).await > 0);
    replaying.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    deleting.await.unwrap().unwrap();
    assert_eq!(rows(&client).await, 0);

    let before = state(&at, &reindex).await;
    until_caught_up(&client).await;
    run(&at, &reindex).await.unwrap();
    assert!(matches!(reindex.verify(&before, &state(&at, &reindex).await), Verification::Helped(_)));
}
