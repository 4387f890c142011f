//! A keeper in a folder of its own: its configuration, the commands, the running program, and a Postgres to look after.

use groundskeeper::app::api::FindingView;
use groundskeeper::app::{App, Session};
use groundskeeper::clock::Clock;
use groundskeeper::config::{self, Settings};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use rusqlite::Connection;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_postgres::Client;

/// For what takes milliseconds on an idle machine; a busy one is not a failure.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

/// Looks again and again until there is something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "within {PATIENCE:?} it did not happen that {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// A configuration and a state folder.
pub(crate) struct Place {
    folder: TempDir,
    state: PathBuf,
}

impl Place {
    /// `text` begins with the keys that stand outside every table.
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let place = Self { folder, state };
        place.configure(text);
        place
    }

    pub(crate) fn with_state(state: &Path, text: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), state: state.to_owned() };
        place.configure(text);
        place
    }

    /// Another configuration on the same state.
    pub(crate) fn configure(&self, text: &str) {
        let text = format!("state_dir = \"{}\"\n{text}\n[web]\nlisten = \"off\"\n", self.state.display());
        std::fs::write(self.file(), text).unwrap();
    }

    /// Where the configuration and the commands are.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("groundskeeper.toml")
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.state.join("groundskeeper.sock")
    }

    fn settings(&self) -> Settings {
        config::load(Some(&self.file())).unwrap()
    }

    /// The keeper inside this process, without a daemon.
    pub(crate) async fn app(&self) -> Arc<App> {
        Arc::new(App::open(self.settings(), Clock::wall()).await.unwrap())
    }

    /// The running keeper; fails when none runs.
    pub(crate) async fn session(&self) -> Session {
        let session = Session::connect(&self.settings()).await.unwrap();
        assert!(session.is_daemon(), "no keeper runs");
        session
    }

    /// The store, past the keeper.
    pub(crate) fn store(&self) -> Connection {
        let store = Connection::open(self.state.join("record.sqlite")).unwrap();
        store.busy_timeout(PATIENCE).unwrap();
        store
    }

    /// A number from the store.
    pub(crate) fn count(&self, sql: &str) -> i64 {
        self.store().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("USER", "ann")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Said {
        let output = self.command(PROGRAM).args(arguments).output().await.unwrap();
        Said {
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Starts a command and does not wait for it.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(PROGRAM).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Starts a command and kills it (`kill -9`) after a while. Whether it was still at work.
    pub(crate) async fn killed_after(&self, arguments: &[&str], after: Duration) -> bool {
        let mut child =
            self.command(PROGRAM).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let ended = tokio::time::timeout(after, child.wait()).await;
        if ended.is_err() {
            child.kill().await.unwrap();
        }
        ended.is_err()
    }

    /// What a command tells programs.
    pub(crate) async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let said = self.run(&[arguments, &["--output", "json"]].concat()).await;
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said:?}"))
    }

    pub(crate) async fn findings(&self) -> Vec<FindingView> {
        self.json(&["findings"]).await
    }

    /// Starts `groundskeeper run` and waits until it answers.
    pub(crate) async fn keeper(&self) -> Keeper {
        let log = self.folder.path().join("log");
        let into = File::options().create(true).append(true).open(&log).unwrap();
        // It must not outlive a test that was killed.
        let child = self
            .command("setpriv")
            .args(["--pdeathsig=KILL", "--", PROGRAM, "run"])
            .stdout(into.try_clone().unwrap())
            .stderr(into)
            .spawn()
            .unwrap();
        let mut keeper = Keeper { child, log };
        let socket = self.socket();
        eventually("the keeper answers", async || {
            if let Some(status) = keeper.child.try_wait().unwrap() {
                panic!("the keeper did not start ({status}): {}", keeper.log());
            }
            tokio::net::UnixStream::connect(&socket).await.ok()
        })
        .await;
        keeper
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_groundskeeper");

/// A running `groundskeeper run`.
pub(crate) struct Keeper {
    child: Child,
    log: PathBuf,
}

impl Keeper {
    /// Of all starts in this place.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// `kill -9`.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM.
    pub(crate) fn signal_term(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGTERM; gives how it ended.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        self.signal_term();
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }
}

/// A Postgres with a database `docrag` of the role `app`, and a role `keeper`.
pub(crate) struct Database {
    pub(crate) server: PostgresServer,
}

/// All that acting needs.
pub(crate) const GRANTS: &str = "GRANT pg_monitor, pg_signal_backend, app TO keeper";

impl Database {
    pub(crate) async fn start(grants: &str) -> Self {
        // The server's own autovacuum sleeps, so that nobody but the keeper cleans up.
        let options = PostgresOptions::default().set("autovacuum_naptime", "1h");
        let server = PostgresServer::start_with(options).await.unwrap();
        let admin = server.client().await;
        let roles =
            format!("CREATE ROLE app LOGIN PASSWORD 'app'; CREATE ROLE keeper LOGIN PASSWORD 'keeper'; {grants}");
        admin.batch_execute(&roles).await.unwrap();
        admin.batch_execute("CREATE DATABASE docrag OWNER app").await.unwrap();
        let docrag = server.client_at(&server.url_for("postgres", server.password(), "docrag")).await;
        let rules =
            "GRANT SELECT ON pg_hba_file_rules TO keeper; GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO keeper";
        docrag.batch_execute(rules).await.unwrap();
        Self { server }
    }

    /// The tables of a configuration: this Postgres, read every second by a keeper that loses no time. `head` are the
    /// keys outside every table.
    pub(crate) fn config(&self, head: &str, more: &str) -> String {
        format!(
            "{head}
[postgres.main]
url = \"{}\"
[tasks.watch]
every = \"1s\"
[checks.\"postgres.idle_in_transaction\"]
warning = 1
[checks.\"postgres.dead_rows_past_trigger\"]
for = \"0s\"
clear_after = \"0s\"
[checks.\"postgres.statistics_stale\"]
enabled = false
[checks.\"postgres.crash_unsafe\"]
enabled = false
[checks.\"postgres.checksums_off\"]
enabled = false
[checks.\"postgres.settings_unsuited\"]
enabled = false
{more}",
            self.server.url_for("keeper", "keeper", "docrag")
        )
    }

    pub(crate) async fn app(&self, application: &str) -> Client {
        let url = self.server.url_for("app", "app", "docrag");
        self.server.client_at(&format!("{url}?application_name={application}")).await
    }

    /// A session that sits idle in its transaction from now on.
    pub(crate) async fn idle(&self, application: &str) -> Victim {
        let client = self.app(application).await;
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
        Victim { client, pid }
    }

    /// Makes a table with twice as many dead rows as its own trigger allows and more.
    pub(crate) async fn worn_table(&self, name: &str) {
        self.wear(name).await;
        eventually("the dead rows are reported", async || {
            let dead = format!("SELECT n_dead_tup >= 2000 FROM pg_stat_user_tables WHERE relname = '{name}'");
            self.app("docrag").await.query_one(&dead, &[]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// The same; the server's statistics show it a moment later.
    pub(crate) async fn wear(&self, name: &str) {
        // A session reports its changes when it ends, or a second later.
        let app = self.app("docrag").await;
        app.batch_execute(&format!(
            "CREATE TABLE {name} AS SELECT n AS id, n FROM generate_series(1, 2000) n; UPDATE {name} SET n = n + 1"
        ))
        .await
        .unwrap();
    }

    /// Whether anybody has vacuumed the table by hand.
    pub(crate) async fn is_vacuumed(&self, name: &str) -> bool {
        let last = format!("SELECT last_vacuum IS NOT NULL FROM pg_stat_user_tables WHERE relname = '{name}'");
        self.app("docrag").await.query_one(&last, &[]).await.unwrap().get(0)
    }
}

/// A session that is idle in its transaction.
pub(crate) struct Victim {
    pub(crate) client: Client,
    pub(crate) pid: i32,
}

impl Victim {
    /// Whether its connection still works.
    pub(crate) async fn lives(&self) -> bool {
        !self.client.is_closed() && self.client.simple_query("SELECT 1").await.is_ok()
    }
}
