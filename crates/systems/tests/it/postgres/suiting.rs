//! Pools that hold more than they use and settings that do not suit the machine: caused, told, mended as told, and gone.

use super::{client_as, endpoint, now, role};
use crate::postgres::DEADLINE;
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::{Machine, Observation, Storage};
use groundskeeper_core::tuning::postgres::{Way, advise};
use groundskeeper_core::{Finding, SystemId, SystemKind};
use groundskeeper_systems::postgres::observe;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};

/// The reading of a server on a machine of 1 GiB, 2 cores and flash: what a machine has is told by the configuration.
async fn on_a_machine(server: &PostgresServer) -> Observation {
    let mut reading = observe(&endpoint(&server.url()), now(), DEADLINE).await;
    let told_by = "a test".to_owned();
    let machine = Machine { memory: Some(1 << 30), cores: Some(2), storage: Some(Storage::Ssd), told_by };
    reading.outcome.as_mut().unwrap().machine = Some(Box::new(machine));
    Observation::Postgres(reading)
}

async fn findings(server: &PostgresServer, check: &str) -> Vec<Finding> {
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, &on_a_machine(server).await, None, &Tuning::default(), now());
    match &judged.iter().find(|judgement| judgement.check == check).unwrap().status {
        Status::Failing { findings } => findings.clone(),
        Status::Ok => Vec::new(),
        Status::Unknown(unknown) => panic!("{check}: {unknown:?}"),
    }
}

#[tokio::test]
async fn pools_of_idle_connections_are_told_with_the_sizes_that_are_enough() {
    const CHECK: &str = "postgres.pools_oversized";
    let server = PostgresServer::start_with(PostgresOptions::default().set("max_connections", "33")).await.unwrap();
    let app = role(&server, "app", "").await;
    let mut pools = Vec::new();
    for number in 0..14 {
        pools.push(client_as(&server, &app, if number < 10 { "docrag-api" } else { "worker" }).await);
    }
    assert_eq!(findings(&server, CHECK).await, [], "14 of 30 are less than half");
    for _ in 0..4 {
        pools.push(client_as(&server, &app, "docrag-api").await);
    }
    let found = findings(&server, CHECK).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].summary.starts_with("18 of 30 connections are idle"), "{}", found[0].summary);
    assert!(found[0].summary.ends_with("5 are enough for all pools together"), "twice 2 cores and one: {found:#?}");
    assert_eq!(found[0].fix, "Begin with docrag-api: all of its pools together 3 instead of 14.");

    // As told: 3 and 1.
    drop(pools.drain(14..));
    drop(pools.drain(3..13));
    let until = Instant::now() + Duration::from_secs(20);
    while !findings(&server, CHECK).await.is_empty() {
        assert!(Instant::now() < until, "{} are left, and it is still told", pools.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn settings_of_a_small_machine_are_told_and_the_printed_statements_mend_them() {
    const CHECK: &str = "postgres.settings_unsuited";
    let mut server = PostgresServer::start().await.unwrap();
    // The test's own configuration file owns some; what ALTER SYSTEM says wins over it.
    let admin = server.client().await;
    for statement in [
        "ALTER SYSTEM SET shared_buffers = '8MB'",
        "ALTER SYSTEM SET random_page_cost = 4",
        "ALTER SYSTEM SET work_mem = '256MB'",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    drop(admin);
    server.stop().await.unwrap();
    server.start_again().await.unwrap();
    let found = findings(&server, CHECK).await;
    assert_eq!(found.len(), 1);
    for name in ["shared_buffers", "random_page_cost", "work_mem"] {
        assert!(found[0].evidence.iter().any(|one| one.what == name), "{name} is missing: {found:#?}");
    }
    let told = &found[0].offenders.iter().find(|one| one.note.starts_with("work_mem: ")).unwrap().note;
    assert!(told.contains(" is advised: ") && told.contains("one sort in each of 97 connections"), "{told}");

    // What it advises, as `tune` prints it, until nothing of that is left: one value can depend on another.
    for _ in 0..3 {
        let Observation::Postgres(reading) = on_a_machine(&server).await else { unreachable!() };
        let advised = advise(&reading.outcome.unwrap()).unwrap();
        let admin = server.client().await;
        for one in advised.advice {
            if let Way::Statement { sql } = one.way {
                admin.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
        }
        drop(admin);
        server.stop().await.unwrap();
        server.start_again().await.unwrap();
        if findings(&server, CHECK).await.is_empty() {
            return;
        }
    }
    panic!("after three rounds: {:#?}", findings(&server, CHECK).await);
}
