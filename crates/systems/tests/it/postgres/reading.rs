//! What a reading sees, and with which rights.

use super::{DEADLINE, client_as, endpoint, is_at_least, now, read, role, seen};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::{Observation, SessionState, Table};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_systems::postgres::observe;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};

/// Tables with rows, dead rows, settings of their own, partitions and a quoted name.
const SCHEMA: &str = "
CREATE TABLE chunks (id bigint PRIMARY KEY, body text) WITH (autovacuum_vacuum_scale_factor = 0.01);
INSERT INTO chunks SELECT g, repeat('x', 3000) || g FROM generate_series(1, 2000) g;
ANALYZE chunks;
UPDATE chunks SET body = 'y' WHERE id <= 500;
CREATE TABLE \"Odd Name\" (id int) WITH (autovacuum_enabled = off);
CREATE TABLE events (day date) PARTITION BY RANGE (day);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE EXTENSION pg_stat_statements;";

async fn server() -> PostgresServer {
    let server = PostgresServer::start_with(PostgresOptions::default().set("autovacuum", "off")).await.unwrap();
    let admin = server.client().await;
    for statement in SCHEMA.split(";\n") {
        admin.batch_execute(statement).await.unwrap();
    }
    server
}

fn table<'a>(tables: &'a [Table], name: &str) -> &'a Table {
    tables.iter().find(|table| table.name == name).unwrap_or_else(|| panic!("{name} is missing: {tables:#?}"))
}

#[tokio::test]
async fn a_superuser_sees_everything() {
    let server = server().await;
    let reading = read(&server.url()).await;
    assert!(reading.latency > 0.0 && reading.latency <= reading.took, "{} {}", reading.latency, reading.took);
    let seen = reading.outcome.unwrap();

    assert!(seen.server.version_num >= 130_000 && seen.server.max_connections == 100);
    assert_eq!(seen.server.reserved_connections, 3);
    assert!(!seen.server.autovacuum && !seen.server.in_recovery);
    assert_eq!(seen.server.checkpoint_timeout as u32, 300);
    assert!(seen.access.superuser && seen.access.monitor && seen.access.signal_backend);
    assert_eq!(seen.server.database, "postgres");

    let activity = seen.activity.unwrap();
    assert!(activity.total >= 1 && activity.hidden == 0);
    assert!(activity.sessions.iter().all(|session| session.application != "groundskeeper"), "{activity:#?}");

    let databases = seen.databases.unwrap();
    assert_eq!(databases.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["postgres", "template0", "template1"]);
    assert!(databases.iter().all(|database| database.size.is_some_and(|size| size > 1_000_000)));

    let tables = seen.tables.unwrap();
    let chunks = table(&tables, "chunks");
    assert_eq!(chunks.rows_estimated, Some(2_000.0));
    assert_eq!((chunks.vacuum_trigger, chunks.analyze_trigger), (70.0, 250.0));
    assert!(chunks.size >= 8_192 * 10 && chunks.last_analyze.is_some() && chunks.last_vacuum.is_none());
    assert!(chunks.maintainable && chunks.autovacuum);
    assert!(!table(&tables, "Odd Name").autovacuum);
    assert_eq!(table(&tables, "Odd Name").rows_estimated, None);
    assert_eq!(table(&tables, "events_2026").schema, "public");
    assert!(tables.iter().all(|table| table.name != "events"), "a partitioned parent has no rows of its own");

    assert!(seen.checkpoints.is_ok() && !seen.archiver.unwrap().enabled);
    let replication = seen.replication.unwrap();
    assert!(replication.standbys.is_empty() && replication.receiving.is_none());
    assert_eq!((seen.statements.preloaded, seen.statements.available), (Some(true), true));
    assert!(!seen.statements.leaders.unwrap().unwrap().statements.is_empty());
}

