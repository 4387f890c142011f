//! Rungs 3 and 4 over base backups that Postgres's own `pg_basebackup` made.

mod bolts;
mod faults;
mod good;

use groundskeeper_backup::programs::Programs;
use groundskeeper_backup::proof::{self, Alive, Expected};
use groundskeeper_backup::scratch::{DataFolder, Room, ScratchPlace};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Cluster, Lsn, Tablespace};
use groundskeeper_testing::PostgresServer;
use groundskeeper_testing::postgres::BIN_VARIABLE;
use groundskeeper_testing::scratch::Scratch;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Generous: a busy machine is no fault.
const BUDGET: Duration = Duration::from_mins(2);

fn now() -> Timestamp {
    "2026-11-22T22:00:00Z".parse().unwrap()
}

/// A base backup in a scratch place.
struct Drill {
    // The order matters: the place goes before the folder that it is in.
    place: ScratchPlace,
    data: PathBuf,
    cluster: Cluster,
    programs: Programs,
    scratch: Scratch,
}

impl Drill {
    /// Of a server as it is now.
    async fn of(server: &PostgresServer) -> Self {
        Self::made(server, cluster_of(server).await, "").await
    }

    /// The same in a scratch folder of this name; the cluster's WAL range is filled in.
    async fn made(server: &PostgresServer, mut cluster: Cluster, name: &str) -> Self {
        let scratch = Scratch::new("drill").unwrap();
        let place = place(&scratch.path().join(name)).await;
        let programs = programs(cluster.major());
        let data = place.path().join("postgres.main/data");
        std::fs::create_dir(data.parent().unwrap()).unwrap();
        take(server, &cluster, &place, &data);
        (cluster.start, cluster.stop) = wal_range(&data);
        Self { place, data, cluster, programs, scratch }
    }

    async fn climb(&self) -> Vec<Climb> {
        proof::climb(&self.place, &self.data, &self.cluster, &self.programs, BUDGET, now()).await
    }

    async fn folder(&self) -> DataFolder<'_> {
        DataFolder::take_over(&self.place, &self.data).await.unwrap()
    }

    /// Rung 3 alone.
    async fn restored(&self) -> ClimbOutcome {
        proof::restored(&self.programs, &self.folder().await, BUDGET).await
    }

    /// Rung 4 alone, as if the manifest had nothing to say.
    async fn alive(&self) -> ClimbOutcome {
        let Alive { outcome, took, .. } =
            proof::alive(&self.programs, &self.folder().await, Expected::of(&self.cluster), BUDGET).await;
        assert!(took > 0.0);
        outcome
    }
}

/// A scratch place that stays away from nobody's live folders, unless by itself.
async fn place(scratch: &Path) -> ScratchPlace {
    ScratchPlace::make(scratch, "postgres", &[], Room { needed: 1 << 20, left_free: 0 }).await.unwrap()
}

fn programs(major: u32) -> Programs {
    let extra: Vec<PathBuf> = std::env::var_os(BIN_VARIABLE).map(PathBuf::from).into_iter().collect();
    Programs::find(major, &extra).unwrap()
}

/// What the receipt of a backup says of it; the WAL's range comes later.
async fn cluster_of(server: &PostgresServer) -> Cluster {
    let client = server.client().await;
    let sql = "SELECT current_setting('server_version_num')::int, s.system_identifier::text, c.timeline_id \
               FROM pg_control_system() s, pg_control_checkpoint() c";
    let row = client.query_one(sql, &[]).await.unwrap();
    let (version, system_identifier, timeline): (i32, String, i32) = (row.get(0), row.get(1), row.get(2));
    let sql = "SELECT oid::bigint, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'";
    let tablespaces = client.query(sql, &[]).await.unwrap();
    let sql = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)";
    let names = ["data_directory", "max_connections", "max_prepared_transactions", "shared_preload_libraries"];
    let settings = client.query(sql, &[&&names[..]]).await.unwrap();
    Cluster {
        version: version.try_into().unwrap(),
        system_identifier,
        timeline: timeline.try_into().unwrap(),
        start: Lsn(0),
        stop: Lsn(0),
        tablespaces: tablespaces
            .iter()
            .map(|row| Tablespace { oid: row.get::<_, i64>(0).try_into().unwrap(), location: row.get(1) })
            .collect(),
        superuser: "postgres".to_owned(),
        settings: settings.iter().map(|row| (row.get(0), row.get(1))).collect(),
        read_in_place: false,
    }
}

/// A plain base backup, its tablespaces in the place as well.
fn take(server: &PostgresServer, cluster: &Cluster, place: &ScratchPlace, data: &Path) {
    let mut command = Command::new(program(cluster.major(), "pg_basebackup"));
    command.args(["-Fp", "-X", "fetch", "--checkpoint=fast", "--no-sync", "-d", &server.url(), "-D"]).arg(data);
    for Tablespace { oid, location } in &cluster.tablespaces {
        let target = place.path().join(format!("postgres.main/tablespaces/{oid}"));
        command.arg("-T").arg(format!("{location}={}", target.display()));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn program(major: u32, name: &str) -> PathBuf {
    let folder = std::env::var_os(BIN_VARIABLE).map(PathBuf::from);
    folder.unwrap_or_else(|| format!("/usr/lib/postgresql/{major}/bin").into()).join(name)
}

fn wal_range(data: &Path) -> (Lsn, Lsn) {
    let manifest = std::fs::read_to_string(data.join("backup_manifest")).unwrap();
    let value = |key: &str| {
        let (_, rest) = manifest.split_once(&format!("\"{key}\": \"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    (value("Start-LSN"), value("End-LSN"))
}

/// A table with an index, large enough for several pages of both.
async fn fill(server: &PostgresServer) {
    let sql = "CREATE TABLE notes (id int PRIMARY KEY, words text NOT NULL);
               INSERT INTO notes SELECT n, 'note ' || n FROM generate_series(1, 20000) n";
    server.client().await.batch_execute(sql).await.unwrap();
}

/// The file of a relation, from the data directory.
async fn file_of(server: &PostgresServer, relation: &str) -> String {
    let sql = "SELECT pg_relation_filepath($1::text::regclass)";
    server.client().await.query_one(sql, &[&relation]).await.unwrap().get(0)
}

/// Overwrites bytes of a file in place.
fn damage(path: &Path, offset: u64, change: impl Fn(u8) -> u8, count: usize) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset).unwrap();
    let bytes: Vec<u8> = bytes.into_iter().map(change).collect();
    file.write_all_at(&bytes, offset).unwrap();
}

#[track_caller]
fn proven(outcome: &ClimbOutcome) -> (&str, &[String]) {
    match outcome {
        ClimbOutcome::Proven { shown, not_covered } => (shown, not_covered),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn failed(outcome: &ClimbOutcome) -> &str {
    match outcome {
        ClimbOutcome::Failed { why } => why,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn not_tried(outcome: &ClimbOutcome) -> &str {
    match outcome {
        ClimbOutcome::NotTried { why } => why,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
