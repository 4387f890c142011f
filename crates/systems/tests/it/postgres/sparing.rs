//! Whom nobody ends, however many wait: the server's own workers, and us.

use super::throttling::{server_with_much_to_vacuum, vacuum};
use super::{DEADLINE, PATIENCE, client_as, endpoint, only, pid, role, run, until_so, waiting};
use groundskeeper_core::remedy::{JournalledStep, Step};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::act::{ActError, apply};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::Timestamp;
use std::future::pending;
use tokio::task::JoinHandle;
use tokio_postgres::Error;

const BLOCKED: &str = "postgres.blocked_sessions";

/// Somebody who wants to change the table, and waits until he may.
async fn change(server: &PostgresServer, app: &str) -> (i32, JoinHandle<Result<(), Error>>) {
    let client = client_as(server, app, "migration").await;
    let waiter = pid(&client).await;
    let changing = tokio::spawn(async move { client.batch_execute("ALTER TABLE notes ADD COLUMN word text").await });
    waiting(server, 1).await;
    (waiter, changing)
}

/// The one that a session waits for.
async fn holder(server: &PostgresServer, waiter: i32) -> (i32, Timestamp, String) {
    let whom = "SELECT pid, backend_start, backend_type FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))";
    let row = server.client().await.query_one(whom, &[&waiter]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// Neither way to end a session ends this one, also for a superuser, who may end everybody. Before 14 nobody is ended for others
/// who wait, whoever it is.
async fn is_spared(server: &PostgresServer, (pid, backend_start): (i32, Timestamp)) {
    let system = || SystemId::new(SystemKind::Postgres, "main");
    for step in [
        Step::EndBlocker { system: system(), pid, backend_start, waiting_seconds: 0 },
        Step::EndIdleSession { system: system(), pid, backend_start, idle_seconds: 0 },
    ] {
        let step = JournalledStep::recorded(1, step);
        let error = Box::pin(apply(&endpoint(&server.url()), &step, DEADLINE, pending())).await.unwrap_err();
        assert!(
            matches!(&error, ActError::Precondition { reason, .. }
                if reason.contains("never_end") || (server.major() < 14 && reason.contains("before 14"))),
            "{step:?}: {error}"
        );
    }
    let there = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2)";
    let row = server.client().await.query_one(there, &[&pid, &backend_start]).await.unwrap();
    assert!(row.get::<_, bool>(0), "it was ended all the same");
}

#[tokio::test]
async fn a_worker_of_autovacuum_that_holds_up_a_migration_is_spared() {
    let options = PostgresOptions::default()
        .set("autovacuum_naptime", "1s")
        .set("autovacuum_max_workers", "1")
        // After this the server itself would take the lock away from its worker.
        .set("deadlock_timeout", "30min");
    let server = PostgresServer::start_with(options).await.unwrap();
    let app = role(&server, "app", "").await;
    run(
        &server,
        &[
            "CREATE TABLE notes (id int, body text)
               WITH (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
            "ALTER TABLE notes OWNER TO app",
            "INSERT INTO notes SELECT n, repeat('x', 200) FROM generate_series(1, 100000) n",
            "DELETE FROM notes WHERE id % 2 = 0",
        ],
    )
    .await;
    until_so(&server, "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = 'notes'::regclass)").await;
    let (waiter, changing) = change(&server, &app).await;
    let (worker, started, kind) = holder(&server, waiter).await;
    assert_eq!(kind, "autovacuum worker");

    let found = only(&server, BLOCKED, &[("warning", 0.0)]).await;
    assert!(found.summary.ends_with(&format!("at the root: pid {worker}")), "{}", found.summary);
    assert!(found.offenders.is_empty(), "nobody is proposed: {found:#?}");
    is_spared(&server, (worker, started)).await;
    assert_eq!(holder(&server, waiter).await.0, worker, "it works on");

    // It was that worker: a person who gives up its work lets the migration go on.
    run(&server, &[&format!("SELECT pg_cancel_backend({worker})")]).await;
    changing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_step_of_ours_that_a_migration_waits_for_is_spared() {
    let server = server_with_much_to_vacuum().await;
    run(&server, &["CREATE ROLE owner", "ALTER TABLE notes OWNER TO owner"]).await;
    let keeper = role(&server, "keeper", "IN ROLE owner, pg_monitor").await;
    let app = role(&server, "app", "IN ROLE owner").await;
    let mut migration = None;
    let meanwhile = async {
        until_so(&server, "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum)").await;
        let (waiter, changing) = change(&server, &app).await;
        let (ours, started, _) = holder(&server, waiter).await;
        let found = only(&server, BLOCKED, &[("warning", 0.0)]).await;
        assert!(found.summary.contains(&format!("at the root: pid {ours} keeper@postgres")), "{}", found.summary);
        assert!(found.fix.contains("ask its owner"), "{}", found.fix);
        is_spared(&server, (ours, started)).await;
        assert_eq!(holder(&server, waiter).await.0, ours, "it works on");
        migration = Some(changing);
    };
    let step = JournalledStep::recorded(1, vacuum());
    let error = Box::pin(apply(&endpoint(&keeper), &step, PATIENCE, meanwhile)).await.unwrap_err();
    assert!(matches!(error, ActError::Interrupted(_)), "{error}");
    migration.unwrap().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_that_bears_our_name_is_spared_while_it_idles_and_others_wait() {
    let server = PostgresServer::start().await.unwrap();
    let app = role(&server, "app", "").await;
    run(&server, &["CREATE TABLE notes (id int)", "ALTER TABLE notes OWNER TO app"]).await;
    for name in ["groundskeeper", "Groundskeeper of docrag"] {
        let ours = client_as(&server, &app, name).await;
        ours.batch_execute("BEGIN; SELECT count(*) FROM notes").await.unwrap();
        let (waiter, changing) = change(&server, &app).await;
        let (held_by, started, _) = holder(&server, waiter).await;
        assert_eq!(held_by, pid(&ours).await);
        is_spared(&server, (held_by, started)).await;
        ours.batch_execute("COMMIT").await.unwrap();
        changing.await.unwrap().unwrap();
        run(&server, &["ALTER TABLE notes DROP COLUMN word"]).await;
    }
}
