//! The room on the disk of a real server: seen where it can be, reckoned where it is told, and unknown otherwise.

use super::{endpoint, now, role, seen};
use crate::postgres::DEADLINE;
use groundskeeper_core::Finding;
use groundskeeper_core::check::{Status, Tuning, UnknownKind, judge_all};
use groundskeeper_core::observation::{Observation, Postgres, Reading};
use groundskeeper_core::{Severity, SystemId, SystemKind};
use groundskeeper_systems::postgres::observe;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const CHECK: &str = "postgres.disk_filling";

fn judged(seen: Postgres, tuning: &Tuning) -> Status {
    let at = now();
    let reading = Observation::Postgres(Reading { at, latency: 0.1, took: 0.1, outcome: Ok(seen) });
    let judged = judge_all(&SystemId::new(SystemKind::Postgres, "main"), &reading, None, tuning, at);
    judged.into_iter().find(|judgement| judgement.check == CHECK).unwrap().status
}

fn only(status: Status) -> Finding {
    let Status::Failing { mut findings } = status else { panic!("{status:?}") };
    findings.remove(0)
}

/// A folder that the server may use as a tablespace; it goes with the server.
fn folder_for(server: &PostgresServer) -> PathBuf {
    let (owner, folder) =
        (std::fs::metadata(server.data_dir()).unwrap(), server.data_dir().parent().unwrap().join("large"));
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    folder
}

async fn with_disk(url: &str, total: u64) -> Postgres {
    observe(&endpoint(url).with_disk(Some(total)), now(), DEADLINE).await.outcome.unwrap()
}

#[tokio::test]
async fn the_disk_of_a_server_on_this_host_is_seen_by_who_may_see_where_its_files_are() {
    let server = PostgresServer::start().await.unwrap();
    let disk = rustix::fs::statvfs(server.data_dir().as_path()).unwrap();
    let whole = seen(&server.url()).await;
    let found = whole.room.disk.unwrap().unwrap();
    assert_eq!(found.total, disk.f_blocks * disk.f_frsize);
    assert!(found.free > 0 && found.free <= found.total && !found.is_told);
    assert!(whole.room.wal.unwrap() >= 16 << 20, "a segment at least");

    let watcher = seen(&role(&server, "watcher", "IN ROLE pg_monitor").await).await;
    assert_eq!(watcher.room.disk.unwrap().unwrap().total, found.total);
    let bare = seen(&role(&server, "bare", "").await).await;
    assert!(bare.room.disk.as_ref().unwrap_err().permission && bare.room.wal.as_ref().unwrap_err().permission);
    let Status::Unknown(unknown) = judged(bare, &Tuning::default()) else { panic!() };
    assert!(unknown.kind == UnknownKind::NotRead && unknown.reason.contains("grant pg_monitor"), "{unknown:?}");
}

#[tokio::test]
async fn a_disk_that_is_told_and_nearly_full_is_a_finding_that_names_what_takes_the_room() {
    let options = PostgresOptions::default().set("wal_level", "replica").set("autovacuum", "off");
    let server = PostgresServer::start_with(options).await.unwrap();
    // Where the data directory is, is hidden from it, as it is for every server on another host.
    let plain = role(&server, "plain", "IN ROLE pg_read_all_stats").await;
    let admin = server.client().await;
    for statement in [
        "GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO plain",
        "CREATE TABLE chunks AS SELECT n, repeat('x', 900) AS body FROM generate_series(1, 60000) n",
        "VACUUM (ANALYZE) chunks",
        "CHECKPOINT",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    let roomy = with_disk(&plain, 100 << 30).await;
    let disk = roomy.room.disk.clone().unwrap().unwrap();
    assert!(disk.is_told && disk.total == 100 << 30);
    let used = disk.total - disk.free;
    let databases: u64 = roomy.databases.as_ref().unwrap().iter().filter_map(|one| one.size).sum();
    assert!(used >= databases + (16 << 20) && used < databases + (2 << 30), "{used}");
    let Status::Unknown(unknown) = judged(roomy, &Tuning::default()) else { panic!() };
    assert_eq!(unknown.kind, UnknownKind::NeedsHistory);

    let found = only(judged(with_disk(&plain, used + used / 50).await, &Tuning::default()));
    assert_eq!(found.severity, Severity::Critical, "{found:#?}");
    assert!(found.offenders.iter().any(|one| one.note.starts_with("public.chunks with its indexes: 5")), "{found:#?}");
    // No server takes more than its disk has: what is told is wrong.
    let small = with_disk(&plain, 1 << 20).await;
    let Status::Unknown(unknown) = judged(small, &Tuning::default()) else { panic!("a disk of 1 MiB") };
    assert_eq!(unknown.kind, UnknownKind::NotRead);
    assert!(unknown.reason.contains("`disk` in the configuration is too small: it says 1 MiB"), "{unknown:?}");

    // What a slot keeps is named as that.
    admin.batch_execute("SELECT pg_create_physical_replication_slot('replica', true)").await.unwrap();
    for _ in 0..3 {
        admin
            .batch_execute("INSERT INTO chunks SELECT * FROM chunks LIMIT 60000; SELECT pg_switch_wal()")
            .await
            .unwrap();
    }
    let disk = with_disk(&plain, 100 << 30).await.room.disk.unwrap().unwrap();
    let used = disk.total - disk.free;
    let found = only(judged(with_disk(&plain, used + used / 10).await, &Tuning::default()));
    let wal = found.offenders.iter().find(|one| one.note.starts_with("pg_wal")).unwrap();
    assert!(wal.note.contains("of which the slot replica keeps"), "{found:#?}");

    // A tablespace counts, wherever it lies, and that is said.
    assert!(!found.summary.contains("tablespace"), "{}", found.summary);
    let folder = folder_for(&server);
    admin.batch_execute(&format!("CREATE TABLESPACE large LOCATION '{}'", folder.display())).await.unwrap();
    let found = only(judged(with_disk(&plain, used + used / 10).await, &Tuning::default()));
    assert!(found.summary.contains("(1 tablespace counts as on it)"), "{}", found.summary);
    assert!(matches!(judged(with_disk(&plain, 1 << 20).await, &Tuning::default()), Status::Unknown(unknown) if
        unknown.reason.ends_with(", tablespaces among them")));
}
