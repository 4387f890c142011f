//! Sessions that are at something for too long, and those who hold up others: each is told by one check and by no other.

use super::{PATIENCE, POLL, client_as, findings, found, mended, only, pid, role, run, tells_waits, until_so, waiting};
use groundskeeper_core::Finding;
use groundskeeper_core::finding::Target;
use groundskeeper_testing::PostgresServer;
use std::time::Instant;

const IDLE: &str = "postgres.idle_in_transaction";
const QUERY: &str = "postgres.long_query";
const TRANSACTION: &str = "postgres.long_transaction";
const BLOCKED: &str = "postgres.blocked_sessions";
const A_SECOND: [(&str, f64); 1] = [("warning", 1.0)];

/// A server with a table of two rows, and the address of the role that owns it and is no superuser.
async fn server() -> (PostgresServer, String) {
    let server = PostgresServer::start().await.unwrap();
    let app = role(&server, "app", "").await;
    let table = "CREATE TABLE notes (id int PRIMARY KEY, n int); INSERT INTO notes VALUES (1, 0), (2, 0)";
    run(&server, &[table, "ALTER TABLE notes OWNER TO app"]).await;
    (server, app)
}

/// The sessions that a finding names.
fn named(finding: &Finding) -> Vec<i32> {
    let session = |target: &Target| match target {
        Target::Session { pid, .. } => *pid,
        other => panic!("{other:?}"),
    };
    finding.offenders.iter().map(|offender| session(&offender.target)).collect()
}

