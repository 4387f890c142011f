//! A drill touches nothing but its scratch place.

use super::{BUDGET, Drill, assert_says, cluster_of, fill, not_tried, place, programs, proven};
use groundskeeper_backup::proof::{self, Expected};
use groundskeeper_backup::scratch::{DataFolder, Room, ScratchPlace, ScratchServer};
use groundskeeper_core::receipt::Climb;
use groundskeeper_testing::PostgresServer;
use groundskeeper_testing::scratch::Scratch;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Everything below a folder: path, content and time of change.
fn state(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut state = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        let content = if meta.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            state.extend(self::state(&path));
        }
        state.insert(path, (content, meta.ctime(), meta.ctime_nsec()));
    }
    state
}

/// A folder for a tablespace, with something in it that is not Postgres's.
async fn tablespace(server: &PostgresServer, name: &str) -> PathBuf {
    let folder = server.data_dir().parent().unwrap().join(name);
    std::fs::create_dir(&folder).unwrap();
    let owner = server.data_dir().metadata().unwrap();
    std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    let sql = format!("CREATE TABLESPACE {name} LOCATION '{}'", folder.display());
    server.client().await.batch_execute(&sql).await.unwrap();
    std::fs::write(folder.join("canary"), "sings").unwrap();
    folder
}

