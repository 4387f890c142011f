//! The Postgres that is backed up: pgbench's tables and one of embeddings, as Debian's packages set a server up.

use super::pages::{Changed, Pages};
use anyhow::{Context, Result, ensure};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Numbers in an embedding; stored as `real[]`, about 1.6 kB a row.
const DIMENSIONS: u32 = 384;
/// A fifth as many bytes as pgbench's tables have.
const EMBEDDINGS_PER_SCALE: u32 = 2_000;
const ACCOUNTS_PER_SCALE: u32 = 100_000;
/// Accounts in a page of 8 KiB, as pgbench fills it.
const ACCOUNTS_PER_PAGE: u32 = 61;
/// An archive that keeps nothing: for the tools that want none.
const NO_ARCHIVE: &str = "/bin/true";

pub(super) struct Cluster {
    pub(super) server: PostgresServer,
    /// Where the programs of this version are.
    pub(super) programs: PathBuf,
    pub(super) version: String,
    pub(super) scale: u32,
    /// Whether the page cache could be emptied; only root can.
    pub(super) is_cold: bool,
}

impl Cluster {
    /// An empty one. No data checksums, which is Debian's default up to version 17; autovacuum does not run, so that only
    /// what the bench changes does change.
    pub(super) async fn start() -> Result<Self> {
        let options = PostgresOptions::default()
            .set("fsync", "on")
            .set("full_page_writes", "on")
            .set("shared_buffers", "128MB")
            .set("max_wal_size", "1GB")
            .set("autovacuum", "off")
            .set("archive_mode", "on")
            .set("archive_command", NO_ARCHIVE);
        let server = PostgresServer::start_with(options).await?;
        let client = server.client().await;
        let row = client
            .query_one("SELECT setting, current_setting('server_version') FROM pg_config() WHERE name = 'BINDIR'", &[])
            .await?;
        let (programs, version) = (PathBuf::from(row.get::<_, &str>(0)), row.get(1));
        Ok(Self { server, programs, version, scale: 0, is_cold: true })
    }

    /// pgbench's tables at this scale, and the embeddings.
    pub(super) async fn fill(&mut self, scale: u32) -> Result<()> {
        self.scale = scale;
        let mut pgbench = Command::new(self.programs.join("pgbench"));
        pgbench.args(["-i", "-q", "-s", &scale.to_string(), "postgres"]).envs(self.environment()).kill_on_drop(true);
        let done = pgbench.output().await.context("cannot start pgbench (package postgresql-contrib)")?;
        ensure!(done.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&done.stderr));
        let rows = scale * EMBEDDINGS_PER_SCALE;
        self.execute(&format!(
            "SELECT setseed(0.4);
             CREATE TABLE embeddings (id bigint PRIMARY KEY, embedding real[] NOT NULL);
             INSERT INTO embeddings
               SELECT n, (SELECT array_agg((random() * 2 - 1)::real) FROM generate_series(1, {DIMENSIONS}) WHERE n > 0)
               FROM generate_series(1, {rows}) n;"
        ))
        .await?;
        self.execute("VACUUM (FREEZE, ANALYZE)").await?;
        self.execute("CHECKPOINT").await
    }

    /// Updates the accounts of one range, so that about 1 % of all pages change: theirs, and as many at the table's end
    /// that take the new rows.
    pub(super) async fn change_in_one_place(&self, pages: u64, round: u32) -> Result<()> {
        let accounts = pages / 200 * u64::from(ACCOUNTS_PER_PAGE);
        // Rows that an earlier round has changed lie at the table's end.
        let first = u64::from(self.scale * ACCOUNTS_PER_SCALE / 3) + u64::from(round) * accounts;
        let sql = format!(
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid > {first} AND aid <= {first} + {accounts}"
        );
        self.execute(&sql).await?;
        self.execute("CHECKPOINT").await
    }

    /// Updates one account in every hundredth page of the table.
    pub(super) async fn change_scattered(&self, round: u32) -> Result<()> {
        let (distance, first) = (100 * ACCOUNTS_PER_PAGE, (7 + round * ACCOUNTS_PER_PAGE) % (100 * ACCOUNTS_PER_PAGE));
        let sql = format!("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % {distance} = {first}");
        self.execute(&sql).await?;
        self.execute("CHECKPOINT").await
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<()> {
        let client = self.server.client().await;
        client.batch_execute(sql).await.with_context(|| format!("Postgres refused {sql}"))
    }

    /// From the next [`Self::cold`] on. None archives nothing.
    pub(super) async fn archive_with(&self, command: Option<&str>) -> Result<()> {
        let command = command.unwrap_or(NO_ARCHIVE).replace('\'', "''");
        self.execute(&format!("ALTER SYSTEM SET archive_command = '{command}'")).await
    }

    /// The server anew, with nothing of the cluster in memory.
    pub(super) async fn cold(&mut self) -> Result<()> {
        self.execute("CHECKPOINT").await?;
        self.server.stop().await?;
        self.is_cold &= drop_caches().await?;
        self.server.start_again().await
    }

    /// All pages, and what has changed in them since an earlier look. The server is stopped meanwhile.
    pub(super) async fn pages(&mut self, before: Option<&Pages>) -> Result<(Pages, Changed)> {
        let data = self.server.data_dir();
        self.server.stop().await?;
        let pages = Pages::read(&data)?;
        let changed = before.map(|before| pages.changed(before, &data)).transpose()?.unwrap_or_default();
        self.server.start_again().await?;
        Ok((pages, changed))
    }

    /// By which clients of libpq reach it, over its socket.
    pub(super) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("PGHOST", self.server.socket_dir().display().to_string()),
            ("PGPORT", self.server.port().to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PGPASSWORD", self.server.password().to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ]
    }

    /// The same as one address, for Groundskeeper.
    pub(super) fn url(&self) -> String {
        let socket = self.server.socket_dir().display().to_string().replace('/', "%2F");
        let (password, port) = (self.server.password(), self.server.port());
        format!("postgres://postgres:{password}@{socket}:{port}/postgres")
    }
}

/// Whether the page cache could be emptied.
pub(super) async fn drop_caches() -> Result<bool> {
    let synced = Command::new("sync").status().await.context("sync (package coreutils)")?;
    ensure!(synced.success(), "sync ended with {synced}");
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3\n").is_ok())
}

/// The bytes of all files below a folder.
pub(super) fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let meta = entry.metadata().with_context(|| format!("cannot look at {}", entry.path().display()))?;
        bytes += if meta.is_dir() { size_of(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}
