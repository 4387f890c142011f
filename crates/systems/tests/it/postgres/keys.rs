//! Integer keys that are really almost used up.

use super::{now, read, role, seen};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::Observation;
use groundskeeper_core::{Finding, Severity, SystemId, SystemKind, UnknownKind};
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_testing::PostgresServer;

const CHECK: &str = "postgres.integer_key_running_out";

async fn judged(url: &str) -> Status {
    let reading = Observation::Postgres(read(url).await);
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, &reading, None, &Tuning::default(), now());
    judged.into_iter().find(|judgement| judgement.check == CHECK).unwrap().status
}

async fn only(url: &str) -> Finding {
    match judged(url).await {
        Status::Failing { mut findings } if findings.len() == 1 => findings.remove(0),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_key_that_is_almost_used_up_is_found_by_its_sequence_or_by_its_values() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE young (id serial PRIMARY KEY);
             INSERT INTO young DEFAULT VALUES;
             CREATE TABLE wide (id bigserial PRIMARY KEY);
             SELECT setval('wide_id_seq', 2147483647);
             CREATE SEQUENCE turning MAXVALUE 100 CYCLE;
             SELECT setval('turning', 99);
             CREATE SEQUENCE unused MAXVALUE 100",
        )
        .await
        .unwrap();
    assert_eq!(judged(&server.url()).await, Status::Ok, "young, wide, turning in a circle, or never used");

    // A bigint sequence that fills an integer column, the column being no part of the sequence.
    client
        .batch_execute(
            "CREATE SEQUENCE numbers;
             CREATE TABLE events (id int PRIMARY KEY DEFAULT nextval('numbers'));
             SELECT setval('numbers', 1700000000)",
        )
        .await
        .unwrap();
    let found = only(&server.url()).await;
    assert_eq!(found.severity, Severity::Warning);
    assert!(
        found.summary.starts_with("public.events.id (integer) has used 79.2 % of its numbers"),
        "{}",
        found.summary
    );

    client
        .batch_execute(
            "CREATE TABLE codes (id smallint PRIMARY KEY);
             INSERT INTO codes SELECT n FROM generate_series(30001, 32000) n; ANALYZE codes",
        )
        .await
        .unwrap();
    let found = only(&server.url()).await;
    assert_eq!((found.severity, found.offenders.len()), (Severity::Critical, 2));
    assert!(found.summary.starts_with("public.codes.id (smallint) has used 97.7 %"), "{}", found.summary);

    // What the finding says is what helps.
    let (_, statements) = found.fix.split_once("table: ").unwrap();
    client.batch_execute(statements.split_inclusive(';').next().unwrap()).await.unwrap();
    assert!(only(&server.url()).await.summary.starts_with("public.events.id"));
}

#[tokio::test]
async fn a_sequence_that_is_hidden_is_unknown_until_the_granted_script_has_run() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE SCHEMA \"of app\"; CREATE TABLE \"of app\".events (id serial PRIMARY KEY);
             SELECT setval('\"of app\".events_id_seq', 2000000000)",
        )
        .await
        .unwrap();
    let watcher = role(&server, "watcher", "").await;
    client.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let Status::Unknown(unknown) = judged(&watcher).await else { panic!("hidden is not ok") };
    assert_eq!(unknown.kind, UnknownKind::NotRead);
    assert!(unknown.reason.contains("IN SCHEMA \"of app\" TO \"watcher\""), "{unknown:?}");
    client.batch_execute(&grants("watcher", "postgres", &[Wish::Watch])).await.unwrap();
    assert_eq!(only(&watcher).await.severity, Severity::Critical);
    let moved = server.client_at(&watcher).await.batch_execute("SELECT nextval('\"of app\".events_id_seq')").await;
    assert!(moved.is_err(), "the role may look and not touch");
}

#[tokio::test]
async fn a_partitioned_table_is_one_key_and_hides_no_other() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE events (id serial, day int) PARTITION BY LIST (day);
             DO $$ BEGIN FOR n IN 1..510 LOOP
               EXECUTE format('CREATE TABLE events_%s PARTITION OF events FOR VALUES IN (%s)', n, n);
             END LOOP; END $$;
             SELECT setval('events_id_seq', 1900000000);
             CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE numbered_all PARTITION OF numbered FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
             SELECT setval('numbered_id_seq', 1800000000);
             INSERT INTO numbered OVERRIDING SYSTEM VALUE SELECT n FROM generate_series(1700000001, 1700001000) n;
             CREATE TABLE late (id serial PRIMARY KEY); SELECT setval('late_id_seq', 2104533974);
             ANALYZE numbered_all",
        )
        .await
        .unwrap();
    let found = only(&server.url()).await;
    assert!(found.summary.starts_with("public.late.id (integer) has used 98 % of its numbers"), "{}", found.summary);
    let keys: Vec<_> = found.offenders.iter().map(|one| one.note.split(' ').next().unwrap()).collect();
    assert_eq!(keys, ["public.late.id", "public.events.id", "public.numbered.id"]);
    assert_eq!(seen(&server.url()).await.keys.unwrap().unread, 0);

    client.batch_execute("DROP TABLE late").await.unwrap();
    let watcher = role(&server, "watcher", "").await;
    client.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let hidden = seen(&watcher).await.keys.unwrap().hidden_sequences;
    assert_eq!(
        hidden.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["public.events_id_seq", "public.numbered_id_seq"]
    );

    let found = only(&server.url()).await;
    let (_, statements) = found.fix.split_once("table: ").unwrap();
    assert!(
        statements.starts_with("ALTER TABLE \"public\".\"events\" ALTER COLUMN \"id\" TYPE bigint;"),
        "{statements}"
    );
    for statement in statements.split_inclusive(';').take(2) {
        client.batch_execute(statement).await.unwrap();
    }
    assert!(only(&server.url()).await.summary.starts_with("public.numbered.id"));
}
