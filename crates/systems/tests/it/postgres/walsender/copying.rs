//! Whole backups, and those that something happens to.

use super::{Archive, BOUND, address, begin, failing, fill, replicate, take, text, through, until};
use crate::postgres::role;
use groundskeeper_core::receipt::Lsn;
use groundskeeper_systems::postgres::walsender::{Chunk, Patience, WalSenderError};
use groundskeeper_testing::{Cutter, PostgresOptions, PostgresServer};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Client;

/// The names of the WAL files that hold what is between two positions.
fn segments(timeline: u32, from: Lsn, to: Lsn, size: u64) -> BTreeSet<String> {
    let per_file = 0x1_0000_0000 / size;
    let name = |number: u64| format!("pg_wal/{timeline:08X}{:08X}{:08X}", number / per_file, number % per_file);
    (from.0 / size..=(to.0 - 1) / size).map(name).collect()
}

fn wal_in(archive: &Archive) -> BTreeSet<String> {
    let is_segment = |path: &String| path.strip_prefix("pg_wal/").is_some_and(|name| name.len() == 24);
    archive.entries().into_keys().filter(is_segment).collect()
}

/// A folder that the server may use as a tablespace; it goes with the server.
fn folder_for(server: &PostgresServer) -> PathBuf {
    let (owner, folder) =
        (std::fs::metadata(server.data_dir()).unwrap(), server.data_dir().parent().unwrap().join("fast"));
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    folder
}

/// Small WAL files, few of which are kept.
fn forgetful() -> PostgresOptions {
    let mut options = PostgresOptions::default()
        .set("min_wal_size", "2MB")
        .set("max_wal_size", "2MB")
        .set("wal_keep_size", "0")
        .set("autovacuum", "off");
    options.initdb.push("--wal-segsize=1".to_owned());
    options
}

/// Writes some WAL files full and lets the server remove the old ones.
async fn move_on(admin: &Client) {
    for _ in 0..8 {
        admin.batch_execute("CREATE TEMPORARY TABLE passing (); DROP TABLE passing").await.unwrap();
        admin.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    for _ in 0..2 {
        admin.batch_execute("CHECKPOINT").await.unwrap();
    }
}

#[tokio::test]
async fn a_backup_has_every_file_the_manifest_and_the_wal_from_start_to_stop() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    let folder = folder_for(&server);
    admin.batch_execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", folder.display())).await.unwrap();
    admin.batch_execute("CREATE TABLE quick TABLESPACE fast AS SELECT generate_series(1, 1000) AS n").await.unwrap();
    let url = role(&server, "keeper", "REPLICATION").await;
    let mut backup = replicate(&url).await.unwrap().base_backup("it's\na test").await.unwrap();
    assert!(backup.kept_by_slot && backup.warnings().is_empty(), "{:?}", backup.warnings());
    let oid: u32 = text(&admin, "SELECT oid FROM pg_tablespace WHERE spcname = 'fast'").await.parse().unwrap();
    let [tablespace] = backup.tablespaces.as_slice() else { panic!("{backup:?}") };
    assert_eq!((tablespace.oid, tablespace.location.as_str()), (oid, folder.to_str().unwrap()));
    assert!(tablespace.kib > 30 && backup.total_kib > tablespace.kib + 20_000, "{backup:?}");

    let taken = take(&mut backup).await;
    let [fast, base] = taken.archives.as_slice() else { panic!("{} archives", taken.archives.len()) };
    assert_eq!((fast.name.as_str(), fast.tablespace), (format!("{oid}.tar").as_str(), Some(oid)));
    assert_eq!((base.name.as_str(), base.tablespace), ("base.tar", None));
    let file = text(&admin, "pg_relation_filepath('quick')").await;
    let file = file.split('/').skip(2).collect::<Vec<_>>().join("/");
    assert_eq!(fast.entries()[&file].len().to_string(), text(&admin, "pg_relation_size('quick')").await, "{file}");
    let entries = base.entries();
    let label = String::from_utf8(entries["backup_label"].clone()).unwrap();
    assert!(label.contains(&format!("START WAL LOCATION: {}", backup.start)), "{label}");
    assert!(label.contains("LABEL: it's a test\n"), "{label}");
    let map = String::from_utf8(entries["tablespace_map"].clone()).unwrap();
    assert_eq!(map, format!("{oid} {}\n", folder.display()));
    assert_eq!(entries["global/pg_control"].len(), 8192);
    assert!(taken.stop > backup.start && (taken.timeline, backup.timeline) == (1, 1));
    assert_eq!(wal_in(base), segments(1, backup.start, taken.stop, 16 << 20));
    let manifest: serde_json::Value = serde_json::from_slice(&taken.manifest).unwrap();
    assert!(manifest["Files"].as_array().unwrap().len() > 500, "{}", manifest["Files"]);
    assert_eq!(manifest["WAL-Ranges"][0]["End-LSN"], taken.stop.to_string());
    assert!(
        taken.progress.is_sorted() && taken.progress.last().unwrap() / 1024 >= backup.total_kib,
        "{:?}",
        taken.progress
    );
    // The session was ended properly: the server has no broken connection to complain about.
    until(&admin, "NOT EXISTS (SELECT FROM pg_stat_replication)").await;
    let log = std::fs::read_to_string(server.log_file()).unwrap();
    assert!(!log.contains("unexpected EOF"), "{log}");
}

