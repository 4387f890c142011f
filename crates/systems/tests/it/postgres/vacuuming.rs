//! What autovacuum does is seen while it does it.

use super::{now, read, seen};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::Observation;
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_table_that_waits_for_the_one_slow_worker_is_found_and_so_is_what_slows_it_down() {
    let server = PostgresServer::start_with(
        PostgresOptions::default().set("autovacuum_max_workers", "1").set("autovacuum_naptime", "1s"),
    )
    .await
    .unwrap();
    let client = server.client().await;
    for table in ["first", "second"] {
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} (id int, body text)
                   WITH (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
                 INSERT INTO {table} SELECT n, repeat('x', 200) FROM generate_series(1, 50000) n;
                 DELETE FROM {table} WHERE id % 2 = 0"
            ))
            .await
            .unwrap();
    }
    counted(&client).await;
    let tuning = Tuning::default().with_threshold("postgres.autovacuum_throttled", "running", 0.0);
    let system = SystemId::new(SystemKind::Postgres, "main");
    let until = Instant::now() + Duration::from_mins(2);
    let (mut before, mut saturated, mut throttled) = (None, None, None);
    while saturated.is_none() || throttled.is_none() {
        assert!(Instant::now() < until, "saturated: {saturated:?}, throttled: {throttled:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let current = Observation::Postgres(read(&server.url()).await);
        for judgement in judge_all(&system, &current, before.as_ref(), &tuning, now()) {
            let Status::Failing { findings } = judgement.status else { continue };
            match judgement.check.as_str() {
                "postgres.autovacuum_workers_saturated" => saturated = findings.into_iter().next(),
                "postgres.autovacuum_throttled" => throttled = findings.into_iter().next(),
                _ => {}
            }
        }
        before = Some(current);
    }
    let (saturated, throttled) = (saturated.unwrap(), throttled.unwrap());
    assert!(saturated.summary.contains("the one worker of autovacuum is busy and "), "{}", saturated.summary);
    assert!(throttled.summary.contains("rests most of the time"), "{}", throttled.summary);
    let seen = seen(&server.url()).await.vacuuming.unwrap();
    assert_eq!((seen.max_workers, seen.cost_limit), (1, 200));
    assert!((seen.cost_delay - 0.002).abs() < 1e-9, "{seen:?}");

    // The statements of the fix are what the server takes.
    for statement in throttled.fix.split("; then").next().unwrap().split("; ") {
        client.batch_execute(statement).await.unwrap();
    }
    while read(&server.url()).await.outcome.unwrap().vacuuming.unwrap().cost_limit != 400 {
        assert!(Instant::now() < until, "the new limit is not in force");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