#[tokio::test]
async fn dead_and_modified_rows_are_counted() {
    let server = server().await;
    // Statistics are handed over when a session has been idle for a moment or ends.
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let tables = seen(&server.url()).await.tables.unwrap();
        let chunks = table(&tables, "chunks");
        if chunks.dead_rows == 500 && chunks.modified_since_analyze >= 500 {
            break;
        }
        assert!(Instant::now() < until, "{chunks:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_member_of_pg_monitor_sees_every_session_but_may_maintain_nothing() {
    let server = server().await;
    let url = role(&server, "watcher", "").await;
    let admin = server.client().await;
    admin.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let seen = seen(&url).await;
    assert!(!seen.access.superuser && seen.access.monitor && !seen.access.signal_backend);
    assert_eq!(seen.activity.unwrap().hidden, 0);
    assert!(seen.databases.unwrap().iter().all(|database| database.size.is_some()));
    assert!(seen.tables.unwrap().iter().all(|table| !table.maintainable));
    assert!(seen.replication.is_ok() && seen.checkpoints.is_ok() && seen.archiver.is_ok());
    assert_eq!(seen.statements.preloaded, Some(true));
    let leaders = seen.statements.leaders.unwrap().unwrap();
    assert!(leaders.statements.iter().any(|statement| statement.query.contains("chunks")) && leaders.hidden == 0);
}

#[tokio::test]
async fn a_bare_role_knows_what_is_hidden_from_it() {
    let server = server().await;
    let url = role(&server, "bare", "").await;
    let admin = server.client().await;
    admin.batch_execute("REVOKE CONNECT ON DATABASE template1 FROM PUBLIC").await.unwrap();
    admin.batch_execute("BEGIN").await.unwrap();
    let seen = seen(&url).await;
    assert!(!seen.access.superuser && !seen.access.monitor && !seen.access.signal_backend);
    let activity = seen.activity.as_ref().unwrap();
    assert_eq!((activity.hidden, activity.total), (1, 2), "{activity:#?}");
    let databases = seen.databases.as_ref().unwrap();
    assert_eq!(databases.iter().find(|database| database.name == "template1").unwrap().size, None);
    assert!(seen.tables.as_ref().unwrap().iter().all(|table| !table.maintainable));
    assert_eq!(seen.statements.preloaded, None, "the setting is hidden, which is not the same as absent");

    let system = SystemId::new(SystemKind::Postgres, "main");
    let at = now();
    let reading = read(&url).await;
    let judgements = judge_all(&system, &Observation::Postgres(reading), None, &Tuning::default(), at);
    let status = |check: &str| &judgements.iter().find(|judgement| judgement.check == check).unwrap().status;
    assert!(matches!(status("postgres.grants_missing"), Status::Failing { .. }));
    assert!(matches!(status("postgres.idle_in_transaction"), Status::Unknown(_)), "hidden is unknown, never ok");
}

#[tokio::test]
async fn the_granted_script_makes_a_role_that_sees_everything() {
    let server = server().await;
    let admin = server.client().await;
    let wishes =
        [Wish::Watch, Wish::EndSessions, Wish::Maintain { tables: vec![("public".into(), "Odd Name".into())] }];
    let script = grants("the keeper's", "postgres", &wishes);
    admin.batch_execute(&script).await.unwrap();
    admin.batch_execute(&script).await.unwrap();
    admin.batch_execute("ALTER ROLE \"the keeper's\" PASSWORD 'right'").await.unwrap();
    let seen = seen(&server.url_for("the keeper's", "right", "postgres")).await;
    assert!(!seen.access.superuser && seen.access.monitor && seen.access.signal_backend);
    let maintainable = table(&seen.tables.unwrap(), "Odd Name").maintainable;
    assert_eq!(maintainable, seen.server.version_num >= 170_000);
}

#[tokio::test]
async fn sessions_show_what_they_do_without_their_values() {
    let server = server().await;
    let app = role(&server, "app", "").await;
    server.client().await.batch_execute("GRANT ALL ON chunks TO app").await.unwrap();
    let idle = client_as(&server, &app, "docrag-api").await;
    idle.batch_execute("BEGIN").await.unwrap();
    idle.query("SELECT 'secret',\n 42 -- note", &[]).await.unwrap();
    let dump = client_as(&server, &app, "pg_dump").await;
    dump.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let superuser = client_as(&server, &server.url(), "psql").await;
    superuser.batch_execute("BEGIN; SELECT 1").await.unwrap();

    let activity = seen(&server.url()).await.activity.unwrap();
    let find = |name: &str| activity.sessions.iter().find(|session| session.application == name).unwrap();
    let session = find("docrag-api");
    assert_eq!(session.state, SessionState::IdleInTransaction);
    assert_eq!(session.query, "SELECT ?, ?");
    assert_eq!(
        (session.user.as_str(), session.database.as_str(), session.client.as_str()),
        ("app", "postgres", "127.0.0.1")
    );
    assert!(session.transaction_age.unwrap() >= 0.0 && session.lock_wait.is_none() && !session.protected);
    assert!(find("pg_dump").protected && find("psql").protected);
    assert_eq!(activity.idle_in_transaction, 3);
    assert!(activity.by_application.iter().any(|(name, count)| name == "docrag-api" && *count == 1));
}

#[tokio::test]
async fn who_waits_for_whom_is_seen_and_the_reading_itself_waits_for_nobody() {
    let server = server().await;
    let holder = client_as(&server, &server.url(), "migration").await;
    holder.batch_execute("BEGIN; LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiter = client_as(&server, &server.url(), "reader").await;
    let waiting = tokio::spawn(async move { waiter.query("SELECT count(*) FROM chunks", &[]).await });

    let until = Instant::now() + Duration::from_secs(5);
    let session = loop {
        let started = Instant::now();
        let seen = seen(&server.url()).await;
        assert!(started.elapsed() < Duration::from_millis(1_500), "the reading waited behind the lock");
        assert!(seen.tables.unwrap().iter().any(|table| table.name == "chunks"));
        let sessions = seen.activity.unwrap().sessions;
        if let Some(session) = sessions.into_iter().find(|session| session.lock_wait.is_some_and(|wait| wait > 0.3)) {
            break session;
        }
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(session.blocked_by, [pid]);
    assert_eq!(session.application, "reader");
    assert!(session.wait.starts_with("Lock: "), "{}", session.wait);
    assert!(session.lock_wait.unwrap() < 10.0);
    holder.batch_execute("ROLLBACK").await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reading_uses_one_connection_and_leaves_none_behind() {
    let server = PostgresServer::start().await.unwrap();
    if !is_at_least(&server, 14, "pg_stat_database.sessions") {
        return;
    }
    let admin = server.client().await;
    let count = "SELECT sessions FROM pg_stat_database WHERE datname = 'postgres'";
    let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'groundskeeper'";
    read(&server.url()).await.outcome.unwrap();
    let before: i64 = settled(&admin, count).await;
    read(&server.url()).await.outcome.unwrap();
    assert_eq!(settled(&admin, count).await - before, 1);
    // Our goodbye is sent before the reading ends; the server takes the session off its list in its own time.
    let given_up = tokio::time::Instant::now() + Duration::from_secs(20);
    while admin.query_one(open, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(tokio::time::Instant::now() < given_up, "the reading left a session behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A counter once it has stopped moving: sessions hand their statistics over when they end.
async fn settled(client: &tokio_postgres::Client, sql: &str) -> i64 {
    let mut last = -1;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        if now == last {
            return now;
        }
        last = now;
    }
}

#[tokio::test]
async fn our_session_cannot_write() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    // A view that writes: whoever asks it changes something, unless the session is read-only.
    admin
        .batch_execute(
            "CREATE TABLE touched (id int);
             CREATE FUNCTION touch() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO touched VALUES (1) RETURNING 1';
             CREATE SCHEMA trap;
             CREATE VIEW trap.pg_stat_archiver AS SELECT touch();
             ALTER ROLE postgres SET search_path = trap, public, pg_catalog",
        )
        .await
        .unwrap();
    let seen = seen(&server.url()).await;
    assert!(seen.archiver.is_err(), "the trap was read");
    let touched: i64 = admin.query_one("SELECT count(*) FROM public.touched", &[]).await.unwrap().get(0);
    assert_eq!(touched, 0);
}

#[tokio::test]
async fn a_healthy_server_gives_no_finding() {
    let options = PostgresOptions { initdb: vec!["--data-checksums".to_owned()], ..PostgresOptions::default() };
    // The last is the default from 14 on.
    let options = options.set("fsync", "on").set("full_page_writes", "on").set("checkpoint_completion_target", "0.9");
    let server = PostgresServer::start_with(options).await.unwrap();
    let admin = server.client().await;
    admin.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    // As it is from 15 on.
    admin.batch_execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await.unwrap();
    admin.batch_execute(&grants("keeper", "postgres", &[Wish::Watch])).await.unwrap();
    admin.batch_execute("ALTER ROLE keeper PASSWORD 'right'").await.unwrap();
    let url = server.url_for("keeper", "right", "postgres");
    let system = SystemId::new(SystemKind::Postgres, "main");
    let before = Observation::Postgres(read(&url).await);
    let reading = observe(&endpoint(&url), now(), DEADLINE).await;
    let current = Observation::Postgres(reading);
    // How much the disk of this machine has free is not what is tried here.
    let tuning = Tuning::default().with_threshold("postgres.disk_filling", "minimum_free", 0.0);
    for judgement in judge_all(&system, &current, Some(&before), &tuning, current.at()) {
        // What needs days of the keeper's record, the machine, or what was accepted, is all that two readings leave open.
        let open = [
            "postgres.query_regressed",
            "postgres.settings_unsuited",
            "postgres.settings_drifted",
            "postgres.disk_filling",
        ];
        if judgement.check == "postgres.minor_version_behind" {
            // Which release this machine has is not what is tried either.
            continue;
        }
        let is_open = open.contains(&judgement.check.as_str())
            && matches!(&judgement.status, Status::Unknown(unknown) if !unknown.kind.is_trouble());
        assert!(is_open || judgement.status == Status::Ok, "{}: {:?}", judgement.check, judgement.status);
    }
}
