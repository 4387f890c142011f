//! Changes really happen, and only while their conditions hold.

use super::{DEADLINE, client_as, endpoint, is_at_least, now, observe, role, seen};
use groundskeeper_core::remedy::{JournalledStep, Reindexing, Step, StepState, Undo, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::act::{ActError, apply, capture, is_under_way};
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::future::pending;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

fn system() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

fn journalled(step: &Step) -> JournalledStep {
    JournalledStep::recorded(1, step.clone())
}

/// A server without autovacuum, with a table of 1,000 rows of which 400 are dead, in a database of its own.
async fn server_with_dead_rows() -> (PostgresServer, Client) {
    let server = PostgresServer::start_with(PostgresOptions::default().set("autovacuum", "off")).await.unwrap();
    server.client().await.batch_execute("CREATE DATABASE \"doc rag\"").await.unwrap();
    let client = server.client_at(&server.url_for("postgres", server.password(), "doc rag")).await;
    client.batch_execute("CREATE TABLE \"Chunks\" (id int)").await.unwrap();
    client.batch_execute("INSERT INTO \"Chunks\" SELECT generate_series(1, 1000)").await.unwrap();
    client.batch_execute("DELETE FROM \"Chunks\" WHERE id <= 400").await.unwrap();
    // A session that reported less than a second ago tells of its next changes ten seconds later, unless it is asked to.
    counted(&client).await;
    (server, client)
}

fn vacuum(table: &str) -> Step {
    Step::Vacuum { system: system(), database: "doc rag".into(), schema: "public".into(), table: table.into() }
}

fn analyze(table: &str) -> Step {
    Step::Analyze { system: system(), database: "doc rag".into(), schema: "public".into(), table: table.into() }
}

/// The state before, once the dead rows have reached the statistics.
async fn before(server: &PostgresServer, step: &Step) -> StepState {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        let state = capture(&endpoint(&server.url()), step, DEADLINE).await.unwrap();
        if matches!(state, StepState::Table { dead_rows: 400, .. }) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the dead rows never reached the statistics")
}

#[tokio::test]
async fn vacuum_removes_dead_rows_in_the_steps_own_database_and_may_be_repeated() {
    let (server, _client) = server_with_dead_rows().await;
    let (at, step) = (endpoint(&server.url()), vacuum("Chunks"));
    let earlier = before(&server, &step).await;
    for _ in 0..2 {
        apply(&at, &journalled(&step), DEADLINE, pending()).await.unwrap();
        let after = capture(&at, &step, DEADLINE).await.unwrap();
        assert!(matches!(step.verify(&earlier, &after), Verification::Helped(_)), "{after:?}");
        assert!(matches!(after, StepState::Table { dead_rows: 0, live_rows: 600, analyzed: Some(_), .. }), "{after:?}");
    }
}

#[tokio::test]
async fn analyze_refreshes_the_statistics() {
    let (server, _client) = server_with_dead_rows().await;
    let (at, step) = (endpoint(&server.url()), analyze("Chunks"));
    let earlier = before(&server, &step).await;
    apply(&at, &journalled(&step), DEADLINE, pending()).await.unwrap();
    let after = capture(&at, &step, DEADLINE).await.unwrap();
    assert!(matches!(step.verify(&earlier, &after), Verification::Helped(_)), "{after:?}");
    assert!(matches!(after, StepState::Table { modified_since_analyze: 0, .. }), "{after:?}");
}

#[tokio::test]
async fn a_locked_table_is_skipped_and_the_verification_says_so() {
    let (server, client) = server_with_dead_rows().await;
    let (at, step) = (endpoint(&server.url()), vacuum("Chunks"));
    let earlier = before(&server, &step).await;
    client.batch_execute("BEGIN; LOCK TABLE \"Chunks\" IN ACCESS EXCLUSIVE MODE").await.unwrap();
    apply(&at, &journalled(&step), DEADLINE, pending()).await.unwrap();
    let after = capture(&at, &step, DEADLINE).await.unwrap();
    assert!(matches!(step.verify(&earlier, &after), Verification::DidNotHelp(_)), "{after:?}");
}

#[tokio::test]
async fn a_table_that_is_gone_or_not_ours_is_refused_with_the_reason() {
    let (server, _client) = server_with_dead_rows().await;
    let gone = vacuum("Gone");
    let error = apply(&endpoint(&server.url()), &journalled(&gone), DEADLINE, pending()).await.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason == "the table is gone"), "{error}");
    assert_eq!(capture(&endpoint(&server.url()), &gone, DEADLINE).await.unwrap(), StepState::Gone);

    let watcher = role(&server, "watcher", "").await;
    let error = apply(&endpoint(&watcher), &journalled(&vacuum("Chunks")), DEADLINE, pending()).await.unwrap_err();
    assert!(matches!(error, ActError::Denied { .. }) && !error.retryable(), "{error}");
    assert!(error.to_string().contains("MAINTAIN"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_can_be_tried_again_later() {
    let (mut server, _client) = server_with_dead_rows().await;
    server.stop().await.unwrap();
    let error = apply(&endpoint(&server.url()), &journalled(&vacuum("Chunks")), DEADLINE, pending()).await.unwrap_err();
    assert!(matches!(error, ActError::Unreachable(_)) && error.retryable(), "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port())), "{error}");
}

/// An analyze of the table takes minutes from now on: it works out an index's expression for each row.
async fn make_slow(client: &Client) {
    let function = |body: &str| {
        format!("CREATE OR REPLACE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN {body} END$$")
    };
    client.batch_execute(&function("RETURN $1;")).await.unwrap();
    client.batch_execute("CREATE INDEX ON \"Chunks\" (slow(id))").await.unwrap();
    client.batch_execute(&function("PERFORM pg_sleep(1); RETURN $1;")).await.unwrap();
}

/// How many sessions of ours work on a statement.
async fn at_work(client: &Client) -> i64 {
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'groundskeeper' AND state = 'active'";
    client.query_one(ours, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_vacuum_ends_at_once_when_it_is_told_to() {
    let (server, client) = server_with_dead_rows().await;
    make_slow(&client).await;
    let (at, step) = (endpoint(&server.url()), vacuum("Chunks"));
    let started = Instant::now();
    let halt = async {
        while !is_under_way(&at, &step, DEADLINE).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let error = Box::pin(apply(&at, &journalled(&step), Duration::from_mins(10), halt)).await.unwrap_err();
    assert!(matches!(error, ActError::Interrupted(_)) && error.retryable(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(at_work(&client).await, 0, "nothing goes on at the server");
    assert!(!is_under_way(&at, &step, DEADLINE).await.unwrap());
}

#[tokio::test]
async fn the_vacuum_of_a_dead_keeper_is_seen_until_it_is_over() {
    let (server, client) = server_with_dead_rows().await;
    let (at, step) = (endpoint(&server.url()), vacuum("Chunks"));
    let under_way = async || is_under_way(&at, &step, DEADLINE).await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE \"Chunks\" IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    assert!(!under_way().await, "somebody else's vacuum");
    client.batch_execute("COMMIT").await.unwrap();

    make_slow(&client).await;
    let keeper = tokio::spawn({
        let (at, step) = (at.clone(), journalled(&step));
        async move { apply(&at, &step, Duration::from_mins(10), pending()).await }
    });
    let until = Instant::now() + Duration::from_mins(1);
    while !under_way().await {
        assert!(Instant::now() < until && !keeper.is_finished(), "it does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!is_under_way(&at, &vacuum("Other"), DEADLINE).await.unwrap());
    // Its socket closes, and nobody cancels anything. The server goes on until it notices.
    keeper.abort();
    assert!(keeper.await.unwrap_err().is_cancelled());
    if !is_at_least(&server, 14, "client_connection_check_interval") {
        return;
    }
    while under_way().await {
        assert!(Instant::now() < until, "it goes on and on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(at_work(&client).await, 0);
}

#[tokio::test]
async fn a_vacuum_leaves_the_empty_end_of_a_table_in_place() {
    let (server, client) = server_with_dead_rows().await;
    client.batch_execute("DELETE FROM \"Chunks\"").await.unwrap();
    apply(&endpoint(&server.url()), &journalled(&vacuum("Chunks")), DEADLINE, pending()).await.unwrap();
    let row = client.query_one("SELECT pg_relation_size('\"Chunks\"')", &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) > 0, "to give it back, the table would have been locked against everyone");
}

#[tokio::test]
async fn a_database_that_is_gone_is_a_precondition() {
    let server = PostgresServer::start().await.unwrap();
    let at = endpoint(&server.url());
    let error = capture(&at, &vacuum("Chunks"), DEADLINE).await.unwrap_err();
    assert!(matches!(error, ActError::Gone { .. }) && !error.retryable(), "{error}");
    assert!(
        error.to_string().contains("table doc rag.public.Chunks")
            && error.to_string().ends_with("its database is gone")
    );
}

#[tokio::test]
async fn a_database_that_is_dropped_in_the_middle_of_a_step_is_told_and_never_a_panic() {
    let (server, client) = server_with_dead_rows().await;
    make_slow(&client).await;
    let (at, step) = (endpoint(&server.url()), vacuum("Chunks"));
    let working = tokio::spawn({
        let (at, step) = (at.clone(), journalled(&step));
        async move { Box::pin(apply(&at, &step, Duration::from_mins(10), pending())).await }
    });
    while !is_under_way(&at, &step, DEADLINE).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.client().await.batch_execute("DROP DATABASE \"doc rag\" WITH (FORCE)").await.unwrap();
    let error = working.await.unwrap().unwrap_err();
    assert!(matches!(error, ActError::Failed { .. } | ActError::Unreachable(_)) && error.retryable(), "{error}");

    let because = Reindexing::Invalid;
    let (database, schema, table, index) = ("doc rag".into(), "public".into(), "Chunks".into(), "i".into());
    let reindex = Step::Reindex { system: system(), database, schema, table, index, because };
    let Undo::By(sweep) = reindex.undo(&StepState::Gone) else { panic!("nothing puts it back") };
    for step in [step, reindex, *sweep] {
        let gone = |error: ActError| assert!(matches!(error, ActError::Gone { .. }), "{step:?}: {error}");
        gone(capture(&at, &step, DEADLINE).await.unwrap_err());
        gone(is_under_way(&at, &step, DEADLINE).await.unwrap_err());
        gone(Box::pin(apply(&at, &journalled(&step), DEADLINE, pending())).await.unwrap_err());
    }
    // A step that is for the whole server does not say that anything of it is gone.
    let session = Step::EndIdleSession { system: system(), pid: 1, backend_start: now(), idle_seconds: 1 };
    let nowhere = endpoint(&server.url_for("postgres", server.password(), "doc rag"));
    let error = capture(&nowhere, &session, DEADLINE).await.unwrap_err();
    assert!(matches!(error, ActError::Precondition { .. }), "{error}");
}

#[tokio::test]
async fn the_names_that_a_person_protects_and_the_tools_that_must_not_be_cut_off_are_left_alone() {
    let server = PostgresServer::start().await.unwrap();
    let app = role(&server, "app", "").await;
    let loader = role(&server, "loader", "").await;
    let names = ["Billing".to_owned(), "LOADER".to_owned()];
    let at = endpoint(&server.url()).with_protected(&names);
    let mut clients = Vec::new();
    for (url, application) in [
        (&app, "billing"),
        (&loader, "nightly"),
        (&app, "pg_repack"),
        (&app, "Debezium General"),
        (&app, "Flyway by Redgate"),
        (&app, "postgres_fdw"),
    ] {
        clients.push(idle_as(&server, url, application).await);
        let step = ending(&server, application, 0).await;
        let error = apply(&at, &journalled(&step), DEADLINE, pending()).await.unwrap_err();
        assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains("never_end")), "{error}");
    }
    let seen = observe(&at, now(), DEADLINE).await.outcome.unwrap().activity.unwrap().sessions;
    assert!(seen.iter().filter(|session| session.user != "postgres").all(|session| session.protected), "{seen:?}");
    for client in &clients {
        client.query_one("SELECT 1", &[]).await.unwrap();
    }

    let driver = idle_as(&server, &app, "PostgreSQL JDBC Driver").await;
    let step = ending(&server, "PostgreSQL JDBC Driver", 0).await;
    apply(&at, &journalled(&step), DEADLINE, pending()).await.unwrap();
    assert!(driver.query("SELECT 1", &[]).await.is_err(), "the name of a driver protects nobody");
}

/// The step that ends the session of that application, as a finding would propose it.
async fn ending(server: &PostgresServer, application: &str, idle_seconds: u32) -> Step {
    let sessions = seen(&server.url()).await.activity.unwrap().sessions;
    let session = sessions.iter().find(|session| session.application == application).unwrap();
    let (pid, backend_start) = (session.pid, session.backend_start);
    Step::EndIdleSession { system: system(), pid, backend_start, idle_seconds }
}

async fn idle_as(server: &PostgresServer, url: &str, application: &str) -> Client {
    let client = client_as(server, url, application).await;
    client.batch_execute("BEGIN").await.unwrap();
    client.query_one("SELECT 'secret', 1", &[]).await.unwrap();
    client
}

#[tokio::test]
async fn an_idle_session_is_ended_and_a_second_run_finds_it_gone() {
    let server = PostgresServer::start().await.unwrap();
    let app = role(&server, "app", "").await;
    let keeper = role(&server, "keeper", "").await;
    server.client().await.batch_execute("GRANT pg_monitor, pg_signal_backend TO keeper").await.unwrap();
    let keeper = endpoint(&keeper);
    let client = idle_as(&server, &app, "leaky").await;
    let step = ending(&server, "leaky", 0).await;

    let before = capture(&keeper, &step, DEADLINE).await.unwrap();
    let StepState::Session { user, application, query, idle_seconds } = &before else { panic!("{before:?}") };
    assert_eq!((user.as_str(), application.as_str(), query.as_str()), ("app", "leaky", "SELECT ?, ?"));
    assert!(*idle_seconds >= 0.0);

    apply(&keeper, &journalled(&step), DEADLINE, pending()).await.unwrap();
    let after = capture(&keeper, &step, DEADLINE).await.unwrap();
    assert_eq!(after, StepState::Gone);
    assert!(matches!(step.verify(&before, &after), Verification::Helped(_)));
    assert!(client.query("SELECT 1", &[]).await.is_err());

    let error = apply(&keeper, &journalled(&step), DEADLINE, pending()).await.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains("ended by itself")), "{error}");
}

#[tokio::test]
async fn a_session_that_does_not_meet_the_conditions_is_left_alone() {
    let server = PostgresServer::start().await.unwrap();
    let app = role(&server, "app", "").await;
    let replicator = role(&server, "replicator", "REPLICATION").await;
    let at = endpoint(&server.url());

    let young = idle_as(&server, &app, "young").await;
    let dump = idle_as(&server, &app, "pg_dump").await;
    let superuser = idle_as(&server, &server.url(), "psql").await;
    let slot = idle_as(&server, &replicator, "slot").await;
    let busy = idle_as(&server, &app, "busy").await;
    let busy_step = ending(&server, "busy", 0).await;
    busy.batch_execute("COMMIT").await.unwrap();
    let other_backend = match ending(&server, "young", 0).await {
        Step::EndIdleSession { system, pid, backend_start, idle_seconds } => Step::EndIdleSession {
            system,
            pid,
            backend_start: backend_start - jiff::SignedDuration::from_micros(1),
            idle_seconds,
        },
        other => panic!("{other:?}"),
    };
    for (step, word) in [
        (ending(&server, "young", 600).await, "10 min are asked for"),
        (ending(&server, "pg_dump", 0).await, "backup"),
        (ending(&server, "psql", 0).await, "superuser"),
        (ending(&server, "slot", 0).await, "replication"),
        (busy_step, "it is idle now"),
        (other_backend, "another session"),
    ] {
        let error = apply(&at, &journalled(&step), DEADLINE, pending()).await.unwrap_err();
        assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
        assert!(!error.retryable());
    }
    for client in [young, dump, superuser, slot, busy] {
        client.query_one("SELECT 1", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn without_the_grant_a_session_cannot_be_ended_and_the_error_names_the_grant() {
    let server = PostgresServer::start().await.unwrap();
    let app = role(&server, "app", "").await;
    let watcher = role(&server, "watcher", "").await;
    let client = idle_as(&server, &app, "leaky").await;
    let step = ending(&server, "leaky", 0).await;
    let error = apply(&endpoint(&watcher), &journalled(&step), DEADLINE, pending()).await.unwrap_err();
    assert!(error.to_string().contains("pg_monitor"), "{error}");
    server.client().await.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let error = apply(&endpoint(&watcher), &journalled(&step), DEADLINE, pending()).await.unwrap_err();
    assert!(matches!(error, ActError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("pg_signal_backend"), "{error}");
    client.query_one("SELECT 1", &[]).await.unwrap();
}
