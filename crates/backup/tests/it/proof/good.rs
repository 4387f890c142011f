//! Good backups, of ordinary and of odd clusters.

use super::{Drill, assert_says, cluster_of, fill, not_tried, now, proven};
use groundskeeper_backup::programs::Programs;
use groundskeeper_backup::proof;
use groundskeeper_core::receipt::Rung;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::Duration;

#[tokio::test]
async fn a_good_backup_is_restored_and_alive_and_leaves_nothing_behind() {
    let server = PostgresServer::start().await.unwrap();
    fill(&server).await;
    let sql = "CREATE INDEX notes_words ON notes USING gin (to_tsvector('simple', words));
               CREATE SEQUENCE numbers; CREATE UNLOGGED TABLE sessions (id int);
               CREATE DATABASE closed ALLOW_CONNECTIONS false";
    for statement in sql.split(';') {
        server.client().await.batch_execute(statement).await.unwrap();
    }
    let drill = Drill::of(&server).await;
    let climbs = drill.climb().await;
    let [restored, alive] = &climbs[..] else { panic!("{climbs:?}") };
    assert_eq!((restored.rung, alive.rung), (Rung::Restored, Rung::Alive));
    assert!(restored.at >= now() && alive.at > restored.at && restored.took > 0.0 && alive.took > 0.0);
    assert_says(proven(&restored.outcome).0, &["pg_verifybackup", "files"]);
    let (shown, not_covered) = proven(&alive.outcome);
    let version = format!("Postgres {}.", drill.cluster.major());
    assert_says(shown, &[&version, "replayed its WAL to", "all 2 databases", "pg_amcheck --heapallindexed"]);
    let not_covered = not_covered.join("\n");
    for left_out in ["1 gin index (notes_words)", "1 sequence (numbers)", "1 unlogged table (sessions), empty"] {
        assert_says(&not_covered, &[&format!("database postgres: {left_out}")]);
    }
    assert_says(&not_covered, &["database closed: it allows no connections", "database template0: it allows no"]);
    let (place, scratch) = (drill.place.path().to_owned(), drill.scratch);
    drill.place.remove().await.unwrap();
    assert!(!place.exists());
    // The scratch folder has its own lock, and nothing else.
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
}

/// Large WAL segments, checksums, a prepared transaction, and settings and triggers that would hinder a superuser.
#[tokio::test]
async fn a_cluster_with_odd_settings_boots() {
    let mut options = PostgresOptions::default().set("max_prepared_transactions", "7");
    options.initdb = vec!["--wal-segsize=64".to_owned(), "--data-checksums".to_owned()];
    let server = PostgresServer::start_with(options).await.unwrap();
    fill(&server).await;
    let client = server.client().await;
    let cluster = cluster_of(&server).await;
    for statement in [
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
        "CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()",
        "BEGIN; INSERT INTO notes VALUES (0, 'prepared'); PREPARE TRANSACTION 'waiting'",
        "ALTER ROLE postgres IN DATABASE postgres SET statement_timeout = '1ms'",
        "ALTER ROLE postgres IN DATABASE postgres SET role = 'pg_monitor'",
        "ALTER DATABASE postgres SET session_preload_libraries = 'absent'",
        "ALTER DATABASE template1 SET default_transaction_read_only = on",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let drill = Drill::made(&server, cluster, "").await;
    let climbs = drill.climb().await;
    proven(&climbs[0].outcome);
    proven(&climbs[1].outcome);
}

#[tokio::test]
async fn a_scratch_folder_with_a_path_too_long_for_a_socket_will_do() {
    let server = PostgresServer::start().await.unwrap();
    let name = format!("{}/with a space, and a comma", "long".repeat(30));
    let drill = Drill::made(&server, cluster_of(&server).await, &name).await;
    let climbs = drill.climb().await;
    proven(&climbs[1].outcome);
}

#[tokio::test]
async fn a_library_that_is_not_installed_is_left_out_and_named() {
    let server = PostgresServer::start().await.unwrap();
    let mut drill = Drill::of(&server).await;
    let libraries = "pg_stat_statements, \"$libdir/absent_library\"".to_owned();
    drill.cluster.settings.insert("shared_preload_libraries".to_owned(), libraries);
    let outcome = drill.alive().await;
    let not_covered = proven(&outcome).1.join("\n");
    assert_says(&not_covered, &["the library $libdir/absent_library: it is not installed here"]);
    assert!(!not_covered.contains("pg_stat_statements"), "{not_covered}");
}

#[tokio::test]
async fn without_a_program_or_without_time_a_rung_is_not_tried() {
    let server = PostgresServer::start().await.unwrap();
    let drill = Drill::of(&server).await;
    let at_once = proof::climb(&drill.place, &drill.data, &drill.cluster, &drill.programs, Duration::ZERO, now()).await;
    assert_eq!(at_once.len(), 1);
    assert_says(not_tried(&at_once[0].outcome), &["the time for it was over"]);
    let few = tempfile::tempdir().unwrap();
    std::fs::set_permissions(few.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["postgres", "pg_verifybackup", "pg_waldump"] {
        let program = super::program(drill.cluster.major(), name);
        std::os::unix::fs::symlink(program, few.path().join(name)).unwrap();
    }
    let programs = Programs::find(drill.cluster.major(), &[few.path().to_owned()]).unwrap();
    let climbs = proof::climb(&drill.place, &drill.data, &drill.cluster, &programs, super::BUDGET, now()).await;
    proven(&climbs[0].outcome);
    let package = format!("postgresql-client-{}", drill.cluster.major());
    assert_says(not_tried(&climbs[1].outcome), &["no pg_amcheck in", &package, "`programs` of [backup]"]);
}
