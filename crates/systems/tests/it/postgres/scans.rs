//! Tables that are read whole, caused for real, and the indexes that would help.

use super::queries::{found, reading};
use super::statements::server;
use super::{endpoint, role};
use groundskeeper_core::advice::Advice;
use groundskeeper_core::observation::{Observation, Table, TableName};
use groundskeeper_systems::postgres::advise::advise;
use groundskeeper_testing::PostgresServer;
use groundskeeper_testing::postgres::{BIN_VARIABLE, counted};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// So low that the speed of the machine does not matter.
const LIMITS: [(&str, f64); 1] = [("minimum_rate", 1_000.0)];
const QUESTION: &str = "SELECT count(body) FROM chunks WHERE tenant = 7";

/// Asks thirty times in a session of its own, whose end hands its statistics over.
async fn ask(server: &PostgresServer) {
    let client = server.client().await;
    for _ in 0..30 {
        client.query(QUESTION, &[]).await.unwrap();
    }
}

/// The scans of the table that the statistics have.
fn scans(seen: &Observation) -> u64 {
    chunks(seen).whole_scans
}

fn chunks(seen: &Observation) -> &Table {
    let tables = seen.as_postgres().unwrap().outcome.as_ref().unwrap().tables.as_ref().unwrap();
    tables.iter().find(|table| table.name == "chunks").unwrap()
}

