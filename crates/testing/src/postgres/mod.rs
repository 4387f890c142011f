//! A real Postgres for one test.
//!
//! It is small and careless on purpose (`fsync` off): what a test loses with the power does not matter. Passwords are
//! real (SCRAM, random), so that a test of a wrong password tests something. Settings go into `postgresql.conf`, not onto
//! the command line, which would win over `ALTER SYSTEM`.

mod install;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use crate::port::{self, Reservation};
use crate::process::{Launch, NotReady, ServerProcess};
use crate::scratch::Scratch;
use install::Install;

pub use install::{BIN_VARIABLE, PGVECTOR_VARIABLE};

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(20);
const ATTEMPTS: usize = 5;

/// How a test wants its Postgres.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Lines of `postgresql.conf`; they win over this crate's own.
    pub settings: Vec<(&'static str, String)>,
    /// More arguments for `initdb`, such as `--data-checksums`.
    pub initdb: Vec<String>,
    /// More arguments for the server itself, such as `-c max_connections=50`; they win over every file, as in a container.
    pub arguments: Vec<String>,
    /// The folder of its programs, when it is to be another Postgres than the installed one.
    pub bin: Option<PathBuf>,
}

impl PostgresOptions {
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    /// A Postgres that has pgvector: the one of [`PGVECTOR_VARIABLE`], or the one that `cargo xtask setup` installed.
    pub fn with_pgvector(mut self) -> Result<Self> {
        self.bin = Some(install::with_pgvector()?);
        Ok(self)
    }
}

/// A Postgres server on a port of its own; ends with this value.
#[derive(Debug)]
pub struct PostgresServer {
    // The order matters: the server must be gone before its folder is.
    process: Option<ServerProcess>,
    reservation: Option<Reservation>,
    install: Install,
    arguments: Vec<String>,
    password: String,
    port: u16,
    folder: Scratch,
}

impl PostgresServer {
    pub async fn start() -> Result<Self> {
        Self::start_with(PostgresOptions::default()).await
    }

    pub async fn start_with(options: PostgresOptions) -> Result<Self> {
        let folder = Scratch::new("pg")?;
        let install = Install::find(options.bin.clone())?.within_reach(folder.path())?;
        let password = random_password()?;
        make_cluster(&install, folder.path(), &password, &options)?;
        let arguments = options.arguments;
        Self { process: None, reservation: None, install, arguments, password, port: 0, folder }.on_a_free_port().await
    }

    /// A second server, on a data directory that was restored from a backup of this one, with its roles and passwords.
    /// The directory becomes a part of the new server.
    pub async fn bring_up(&self, restored: &Path) -> Result<Self> {
        let folder = Scratch::new("pg-restored")?;
        let (data, socket) = (folder.path().join("data"), folder.path().join("socket"));
        fs::create_dir(&socket)?;
        fs::rename(restored, &data).with_context(|| format!("cannot move {}", restored.display()))?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        for folder in [&data, &socket] {
            self.install.give_with_all_in_it(folder)?;
        }
        let mut file = File::options().append(true).open(data.join("postgresql.conf"))?;
        writeln!(file, "unix_socket_directories = '{}'", socket.display())?;
        let (install, password) = (self.install.clone(), self.password.clone());
        let arguments = self.arguments.clone();
        Self { process: None, reservation: None, install, arguments, password, port: 0, folder }.on_a_free_port().await
    }

