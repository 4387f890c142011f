//! WAL between the sets: streamed into the repository, and replayed to any time.

mod bad_days;
mod by_plan;
mod streaming;

use crate::scene::{BUDGET, KEY, Scene, files, make_space, settings};
use groundskeeper_backup::vault::Restored;
use groundskeeper_backup::wal::{Board, SLOT, Settings, Target, keep_streaming};
use groundskeeper_backup::{Error, Vault};
use groundskeeper_core::observation::WalStream;
use groundskeeper_core::receipt::Lsn;
use groundskeeper_testing::{PostgresOptions, port};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// However slow the machine is.
const PATIENCE: Duration = Duration::from_mins(2);

/// WAL has the time of the server, so these tests need the real one.
#[expect(clippy::disallowed_methods, reason = "a time that was in the WAL of a server that runs now")]
fn real_now() -> Timestamp {
    Timestamp::now()
}

/// A server whose WAL streams into a repository.
struct Streaming {
    scene: Scene,
    vault: Vault,
    board: Board,
    client: Client,
    worker: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Streaming {
    async fn start() -> Self {
        Self::with(PostgresOptions::default(), 1 << 40).await
    }

    /// With the bytes that the server may keep for us.
    async fn with(options: PostgresOptions, keep: u64) -> Self {
        let scene = Scene::with(options).await;
        let board = scene.folder.path().join("streams.json");
        let mut settings = settings(&scene.server.url(), scene.folder.path());
        settings.wal = Some(Settings { board: board.clone(), keep, give_up: true });
        let client = scene.server.client().await;
        client.batch_execute("CREATE TABLE told (what text, at timestamptz DEFAULT clock_timestamp())").await.unwrap();
        let mut streaming = Self { scene, vault: Vault::new(settings), board: Board::new(board), client, worker: None };
        streaming.begin();
        streaming
    }

    fn begin(&mut self) {
        let (stop, stopped) = watch::channel(false);
        let source = self.vault.settings().postgres[0].clone();
        let worker = keep_streaming(self.vault.clone(), source, self.board.clone(), real_now, stopped);
        self.worker = Some((stop, tokio::spawn(worker)));
    }

    /// As the keeper ends it.
    async fn end(&mut self) {
        let (stop, worker) = self.worker.take().unwrap();
        stop.send(true).unwrap();
        tokio::time::timeout(PATIENCE, worker).await.expect("it ends").unwrap();
    }

    async fn set(&self) {
        self.vault.make(Vec::new(), real_now()).await.unwrap();
    }

    async fn tell(&self, what: &str) {
        self.client.execute("INSERT INTO told (what) VALUES ($1)", &[&what]).await.unwrap();
    }

    async fn time(&self) -> Timestamp {
        self.client.query_one("SELECT clock_timestamp()", &[]).await.unwrap().get(0)
    }

    async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn written(&self) -> Lsn {
        self.ask::<String>("SELECT pg_current_wal_flush_lsn()::text").await.parse().unwrap()
    }

    fn stands(&self) -> Option<WalStream> {
        self.board.streams().into_iter().next()
    }

    /// Until the stream looks so.
    async fn until(&self, what: &str, holds: impl Fn(&WalStream) -> bool) -> WalStream {
        let started = Instant::now();
        loop {
            let stands = self.stands();
            if let Some(stream) = stands.as_ref().filter(|stream| holds(stream)) {
                return stream.clone();
            }
            assert!(started.elapsed() < PATIENCE, "it never came about that {what}: {stands:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until everything that was written so far is in the repository.
    async fn caught_up(&self) -> WalStream {
        let written = self.written().await;
        self.until("it caught up", |stream| stream.durable >= Some(written)).await
    }

    async fn switch(&self) {
        self.client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }

    /// Of the repository, whole segments only.
    fn segments(&self) -> Vec<PathBuf> {
        let files = self.scene.files("wal").into_iter();
        files.filter(|file| file.to_str().unwrap().ends_with(".zst.age") && !is_partial(file)).collect()
    }

    /// What was told by the restored server.
    async fn restored(&self, target: Target) -> Result<Vec<String>, Error> {
        Ok(self.boot(target).await?.told().await)
    }

    async fn boot(&self, target: Target) -> Result<Booted, Error> {
        let into = self.scene.folder.path().join(format!("restored-{}", getrandom_free()));
        let restored = self.vault.restore_to(None, Some("postgres.main"), target, &into, None).await?;
        Ok(Booted::start(restored, self.scene.server.password()).await)
    }
}

/// A number that no other restore of this process has.
fn getrandom_free() -> u16 {
    port::free().unwrap()
}

fn is_partial(file: &Path) -> bool {
    file.to_str().unwrap().ends_with(".partial.zst.age")
}

/// A restored cluster, started as its steps say.
struct Booted {
    child: Child,
    url: String,
    restored: Restored,
}

impl Booted {
    async fn start(restored: Restored, password: &str) -> Self {
        let folder = restored.parts[0].folder.clone();
        let port = port::free().unwrap();
        let bin = std::env::var(groundskeeper_testing::postgres::BIN_VARIABLE)
            .unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
        let mut command = if rustix_is_root() {
            let given = Command::new("chown").args(["-R", "postgres:"]).arg(&folder).status().unwrap();
            assert!(given.success());
            // The folders above it are ours alone.
            for above in folder.ancestors().skip(1).take(2) {
                let open = Command::new("chmod").arg("a+x").arg(above).status().unwrap();
                assert!(open.success());
            }
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig=QUIT", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]);
            command.arg(format!("{bin}/postgres"));
            command
        } else {
            Command::new(format!("{bin}/postgres"))
        };
        let log = std::fs::File::create(folder.parent().unwrap().join("log")).unwrap();
        command.arg("-D").arg(folder.join("data")).args(["-p", &port.to_string(), "-c", "unix_socket_directories="]);
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let booted = Self { child, url, restored };
        booted.client().await;
        booted
    }

    /// Once it has recovered.
    async fn client(&self) -> Client {
        let started = Instant::now();
        loop {
            if let Ok((client, connection)) = tokio_postgres::connect(&self.url, NoTls).await {
                tokio::spawn(connection);
                let recovers = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
                if recovers.is_ok_and(|row| !row.get::<_, bool>(0)) {
                    return client;
                }
            }
            assert!(started.elapsed() < PATIENCE, "it does not come up: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        let folder = self.restored.parts[0].folder.parent().unwrap().to_owned();
        std::fs::read_to_string(folder.join("log")).unwrap_or_default()
    }

    async fn told(&self) -> Vec<String> {
        let rows = self.client().await.query("SELECT what FROM told ORDER BY at", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // Immediate: what it holds is a copy.
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn rustix_is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
