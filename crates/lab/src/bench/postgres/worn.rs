//! The table that needs its weekly maintenance: a fifth of its rows expired, two of its indexes three times as large as they
//! would be anew. It is made once; every run begins with a copy of the same files.

use super::programs;
use crate::bench::copy_folder;
use anyhow::{Context, Result, ensure};
use groundskeeper_testing::scratch::Scratch;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio_postgres::Client;

pub(super) const DATABASE: &str = "shop";
pub(super) const TABLE: &str = "user_sessions";
/// As in the guide: sessions live for 30 days.
pub(super) const LIVE_DAYS: u32 = 30;
/// Passwords of a server that is gone with the bench.
pub(super) const APP: (&str, &str) = ("app", "app-of-a-bench");
pub(super) const KEEPER: (&str, &str) = ("keeper", "keeper-of-a-bench");
const BLOATED: [&str; 2] = ["user_sessions_token", "user_sessions_user_id"];
/// Percent of a leaf page that is in use; a new index fills 90.
const FILLED: u32 = 30;

pub(super) struct Worn {
    pub(super) server: PostgresServer,
    pub(super) programs: PathBuf,
    pub(super) version: String,
    template: Scratch,
    /// Bytes of the bloated indexes, as worn.
    sizes: Vec<i64>,
}

/// What a run has left to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) expired: i64,
    pub(super) bloated: usize,
}

impl Worn {
    /// The table before it is worn.
    pub(super) async fn fresh(rows: u64) -> Result<Self> {
        let options = PostgresOptions::default()
            .set("fsync", "on")
            .set("full_page_writes", "on")
            .set("shared_buffers", "1GB")
            .set("maintenance_work_mem", "256MB")
            .set("max_wal_size", "4GB")
            .set("max_connections", "100")
            .set("deadlock_timeout", "100ms")
            .set("log_lock_waits", "on")
            .set("log_line_prefix", "%m [%p] %a ");
        let server = PostgresServer::start_with(options).await?;
        let admin = server.client().await;
        let ((app, app_password), (keeper, keeper_password)) = (APP, KEEPER);
        admin
            .batch_execute(&format!(
                "CREATE ROLE {app} LOGIN PASSWORD '{app_password}';
                 CREATE ROLE {keeper} LOGIN PASSWORD '{keeper_password}';
                 GRANT pg_monitor, pg_signal_backend, {app} TO {keeper}"
            ))
            .await?;
        admin.batch_execute(&format!("CREATE DATABASE {DATABASE} OWNER {app}")).await?;
        let (programs, version) = programs(&admin).await?;
        let template = Scratch::new("bench-template")?;
        let worn = Self { server, programs, version, template, sizes: Vec::new() };
        worn.client().await.batch_execute(&filled(rows)).await.context("filling the table")?;
        let superuser = worn.superuser().await;
        superuser
            .batch_execute("CREATE EXTENSION pg_repack")
            .await
            .context("the extension pg_repack is not installed; `apt-get install postgresql-15-repack`")?;
        // What a backend has changed is reported when it is idle; analyzed before, all rows would count as changed since.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        superuser.batch_execute("VACUUM (ANALYZE)").await?;
        Ok(worn)
    }

    /// Wears two indexes, and keeps the files: every run begins with them. An index that is built to be mostly empty is what
    /// scattered deletes leave, without the hour that those would take.
    pub(super) async fn wear(&mut self) -> Result<()> {
        let client = self.client().await;
        for index in BLOATED {
            let before = size(&client, index).await?;
            client.batch_execute(&format!("ALTER INDEX {index} SET (fillfactor = {FILLED})")).await?;
            client.batch_execute(&format!("REINDEX INDEX {index}")).await?;
            client.batch_execute(&format!("ALTER INDEX {index} RESET (fillfactor)")).await?;
            let after = size(&client, index).await?;
            ensure!(after > before * 2, "{index} was not bloated: {before} bytes became {after}");
            self.sizes.push(after);
        }
        self.superuser().await.batch_execute("CHECKPOINT").await?;
        self.server.stop().await?;
        copy_folder(&self.server.data_dir(), &self.template.path().join("data")).await?;
        self.server.start_again().await
    }

    /// The worn table again, whatever was done to it.
    pub(super) async fn again(&mut self) -> Result<()> {
        // Nothing of it is kept, so nothing has to be written.
        self.server.stop_immediate().await?;
        let data = self.server.data_dir();
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        copy_folder(&self.template.path().join("data"), &data).await?;
        // Otherwise the disk would be busy with the copy while the load is measured.
        flushed(&data).await?;
        self.server.start_again().await
    }