    /// A standby of this server that streams from it as `name`, with a copy of everything that it has now.
    pub async fn standby(&self, name: &str) -> Result<Self> {
        let folder = Scratch::new("pg-standby")?;
        let copy = folder.path().join("copy");
        fs::create_dir(&copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o700))?;
        let source = format!(
            "host=127.0.0.1 port={} user=postgres password={} application_name={name}",
            self.port, self.password
        );
        let arguments = [
            format!("--dbname={source}"),
            format!("--pgdata={}", copy.display()),
            "--checkpoint=fast".to_owned(),
            "--no-sync".to_owned(),
        ];
        self.install.copy(&arguments, folder.path())?;
        // What pg_basebackup would write itself may name what only servers of its own version know.
        File::create_new(copy.join("standby.signal"))?;
        let mut settings = File::options().append(true).open(copy.join("postgresql.auto.conf"))?;
        writeln!(settings, "primary_conninfo = '{source}'")?;
        self.bring_up(&copy).await
    }

    async fn on_a_free_port(mut self) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            self.port = port::free()?;
            match self.launch().await {
                Ok(()) => return Ok(self),
                Err(NotReady::PortTaken) => {}
                Err(NotReady::Failed(error)) => return Err(error),
            }
        }
        bail!("postgres found its port taken {ATTEMPTS} times in a row")
    }

    async fn launch(&mut self) -> Result<(), NotReady> {
        let port = self.port.to_string();
        let mut arguments: Vec<OsString> = vec!["-D".into(), self.data_dir().into(), "-p".into(), port.into()];
        arguments.extend(self.arguments.iter().map(OsString::from));
        let mut process = ServerProcess::spawn(Launch {
            name: "postgres",
            program: &self.install.program("postgres"),
            arguments,
            run_as: &self.install.run_as,
            folder: self.folder.path(),
            goodbye: Signal::QUIT,
        })
        .map_err(NotReady::Failed)?;
        let url = self.url();
        process.until_ready(READY_WITHIN, || connect(url.clone())).await?;
        self.process = Some(process);
        Ok(())
    }

    /// The superuser's address: `postgres://postgres:…@127.0.0.1:PORT/postgres`.
    pub fn url(&self) -> String {
        self.url_for("postgres", &self.password, "postgres")
    }

    pub fn url_for(&self, user: &str, password: &str, database: &str) -> String {
        let [user, password, database] = [user, password, database].map(percent_encoded);
        format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Such as 15.
    pub fn major(&self) -> u32 {
        let told = fs::read_to_string(self.data_dir().join("PG_VERSION")).expect("a data directory has its version");
        told.trim().parse().expect("PG_VERSION is a number")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The postmaster's process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::id)
    }

    /// A superuser's connection to the database `postgres`.
    pub async fn client(&self) -> Client {
        self.client_at(&self.url()).await
    }

    /// A connection to any address of this server, such as one made by [`Self::url_for`].
    pub async fn client_at(&self, url: &str) -> Client {
        let (client, connection) = match tokio_postgres::connect(url, NoTls).await {
            Ok(pair) => pair,
            Err(error) => panic!("cannot connect to the test's Postgres on port {}: {error:?}", self.port),
        };
        tokio::spawn(connection);
        client
    }

    /// A fast shutdown: clients are disconnected, the state is written. The port stays reserved for [`Self::start_again`].
    pub async fn stop(&mut self) -> Result<()> {
        self.end_by(Signal::INT).await
    }

    /// An immediate shutdown, as after a crash: the next start goes through recovery.
    pub async fn stop_immediate(&mut self) -> Result<()> {
        self.end_by(Signal::QUIT).await
    }

    async fn end_by(&mut self, signal: Signal) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop(signal, STOP_WITHIN).await?;
            self.reservation = Some(Reservation::hold(self.port)?);
        }
        Ok(())
    }

    /// Starts a stopped server: the same data, the same port.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("postgres already runs on port {}", self.port);
        }
        self.reservation = None;
        self.launch().await.map_err(|error| match error {
            NotReady::PortTaken => anyhow::anyhow!("port {} was taken while postgres was stopped", self.port),
            NotReady::Failed(error) => error,
        })
    }

    /// Stops the postmaster from being scheduled: connecting hangs, connections that exist go on.
    pub fn freeze(&self) -> Result<()> {
        self.process.as_ref().context("postgres does not run")?.signal(Signal::STOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.process.as_ref().context("postgres does not run")?.signal(Signal::CONT)
    }
}

/// Waits until the statistics views have what this session has done so far. Before 15 it hands that over at the end of a
/// transaction, twice a second at most, and the views are read from a file that may be half a second old.
pub async fn counted(client: &Client) {
    const HAND_OVER: &str = "DO $$ BEGIN
        IF current_setting('server_version_num')::int >= 150000 THEN PERFORM pg_stat_force_next_flush();
        ELSE PERFORM pg_sleep(0.6); END IF; END $$";
    for _ in 0..2 {
        client.batch_execute(HAND_OVER).await.unwrap_or_else(|error| panic!("{HAND_OVER}: {error:?}"));
    }
}

async fn connect(url: String) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    let connection = tokio::spawn(connection);
    client.simple_query("SELECT 1").await?;
    // Wait until it is closed, so that the first test query does not see it among the sessions' leftovers.
    drop(client);
    connection.await??;
    Ok(())
}

fn make_cluster(install: &Install, folder: &Path, password: &str, options: &PostgresOptions) -> Result<()> {
    let (data, socket, secret) = (folder.join("data"), folder.join("socket"), folder.join("password"));
    for (path, mode) in [(&data, 0o700), (&socket, 0o755)] {
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        install.give(path)?;
    }
    fs::write(&secret, password)?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    install.give(&secret)?;
    let mut arguments = vec![
        format!("--pgdata={}", data.display()),
        format!("--pwfile={}", secret.display()),
        "--username=postgres".to_owned(),
        "--auth=scram-sha-256".to_owned(),
        "--encoding=UTF8".to_owned(),
        "--locale=C.UTF-8".to_owned(),
        "--no-sync".to_owned(),
    ];
    arguments.extend(options.initdb.iter().cloned());
    install.run("initdb", &arguments, folder)?;
    fs::remove_file(&secret)?;
    let mut file = File::options().append(true).open(data.join("postgresql.conf"))?;
    file.write_all(settings(install, &socket, options).as_bytes())?;
    Ok(())
}

fn settings(install: &Install, socket: &Path, options: &PostgresOptions) -> String {
    let socket = socket.display().to_string();
    let mut lines = vec![
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", &socket),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("shared_buffers", "16MB"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        // A killed server would leave its segments in /dev/shm; files go with the folder.
        ("dynamic_shared_memory_type", "mmap"),
    ];
    if install.has_library("pg_stat_statements") {
        lines.push(("shared_preload_libraries", "pg_stat_statements"));
    }
    lines.extend(options.settings.iter().map(|(name, value)| (*name, value.as_str())));
    lines.iter().fold("\n".to_owned(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        text
    })
}

fn random_password() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
