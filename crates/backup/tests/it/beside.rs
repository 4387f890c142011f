//! A data directory beside us is read in place.

use crate::faults::fill;
use crate::scene::{BUDGET, Scene, files, make_space, now, settings};
use groundskeeper_backup::Vault;
use groundskeeper_core::receipt::{Receipt, Rung};
use groundskeeper_testing::PostgresOptions;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// A session that holds a backup and waits for the files to be copied.
const COPYING: &str = "FROM pg_stat_activity WHERE query LIKE 'SELECT pg_backup_start%' AND state = 'idle'";

/// The same backups, which read files where they can.
fn beside(scene: &Scene) -> Vault {
    beside_as(scene, &scene.server.url())
}

fn beside_as(scene: &Scene, url: &str) -> Vault {
    let mut settings = settings(url, scene.folder.path());
    settings.postgres[0].reads_files = true;
    Vault::new(settings)
}

fn was_read_in_place(made: &Receipt) -> bool {
    made.parts[0].postgres.as_ref().unwrap().read_in_place
}

/// Everything that a copy treats in a way of its own.
async fn furnish(scene: &Scene) -> Client {
    let client = scene.server.client().await;
    client.batch_execute("CREATE DATABASE other").await.unwrap();
    client
        .batch_execute(
            "CREATE UNLOGGED TABLE passing (id int PRIMARY KEY, word text);
             INSERT INTO passing SELECT n, 'word' FROM generate_series(1, 3000) n;
             CREATE TABLE emptied (id int); INSERT INTO emptied SELECT generate_series(1, 5000);
             CREATE TEMPORARY TABLE fleeting AS SELECT generate_series(1, 3000) AS id",
        )
        .await
        .unwrap();
    client
}

/// Nothing that a backup held is left at the server.
async fn is_let_go(client: &Client) {
    let until = Instant::now() + Duration::from_secs(20);
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_activity
                WHERE query LIKE 'SELECT pg_backup_start%' OR backend_type = 'walsender')";
    while client.query_one(left, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < until, "a slot or a session is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_beside_us_is_read_in_place_and_climbs_to_faithful() {
    let scene = Scene::new().await;
    let client = furnish(&scene).await;
    let made = beside(&scene).make(Vec::new(), now()).await.unwrap();
    assert!(was_read_in_place(&made) && made.is_whole(), "{made:?}");
    is_let_go(&client).await;
    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Faithful), "{:?}", drilled.climbs);
}

/// The server's own base backup is what a copy must be like.
#[tokio::test(flavor = "multi_thread")]
async fn it_holds_what_the_server_would_have_sent() {
    let scene = Scene::new().await;
    let _open = furnish(&scene).await;
    let (ours, theirs) = (scene.folder.path().join("ours"), scene.folder.path().join("theirs"));
    let made = beside(&scene).make(Vec::new(), now()).await.unwrap();
    assert!(was_read_in_place(&made));
    scene.vault.restore(None, Some("postgres.main"), &ours).await.unwrap();
    assert!(!was_read_in_place(&scene.make().await));
    scene.vault.restore(None, Some("postgres.main"), &theirs).await.unwrap();
    let (ours, theirs) = (contents(&ours.join("postgres.main")), contents(&theirs.join("postgres.main")));
    let differ = |one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
        let is_wal = |path: &&PathBuf| path.starts_with("data/pg_wal") || path.starts_with("wal-after");
        one.keys().filter(|path| !is_wal(path) && !other.contains_key(*path)).cloned().collect()
    };
    assert_eq!((differ(&ours, &theirs), differ(&theirs, &ours)), (Vec::new(), Vec::new()));
    // The backups themselves write to the clog, to pg_control and to hint bits of the catalogs; not to these.
    let untouched = |path: &&PathBuf| path.starts_with("data/base/1") || path.starts_with("data/base/4");
    for path in ours.keys().filter(untouched) {
        assert!(ours[path] == theirs[path], "{}", path.display());
    }
    assert!(ours.keys().filter(untouched).count() > 500);
    let lines = |files: &BTreeMap<PathBuf, Vec<u8>>| -> usize {
        let manifest: serde_json::Value = serde_json::from_slice(&files[Path::new("data/backup_manifest")]).unwrap();
        manifest["Files"].as_array().unwrap().len()
    };
    assert_eq!(lines(&ours), lines(&theirs));
    let wal = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().filter(|path| path.starts_with("data/pg_wal")).count();
    assert!(wal(&ours) >= 2, "a segment, and the mark that it is archived");
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |file: PathBuf| (file.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&file).unwrap());
    files(folder).into_iter().map(read).collect()
}

/// Tables and databases come and go, grow and are cut off while their files are read.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_is_copied_and_comes_alive() {
    let scene = Scene::new().await;
    fill(&scene).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let (client, over) = (scene.server.client().await, Arc::clone(&is_over));
    let busy = tokio::spawn(async move {
        let mut meanwhile = 0;
        while !over.load(Ordering::Relaxed) {
            for statement in [
                "CREATE DATABASE brief",
                "CREATE TABLE brief AS SELECT n, md5(n::text) AS word FROM generate_series(1, 3000) n",
                "CREATE INDEX ON brief (word)",
                "UPDATE documents SET body = body || 'x' WHERE id % 50 = 0",
                "TRUNCATE brief",
                "DROP TABLE brief",
                "VACUUM documents",
                "DROP DATABASE brief",
            ] {
                // Somebody may just look into the database that is to be dropped: it stays for a round.
                let done = client.batch_execute(statement).await;
                assert!(done.is_ok() || statement.contains("DATABASE"), "{statement}: {done:?}");
                meanwhile +=
                    client.query_one(&format!("SELECT count(*) {COPYING}"), &[]).await.unwrap().get::<_, i64>(0);
            }
        }
        meanwhile
    });
    let made = beside(&scene).make(Vec::new(), now()).await;
    is_over.store(true, Ordering::Relaxed);
    assert!(busy.await.unwrap() > 0, "nothing was done while files were copied");
    let made = made.unwrap();
    assert!(was_read_in_place(&made), "{made:?}");
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert!(drilled.proven() >= Some(Rung::Alive), "{:?}", drilled.climbs);
}

