//! Bad backups, each for its own reason.

use super::{Drill, assert_says, damage, failed, file_of, fill};
use groundskeeper_core::receipt::{Lsn, Rung};
use groundskeeper_testing::PostgresServer;
use std::path::PathBuf;

const PAGE: u64 = 8192;

#[tokio::test]
async fn one_flipped_bit_fails_with_the_name_of_the_file_and_nothing_is_booted() {
    let server = PostgresServer::start().await.unwrap();
    fill(&server).await;
    let file = file_of(&server, "notes").await;
    let drill = Drill::of(&server).await;
    damage(&drill.data.join(&file), 3 * PAGE + 4000, |byte| byte ^ 1, 1);
    let climbs = drill.climb().await;
    let [restored] = &climbs[..] else { panic!("{climbs:?}") };
    assert_eq!(restored.rung, Rung::Restored);
    assert_says(failed(&restored.outcome), &["pg_verifybackup", &file, "checksum mismatch"]);
    assert!(drill.data.join("backup_label").exists());
}

#[tokio::test]
async fn a_missing_manifest_fails() {
    let server = PostgresServer::start().await.unwrap();
    let drill = Drill::of(&server).await;
    std::fs::remove_file(drill.data.join("backup_manifest")).unwrap();
    assert_says(failed(&drill.restored().await), &["backup_manifest"]);
}

/// A page that was already wrong when the server sent it is in the manifest as it is; only asking Postgres tells.
#[tokio::test]
async fn a_damaged_index_page_fails_with_the_name_of_the_index() {
    let server = PostgresServer::start().await.unwrap();
    fill(&server).await;
    let file = file_of(&server, "notes_pkey").await;
    let drill = Drill::of(&server).await;
    // The keys of some tuples in the middle of the first leaf: of each 16 bytes, the four after the header.
    for tuple in 100..110 {
        damage(&drill.data.join(&file), 2 * PAGE - 16 - 16 * tuple + 8, |_| 0x7f, 4);
    }
    assert_says(failed(&drill.alive().await), &["pg_amcheck", "notes_pkey"]);
}

#[tokio::test]
async fn a_missing_wal_segment_fails_both_rungs_in_the_words_of_postgres() {
    let server = PostgresServer::start().await.unwrap();
    let drill = Drill::of(&server).await;
    let segments = std::fs::read_dir(drill.data.join("pg_wal")).unwrap().flatten().map(|entry| entry.path());
    let segments: Vec<PathBuf> = segments.filter(|path| path.is_file()).collect();
    assert_eq!(segments.len(), 1);
    std::fs::remove_file(&segments[0]).unwrap();
    assert_says(failed(&drill.restored().await), &["pg_verifybackup", "WAL"]);
    let words = ["Postgres does not start from it", "could not locate required checkpoint record"];
    assert_says(failed(&drill.alive().await), &words);
}

#[tokio::test]
async fn wal_that_is_cut_short_fails_to_boot() {
    let server = PostgresServer::start().await.unwrap();
    let drill = Drill::of(&server).await;
    let segment = drill.cluster.start.0 / (16 << 20) * (16 << 20);
    let name = format!("{:08X}{:08X}{:08X}", drill.cluster.timeline, segment >> 32, (segment & 0xffff_ffff) >> 24);
    // The last record that it needs, which says that the backup ends here, and all after it.
    let last = drill.cluster.stop.0 - 40 - segment;
    damage(&drill.data.join("pg_wal").join(name), last, |_| 0, 4096);
    assert_says(failed(&drill.alive().await), &["WAL ends before end of online backup"]);
}

#[tokio::test]
async fn a_folder_without_its_label_is_not_booted() {
    let server = PostgresServer::start().await.unwrap();
    let drill = Drill::of(&server).await;
    std::fs::remove_file(drill.data.join("backup_label")).unwrap();
    assert_says(failed(&drill.alive().await), &["backup_label cannot be read"]);
}

#[tokio::test]
async fn recovery_that_ends_before_the_sets_position_fails() {
    let server = PostgresServer::start().await.unwrap();
    let mut drill = Drill::of(&server).await;
    drill.cluster.stop = Lsn(drill.cluster.stop.0 + (1 << 30));
    let stop = drill.cluster.stop.to_string();
    assert_says(failed(&drill.alive().await), &["recovery ended at 0/", "before", &stop]);
}

#[tokio::test]
async fn another_cluster_than_that_of_the_set_fails() {
    let server = PostgresServer::start().await.unwrap();
    let mut drill = Drill::of(&server).await;
    drill.cluster.system_identifier = "7000000000000000000".to_owned();
    assert_says(failed(&drill.alive().await), &["another cluster", "7000000000000000000"]);
}