#[tokio::test]
async fn settings_of_the_source_have_no_say_in_a_drill() {
    let server = PostgresServer::start().await.unwrap();
    let canary = Scratch::new("canary").unwrap();
    std::fs::set_permissions(canary.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let touch = format!("touch {}/", canary.path().display());
    let client = server.client().await;
    for (name, value) in [
        ("archive_mode", "on"),
        ("archive_command", &format!("{touch}archived")),
        ("restore_command", &format!("{touch}fetched; false")),
        ("recovery_end_command", &format!("{touch}recovered")),
        ("primary_conninfo", "host=127.0.0.1 port=1"),
        ("listen_addresses", "*"),
        ("logging_collector", "on"),
        ("log_directory", &canary.path().display().to_string()),
        ("shared_preload_libraries", "absent_library"),
        ("max_worker_processes", "8"),
    ] {
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
    }
    let drill = Drill::of(&server).await;
    proven(&drill.restored().await);
    for asks_for_a_standby in ["standby.signal", "recovery.signal"] {
        std::fs::write(drill.data.join(asks_for_a_standby), "").unwrap();
    }
    std::fs::write(drill.data.join("postmaster.pid"), format!("{}\n", server.pid().unwrap())).unwrap();
    let folder = drill.folder().await;
    let scratch = ScratchServer::start(&drill.programs, &folder, &drill.cluster, BUDGET).await.unwrap();
    let inside = scratch.connect("postgres").await.unwrap();
    for (name, wanted) in [
        ("archive_mode", "off"),
        ("archive_command", "(disabled)"),
        ("restore_command", ""),
        ("primary_conninfo", ""),
        ("listen_addresses", ""),
        ("max_worker_processes", "0"),
        ("ssl", "off"),
        ("cluster_name", "groundskeeper-drill"),
    ] {
        let row = inside.query_one("SELECT current_setting($1)", &[&name]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), wanted, "{name}");
    }
    // Something to archive, were it to.
    inside.batch_execute("CREATE TABLE public.more (); SELECT pg_switch_wal(); CHECKPOINT").await.unwrap();
    scratch.stop().await.unwrap();
    let left: Vec<_> = std::fs::read_dir(canary.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    // Its own lock.
    assert_eq!(left, ["in-use"]);
}

/// One that is always enabled fires in a replica's sessions as well, and to install amcheck is DDL.
#[tokio::test]
async fn event_triggers_of_the_source_do_not_fire_in_a_drill() {
    let server = PostgresServer::start().await.unwrap();
    let canary = Scratch::new("canary").unwrap();
    std::fs::set_permissions(canary.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let client = server.client().await;
    client.batch_execute("CREATE DATABASE second").await.unwrap();
    let second = server.client_at(&server.url_for("postgres", server.password(), "second")).await;
    for (client, database) in [(&client, "first"), (&second, "second")] {
        for name in ["ALWAYS", "REPLICA"] {
            let file = canary.path().join(format!("{database}-{name}"));
            // A name that has to be quoted.
            let sql = format!(
                "CREATE FUNCTION act_{name}() RETURNS event_trigger LANGUAGE plpgsql
                 AS $$ BEGIN COPY (SELECT 1) TO '{}'; END $$;
                 CREATE EVENT TRIGGER \"{name} acts\" ON ddl_command_start EXECUTE FUNCTION act_{name}();
                 ALTER EVENT TRIGGER \"{name} acts\" ENABLE {name}",
                file.display()
            );
            client.batch_execute(&sql).await.unwrap();
        }
    }
    let fired = || {
        let entries = std::fs::read_dir(canary.path()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "in-use");
        names.sort();
        names
    };
    let clear = || {
        for name in fired() {
            std::fs::remove_file(canary.path().join(name)).unwrap();
        }
    };
    clear();
    client.batch_execute("SET session_replication_role = replica; CREATE TABLE seen ()").await.unwrap();
    assert_eq!(fired(), ["first-ALWAYS", "first-REPLICA"], "else this shows nothing");
    clear();
    let drill = Drill::of(&server).await;
    proven(&drill.alive().await);
    assert_eq!(fired(), Vec::<String>::new());
}

#[tokio::test]
async fn a_tablespace_is_proven_without_a_touch_of_the_live_one() {
    let server = PostgresServer::start().await.unwrap();
    let live = tablespace(&server, "fast").await;
    let client = server.client().await;
    let sql = "CREATE TABLE far (id int PRIMARY KEY) TABLESPACE fast; INSERT INTO far SELECT generate_series(1, 500);
               CHECKPOINT";
    client.batch_execute(sql).await.unwrap();
    let drill = Drill::of(&server).await;
    let before = state(&live);
    assert!(before.len() > 2);
    proven(&drill.restored().await);
    // A tar has it, and recovery would link to what it says.
    let oid = drill.cluster.tablespaces[0].oid;
    std::fs::write(drill.data.join("tablespace_map"), format!("{oid} {}\n", live.display())).unwrap();
    let folder = drill.folder().await;
    let scratch = ScratchServer::start(&drill.programs, &folder, &drill.cluster, BUDGET).await.unwrap();
    let inside = scratch.connect("postgres").await.unwrap();
    inside.batch_execute("INSERT INTO public.far VALUES (501); CHECKPOINT").await.unwrap();
    assert_eq!(inside.query_one("SELECT count(*) FROM public.far", &[]).await.unwrap().get::<_, i64>(0), 501);
    scratch.stop().await.unwrap();
    assert_eq!(state(&live), before);
}

/// The WAL has the path of the live one in it, and replaying writes there.
#[tokio::test]
async fn a_tablespace_that_was_made_during_the_backup_is_not_replayed() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    let scratch = Scratch::new("drill").unwrap();
    let place = place(scratch.path()).await;
    let data = place.path().join("data");
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    client.batch_execute("SELECT pg_backup_start('by hand', true)").await.unwrap();
    copy(&server.data_dir(), &data);
    let live = tablespace(&server, "made_late").await;
    let sql = "CREATE TABLE late (id int) TABLESPACE made_late; INSERT INTO late VALUES (1)";
    client.batch_execute(sql).await.unwrap();
    let row = client.query_one("SELECT labelfile, lsn::text FROM pg_backup_stop(false)", &[]).await.unwrap();
    std::fs::write(data.join("backup_label"), row.get::<_, &str>(0)).unwrap();
    std::fs::remove_dir_all(data.join("pg_wal")).unwrap();
    copy(&server.data_dir().join("pg_wal"), &data.join("pg_wal"));
    client.batch_execute("CHECKPOINT").await.unwrap();
    let before = state(&live);
    let mut cluster = cluster_of(&server).await;
    cluster.tablespaces.clear();
    cluster.stop = row.get::<_, &str>(1).parse().unwrap();
    let folder = DataFolder::take_over(&place, &data).await.unwrap();
    let alive = proof::alive(&programs(cluster.major()), &folder, Expected::of(&cluster), BUDGET).await;
    assert_says(
        not_tried(&alive.outcome),
        &["a tablespace was made while the backup ran", "made_late", "another backup"],
    );
    assert_eq!(state(&live), before);
}

#[tokio::test]
async fn a_folder_with_a_way_out_of_the_place_is_not_tried() {
    let server = PostgresServer::start().await.unwrap();
    fill(&server).await;
    let live = tablespace(&server, "fast").await;
    let before = state(&live);
    let drill = Drill::of(&server).await;
    let oid = drill.cluster.tablespaces[0].oid;
    let link = drill.data.join(format!("pg_tblspc/{oid}"));
    std::fs::remove_file(&link).unwrap();
    let why = |climbs: &[Climb]| {
        assert_eq!(climbs.len(), 2);
        climbs.iter().map(|climb| not_tried(&climb.outcome).to_owned()).collect::<String>()
    };
    // No link at all: the manifest misses it, and without that rung the start does.
    assert_says(not_tried(&drill.alive().await), &["was not restored into the scratch place"]);
    std::os::unix::fs::symlink(&live, &link).unwrap();
    assert_says(&why(&drill.climb().await), &["out of the scratch place", &live.display().to_string()]);
    std::fs::remove_file(&link).unwrap();
    std::fs::hard_link(live.join("canary"), drill.data.join("base/canary")).unwrap();
    assert_says(&why(&drill.climb().await), &["a hard link"]);
    std::fs::remove_file(drill.data.join("base/canary")).unwrap();
    let changed: Vec<_> = state(&live).into_iter().filter(|(path, _)| !path.ends_with("canary")).collect();
    assert_eq!(changed, before.into_iter().filter(|(path, _)| !path.ends_with("canary")).collect::<Vec<_>>());
    let data = server.data_dir();
    let elsewhere = proof::climb(&drill.place, &data, &drill.cluster, &drill.programs, BUDGET, super::now());
    assert_says(&why(&elsewhere.await), &["out of the scratch place"]);
}

#[tokio::test]
async fn a_scratch_place_in_or_around_a_live_folder_is_refused() {
    let server = PostgresServer::start().await.unwrap();
    let live = tablespace(&server, "fast").await;
    let cluster = cluster_of(&server).await;
    let room = |needed| Room { needed, left_free: 0 };
    let (data, around) = (server.data_dir(), server.data_dir().parent().unwrap().to_owned());
    for scratch in [&data, &data.join("scratch"), &live, &live.join("scratch"), &around] {
        let refused = ScratchPlace::make(scratch, "postgres", &[&cluster], room(0)).await.unwrap_err().to_string();
        assert_says(&refused, &["Postgres", "set `scratch` of [backup] to another one"]);
    }
    assert!(!data.join("scratch").exists() && !live.join("scratch").exists());
    let apart = Scratch::new("drill").unwrap();
    let full = ScratchPlace::make(apart.path(), "postgres", &[&cluster], room(u64::MAX)).await.unwrap_err().to_string();
    assert_says(&full, &["are needed; make room"]);
}

/// Set in the child that is to be killed.
const SCRATCH: &str = "GROUNDSKEEPER_TEST_KILLED_DRILL";
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_killed_drill_takes_its_server_along_and_the_next_one_removes_its_place() {
    if let Some(scratch) = std::env::var_os(SCRATCH) {
        return hold_a_drill(Path::new(&scratch)).await;
    }
    let scratch = Scratch::new("drill").unwrap();
    let name = "proof::bolts::a_killed_drill_takes_its_server_along_and_the_next_one_removes_its_place";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(SCRATCH, scratch.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = scratch.path().join("up");
    let began = Instant::now();
    while !told.exists() {
        assert!(began.elapsed() < 2 * SOON && child.try_wait().unwrap().is_none(), "the drill did not come up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = std::fs::read_to_string(told).unwrap();
    let (left, server) = said.split_once('\n').unwrap();
    assert!(Path::new(left).exists() && Path::new(&format!("/proc/{server}")).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    while Path::new(&format!("/proc/{server}")).exists() {
        assert!(killed.elapsed() < SOON, "the scratch server outlived its drill");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(Path::new(left).exists());
    let _next = place(scratch.path()).await;
    assert!(!Path::new(left).exists());
}

/// Says where it is and who the server is, and waits for its end.
async fn hold_a_drill(scratch: &Path) {
    let server = PostgresServer::start().await.unwrap();
    let place = place(scratch).await;
    let data = place.path().join("data");
    let mut cluster = cluster_of(&server).await;
    super::take(&server, &cluster, &place, &data);
    (cluster.start, cluster.stop) = super::wal_range(&data);
    let folder = DataFolder::take_over(&place, &data).await.unwrap();
    let _running = ScratchServer::start(&programs(cluster.major()), &folder, &cluster, BUDGET).await.unwrap();
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let said = format!("{}\n{}", place.path().display(), pid.lines().next().unwrap());
    std::fs::write(scratch.join("writing"), said).unwrap();
    std::fs::rename(scratch.join("writing"), scratch.join("up")).unwrap();
    std::future::pending::<()>().await;
}