#[tokio::test]
async fn a_query_that_runs_for_long_is_found_and_is_taken_for_nothing_else() {
    let (server, app) = server().await;
    assert_eq!(findings(&server, QUERY, &A_SECOND).await, []);

    let idle = client_as(&server, &app, "thinker").await;
    let thinker = pid(&idle).await;
    idle.batch_execute("BEGIN; UPDATE notes SET n = 1 WHERE id = 1").await.unwrap();
    let waiter = client_as(&server, &app, "waiter").await;
    let waiter = tokio::spawn(async move { waiter.batch_execute("UPDATE notes SET n = 2 WHERE id = 1").await });
    waiting(&server, 1).await;
    assert_eq!(findings(&server, QUERY, &[("warning", 0.0)]).await, [], "nobody works");

    let report = client_as(&server, &app, "report").await;
    let busy = pid(&report).await;
    let report = tokio::spawn(async move { (report.batch_execute("SELECT pg_sleep(3600)").await, report) });
    let long = found(&server, QUERY, &A_SECOND).await;
    assert_eq!(named(&long), [busy], "{long:#?}");
    let who = format!("pid {busy} app@postgres (report, 127.0.0.1), runs for ");
    assert!(long.offenders[0].note.starts_with(&who), "{}", long.offenders[0].note);
    assert_eq!(findings(&server, QUERY, &[]).await, [], "it is young");
    // The other two are older than that by now, and so is the transaction of the query.
    assert_eq!(named(&only(&server, IDLE, &A_SECOND).await), [thinker]);
    let all = [("warning", 1.0), ("idle_from", 1.0), ("query_from", 1.0)];
    assert_eq!(findings(&server, TRANSACTION, &all).await, []);

    // What the finding says is what helps.
    let cancel = format!("SELECT pg_cancel_backend({busy})");
    assert!(long.fix.contains(&cancel), "{}", long.fix);
    run(&server, &[&cancel]).await;
    let (outcome, report) = report.await.unwrap();
    assert!(outcome.is_err());
    assert_eq!(findings(&server, QUERY, &A_SECOND).await, []);
    report.batch_execute("SELECT 1").await.unwrap();
    idle.batch_execute("COMMIT").await.unwrap();
    waiter.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_transaction_of_many_statements_is_found_until_it_commits() {
    let (server, app) = server().await;
    let load = client_as(&server, &app, "nightly load").await;
    let loading = pid(&load).await;
    let statement = "UPDATE notes SET n = n + 1 WHERE id = 1";
    load.batch_execute(statement).await.unwrap();
    assert_eq!(findings(&server, TRANSACTION, &[("warning", 0.0)]).await, [], "each was committed");

    load.batch_execute("BEGIN").await.unwrap();
    let until = Instant::now() + PATIENCE;
    let long = loop {
        load.batch_execute(statement).await.unwrap();
        let mut found = findings(&server, TRANSACTION, &A_SECOND).await;
        if let Some(long) = found.pop() {
            break long;
        }
        assert!(Instant::now() < until, "nothing is found");
        tokio::time::sleep(POLL).await;
    };
    assert_eq!(named(&long), [loading], "{long:#?}");
    assert!(long.fix.contains(&format!("session {loading} commit in batches")), "{}", long.fix);
    // Also in the middle of a statement, which is not the one to blame.
    load.batch_execute("SAVEPOINT good").await.unwrap();
    let working = tokio::spawn(async move { (load.batch_execute("SELECT pg_sleep(3600)").await, load) });
    until_so(&server, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')").await;
    assert_eq!(named(&only(&server, TRANSACTION, &A_SECOND).await), [loading]);
    for other in [QUERY, IDLE] {
        assert_eq!(findings(&server, other, &[]).await, [], "{other}");
    }
    run(&server, &[&format!("SELECT pg_cancel_backend({loading})")]).await;
    let (outcome, load) = working.await.unwrap();
    assert!(outcome.is_err());
    load.batch_execute("ROLLBACK TO good").await.unwrap();
    assert_eq!(named(&only(&server, TRANSACTION, &A_SECOND).await), [loading]);

    load.batch_execute("COMMIT").await.unwrap();
    assert_eq!(findings(&server, TRANSACTION, &A_SECOND).await, []);
}

#[tokio::test]
async fn the_first_of_three_who_wait_for_each_other_is_named_and_not_the_one_in_the_middle() {
    let (server, app) = server().await;
    let limits = [("warning", 0.0)];
    assert_eq!(findings(&server, BLOCKED, &limits).await, []);

    let first = client_as(&server, &app, "first").await;
    let middle = client_as(&server, &app, "middle").await;
    let last = client_as(&server, &app, "last").await;
    let (root, between) = (pid(&first).await, pid(&middle).await);
    first.batch_execute("BEGIN; UPDATE notes SET n = 1 WHERE id = 1").await.unwrap();
    middle.batch_execute("BEGIN; UPDATE notes SET n = 2 WHERE id = 2").await.unwrap();
    assert_eq!(findings(&server, BLOCKED, &limits).await, [], "two who do not meet");
    let middle = tokio::spawn(async move { middle.batch_execute("UPDATE notes SET n = 2 WHERE id = 1; COMMIT").await });
    waiting(&server, 1).await;
    let last = tokio::spawn(async move { last.batch_execute("UPDATE notes SET n = 3 WHERE id = 2").await });
    waiting(&server, 2).await;

    let chain = only(&server, BLOCKED, &limits).await;
    assert!(chain.summary.starts_with("2 sessions wait for a lock"), "{}", chain.summary);
    assert!(chain.summary.contains(&format!("at the root: pid {root} app@postgres (first,")), "{}", chain.summary);
    if tells_waits(&server) {
        assert_eq!(named(&chain), [root], "{chain:#?}");
        assert!(chain.offenders[0].note.ends_with("holds up 2 sessions"), "{}", chain.offenders[0].note);
    }
    assert!(!chain.fix.contains(&format!("({between})")), "{}", chain.fix);

    // What the finding says is what helps: both go on.
    let end = format!("SELECT pg_terminate_backend({root})");
    assert!(chain.fix.contains(&end), "{}", chain.fix);
    run(&server, &[&end]).await;
    middle.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    mended(&server, BLOCKED, &limits).await;
    assert!(first.batch_execute("SELECT 1").await.is_err());
}