    /// What is not done yet. An index counts as bloated while it has more than two thirds of its worn size.
    pub(super) async fn left(&self) -> Result<Left> {
        let client = self.client().await;
        let sql = format!("SELECT count(*) FROM {TABLE} WHERE created_at < now() - interval '{LIVE_DAYS} days'");
        let expired = client.query_one(&sql, &[]).await?.get(0);
        let mut bloated = 0;
        for (index, worn) in BLOATED.iter().zip(&self.sizes) {
            bloated += usize::from(size(&client, index).await? > worn * 2 / 3);
        }
        Ok(Left { expired, bloated })
    }

    /// Lines about waiting for a lock in the server's log so far: all, and those of users.
    pub(super) fn lock_waits(&self) -> Result<LockWaits> {
        let log = fs::read_to_string(self.server.log_file()).context("reading the server's log")?;
        Ok(LockWaits::in_log(&log))
    }

    pub(super) fn url(&self, role: (&str, &str)) -> String {
        self.server.url_for(role.0, role.1, DATABASE)
    }

    /// By which clients of libpq reach it.
    pub(super) fn environment(&self, role: (&str, &str)) -> [(&'static str, String); 5] {
        [
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.server.port().to_string()),
            ("PGUSER", role.0.to_owned()),
            ("PGPASSWORD", role.1.to_owned()),
            ("PGDATABASE", DATABASE.to_owned()),
        ]
    }

    async fn client(&self) -> Client {
        self.server.client_at(&self.url(APP)).await
    }

    async fn superuser(&self) -> Client {
        self.server.client_at(&self.url(("postgres", self.server.password()))).await
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LockWaits {
    pub(super) all: usize,
    pub(super) users: usize,
}

impl LockWaits {
    fn in_log(log: &str) -> Self {
        let waits = || log.lines().filter(|line| line.contains(" still waiting for "));
        Self { all: waits().count(), users: waits().filter(|line| line.contains("] pgbench ")).count() }
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self { all: self.all - before.all, users: self.users - before.users }
    }
}

/// Waits until all of the folder's file system is on its disk.
async fn flushed(folder: &Path) -> Result<()> {
    let status = Command::new("sync").arg("--file-system").arg(folder).status().await.context("cannot start sync")?;
    ensure!(status.success(), "sync of {} ended with {status}", folder.display());
    Ok(())
}

async fn size(client: &Client, index: &str) -> Result<i64> {
    Ok(client.query_one("SELECT pg_relation_size($1::text::regclass)", &[&index]).await?.get(0))
}

/// A fifth is 31 to 60 days old; the rest goes up to now. Five sessions a user.
fn filled(rows: u64) -> String {
    let (expired, users) = (rows / 5, rows / 5);
    format!(
        "CREATE TABLE {TABLE} (id bigint GENERATED BY DEFAULT AS IDENTITY, user_id bigint NOT NULL, token text NOT NULL,
           created_at timestamptz NOT NULL DEFAULT now(), last_seen timestamptz NOT NULL DEFAULT now(),
           visits integer NOT NULL DEFAULT 0);
         INSERT INTO {TABLE} (id, user_id, token, created_at)
           SELECT n, ('x' || substr(md5(n::text), 1, 8))::bit(32)::bigint % {users}, md5(n::text),
             now() - CASE WHEN n <= {expired} THEN interval '60 days' - n * interval '29 days' / {expired}
                          ELSE interval '29 days' - (n - {expired}) * interval '29 days' / ({rows} - {expired}) END
           FROM generate_series(1, {rows}) n;
         SELECT setval(pg_get_serial_sequence('{TABLE}', 'id'), {rows});
         ALTER TABLE {TABLE} ADD PRIMARY KEY (id);
         CREATE INDEX {TABLE}_created_at ON {TABLE} (created_at);
         CREATE INDEX {TABLE}_user_id ON {TABLE} (user_id);
         CREATE INDEX {TABLE}_token ON {TABLE} (token);"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_locks_are_counted_with_those_of_users_among_them() {
        let log = "2026-11-23 01:00:00 UTC [12] pgbench LOG:  process 12 still waiting for RowExclusiveLock on relation 16401 of database 16384 after 100.123 ms\n\
                   2026-11-23 01:00:00 UTC [12] pgbench STATEMENT:  UPDATE user_sessions SET visits = 1\n\
                   2026-11-23 01:00:01 UTC [13] pg_repack LOG:  process 13 still waiting for AccessExclusiveLock on relation 16401 after 100.1 ms\n\
                   2026-11-23 01:00:01 UTC [12] pgbench LOG:  process 12 acquired RowExclusiveLock on relation 16401 after 900.1 ms\n";
        let waits = LockWaits::in_log(log);
        assert_eq!(waits, LockWaits { all: 2, users: 1 });
        assert_eq!(LockWaits::in_log(&log.repeat(2)).since(waits), waits);
    }
}
