//! An index that only a standby uses is used.

use super::{now, read, seen};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::{Observation, Postgres, Reading};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Round;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};

const CHECK: &str = "postgres.index_unused";

fn judged(primary: Postgres, standbys: &[(&str, &Postgres)]) -> Status {
    let mut primary = primary;
    for (name, standby) in standbys {
        primary.count_in(name, standby);
    }
    let at = now();
    let reading = Observation::Postgres(Reading { at, latency: 0.1, took: 0.1, outcome: Ok(primary) });
    let tuning = [("days", 0.0), ("minimum_size", 8_192.0), ("minimum_age", 0.0)]
        .iter()
        .fold(Tuning::default(), |tuning, (name, value)| tuning.with_threshold(CHECK, name, *value));
    let judged = judge_all(&SystemId::new(SystemKind::Postgres, "main"), &reading, None, &tuning, at);
    judged.into_iter().find(|judgement| judgement.check == CHECK).unwrap().status
}

fn unused(status: &Status) -> Vec<String> {
    let Status::Failing { findings } = status else { panic!("{status:?}") };
    let name = |note: &String| note.split(' ').next().unwrap().to_owned();
    let mut names: Vec<_> = findings[0].offenders.iter().map(|offender| name(&offender.note)).collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_index_is_unused_when_neither_the_primary_nor_a_standby_uses_it() {
    let options = PostgresOptions::default().set("autovacuum", "off").set("hot_standby", "on");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE documents (id int PRIMARY KEY);
             INSERT INTO documents SELECT n FROM generate_series(1, 100) n;
             CREATE TABLE notes (id int PRIMARY KEY, a int, b int, c int, document int REFERENCES documents);
             INSERT INTO notes SELECT n, n, n, n, n % 100 + 1 FROM generate_series(1, 20000) n;
             CREATE INDEX by_a ON notes (a);
             CREATE INDEX by_b ON notes (b);
             CREATE INDEX by_c ON notes (c);
             CREATE INDEX of_key ON notes (document);
             CREATE UNIQUE INDEX enforced ON notes (id, c);
             ANALYZE",
        )
        .await
        .unwrap();
    let alone = judged(seen(&server.url()).await, &[]);
    assert_eq!(unused(&alone), ["by_a", "by_b", "by_c"], "nobody has asked for anything yet");

    // Our own receiver of WAL asks nothing; who else a slot waits for may.
    client.batch_execute("SELECT pg_create_physical_replication_slot('groundskeeper_wal')").await.unwrap();
    assert_eq!(unused(&judged(seen(&server.url()).await, &[])), unused(&alone));
    client.batch_execute("SELECT pg_create_physical_replication_slot('away')").await.unwrap();
    let away = judged(seen(&server.url()).await, &[]);
    assert!(
        matches!(&away, Status::Unknown(unknown) if unknown.reason.contains("1 of its 1 standbys")),
        "its standby may come back: {away:?}"
    );
    client.batch_execute("SELECT pg_drop_replication_slot('away')").await.unwrap();

    let replica = server.standby("replica").await.unwrap();
    let until = Instant::now() + Duration::from_mins(1);
    while seen(&server.url()).await.usage.unwrap().attached != 1 {
        assert!(Instant::now() < until, "the standby does not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let unasked = judged(seen(&server.url()).await, &[]);
    assert!(
        matches!(&unasked, Status::Unknown(unknown) if unknown.reason.contains("1 of its 1 standbys")),
        "{unasked:?}"
    );

    let (reader, here) = (replica.client().await, server.client().await);
    loop {
        reader.query("SELECT * FROM notes WHERE b = 5", &[]).await.unwrap();
        here.query("SELECT * FROM notes WHERE a = 5", &[]).await.unwrap();
        let there = seen(&replica.url()).await;
        let status = judged(seen(&server.url()).await, &[("replica", &there)]);
        // Sessions hand their counts over in their own time.
        if unused(&status) == ["by_c"] {
            break;
        }
        assert!(Instant::now() < until, "{status:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Read in one round, the primary gets what its standby counted, also while that one is cut off from it; a third server
    // that does not answer holds nothing up.
    let mut alone = read(&server.url()).await;
    alone.outcome.as_mut().unwrap().usage.as_mut().unwrap().attached = 0;
    let round = Round::of(3);
    let failed = Reading { outcome: read("postgres://u:p@127.0.0.1:1/d").await.outcome, ..read(&server.url()).await };
    let (primary, _, _) = tokio::join!(
        async { round.completed("main", alone).await },
        async { round.completed("replica", read(&replica.url()).await).await },
        async { round.completed("gone", failed).await },
    );
    let usage = primary.outcome.unwrap().usage.unwrap();
    assert_eq!(usage.standbys.iter().map(|standby| standby.name.as_str()).collect::<Vec<_>>(), ["replica"]);
    // What the finding says is what helps.
    let there = seen(&replica.url()).await;
    let Status::Failing { findings } = judged(seen(&server.url()).await, &[("replica", &there)]) else { panic!() };
    for statement in
        findings[0].fix.split("; ").filter_map(|part| part.split_once(": ")).map(|(_, statement)| statement)
    {
        client.batch_execute(statement).await.unwrap();
    }
    let there = seen(&replica.url()).await;
    assert_eq!(judged(seen(&server.url()).await, &[("replica", &there)]), Status::Ok);
}
