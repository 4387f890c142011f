//! Letting those go on who wait for a session: cancelled first, ended only if that does not help.

use super::{DEADLINE, client_as, endpoint, role, seen, tells_waits};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::future::pending;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

struct Scene {
    server: PostgresServer,
    /// The address of a role that owns nothing but the table.
    app: String,
    keeper: Endpoint,
}

impl Scene {
    async fn new() -> Self {
        let server = PostgresServer::start_with(PostgresOptions::default().set("autovacuum", "off")).await.unwrap();
        let app = role(&server, "app", "").await;
        let keeper = endpoint(&role(&server, "keeper", "IN ROLE pg_monitor, pg_signal_backend").await);
        let client = server.client().await;
        client
            .batch_execute("CREATE TABLE notes (id int PRIMARY KEY, n int); INSERT INTO notes VALUES (1, 0)")
            .await
            .unwrap();
        client.batch_execute("ALTER TABLE notes OWNER TO app").await.unwrap();
        Self { server, app, keeper }
    }

    async fn session(&self, application: &str) -> Client {
        client_as(&self.server, &self.app, application).await
    }

    /// Somebody who wants to write the row, and waits until he may.
    async fn waiter(&self) -> JoinHandle<Result<(), Error>> {
        let client = self.session("waiter").await;
        let waiting =
            tokio::spawn(async move { client.batch_execute("UPDATE notes SET n = n + 1 WHERE id = 1").await });
        let until = Instant::now() + Duration::from_secs(20);
        let waits = async || {
            let sessions = seen(&self.server.url()).await.activity.unwrap().sessions;
            sessions.iter().any(|session| session.application == "waiter" && session.lock_wait.is_some())
        };
        while !waits().await {
            assert!(Instant::now() < until, "nobody waits");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        waiting
    }

    async fn step(&self, application: &str, waiting_seconds: u32) -> Step {
        let sessions = seen(&self.server.url()).await.activity.unwrap().sessions;
        let session = sessions.iter().find(|session| session.application == application).unwrap();
        let system = SystemId::new(SystemKind::Postgres, "main");
        Step::EndBlocker { system, pid: session.pid, backend_start: session.backend_start, waiting_seconds }
    }

    async fn run(&self, step: &Step) -> Result<(), ActError> {
        apply(&self.keeper, &JournalledStep::recorded(1, step.clone()), DEADLINE * 4, pending()).await
    }

    async fn state(&self, step: &Step) -> StepState {
        capture(&self.keeper, step, DEADLINE).await.unwrap()
    }
}

fn refused(outcome: Result<(), ActError>, word: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
}

#[tokio::test]
async fn a_statement_is_cancelled_and_its_session_lives_on() {
    let scene = Scene::new().await;
    if !tells_waits(&scene.server) {
        return;
    }
    let report = scene.session("report").await;
    let running = tokio::spawn(async move {
        let outcome = report
            .batch_execute("WITH held AS (UPDATE notes SET n = 9 RETURNING 1) SELECT pg_sleep(600) FROM held")
            .await;
        (outcome, report)
    });
    let until = Instant::now() + Duration::from_secs(20);
    while seen(&scene.server.url()).await.activity.unwrap().sessions.iter().all(|one| one.application != "report") {
        assert!(Instant::now() < until, "the report does not begin");
    }
    let waiter = scene.waiter().await;
    let step = scene.step("report", 0).await;
    let before = scene.state(&step).await;
    assert!(matches!(before, StepState::Blocker { holds_up: 1, .. }), "{before:?}");
    refused(scene.run(&scene.step("report", 600).await).await, "nobody has waited for it for 600 s");
    scene.run(&step).await.unwrap();
    waiter.await.unwrap().unwrap();
    let (outcome, report) = running.await.unwrap();
    assert!(outcome.unwrap_err().to_string().contains("db error"), "it was cancelled");
    report.query_one("SELECT 1", &[]).await.unwrap();
    let after = scene.state(&step).await;
    assert!(matches!(step.verify(&before, &after), Verification::Helped(_)), "{after:?}");
    refused(scene.run(&step).await, "nobody has waited");
}

#[tokio::test]
async fn a_transaction_that_keeps_its_locks_is_ended() {
    let scene = Scene::new().await;
    let idle = scene.session("idle").await;
    idle.batch_execute("BEGIN; UPDATE notes SET n = 9").await.unwrap();
    let waiter = scene.waiter().await;
    let step = scene.step("idle", 0).await;
    if !tells_waits(&scene.server) {
        refused(scene.run(&step).await, "before 14 the server does not tell since when somebody waits");
        idle.batch_execute("COMMIT").await.unwrap();
        return waiter.await.unwrap().unwrap();
    }
    scene.run(&step).await.unwrap();
    waiter.await.unwrap().unwrap();
    assert_eq!(scene.state(&step).await, StepState::Gone);
    refused(scene.run(&step).await, "ended by itself");
    assert!(idle.query_one("SELECT 1", &[]).await.is_err());

    // Its statement can be cancelled, and its savepoint keeps the lock.
    let busy = scene.session("busy").await;
    let running = tokio::spawn(async move {
        busy.batch_execute("BEGIN; UPDATE notes SET n = 9; SAVEPOINT a").await.unwrap();
        busy.batch_execute("SELECT pg_sleep(600)").await
    });
    let until = Instant::now() + Duration::from_secs(20);
    let sleeps = async || {
        let sessions = seen(&scene.server.url()).await.activity.unwrap().sessions;
        sessions.iter().any(|session| session.application == "busy" && session.query.contains("pg_sleep"))
    };
    while !sleeps().await {
        assert!(Instant::now() < until, "it does not sleep");
    }
    let waiter = scene.waiter().await;
    let step = scene.step("busy", 0).await;
    scene.run(&step).await.unwrap();
    waiter.await.unwrap().unwrap();
    assert!(running.await.unwrap().is_err());
    assert_eq!(scene.state(&step).await, StepState::Gone, "the cancel was not enough");
}

#[tokio::test]
async fn whoever_is_protected_is_left_alone_however_many_wait() {
    let scene = Scene::new().await;
    if !tells_waits(&scene.server) {
        return;
    }
    let protected = endpoint(&scene.server.url()).with_protected(&["billing".to_owned()]);
    for (url, application) in
        [(scene.app.clone(), "billing"), (scene.app.clone(), "flyway"), (scene.server.url(), "psql")]
    {
        let holder = client_as(&scene.server, &url, application).await;
        holder.batch_execute("BEGIN; UPDATE notes SET n = 9").await.unwrap();
        let waiter = scene.waiter().await;
        let step = JournalledStep::recorded(1, scene.step(application, 0).await);
        refused(apply(&protected, &step, DEADLINE, pending()).await, "never_end");
        holder.batch_execute("COMMIT").await.unwrap();
        waiter.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_migration_that_waits_in_front_of_others_is_cancelled() {
    let scene = Scene::new().await;
    if !tells_waits(&scene.server) {
        return;
    }
    let reader = scene.session("reader").await;
    reader.batch_execute("BEGIN; SELECT * FROM notes").await.unwrap();
    let migration = scene.session("migration").await;
    let altering = tokio::spawn(async move { migration.batch_execute("ALTER TABLE notes ADD COLUMN word text").await });
    let until = Instant::now() + Duration::from_secs(20);
    let waits = async || {
        let sessions = seen(&scene.server.url()).await.activity.unwrap().sessions;
        sessions.iter().any(|session| session.application == "migration" && session.lock_wait.is_some())
    };
    while !waits().await {
        assert!(Instant::now() < until, "the migration does not wait");
    }
    let waiter = scene.waiter().await;
    scene.run(&scene.step("migration", 0).await).await.unwrap();
    waiter.await.unwrap().unwrap();
    assert!(altering.await.unwrap().is_err());
    reader.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn whoever_is_waited_for_on_purpose_is_left_alone() {
    let scene = Scene::new().await;
    if !tells_waits(&scene.server) {
        return;
    }
    let leader = scene.session("leader").await;
    leader.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(7)").await.unwrap();
    let follower = scene.session("follower").await;
    let following = tokio::spawn(async move { follower.batch_execute("SELECT pg_advisory_lock(7)").await });
    let until = Instant::now() + Duration::from_secs(20);
    let waits = async || {
        let sessions = seen(&scene.server.url()).await.activity.unwrap().sessions;
        sessions.iter().any(|session| session.application == "follower" && session.lock_wait.is_some())
    };
    while !waits().await {
        assert!(Instant::now() < until, "nobody follows");
    }
    refused(scene.run(&scene.step("leader", 0).await).await, "nobody has waited for it");
    leader.batch_execute("COMMIT").await.unwrap();
    following.await.unwrap().unwrap();
}
