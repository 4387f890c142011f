//! Worlds of the steps that work on sessions and on settings.

use super::super::{client_as, role};
use super::{PATIENCE, Scene, WITHOUT_PASSWORD, World};
use groundskeeper_core::remedy::Step;
use groundskeeper_core::remedy::setting::{Change, Parameter};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::Timestamp;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

fn system() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

async fn start() -> PostgresServer {
    let options = PostgresOptions { initdb: vec![WITHOUT_PASSWORD.to_owned()], ..PostgresOptions::default() };
    PostgresServer::start_with(options.set("autovacuum", "off")).await.unwrap()
}

async fn until_so(client: &Client, sql: &str) {
    let until = Instant::now() + PATIENCE;
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until, "{sql}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A session that sits idle in a transaction and holds a row, for which another one may wait.
pub(super) struct Holding {
    server: PostgresServer,
    client: Client,
    app: String,
    /// Somebody waits, and the step lets him go on.
    is_blocker: bool,
    holder: Option<Client>,
    pid: i32,
    backend_start: Timestamp,
}

impl Holding {
    pub(super) async fn new(is_blocker: bool) -> Self {
        let server = start().await;
        let (client, app) = (server.client().await, role(&server, "app", "").await);
        let script = "CREATE TABLE notes (id int PRIMARY KEY, n int); INSERT INTO notes VALUES (1, 0);
                      ALTER TABLE notes OWNER TO app";
        client.batch_execute(script).await.unwrap();
        Self { server, client, app, is_blocker, holder: None, pid: 0, backend_start: Timestamp::UNIX_EPOCH }
    }

    async fn hold(&mut self) {
        let holder = client_as(&self.server, &self.app, "leaky").await;
        self.pid = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        holder.batch_execute("BEGIN; UPDATE notes SET n = 9").await.unwrap();
        self.holder = Some(holder);
        let sql = "SELECT backend_start FROM pg_stat_activity WHERE pid = $1";
        self.backend_start = self.client.query_one(sql, &[&self.pid]).await.unwrap().get(0);
        if self.is_blocker {
            let waiter = client_as(&self.server, &self.app, "waiter").await;
            // It ends when it may go on.
            tokio::spawn(async move { waiter.batch_execute("UPDATE notes SET n = n + 1").await });
            until_so(&self.client, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)").await;
        }
    }
}

impl Scene for Holding {
    fn server(&self) -> &PostgresServer {
        &self.server
    }

    fn client(&self) -> &Client {
        &self.client
    }

    async fn prepare(&mut self) -> Step {
        if self.look().await != World::Old {
            self.hold().await;
        }
        let (system, pid, backend_start) = (system(), self.pid, self.backend_start);
        if self.is_blocker {
            Step::EndBlocker { system, pid, backend_start, waiting_seconds: 0 }
        } else {
            Step::EndIdleSession { system, pid, backend_start, idle_seconds: 0 }
        }
    }

    async fn look(&self) -> World {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2),
                          EXISTS (SELECT FROM pg_stat_activity w WHERE $1 = ANY (pg_blocking_pids(w.pid)))";
        let row = self.client.query_one(sql, &[&self.pid, &self.backend_start]).await.unwrap();
        match (row.get(0), row.get(1)) {
            (true, waits) if waits == self.is_blocker => World::Old,
            (false, false) => World::Done,
            other => World::Torn(format!("{other:?}")),
        }
    }
}

/// A server with a setting that is given another value, or with one that is taken back.
pub(super) struct Settings {
    server: PostgresServer,
    client: Client,
    is_undo: bool,
}

impl Settings {
    pub(super) async fn new(is_undo: bool) -> Self {
        let server = start().await;
        let client = server.client().await;
        Self { server, client, is_undo }
    }

    /// In force in new sessions, in kB, and as it is written.
    async fn now(&self) -> (String, Option<String>) {
        let sql = "SELECT setting, (SELECT setting FROM pg_file_settings
                                     WHERE name = 'work_mem' AND sourcefile LIKE '%/postgresql.auto.conf')
                     FROM pg_settings WHERE name = 'work_mem'";
        let row = self.server.client().await.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    }

    fn of(&self, now: &(String, Option<String>)) -> World {
        let (plain, changed) = if self.is_undo { (World::Done, World::Old) } else { (World::Old, World::Done) };
        match (now.0.as_str(), now.1.as_deref()) {
            ("4096", None) => plain,
            ("7168", Some("7MB")) => changed,
            other => World::Torn(format!("{other:?}")),
        }
    }
}

impl Scene for Settings {
    fn server(&self) -> &PostgresServer {
        &self.server
    }

    fn client(&self) -> &Client {
        &self.client
    }

    async fn prepare(&mut self) -> Step {
        if self.of(&self.now().await) != World::Old {
            let write = if self.is_undo { "ALTER SYSTEM SET work_mem = '7MB'" } else { "ALTER SYSTEM RESET work_mem" };
            self.client.batch_execute(write).await.unwrap();
            self.client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            assert_eq!(self.look().await, World::Old);
        }
        let value = |text: &str| text.try_into().unwrap();
        let (from, to) = if self.is_undo {
            (value("7MB"), Change::PutBack { line: None })
        } else {
            (value("4MB"), Change::Set { value: value("7MB") })
        };
        Step::AlterSystem { system: system(), setting: Parameter::WorkMem, from, to }
    }

    /// A reload takes its time.
    async fn look(&self) -> World {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let world = self.of(&self.now().await);
            if !matches!(world, World::Torn(_)) || Instant::now() > until {
                return world;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_undo(&self) -> bool {
        self.is_undo
    }
}
