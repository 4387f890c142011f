//! What a reading sees of `pg_stat_statements`, in each version of it and with which rights.

use super::{role, seen};
use groundskeeper_core::observation::{Leaders, Postgres, Statement};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use tokio_postgres::Client;

/// A table of 40 MB: more than the test's shared buffers.
const SCHEMA: &str = "
CREATE TABLE chunks AS SELECT g AS id, g % 100 AS tenant, repeat('x', 300) AS body FROM generate_series(1, 120000) g;
ALTER TABLE chunks ADD PRIMARY KEY (id);
VACUUM ANALYZE chunks;
CREATE EXTENSION pg_stat_statements";

pub(super) async fn server() -> (PostgresServer, Client) {
    let options = PostgresOptions::default().set("autovacuum", "off").set("max_parallel_workers_per_gather", "0");
    let server = PostgresServer::start_with(options.set("jit", "off")).await.unwrap();
    let client = server.client().await;
    for statement in SCHEMA.split(";\n") {
        client.batch_execute(statement).await.unwrap();
    }
    (server, client)
}

fn leaders(seen: Postgres) -> Leaders {
    *seen.statements.leaders.expect("the extension is there").unwrap()
}

fn find<'a>(leaders: &'a Leaders, part: &str) -> &'a Statement {
    let found = leaders.statements.iter().find(|statement| statement.query.contains(part));
    found.unwrap_or_else(|| panic!("{part} is missing: {leaders:#?}"))
}

#[tokio::test]
async fn who_leads_by_time_by_mean_by_temporary_files_and_by_reads_is_seen() {
    let (server, client) = server().await;
    for _ in 0..40 {
        client.query("SELECT 'secret', pg_sleep(0.002)", &[]).await.unwrap();
    }
    client.batch_execute("SET work_mem = '64kB'").await.unwrap();
    client.query("SELECT count(*) FROM (SELECT body, id FROM chunks ORDER BY id % 7, body) s", &[]).await.unwrap();
    client.batch_execute("RESET work_mem; SELECT sum(length(body)) FROM chunks").await.unwrap();
    // Many others, so that the lists have to choose.
    for columns in 1..=80 {
        client.batch_execute(&format!("SELECT {}", vec!["1"; columns].join(", "))).await.unwrap();
    }
    let seen = leaders(seen(&server.url()).await);
    assert!(seen.statements.len() <= 60 && seen.all.statements > 80, "{}", seen.statements.len());
    let slept = find(&seen, "pg_sleep");
    assert_eq!((slept.calls, slept.rows, slept.query.contains("secret")), (40, 40, false));
    assert!(slept.mean() >= 0.002 && slept.slowest >= slept.fastest && slept.fastest >= 0.002, "{slept:?}");
    assert!(slept.time <= seen.all.time && seen.all.calls >= 120, "{seen:?}");
    assert!(find(&seen, "ORDER BY id %").temporary_bytes > 10_000_000);
    assert!(find(&seen, "sum(length").blocks_read > 1_000);
    assert_eq!(seen.hidden, 0);
    // Of the extension's own counters the versions before 1.9 tell nothing.
    let tells = server.major() >= 14;
    assert_eq!((seen.evictions, seen.stats_reset.is_some()), (tells.then_some(0), tells));
}

#[tokio::test]
async fn a_reset_by_somebody_else_is_noticed() {
    let (server, client) = server().await;
    let before = leaders(seen(&server.url()).await);
    assert!(leaders(seen(&server.url()).await).since(&before).is_some());
    client.batch_execute("SELECT pg_stat_statements_reset()").await.unwrap();
    let after = leaders(seen(&server.url()).await);
    assert!(after.since(&before).is_none() && after.time_since(&before).is_none());
}

