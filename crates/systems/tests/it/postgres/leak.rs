//! Connections that a client really forgets are found, and a pool of the same size that is reused is not.

use super::{client_as, now, read, role};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::Observation;
use groundskeeper_core::{Finding, SystemId, SystemKind};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};

const CHECK: &str = "postgres.connection_leak";

fn judged(current: &Observation, before: &Observation) -> Vec<Finding> {
    let tuning = [("sessions", 6.0), ("unused", 0.5), ("window", 15.0)]
        .iter()
        .fold(Tuning::default(), |tuning, (name, value)| tuning.with_threshold(CHECK, name, *value));
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, current, Some(before), &tuning, now());
    match &judged.iter().find(|judgement| judgement.check == CHECK).unwrap().status {
        Status::Failing { findings } => findings.clone(),
        Status::Ok => Vec::new(),
        Status::Unknown(unknown) => panic!("{unknown:?}"),
    }
}

async fn reading(server: &PostgresServer) -> Observation {
    Observation::Postgres(read(&server.url()).await)
}

#[tokio::test]
async fn a_client_that_forgets_its_connections_is_named_and_a_pool_that_is_reused_is_not() {
    let server = PostgresServer::start_with(PostgresOptions::default().set("max_connections", "200")).await.unwrap();
    let app = role(&server, "app", "").await;
    let (mut pool, mut quiet, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..12 {
        pool.push(client_as(&server, &app, "pool").await);
        quiet.push(client_as(&server, &app, "quiet").await);
    }
    // The same client in another database is another one.
    server.client().await.batch_execute("CREATE DATABASE other").await.unwrap();
    let other = server.url_for("app", "pw-app", "other");
    let mut elsewhere = Vec::new();
    for _ in 0..12 {
        elsewhere.push(client_as(&server, &other, "leaking").await);
    }
    let until = Instant::now() + Duration::from_mins(2);
    let mut before = reading(&server).await;
    let found = loop {
        lost.push(client_as(&server, &app, "leaking").await);
        for client in &pool {
            client.batch_execute("SELECT 1").await.unwrap();
        }
        let current = reading(&server).await;
        let found = judged(&current, &before);
        before = current;
        if !found.is_empty() {
            break found;
        }
        assert!(Instant::now() < until, "{} were forgotten and nobody was named", lost.len());
        tokio::time::sleep(Duration::from_millis(400)).await;
    };
    assert!(
        found[0].summary.starts_with("leaking (user app in postgres from 127.0.0.1) has forgotten"),
        "{}",
        found[0].summary
    );
    assert_eq!(found[0].offenders.len(), 1, "neither the pool nor the quiet one: {:#?}", found[0].offenders);
    // The statement of the fix shows what they did last.
    let statement = found[0].fix.split_once(": ").unwrap().1.split_once(';').unwrap().0;
    let rows = server.client().await.query(statement, &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, String>(0), "SET application_name = 'leaking'");
    assert_eq!(rows[0].get::<_, i64>(1), lost.len() as i64, "and not those in the other database");

    // Once it gives its connections back, that is over.
    lost.truncate(3);
    loop {
        let current = reading(&server).await;
        if judged(&current, &before).is_empty() {
            break;
        }
        assert!(Instant::now() < until, "closed connections still count");
        before = current;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