#[tokio::test]
async fn a_table_without_the_index_that_its_statement_needs_is_found_until_it_has_one() {
    let (server, client) = server().await;
    let before = reading(&server).await;
    ask(&server).await;
    let until = Instant::now() + Duration::from_secs(20);
    let after = loop {
        let after = reading(&server).await;
        if scans(&after) >= scans(&before) + 30 {
            break after;
        }
        assert!(Instant::now() < until, "the statistics do not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let missing = found("postgres.index_missing", &before, &after, &LIMITS);
    assert!(missing[0].summary.contains("public.chunks in postgres was read whole 3"), "{missing:#?}");
    assert!(missing[0].offenders[0].note.contains("WHERE tenant = $1"), "{missing:#?}");

    client.batch_execute("CREATE INDEX CONCURRENTLY ON chunks (tenant)").await.unwrap();
    // The build has read the whole table too, and would hand that over some time later.
    counted(&client).await;
    let before = reading(&server).await;
    ask(&server).await;
    // Its index scans come with the same statistics as its whole ones would.
    let sql = "SELECT idx_scan >= 30 FROM pg_stat_user_indexes WHERE indexrelname = 'chunks_tenant_idx'";
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until + Duration::from_secs(20), "the statistics do not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(found("postgres.index_missing", &before, &reading(&server).await, &LIMITS), []);
}

#[tokio::test]
async fn a_table_that_several_workers_read_together_is_read_whole() {
    let (server, client) = server().await;
    client.batch_execute("ALTER SYSTEM SET max_parallel_workers_per_gather = 2").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let before = loop {
        let before = reading(&server).await;
        let settings = before.as_postgres().unwrap().outcome.as_ref().unwrap().settings.as_ref().unwrap();
        // Ours stay out of it, and see what the server has nevertheless.
        if settings.number("max_parallel_workers_per_gather") == Some(2.0) {
            break before;
        }
        assert!(Instant::now() < until, "the setting does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let asking = server.client().await;
    asking
        .batch_execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0")
        .await
        .unwrap();
    for _ in 0..30 {
        asking.query(QUESTION, &[]).await.unwrap();
    }
    drop(asking);
    let rows = |seen: &Observation| chunks(seen).rows_scanned;
    let after = loop {
        let after = reading(&server).await;
        if rows(&after) >= rows(&before) + 30 * 120_000 {
            break after;
        }
        assert!(Instant::now() < until, "the statistics do not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let share = (rows(&after) - rows(&before)) / (scans(&after) - scans(&before));
    assert!(share < 60_000, "{share} rows a scan: no workers took part");
    let missing = found("postgres.index_missing", &before, &after, &LIMITS);
    assert!(
        missing[0].summary.contains("read whole 30 times") && missing[0].summary.contains("120,000 rows each"),
        "{missing:#?}"
    );
}

async fn advice(server: &PostgresServer, url: &str) -> Advice {
    let tables = [TableName { schema: "public".into(), name: "chunks".into() }];
    let before = open_sessions(server).await;
    let advice = advise(&endpoint(url), &tables, Duration::from_secs(20)).await.unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while open_sessions(server).await > before {
        assert!(Instant::now() < until, "it left a session behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    advice
}

async fn open_sessions(server: &PostgresServer) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'groundskeeper-advice'";
    server.client().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// hypopg is packaged for the server that the tests install, and for no other.
async fn has_hypopg(client: &Client) -> bool {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'hypopg')";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn only_an_index_that_the_planner_would_use_is_proposed_and_nothing_is_made() {
    let (server, client) = server().await;
    assert_eq!(advice(&server, &server.url()).await, Advice::NoHypopg);
    if !has_hypopg(&client).await {
        // That of another major version: what is said without the extension is all that can be tried there.
        assert!(std::env::var_os(BIN_VARIABLE).is_some(), "hypopg is missing; run `cargo xtask setup`");
        return;
    }
    client.batch_execute("CREATE EXTENSION hypopg").await.unwrap();
    client.batch_execute("UPDATE chunks SET body = 'y' WHERE tenant = 200").await.unwrap();
    client.query(QUESTION, &[]).await.unwrap();
    // Half of all rows: the planner reads the table anyway.
    client.query("SELECT count(body) FROM chunks WHERE tenant > 0", &[]).await.unwrap();
    client.query("SELECT id FROM chunks WHERE tenant = 3 AND id > 7", &[]).await.unwrap();
    let looked = advice(&server, &server.url()).await;
    let Advice::Looked { verified, asked, unexplained } = &looked else { panic!("{looked:?}") };
    assert!(*asked >= 4 && unexplained.is_empty(), "{looked:#?}");
    let columns: Vec<_> = verified.iter().map(|one| one.candidate.columns.join("+")).collect();
    assert_eq!(columns, ["tenant", "tenant+id"], "{looked:#?}");
    assert!(verified[0].size > 100_000 && verified[0].helped.iter().all(|one| one.after * 2.0 <= one.before));
    let helped: Vec<&str> = verified[0].helped.iter().map(|one| one.query.as_str()).collect();
    assert!(helped.contains(&"SELECT count(body) FROM chunks WHERE tenant = $1"), "{helped:?}");
    assert!(helped.iter().any(|query| query.starts_with("UPDATE chunks SET body")), "{helped:?}");
    assert!(!helped.iter().any(|query| query.contains("tenant > ")), "{helped:?}");

    // The role of the keeper sees statements; to plan them it must be allowed to read.
    let url = role(&server, "watcher", "").await;
    client.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let looked = advice(&server, &url).await;
    let Advice::Looked { verified, unexplained, .. } = &looked else { panic!("{looked:?}") };
    assert!(verified.is_empty() && unexplained[0].1.contains("must be allowed to SELECT"), "{looked:#?}");
    client.batch_execute("GRANT SELECT ON chunks TO watcher").await.unwrap();
    let looked = advice(&server, &url).await;
    let Advice::Looked { verified, unexplained, .. } = &looked else { panic!("{looked:?}") };
    assert!(unexplained.is_empty() && verified[0].candidate.columns == ["tenant"], "{looked:#?}");

    // The advice is followed, and there is none any more.
    for one in verified {
        client.batch_execute(&format!("CREATE INDEX CONCURRENTLY {}", one.candidate.place())).await.unwrap();
    }
    let looked = advice(&server, &url).await;
    assert!(matches!(&looked, Advice::Looked { verified, .. } if verified.is_empty()), "{looked:#?}");
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'chunks'";
    assert_eq!(client.query_one(indexes, &[]).await.unwrap().get::<_, i64>(0), 3);
}

#[tokio::test]
async fn looking_for_indexes_waits_for_nobody() {
    let (server, client) = server().await;
    if !has_hypopg(&client).await {
        assert!(std::env::var_os(BIN_VARIABLE).is_some(), "hypopg is missing; run `cargo xtask setup`");
        return;
    }
    client.batch_execute("CREATE EXTENSION hypopg").await.unwrap();
    client.query(QUESTION, &[]).await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let looked = advice(&server, &server.url()).await;
    let Advice::Looked { verified, unexplained, .. } = &looked else { panic!("{looked:?}") };
    assert!(verified.is_empty() && unexplained.iter().any(|(_, why)| why.contains("lock timeout")), "{looked:#?}");
}