/// Does this once while files are copied.
async fn while_copying(scene: &Scene, statement: String) -> Receipt {
    let client = scene.server.client().await;
    let done = tokio::spawn(async move {
        while client.query_one(&format!("SELECT count(*) {COPYING}"), &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        client.batch_execute(&statement).await.unwrap();
        client
    });
    let made = beside(scene).make(Vec::new(), now()).await.unwrap();
    is_let_go(&done.await.unwrap()).await;
    made
}

/// Whatever goes wrong with the files, the server sends them then.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_while_files_are_copied_leaves_nothing_of_that_copy() {
    let scene = Scene::new().await;
    fill(&scene).await;
    for who in [
        format!("SELECT pg_terminate_backend(pid) {COPYING}"),
        // Without it nobody knows whether the server has kept the WAL.
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots".to_owned(),
    ] {
        let made = while_copying(&scene, who).await;
        assert!(!was_read_in_place(&made) && made.is_whole(), "{made:?}");
        let drilled = scene.vault.drill(Some(&made.set), BUDGET, now()).await.unwrap();
        assert_eq!(drilled.proven(), Some(Rung::Faithful), "{:?}", drilled.climbs);
    }
}

/// Its location may be another one for us than for the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_tablespaces_sends_them() {
    let scene = Scene::new().await;
    fill(&scene).await;
    let space = scene.server.data_dir().parent().unwrap().join("late");
    make_space(&space, &scene.server.data_dir());
    let made = while_copying(&scene, format!("CREATE TABLESPACE late LOCATION '{}'", space.display())).await;
    assert!(!was_read_in_place(&made), "one that was made meanwhile is not in the copy");
    assert_eq!(made.parts[0].postgres.as_ref().unwrap().tablespaces.len(), 1);
    let made = beside(&scene).make(Vec::new(), now()).await.unwrap();
    assert!(!was_read_in_place(&made) && made.is_whole(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_what_is_not_the_servers_are_not_followed() {
    let mut scene = Scene::new().await;
    let data = scene.server.data_dir();
    let secret = scene.folder.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("16384"), "the key of the backups").unwrap();
    std::os::unix::fs::symlink(&secret, data.join("base/99999")).unwrap();
    let made = beside(&scene).make(Vec::new(), now()).await.unwrap();
    assert!(was_read_in_place(&made) && made.is_whole(), "{made:?}");
    let into = scene.folder.path().join("restored");
    scene.vault.restore(None, Some("postgres.main"), &into).await.unwrap();
    assert!(!into.join("postgres.main/data/base/99999").exists());
    std::fs::remove_file(data.join("base/99999")).unwrap();

    // The server's WAL may lie on a disk of its own.
    scene.server.stop().await.unwrap();
    let moved = data.parent().unwrap().join("wal");
    std::fs::rename(data.join("pg_wal"), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, data.join("pg_wal")).unwrap();
    scene.server.start_again().await.unwrap();
    let made = beside(&scene).make(Vec::new(), now()).await.unwrap();
    assert!(!was_read_in_place(&made) && made.is_whole(), "{made:?}");
}

/// Where files cannot be read as they should, the server sends them.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_another_servers_is_not_read() {
    let mut scene = Scene::new().await;
    let (data, moved) = (scene.server.data_dir(), scene.server.data_dir().with_extension("moved"));
    // A server stays in the folder that it was started in, whatever that is called now.
    std::fs::rename(&data, &moved).unwrap();
    let copied = Command::new("cp").arg("-a").arg(&moved).arg(&data).status().unwrap();
    assert!(copied.success());
    let made = beside(&scene).make(Vec::new(), now()).await.unwrap();
    assert!(!was_read_in_place(&made) && made.is_whole(), "{made:?}");
    scene.server.stop_immediate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_begin_a_backup_gets_what_the_server_sends() {
    let scene = Scene::new().await;
    let client = scene.server.client().await;
    let role = "CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'secret'; GRANT pg_monitor, pg_read_all_data TO keeper";
    client.batch_execute(role).await.unwrap();
    let vault = beside_as(&scene, &scene.server.url_for("keeper", "secret", "postgres"));
    assert!(!was_read_in_place(&vault.make(Vec::new(), now()).await.unwrap()));
    let wish = [groundskeeper_systems::postgres::grants::Wish::BackUp];
    let grants = groundskeeper_systems::postgres::grants::grants("keeper", "postgres", &wish);
    client.batch_execute(&grants).await.unwrap();
    assert!(was_read_in_place(&vault.make(Vec::new(), now()).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_are_the_servers_to_verify() {
    let scene =
        Scene::with(PostgresOptions { initdb: vec!["--data-checksums".to_owned()], ..PostgresOptions::default() })
            .await;
    let made = beside(&scene).make(Vec::new(), now()).await.unwrap();
    assert!(!was_read_in_place(&made) && made.is_whole(), "{made:?}");
}
