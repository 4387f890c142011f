//! A live Postgres with something in it, and a repository of its own.

use groundskeeper_backup::vault::{KeySource, PostgresSource};
use groundskeeper_backup::{Place, Settings, Vault};
use groundskeeper_core::receipt::Receipt;
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_testing::scratch::Scratch;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

pub(crate) const KEY: &str = "correct horse battery staple";
/// Generous: a busy machine is no fault.
pub(crate) const BUDGET: Duration = Duration::from_mins(3);

pub(crate) fn now() -> Timestamp {
    "2026-11-22T01:00:00Z".parse().unwrap()
}

pub(crate) struct Scene {
    pub(crate) server: PostgresServer,
    pub(crate) vault: Vault,
    pub(crate) folder: Scratch,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(PostgresOptions::default()).await
    }

    /// With a repository that was just made.
    pub(crate) async fn with(options: PostgresOptions) -> Self {
        let server = PostgresServer::start_with(options).await.unwrap();
        let folder = Scratch::new("backup").unwrap();
        let vault = Vault::new(settings(&server.url(), folder.path()));
        assert!(vault.init().await.unwrap());
        let client = server.client().await;
        client
            .batch_execute(
                "CREATE TABLE documents (id bigint PRIMARY KEY, body text NOT NULL);
                 INSERT INTO documents SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 5000) n;
                 CREATE INDEX ON documents (md5(body))",
            )
            .await
            .unwrap();
        Self { server, vault, folder }
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    pub(crate) async fn make(&self) -> Receipt {
        self.vault.make(Vec::new(), now()).await.unwrap()
    }

    /// Files of the repository in one of its folders.
    pub(crate) fn files(&self, folder: &str) -> Vec<PathBuf> {
        files(&self.repository().join(folder))
    }

    /// Debian's restic on this repository.
    pub(crate) fn restic(&self, arguments: &[&str]) -> Output {
        let ran = Command::new("restic")
            .args(["--no-cache", "--repo"])
            .arg(self.repository())
            .args(arguments)
            .env("RESTIC_PASSWORD", KEY)
            .output();
        ran.expect("restic is missing; run `cargo xtask setup`")
    }
}

pub(crate) fn settings(url: &str, folder: &Path) -> Settings {
    let bin = std::env::var_os(groundskeeper_testing::postgres::BIN_VARIABLE).map(PathBuf::from);
    Settings {
        place: Place::of_folder(folder.join("repository")),
        key: KeySource::Given(KEY.into()),
        postgres: vec![PostgresSource {
            system: SystemId::new(SystemKind::Postgres, "main"),
            endpoint: Endpoint::parse(url, None).unwrap(),
            reads_files: false,
        }],
        redis: Vec::new(),
        files: Vec::new(),
        qdrant: Vec::new(),
        scratch: folder.join("scratch"),
        leave_free: 0,
        programs: bin.into_iter().collect(),
        run_as: "postgres".to_owned(),
        wal: None,
        probes: Vec::new(),
    }
}

/// All files below a folder, in the order of their names.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// A folder for a tablespace, of the user that the server runs as.
pub(crate) fn make_space(space: &Path, data: &Path) {
    use std::os::unix::fs::MetadataExt;
    std::fs::create_dir(space).unwrap();
    let owner = std::fs::metadata(data).unwrap();
    std::os::unix::fs::chown(space, Some(owner.uid()), Some(owner.gid())).unwrap();
}
