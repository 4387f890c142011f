//! A real Redis for one test: no persistence, unless the test's own arguments ask for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use rustix::process::Signal;

use crate::port::{self, Reservation};
use crate::process::{Launch, NotReady, RunAs, ServerProcess};
use crate::scratch::Scratch;

/// The path of a `redis-server`; wins over what is found.
pub const BIN_VARIABLE: &str = "GROUNDSKEEPER_TEST_REDIS_BIN";
const INSTALL: &str = "run `cargo xtask setup`, or `apt-get install redis-server`";
const READY_WITHIN: Duration = Duration::from_secs(15);
const STOP_WITHIN: Duration = Duration::from_secs(10);
const ATTEMPTS: usize = 5;

/// A Redis server on a port of its own; ends with this value.
#[derive(Debug)]
pub struct RedisServer {
    // The order matters: the server must be gone before its folder is.
    process: Option<ServerProcess>,
    reservation: Option<Reservation>,
    program: PathBuf,
    arguments: Vec<String>,
    port: u16,
    folder: Scratch,
}

impl RedisServer {
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// `arguments` as on the command line, such as `["--maxmemory", "8mb"]`; they win over this crate's own. A password
    /// given by `--requirepass` is part of [`Self::url`].
    pub async fn start_with(arguments: &[&str]) -> Result<Self> {
        let program = find_program()?;
        let folder = Scratch::new("redis")?;
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { process: None, reservation: None, program, arguments, port: 0, folder };
        for _ in 0..ATTEMPTS {
            server.port = port::free()?;
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(NotReady::PortTaken) => {}
                Err(NotReady::Failed(error)) => return Err(error),
            }
        }
        bail!("redis found its port taken {ATTEMPTS} times in a row")
    }

    async fn launch(&mut self) -> Result<(), NotReady> {
        let mut process = ServerProcess::spawn(Launch {
            name: "redis-server",
            program: &self.program,
            arguments: self.command_line(),
            run_as: &RunAs::Me,
            folder: self.folder.path(),
            goodbye: Signal::KILL,
        })
        .map_err(NotReady::Failed)?;
        let (url, id) = (self.url(), process.id());
        process.until_ready(READY_WITHIN, || answers(url.clone(), id)).await?;
        self.process = Some(process);
        Ok(())
    }

    fn command_line(&self) -> Vec<OsString> {
        let port = self.port.to_string();
        let folder = self.folder.path().display().to_string();
        let own = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", &folder];
        own.into_iter().chain(self.arguments.iter().map(String::as_str)).map(OsString::from).collect()
    }

    pub fn url(&self) -> String {
        let password = self.arguments.iter().skip_while(|argument| *argument != "--requirepass").nth(1);
        let login = password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{login}127.0.0.1:{}/", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's working folder: its RDB and AOF files, when it writes any.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The server's process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::id)
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        match open(&self.url()).await {
            Ok(connection) => connection,
            Err(error) => panic!("cannot connect to the test's Redis on port {}: {error:?}", self.port),
        }
    }

    /// An orderly shutdown. The port stays reserved for [`Self::start_again`].
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop(Signal::TERM, STOP_WITHIN).await?;
            self.reservation = Some(Reservation::hold(self.port)?);
        }
        Ok(())
    }

    /// Starts a stopped server: the same folder, the same port.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("redis already runs on port {}", self.port);
        }
        self.reservation = None;
        self.launch().await.map_err(|error| match error {
            NotReady::PortTaken => anyhow::anyhow!("port {} was taken while redis was stopped", self.port),
            NotReady::Failed(error) => error,
        })
    }

    /// Stops the server from being scheduled: connections are accepted by the kernel and nothing answers.
    pub fn freeze(&self) -> Result<()> {
        self.process.as_ref().context("redis does not run")?.signal(Signal::STOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.process.as_ref().context("redis does not run")?.signal(Signal::CONT)
    }
}

async fn open(url: &str) -> Result<MultiplexedConnection> {
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection().await?)
}

/// Whether the server that answers is ours: without a password, another test's on the same port would answer as well.
async fn answers(url: String, id: u32) -> Result<()> {
    let mut connection = open(&url).await?;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let answering = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap_or_default();
    if answering != id.to_string() {
        bail!("another redis (process {answering}) answers on this port");
    }
    Ok(())
}

fn find_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BIN_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")])
        .map(|folder| folder.join("redis-server"))
        .find(|program| program.is_file());
    found.with_context(|| format!("Redis is not installed (no redis-server in PATH); {INSTALL}"))
}
