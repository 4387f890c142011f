//! What a copy of a cluster has to be given.

use super::{DEADLINE, endpoint, is_at_least, role};
use groundskeeper_core::observation::FailureKind;
use groundskeeper_systems::postgres::facts::cluster_facts;
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_testing::{BlackHole, PostgresOptions, PostgresServer};
use std::time::Duration;

#[tokio::test]
async fn a_role_with_the_grants_for_backups_learns_all_that_a_copy_needs() {
    let options = PostgresOptions::default()
        .set("max_connections", "17")
        .set("max_prepared_transactions", "3")
        .set("max_replication_slots", "23");
    let server = PostgresServer::start_with(options).await.unwrap();
    if !is_at_least(&server, 15, "the protocol of backups") {
        return;
    }
    let admin = server.client().await;
    admin.batch_execute(&grants("keeper", "postgres", &[Wish::BackUp])).await.unwrap();
    admin.batch_execute("ALTER ROLE keeper PASSWORD 'right'").await.unwrap();
    let bare = endpoint(&role(&server, "bare", "").await);
    let keeper = endpoint(&server.url_for("keeper", "right", "postgres"));

    let facts = cluster_facts(&keeper, DEADLINE).await.unwrap();
    assert_eq!(facts.version / 10_000, keeper.replicate(DEADLINE).await.unwrap().server_version() / 10_000);
    assert_eq!(facts.superuser, "postgres");
    assert_eq!((facts.settings["max_connections"].as_str(), facts.settings["wal_level"].as_str()), ("17", "replica"));
    assert_eq!(facts.settings["max_prepared_transactions"], "3");
    assert_eq!(facts.settings["max_replication_slots"], "23");
    let counts_origins_apart = facts.version / 10_000 >= 18;
    assert_eq!(facts.settings.contains_key("max_active_replication_origins"), counts_origins_apart);
    assert!(facts.settings.contains_key("shared_preload_libraries"), "{facts:?}");
    assert_eq!((facts.given["block_size"].as_str(), facts.given["wal_segment_size"].as_str()), ("8192", "16777216"));
    assert!(facts.given["config_file"].ends_with("/postgresql.conf") && facts.hidden.is_empty(), "{facts:?}");

    let seen = cluster_facts(&bare, DEADLINE).await.unwrap();
    assert_eq!(facts.given["data_directory"], server.data_dir().display().to_string());
    assert_eq!(seen.hidden, ["shared_preload_libraries", "config_file", "data_directory"]);
    assert_eq!(seen.settings["max_connections"], "17");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_timeout() {
    let hole = BlackHole::start().await.unwrap();
    let endpoint = endpoint(&format!("postgres://u:p@{}/d", hole.address()));
    let failure = cluster_facts(&endpoint, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout);
}
