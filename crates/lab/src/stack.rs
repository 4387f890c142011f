//! The private stack: a Postgres, a Redis, a log folder, and a role that may do what the keeper needs and no more.
//!
//! Benches and faults fill its database with tables of their own (`with_tables`); in the demo Doc-RAG does.

use anyhow::{Context, Result};
use groundskeeper_testing::{PostgresOptions, PostgresServer, RedisServer};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DOCUMENTS: i64 = 4_000;
const KEEPER_PASSWORD: &str = "keeper-of-the-lab";
const APP_PASSWORD: &str = "app-of-the-lab";

pub struct Stack {
    pub postgres: PostgresServer,
    pub redis: RedisServer,
    folder: TempDir,
}

impl Stack {
    pub async fn start() -> Result<Self> {
        let options = PostgresOptions::default()
            .set("max_connections", "60")
            // The demo's autovacuum sleeps, so that the keeper's own maintenance is what is seen.
            .set("autovacuum_naptime", "1h")
            .set("log_connections", "on");
        let postgres = PostgresServer::start_with(options).await?;
        let redis = RedisServer::start_with(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]).await?;
        let folder = tempfile::tempdir()?;
        // The user that scratch servers run as has to get at what is proven in it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        std::fs::create_dir(folder.path().join("logs"))?;
        let stack = Self { postgres, redis, folder };
        stack.prepare().await.context("preparing the stack's database")?;
        Ok(stack)
    }

    /// The roles, and an empty database that belongs to the service.
    async fn prepare(&self) -> Result<()> {
        let admin = self.postgres.client().await;
        admin
            .batch_execute(&format!(
                "CREATE ROLE app LOGIN PASSWORD '{APP_PASSWORD}';
                 CREATE ROLE groundskeeper LOGIN PASSWORD '{KEEPER_PASSWORD}' REPLICATION
                   CONNECTION LIMIT 8;
                 GRANT pg_monitor, pg_signal_backend TO groundskeeper;
                 GRANT app TO groundskeeper;"
            ))
            .await?;
        admin.batch_execute("CREATE DATABASE docrag OWNER app").await?;
        let docrag =
            self.postgres.client_at(&self.postgres.url_for("postgres", self.postgres.password(), "docrag")).await;
        docrag
            .batch_execute(
                "CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
                 GRANT SELECT ON pg_hba_file_rules TO groundskeeper;
                 GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO groundskeeper;",
            )
            .await?;
        Ok(())
    }

    /// The stack with two tables of a made-up service, analyzed and at rest.
    pub async fn with_tables() -> Result<Self> {
        let stack = Self::start().await?;
        let app = stack.postgres.client_at(&stack.app_url()).await;
        app.batch_execute(&format!(
            "CREATE TABLE documents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL,
                                     body text NOT NULL, updated timestamptz NOT NULL DEFAULT now());
             CREATE TABLE user_sessions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who text NOT NULL,
                                         created_at timestamptz NOT NULL DEFAULT now());
             INSERT INTO documents (title, body)
               SELECT 'Document ' || n, repeat((ARRAY['vacuum','index','checkpoint','replica','planner','snapshot','lock',
                 'wal','statistics','toast','cursor','trigger'])[1 + n % 12] || ' ', 20) FROM generate_series(1, {DOCUMENTS}) n;
             INSERT INTO user_sessions (who) SELECT 'user ' || n FROM generate_series(1, 2000) n;"
        ))
        .await?;
        drop(app);
        // A session reports its changes when it ends or a second later; analyzed before, the tables would count as
        // modified since.
        let app = stack.postgres.client_at(&stack.app_url()).await;
        for _ in 0..100 {
            let reported = "SELECT coalesce(min(n_mod_since_analyze), 0) > 0 FROM pg_stat_user_tables";
            if app.query_one(reported, &[]).await?.get(0) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        app.batch_execute("VACUUM ANALYZE").await?;
        Ok(stack)
    }

    /// Vacuums and analyzes everything, after the sessions have reported their changes: they do so a second later.
    pub async fn settle(&self) -> Result<()> {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        self.postgres.client_at(&self.app_url()).await.batch_execute("VACUUM ANALYZE").await?;
        Ok(())
    }

    pub fn app_url(&self) -> String {
        self.postgres.url_for("app", APP_PASSWORD, "docrag")
    }

    pub fn keeper_url(&self) -> String {
        self.postgres.url_for("groundskeeper", KEEPER_PASSWORD, "docrag")
    }

    /// A folder that goes away with the stack.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn log_folder(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Writes a configuration for this stack; `more` is appended. Gives the file.
    pub fn configure(&self, http: &str, more: &str) -> Result<PathBuf> {
        let file = self.folder.path().join("groundskeeper.toml");
        let text = format!(
            r#"state_dir = "{state}"
{more}
[postgres.main]
url = "{postgres}"

[redis.cache]
url = "{redis}"

[http.api]
url = "{http}"

[host.local]

# This machine's own clock is not part of the stack that is looked after here.
[checks."host.clock_unsynchronised"]
enabled = false

# A server that lives for minutes is careless on purpose: small, fast, and without checksums.
[checks."postgres.crash_unsafe"]
enabled = false

[checks."postgres.checksums_off"]
enabled = false

[checks."postgres.settings_unsuited"]
enabled = false

# It lies on the disk of whoever runs it.
[checks."postgres.disk_filling"]
enabled = false
"#,
            state = self.folder.path().join("state").display(),
            postgres = self.keeper_url(),
            redis = self.redis.url(),
        );
        std::fs::write(&file, text)?;
        Ok(file)
    }
}
