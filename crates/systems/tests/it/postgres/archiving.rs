//! A write-ahead log that does not get into its archive.

use super::{PATIENCE, POLL, findings, run, until_so};
use groundskeeper_core::severity::Severity;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::Instant;

const CHECK: &str = "postgres.archive_failing";

/// Fills a part of a segment, ends it and gives its name.
async fn a_segment_more(server: &PostgresServer) -> String {
    run(server, &["CREATE TABLE IF NOT EXISTS tick (n int)", "INSERT INTO tick VALUES (1)"]).await;
    let ended = "SELECT pg_walfile_name(pg_switch_wal())";
    server.client().await.query_one(ended, &[]).await.unwrap().get(0)
}

async fn archive_by(server: &PostgresServer, command: &str) {
    run(server, &[&format!("ALTER SYSTEM SET archive_command = '{command}'"), "SELECT pg_reload_conf()"]).await;
}

#[tokio::test]
async fn an_archive_that_takes_nothing_is_found_with_the_segment_until_it_takes_it() {
    let small = PostgresOptions { initdb: vec!["--wal-segsize=1".to_owned()], ..PostgresOptions::default() };
    let options = small.set("archive_mode", "on").set("archive_command", "true");
    let server = PostgresServer::start_with(options).await.unwrap();
    a_segment_more(&server).await;
    until_so(&server, "SELECT archived_count > 0 FROM pg_stat_archiver").await;
    assert_eq!(findings(&server, CHECK, &[]).await, []);

    archive_by(&server, "false").await;
    let until = Instant::now() + PATIENCE;
    let mut ended = Vec::new();
    // The archiver learns of its new command in its own time: until then it takes what there is.
    let found = loop {
        ended.push(a_segment_more(&server).await);
        let found = findings(&server, CHECK, &[]).await;
        if !found.is_empty() {
            break found;
        }
        assert!(Instant::now() < until, "nothing is found");
        tokio::time::sleep(POLL * 4).await;
    };
    assert_eq!((found.len(), found[0].severity), (1, Severity::Warning), "{found:#?}");
    let told = |segment: &&String| {
        found[0].summary.starts_with(&format!("archiving of {segment} fails; the newest archived one is "))
    };
    let segment = ended.iter().find(told).unwrap_or_else(|| panic!("{}: {ended:?}", found[0].summary));
    assert!(server.data_dir().join("pg_wal").join(segment).exists(), "it stays until somebody takes it");
    let grave = findings(&server, CHECK, &[("critical", 0.0)]).await;
    assert_eq!(grave[0].severity, Severity::Critical);

    archive_by(&server, "true").await;
    while !findings(&server, CHECK, &[]).await.is_empty() {
        assert!(Instant::now() < until, "it goes on failing");
        a_segment_more(&server).await;
        tokio::time::sleep(POLL * 4).await;
    }
}
