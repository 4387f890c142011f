//! Statements that cost much, caused for real between two readings.

use super::statements::server;
use super::{now, read};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::Observation;
use groundskeeper_core::{Finding, SystemId, SystemKind};
use groundskeeper_testing::PostgresServer;

/// The findings of a check about two readings, with these limits.
pub(super) fn found(check: &str, before: &Observation, after: &Observation, limits: &[(&str, f64)]) -> Vec<Finding> {
    let tuning =
        limits.iter().fold(Tuning::default(), |tuning, (name, value)| tuning.with_threshold(check, name, *value));
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, after, Some(before), &tuning, now());
    match &judged.iter().find(|judgement| judgement.check == check).unwrap().status {
        Status::Failing { findings } => findings.clone(),
        Status::Ok => Vec::new(),
        Status::Unknown(unknown) => panic!("{check}: {unknown:?}"),
    }
}

pub(super) async fn reading(server: &PostgresServer) -> Observation {
    Observation::Postgres(read(&server.url()).await)
}

#[tokio::test]
async fn what_is_slow_heavy_spilling_or_outside_the_cache_is_found_while_it_lasts() {
    let (server, client) = server().await;
    for _ in 0..100 {
        client.query("SELECT pg_sleep(0.021)", &[]).await.unwrap();
    }
    let before = reading(&server).await;
    for _ in 0..20 {
        client.query("SELECT pg_sleep(0.021)", &[]).await.unwrap();
    }
    let after = reading(&server).await;
    let slow = found("postgres.query_slow", &before, &after, &[]);
    assert!(slow[0].summary.contains("SELECT pg_sleep($1)"), "{slow:#?}");
    assert!(slow[0].offenders[0].note.contains("20 calls of 2"), "{slow:#?}");
    let heavy = found("postgres.query_heavy", &before, &after, &[("minimum_load", 0.0)]);
    assert!(heavy[0].summary.contains("SELECT pg_sleep($1)"), "{heavy:#?}");

    client.batch_execute("SET work_mem = '64kB'").await.unwrap();
    client.query("SELECT count(*) FROM (SELECT body, id FROM chunks ORDER BY id % 7, body) s", &[]).await.unwrap();
    client.batch_execute("RESET work_mem; SELECT sum(length(body)) FROM chunks").await.unwrap();
    let later = reading(&server).await;
    assert_eq!(found("postgres.query_slow", &after, &later, &[]), [], "it did not run again");
    // Statements that have only now come among the leaders are compared from the next reading on.
    client.batch_execute("SET work_mem = '64kB'").await.unwrap();
    client.query("SELECT count(*) FROM (SELECT body, id FROM chunks ORDER BY id % 7, body) s", &[]).await.unwrap();
    client.batch_execute("RESET work_mem; SELECT sum(length(body)) FROM chunks").await.unwrap();
    let last = reading(&server).await;
    let spills = found("postgres.query_spills", &later, &last, &[("minimum_rate", 1_000.0)]);
    assert!(spills[0].summary.contains("of temporary files"), "{spills:#?}");
    assert!(spills[0].offenders[0].note.contains("ORDER BY id % $"), "{spills:#?}");
    let misses = found("postgres.query_misses_cache", &later, &last, &[("minimum_blocks", 1_000.0)]);
    assert!(misses[0].offenders.iter().any(|one| one.note.contains("sum(length(body))")), "{misses:#?}");
}