#[tokio::test]
async fn an_extension_that_an_upgrade_left_behind_is_read_by_its_own_columns() {
    let (server, client) = server().await;
    let versions: &[&str] = match server.major() {
        ..14 => &["1.4", "1.7", "1.8"],
        14 => &["1.4", "1.7", "1.8", "1.9"],
        15 | 16 => &["1.4", "1.7", "1.8", "1.9", "1.10"],
        _ => &["1.4", "1.7", "1.8", "1.9", "1.11"],
    };
    client.batch_execute("CREATE ROLE other; SELECT pg_sleep(0.05)").await.unwrap();
    for &version in versions {
        let again =
            format!("DROP EXTENSION pg_stat_statements; CREATE EXTENSION pg_stat_statements VERSION '{version}'");
        client.batch_execute(&again).await.unwrap();
        // The same statement of another role: one for us.
        client.batch_execute("SET ROLE other; SELECT pg_sleep(0.05); RESET ROLE").await.unwrap();
        let reading = seen(&server.url()).await;
        assert_eq!(reading.statements.extension.as_deref(), Some(version));
        let leaders = leaders(reading);
        let same = leaders.statements.iter().filter(|statement| statement.query.contains("pg_sleep")).count();
        assert_eq!(same, 1, "{version}: {leaders:#?}");
        assert_eq!(leaders.evictions.is_some(), !["1.4", "1.7", "1.8"].contains(&version), "{version}");
        assert_eq!(find(&leaders, "pg_sleep").since.is_some(), version == "1.11");
    }
}

#[tokio::test]
async fn what_is_hidden_or_refused_is_said_and_is_no_empty_list() {
    let (server, client) = server().await;
    let url = role(&server, "bare", "").await;
    let hidden = leaders(seen(&url).await);
    assert!(hidden.hidden > 0 && hidden.all.statements >= hidden.hidden, "{hidden:?}");
    client.batch_execute("REVOKE ALL ON pg_stat_statements FROM PUBLIC").await.unwrap();
    let gap = seen(&url).await.statements.leaders.unwrap().unwrap_err();
    assert!(gap.permission && gap.reason.contains("pg_stat_statements"), "{gap:?}");
    client.batch_execute("DROP EXTENSION pg_stat_statements").await.unwrap();
    assert_eq!(seen(&url).await.statements.leaders, None);
}

#[tokio::test]
async fn what_a_role_that_only_watches_runs_is_ours_and_is_left_out() {
    let (server, client) = server().await;
    let watcher = role(&server, "watcher", "").await;
    client.batch_execute("GRANT pg_monitor TO watcher; GRANT SELECT ON chunks TO watcher").await.unwrap();
    let sleeping = "SELECT pg_sleep(0.05)";
    server.client_at(&watcher).await.batch_execute(sleeping).await.unwrap();
    client.batch_execute("SELECT sum(length(body)) FROM chunks").await.unwrap();
    let has_slept = async || {
        let leaders = leaders(seen(&watcher).await);
        find(&leaders, "sum(length");
        leaders.statements.iter().any(|one| one.query.contains("pg_sleep"))
    };
    assert!(!has_slept().await, "it watches");
    for (given, taken) in [
        ("CREATE TABLE own (); ALTER TABLE own OWNER TO watcher", "DROP TABLE own"),
        ("GRANT INSERT ON chunks TO watcher", "REVOKE INSERT ON chunks FROM watcher"),
        ("ALTER ROLE watcher SUPERUSER", "ALTER ROLE watcher NOSUPERUSER"),
    ] {
        client.batch_execute(given).await.unwrap();
        assert!(has_slept().await, "{given}: it is an application's as well");
        client.batch_execute(taken).await.unwrap();
        assert!(!has_slept().await, "{taken}");
    }
}

#[tokio::test]
async fn a_reading_looks_at_the_columns_of_the_largest_tables_only() {
    let (server, client) = server().await;
    client
        .batch_execute(
            "DO $$ BEGIN FOR n IN 1..400 LOOP
               EXECUTE format('CREATE TABLE small_%s AS SELECT 1 a, 1 b, 1 c, 1 d, 1 e, 1 f, 1 g, 1 h, 1 i, 1 j', n);
             END LOOP; END $$",
        )
        .await
        .unwrap();
    client.batch_execute("ANALYZE").await.unwrap();
    let watcher = role(&server, "watcher", "").await;
    client.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    seen(&watcher).await;
    let sql = "SELECT shared_blks_hit + shared_blks_read FROM pg_stat_statements WHERE query LIKE '%pg_stats%'
                  AND query NOT LIKE '%pg_stat_statements%'";
    let blocks: Vec<i64> = client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    // To ask for a right on each of the 4,000 small columns takes a block or more.
    assert_eq!(blocks.len(), 3);
    assert!(blocks.iter().all(|blocks| *blocks < 3_000), "{blocks:?}");
}