#[tokio::test]
async fn wal_that_is_written_meanwhile_is_kept_by_a_slot_that_goes_with_the_session() {
    let server = PostgresServer::start_with(forgetful()).await.unwrap();
    let admin = server.client().await;
    fill(&admin).await;
    let mut backup = begin(&server.url()).await;
    assert!(backup.kept_by_slot);
    let slot = text(&admin, "SELECT (slot_name, temporary, restart_lsn IS NOT NULL) FROM pg_replication_slots").await;
    assert!(slot.starts_with("(groundskeeper_backup_") && slot.ends_with(",t,t)"), "{slot}");
    move_on(&admin).await;
    let taken = take(&mut backup).await;
    let expected = segments(1, backup.start, taken.stop, 1 << 20);
    assert!(expected.len() >= 8, "{expected:?}");
    assert_eq!(wal_in(&taken.archives[0]), expected);
    until(&admin, "NOT EXISTS (SELECT FROM pg_replication_slots)").await;
}

#[tokio::test]
async fn without_a_slot_wal_that_was_removed_is_an_error_and_no_smaller_backup() {
    let server = PostgresServer::start_with(forgetful().set("max_replication_slots", "0")).await.unwrap();
    let admin = server.client().await;
    fill(&admin).await;
    let mut backup = begin(&server.url()).await;
    assert!(!backup.kept_by_slot && backup.warnings()[0].contains("replication slot"), "{:?}", backup.warnings());
    move_on(&admin).await;
    let error = failing(&mut backup).await;
    assert!(matches!(error, WalSenderError::WalRemoved { .. }) && error.retryable(), "{error:?}");
    assert!(error.to_string().contains("leave a replication slot free"), "{error}");
}

#[tokio::test]
async fn a_server_without_slots_can_be_backed_up_all_the_same() {
    let options = PostgresOptions::default().set("max_replication_slots", "0");
    let server = PostgresServer::start_with(options).await.unwrap();
    let mut backup = begin(&server.url()).await;
    let taken = take(&mut backup).await;
    assert_eq!(wal_in(&taken.archives[0]), segments(1, backup.start, taken.stop, 16 << 20));
    assert!(!backup.kept_by_slot);
}

#[tokio::test]
async fn a_damaged_page_is_an_error_that_names_its_file() {
    let mut options = PostgresOptions::default().set("autovacuum", "off");
    options.initdb.push("--data-checksums".to_owned());
    let mut server = PostgresServer::start_with(options).await.unwrap();
    let admin = server.client().await;
    admin.batch_execute("CREATE TABLE hit AS SELECT generate_series(1, 1000) AS n").await.unwrap();
    let file = text(&admin, "pg_relation_filepath('hit')").await;
    server.stop().await.unwrap();
    let path = server.data_dir().join(&file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8192 + 5000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    server.start_again().await.unwrap();
    let mut backup = begin(&server.url()).await;
    let error = failing(&mut backup).await;
    assert!(matches!(&error, WalSenderError::Server { sqlstate, .. } if sqlstate == "XX001"), "{error:?}");
    assert!(error.to_string().contains(&file) && !error.retryable(), "{error}");
    assert!(backup.warnings()[0].contains(&file), "{:?}", backup.warnings());
}

/// Whether somebody ended it: the server may or may not get to say so before it closes.
fn is_ended(error: &WalSenderError) -> bool {
    match error {
        WalSenderError::Cut { .. } => true,
        WalSenderError::Server { sqlstate, .. } => sqlstate.starts_with("57P0"),
        _ => false,
    }
}

#[tokio::test]
async fn a_session_that_an_administrator_ends_is_an_error() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    fill(&admin).await;
    let mut backup = begin(&server.url()).await;
    assert!(matches!(backup.next().await.unwrap(), Some(Chunk::Archive { .. })));
    until(&admin, "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'backup')").await;
    admin.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await.unwrap();
    until(&admin, "NOT EXISTS (SELECT FROM pg_stat_replication)").await;
    let error = failing(&mut backup).await;
    assert!(is_ended(&error) && error.retryable(), "{error:?}");
}

