//! Changes really happen, and only while their conditions hold.

use super::{DEADLINE, client_as, endpoint, role, seen};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::Duration;
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
    for _ in 0..100 {
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
        apply(&at, &journalled(&step), DEADLINE).await.unwrap();
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
    apply(&at, &journalled(&step), DEADLINE).await.unwrap();
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
    apply(&at, &journalled(&step), DEADLINE).await.unwrap();
    let after = capture(&at, &step, DEADLINE).await.unwrap();
    assert!(matches!(step.verify(&earlier, &after), Verification::DidNotHelp(_)), "{after:?}");
}

#[tokio::test]
async fn a_table_that_is_gone_or_not_ours_is_refused_with_the_reason() {
    let (server, _client) = server_with_dead_rows().await;
    let gone = vacuum("Gone");
    let error = apply(&endpoint(&server.url()), &journalled(&gone), DEADLINE).await.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason == "the table is gone"), "{error}");
    assert_eq!(capture(&endpoint(&server.url()), &gone, DEADLINE).await.unwrap(), StepState::Gone);

    let watcher = role(&server, "watcher", "").await;
    let error = apply(&endpoint(&watcher), &journalled(&vacuum("Chunks")), DEADLINE).await.unwrap_err();
    assert!(matches!(error, ActError::Denied { .. }) && !error.retryable(), "{error}");
    assert!(error.to_string().contains("MAINTAIN"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_can_be_tried_again_later() {
    let (mut server, _client) = server_with_dead_rows().await;
    server.stop().await.unwrap();
    let error = apply(&endpoint(&server.url()), &journalled(&vacuum("Chunks")), DEADLINE).await.unwrap_err();
    assert!(matches!(error, ActError::Unreachable(_)) && error.retryable(), "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port())), "{error}");
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

    apply(&keeper, &journalled(&step), DEADLINE).await.unwrap();
    let after = capture(&keeper, &step, DEADLINE).await.unwrap();
    assert_eq!(after, StepState::Gone);
    assert!(matches!(step.verify(&before, &after), Verification::Helped(_)));
    assert!(client.query("SELECT 1", &[]).await.is_err());

    let error = apply(&keeper, &journalled(&step), DEADLINE).await.unwrap_err();
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
        let error = apply(&at, &journalled(&step), DEADLINE).await.unwrap_err();
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
    let error = apply(&endpoint(&watcher), &journalled(&step), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("pg_monitor"), "{error}");
    server.client().await.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let error = apply(&endpoint(&watcher), &journalled(&step), DEADLINE).await.unwrap_err();
    assert!(matches!(error, ActError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("pg_signal_backend"), "{error}");
    client.query_one("SELECT 1", &[]).await.unwrap();
}
