//! The postgres adapter against a real server.

mod acting;
mod altering;
mod archiving;
mod bloat;
mod blocking;
mod configuring;
mod contents;
mod disk;
mod estimates;
mod expiring;
mod exporting;
mod facts;
mod feedback;
mod granting;
mod keys;
mod killed;
mod lag;
mod leak;
mod meanwhile;
mod parting;
mod pausing;
mod plans;
mod queries;
mod reaching;
mod reading;
mod reindexing;
mod scans;
mod security;
mod sequences;
mod sessions;
mod sparing;
mod standing_by;
mod statements;
mod suiting;
mod switches;
mod throttling;
mod upkeep;
mod usage;
mod vacuuming;
mod vectors;
mod walsender;

use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::{Observation, Postgres, Reading};
use groundskeeper_core::{Finding, SystemId, SystemKind};
use groundskeeper_systems::postgres::{Endpoint, observe};
use groundskeeper_testing::PostgresServer;
use jiff::Timestamp;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const DEADLINE: Duration = Duration::from_secs(5);
/// How long something may take to happen that does happen; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);

fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url, None).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test stands in for the program, which has the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn read(url: &str) -> Reading<Postgres> {
    observe(&endpoint(url), now(), DEADLINE).await
}

/// The reading of a server that answers.
async fn seen(url: &str) -> Postgres {
    read(url).await.outcome.unwrap()
}

/// A role with a password, and its address.
async fn role(server: &PostgresServer, name: &str, rights: &str) -> String {
    let admin = server.client().await;
    admin.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'pw-{name}' {rights}")).await.unwrap();
    server.url_for(name, &format!("pw-{name}"), "postgres")
}

/// Another connection, as another application.
async fn client_as(server: &PostgresServer, url: &str, application: &str) -> Client {
    let client = server.client_at(url).await;
    client.batch_execute(&format!("SET application_name = '{application}'")).await.unwrap();
    client
}

/// The findings of one check about the server as it is now, with these limits.
async fn findings(server: &PostgresServer, check: &str, limits: &[(&str, f64)]) -> Vec<Finding> {
    let reading = Observation::Postgres(read(&server.url()).await);
    let tuning =
        limits.iter().fold(Tuning::default(), |tuning, (name, value)| tuning.with_threshold(check, name, *value));
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, &reading, None, &tuning, now());
    match &judged.iter().find(|judgement| judgement.check == check).unwrap().status {
        Status::Failing { findings } => findings.clone(),
        Status::Ok => Vec::new(),
        Status::Unknown(unknown) => panic!("{check}: {unknown:?}"),
    }
}

async fn only(server: &PostgresServer, check: &str, limits: &[(&str, f64)]) -> Finding {
    let mut found = findings(server, check, limits).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// Waits until the check finds something, which must be one thing.
async fn found(server: &PostgresServer, check: &str, limits: &[(&str, f64)]) -> Finding {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut found = findings(server, check, limits).await;
        assert!(found.len() < 2, "{found:#?}");
        if let Some(finding) = found.pop() {
            return finding;
        }
        assert!(Instant::now() < until, "{check} finds nothing");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the check finds nothing any more.
async fn mended(server: &PostgresServer, check: &str, limits: &[(&str, f64)]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = findings(server, check, limits).await;
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{found:#?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Runs statements, each in a transaction of its own.
async fn run(server: &PostgresServer, statements: &[&str]) {
    let client = server.client().await;
    for statement in statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// Waits until a question that is answered by yes or no is answered by yes.
async fn until_so(server: &PostgresServer, question: &str) {
    let until = Instant::now() + PATIENCE;
    let client = server.client().await;
    while !client.query_one(question, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until, "{question}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until so many sessions wait for a lock.
async fn waiting(server: &PostgresServer, count: usize) {
    let until = Instant::now() + PATIENCE;
    loop {
        let sessions = seen(&server.url()).await.activity.unwrap().sessions;
        if sessions.iter().filter(|session| session.lock_wait.is_some()).count() == count {
            return;
        }
        assert!(Instant::now() < until, "{sessions:#?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Whether the server is of `major` or later. What a test needs a later one for is left out, and said.
fn is_at_least(server: &PostgresServer, major: u32, what: &str) -> bool {
    let found = server.major();
    if found < major {
        println!("left out on Postgres {found}: {what}, which came with {major}");
    }
    found >= major
}

/// Whether the server tells since when somebody waits for a lock; we end nobody for others who wait where it does not.
fn tells_waits(server: &PostgresServer) -> bool {
    is_at_least(server, 14, "pg_locks.waitstart")
}

/// Whether the server can detach a partition while others read; it is done in one transaction with its drop where it cannot.
fn detaches_concurrently(server: &PostgresServer) -> bool {
    is_at_least(server, 14, "DETACH PARTITION … CONCURRENTLY")
}

/// Transactions that write, so that ids go by.
async fn write(server: &PostgresServer, transactions: u32) {
    let script = "CREATE TABLE IF NOT EXISTS tick (n int);
                  CREATE OR REPLACE PROCEDURE tick(times int) LANGUAGE plpgsql AS $$
                  BEGIN FOR n IN 1..times LOOP INSERT INTO tick VALUES (n); COMMIT; END LOOP; END $$";
    run(server, &[script, &format!("CALL tick({transactions})")]).await;
}

async fn pid(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}