#[tokio::test]
async fn a_server_that_stops_or_crashes_in_the_middle_is_an_error() {
    let mut server = PostgresServer::start().await.unwrap();
    fill(&server.client().await).await;
    let mut backup = begin(&server.url()).await;
    backup.next().await.unwrap();
    server.stop().await.unwrap();
    let error = failing(&mut backup).await;
    assert!(is_ended(&error) && error.retryable(), "{error:?}");
    server.start_again().await.unwrap();
    let mut backup = begin(&server.url()).await;
    backup.next().await.unwrap();
    server.stop_immediate().await.unwrap();
    let error = failing(&mut backup).await;
    assert!(is_ended(&error) && error.retryable(), "{error:?}");
}

/// The error of a backup that cannot come to its end, wherever it breaks.
async fn broken(url: &str) -> WalSenderError {
    let sender = match replicate(url).await {
        Ok(sender) => sender,
        Err(error) => return error,
    };
    match sender.base_backup("broken").await {
        Ok(mut backup) => failing(&mut backup).await,
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_anywhere_is_an_error() {
    let server = PostgresServer::start().await.unwrap();
    for after in [1, 100, 400, 700, 1_000, 1_300, 10_000, 1_000_000, 20_000_000] {
        let cutter = Cutter::start(address(&server), after).await.unwrap();
        let error = broken(&through(&server, cutter.address())).await;
        assert!(matches!(error, WalSenderError::Cut { .. }) && error.retryable(), "after {after} bytes: {error:?}");
        assert!(after < 10_000 || error.to_string().contains("in the middle of the backup"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_in_the_middle_is_given_up() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    fill(&admin).await;
    let patience = Patience { answer: Duration::from_secs(2), start: BOUND };
    let sender = replicate(&server.url()).await.unwrap().with_patience(patience);
    let mut backup = sender.base_backup("hanging").await.unwrap();
    let pid = process(&admin, "pg_stat_replication").await;
    kill_process(pid, Signal::STOP).unwrap();
    let error = failing(&mut backup).await;
    kill_process(pid, Signal::CONT).unwrap();
    assert!(matches!(error, WalSenderError::Timeout { .. }) && error.retryable(), "{error:?}");
}

#[tokio::test]
async fn a_backup_that_starts_late_is_not_taken_for_one_that_hangs() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    // A hung checkpointer stands in for a slow disk.
    let pid = process(&admin, "pg_stat_activity WHERE backend_type = 'checkpointer'").await;
    kill_process(pid, Signal::STOP).unwrap();
    let patience = Patience { answer: Duration::from_secs(2), start: BOUND };
    let sender = replicate(&server.url()).await.unwrap().with_patience(patience);
    let waking = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        kill_process(pid, Signal::CONT).unwrap();
    };
    let (backup, ()) = tokio::join!(sender.base_backup("late"), waking);
    drop(backup.unwrap());

    kill_process(pid, Signal::STOP).unwrap();
    let patience = Patience { answer: BOUND, start: Duration::from_millis(500) };
    let sender = replicate(&server.url()).await.unwrap().with_patience(patience);
    let error = sender.base_backup("too late").await.unwrap_err();
    kill_process(pid, Signal::CONT).unwrap();
    assert!(matches!(error, WalSenderError::Timeout { .. }) && error.to_string().contains("checkpoint"), "{error}");
}

async fn process(admin: &Client, of: &str) -> Pid {
    Pid::from_raw(text(admin, &format!("SELECT pid FROM {of}")).await.parse().unwrap()).unwrap()
}

#[tokio::test]
async fn a_backup_that_is_dropped_ends_at_the_server() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    fill(&admin).await;
    let mut backup = begin(&server.url()).await;
    backup.next().await.unwrap();
    drop(backup);
    until(&admin, "NOT EXISTS (SELECT FROM pg_stat_replication)").await;
    until(&admin, "NOT EXISTS (SELECT FROM pg_replication_slots)").await;
}
