//! Indexes of a real pgvector that do not suit their rows: each rule is broken, told, and mended by what is told.

use super::{now, read, role, seen};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::{Observation, Vectors};
use groundskeeper_core::{Finding, Severity, SystemId, SystemKind};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const CHECK: &str = "postgres.vector_index_unsuited";

async fn status(server: &PostgresServer) -> Status {
    let reading = Observation::Postgres(read(&server.url()).await);
    let tuning = [("minimum_rows", 1_000.0), ("unindexed_rows", 3_000.0), ("minimum_size", 8_192.0)]
        .iter()
        .fold(Tuning::default(), |tuning, (name, value)| tuning.with_threshold(CHECK, name, *value));
    let judged = judge_all(&SystemId::new(SystemKind::Postgres, "main"), &reading, None, &tuning, now());
    judged.into_iter().find(|judgement| judgement.check == CHECK).unwrap().status
}

async fn only(server: &PostgresServer) -> Finding {
    let Status::Failing { mut findings } = status(server).await else { panic!("nothing is told") };
    assert!(findings.len() == 1 && findings[0].offenders.len() == 1, "{findings:#?}");
    findings.remove(0)
}

/// Waits for statistics, which the server writes a moment late.
async fn told(server: &PostgresServer, what: &str) -> Finding {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let status = status(server).await;
        if let Status::Failing { findings } = &status
            && findings[0].offenders.iter().any(|offender| offender.note.contains(what))
        {
            return findings[0].clone();
        }
        assert!(Instant::now() < until, "{what:?} is not told: {status:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Its statements, one after the other, as a person copies them.
async fn carry_out(client: &Client, fix: &str) {
    let mut done = 0;
    for part in fix.split(';') {
        let begins = ["SET lock_timeout", "ALTER ", "REINDEX ", "VACUUM ", "CREATE INDEX ", "DROP INDEX "];
        if let Some(start) = begins.iter().filter_map(|begin| part.find(begin)).min() {
            let statement = &part[start..];
            client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
            done += 1;
        }
    }
    assert!(done > 0, "nothing can be copied out of {fix}");
}

/// Debian 12 has no package of pgvector for its Postgres: this is the other major that `cargo xtask setup` installs.
async fn server() -> (PostgresServer, Client) {
    let options = PostgresOptions::default().with_pgvector().unwrap().set("autovacuum", "off");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    assert!(seen(&server.url()).await.vectors.unwrap().is_none(), "the extension is not created yet");
    for statement in [
        "CREATE EXTENSION vector",
        "CREATE TABLE \"Chunks\" (id int, embedding vector(3))",
        "INSERT INTO \"Chunks\" SELECT n, ARRAY[random(), random(), random()]::real[]::vector FROM generate_series(1, 4000) n",
        "ANALYZE \"Chunks\"",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    (server, client)
}

#[tokio::test]
async fn a_column_without_an_index_and_lists_that_do_not_fit_are_told_and_mended() {
    let (server, client) = server().await;
    let found = only(&server).await;
    assert!(found.summary.contains("embedding of public.Chunks has no index"), "{}", found.summary);
    carry_out(&client, &found.fix).await;
    assert_eq!(status(&server).await, Status::Ok);

    client.batch_execute("DROP INDEX \"Chunks_embedding_idx\"").await.unwrap();
    client.batch_execute("CREATE INDEX lists ON \"Chunks\" USING ivfflat (embedding vector_l2_ops)").await.unwrap();
    let found = only(&server).await;
    assert!(found.summary.contains("has 100 lists for 4,000 rows, about 4 would fit"), "{}", found.summary);
    carry_out(&client, &found.fix).await;
    assert_eq!(status(&server).await, Status::Ok, "of 4 lists one is enough to begin with");
    client.batch_execute("ALTER INDEX lists SET (lists = 9)").await.unwrap();
    let probes = only(&server).await;
    assert!(probes.summary.contains("has 9 lists, and a search reads 1 of them"), "{}", probes.summary);
    carry_out(&client, &probes.fix).await;
    assert_eq!(status(&server).await, Status::Ok, "the database gives its sessions 3");

    // Who only watches sees the same.
    let watcher = role(&server, "watcher", "IN ROLE pg_monitor").await;
    let vectors = seen(&watcher).await.vectors.unwrap().unwrap();
    assert_eq!((vectors.indexes.len(), vectors.unindexed.len(), vectors.most("ivfflat.probes")), (1, 0, Some(3.0)));
}

#[tokio::test]
async fn a_graph_that_cannot_be_built_again_and_one_that_is_slow_to_vacuum_are_told_and_mended() {
    let (server, client) = server().await;
    client.batch_execute("CREATE INDEX graph ON \"Chunks\" USING hnsw (embedding vector_cosine_ops)").await.unwrap();
    assert_eq!(status(&server).await, Status::Ok);
    client.batch_execute("ALTER INDEX graph SET (m = 40)").await.unwrap();
    let error = client.batch_execute("REINDEX INDEX CONCURRENTLY graph").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("ef_construction"), "{error:?}");
    // What that left behind is another check's affair.
    client.batch_execute("DROP INDEX graph_ccnew").await.unwrap();
    let found = only(&server).await;
    assert_eq!(found.severity, Severity::Warning);
    carry_out(&client, &found.fix).await;
    client.batch_execute("REINDEX INDEX CONCURRENTLY graph").await.unwrap();
    assert_eq!(status(&server).await, Status::Ok);

    client.batch_execute("DELETE FROM \"Chunks\" WHERE id % 3 = 0").await.unwrap();
    let found = told(&server, "a vacuum of public.Chunks repairs the graph of graph").await;
    assert!(found.summary.ends_with("for 1,333 dead rows, which is slow"), "none was timed yet: {}", found.summary);
    carry_out(&client, &found.fix).await;
    let until = Instant::now() + Duration::from_secs(20);
    while status(&server).await != Status::Ok {
        assert!(Instant::now() < until, "{:#?}", status(&server).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reading = seen(&server.url()).await;
    let vectors = reading.vectors.unwrap().unwrap();
    assert_eq!(vectors.indexes[0].vacuum_seconds.is_some(), reading.server.major() >= 18, "{vectors:#?}");
}

#[tokio::test]
async fn searches_that_end_at_ef_search_are_told_and_mended_and_nothing_is_called_unused_on_the_first_day() {
    let (server, client) = server().await;
    for statement in [
        "CREATE EXTENSION pg_stat_statements",
        "CREATE INDEX graph ON \"Chunks\" USING hnsw (embedding vector_cosine_ops)",
        "CREATE INDEX other ON \"Chunks\" USING hnsw (embedding vector_l2_ops)",
        "SET enable_seqscan = off",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    assert_eq!(status(&server).await, Status::Ok, "no index was used yet");
    let search = "SELECT id FROM \"Chunks\" ORDER BY embedding <=> '[1, 0, 0]' LIMIT 100";
    for _ in 0..120 {
        assert_eq!(client.query(search, &[]).await.unwrap().len(), 40);
    }
    // Until both are counted.
    told(&server, "returns 40 rows in each of 120 calls").await;
    let used = || async {
        let vectors = seen(&server.url()).await.vectors.unwrap().unwrap();
        vectors.indexes.iter().find(|index| index.name == "graph").unwrap().scans > 0
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !used().await {
        assert!(Instant::now() < until, "no scan is counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let found = only(&server).await;
    assert!(found.fix.contains("SELECT id FROM \"Chunks\" ORDER BY embedding <=> "), "{}", found.fix);
    carry_out(&client, &found.fix).await;
    assert_eq!(status(&server).await, Status::Ok);
    let again = server.client().await;
    again.batch_execute("SET enable_seqscan = off").await.unwrap();
    assert_eq!(again.query(search, &[]).await.unwrap().len(), 100, "a new session finds all that it asks for");
}

#[tokio::test]
async fn what_the_servers_file_gives_searches_is_seen_without_the_library() {
    let (server, client) = server().await;
    let given = |vectors: &Vectors, name: &str| {
        let all = vectors.settings.iter().filter(|one| one.name == name);
        all.map(|one| (one.value.clone(), one.of.clone())).collect::<Vec<_>>()
    };
    let vectors = seen(&server.url()).await.vectors.unwrap().unwrap();
    assert_eq!(vectors.settings, [], "defaults are nobody's");
    // Up to 16 only a session that has loaded it may give it a value there.
    for statement in [
        "LOAD 'vector'",
        "ALTER SYSTEM SET hnsw.ef_search = 77",
        "ALTER SYSTEM SET ivfflat.probes = 5",
        "ALTER DATABASE postgres SET ivfflat.probes = 9",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let watcher = role(&server, "watcher", "IN ROLE pg_monitor").await;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let vectors = seen(&watcher).await.vectors.unwrap().unwrap();
        if given(&vectors, "hnsw.ef_search") == [("77".to_owned(), "the server".to_owned())] {
            let probes = given(&vectors, "ivfflat.probes");
            assert_eq!(probes, [("9".to_owned(), "database postgres".to_owned())], "and hides the server's");
            return;
        }
        assert!(Instant::now() < until, "{vectors:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
