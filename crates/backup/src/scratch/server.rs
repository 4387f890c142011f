//! A Postgres on a restored folder.
//!
//! It goes with this value: dropped, it is stopped; and when we are killed, the kernel tells it to end (by `setpriv`,
//! where there is one), or else the next scratch place stops it. That signal comes with the end of the *thread* that
//! started it, and a thread of the runtime may end long before we do; so each server has a thread that does nothing but
//! start it and stay.

use super::marked::{self, Marked};
use super::{DataFolder, User, config, wal};
use crate::error::{Error, Result};
use crate::programs::{PATH, Programs};
use groundskeeper_core::quantity::format_seconds;
use groundskeeper_core::receipt::Cluster;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

pub(super) const POLL: Duration = Duration::from_millis(20);
/// One attempt to connect; one that takes longer meets a server that is not there yet.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a fast shutdown, and then an immediate one, may take.
const FAST: Duration = Duration::from_secs(20);
const IMMEDIATE: Duration = Duration::from_secs(5);
/// `sockaddr_un` holds 108 bytes with the zero at the end.
const SOCKET_PATH: usize = 107;
const LOG: &str = "log";
/// What of a log is quoted.
const QUOTED_LINES: usize = 20;
const QUOTED_BYTES: u64 = 16 << 10;

/// Why there is no proof.
#[derive(Debug, PartialEq, Eq)]
pub enum Setback {
    /// Postgres tried the folder, and found it wanting.
    Failed(String),
    /// It was not tried, or not to the end: that says nothing of the folder.
    NotTried(String),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::NotTried(error.to_string())
    }
}

#[derive(Debug)]
pub struct ScratchServer<'a> {
    data: &'a DataFolder<'a>,
    child: Child,
    /// The server's thread stays until this is gone.
    _stay: mpsc::Sender<()>,
    folder: PathBuf,
    socket: Socket,
    superuser: String,
    major: u32,
    left_out: Vec<String>,
    answered_after: Duration,
}

/// The folder of the socket: the server's own, or a short one where that is too long for a socket.
#[derive(Debug)]
pub(super) enum Socket {
    Own(PathBuf),
    Short(Marked),
}

impl Socket {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Own(path) => path,
            Self::Short(folder) => folder.path(),
        }
    }
}

impl<'a> ScratchServer<'a> {
    /// Boots what was restored and waits until it has recovered and answers. From here on the folder is not what was
    /// restored any more; who wants to compare it with its manifest does so before.
    pub async fn start(
        programs: &Programs,
        data: &'a DataFolder<'a>,
        cluster: &Cluster,
        within: Duration,
    ) -> std::result::Result<Self, Setback> {
        let began = Instant::now();
        if let Some(why) = programs.missing(&["postgres", "pg_waldump"]) {
            return Err(Setback::NotTried(why));
        }
        config::has_tablespaces(data.path(), cluster)?;
        wal::stays_inside(programs, data, within).await?;
        let user = data.place().user();
        let folder = own_folder(data.place().path()).map_err(|error| cannot("have a folder", &error))?;
        let socket = socket_for(&folder, user).await?;
        let (libraries, left_out) = config::libraries(programs, cluster);
        config::strip(data.path(), &folder).map_err(|error| cannot("clear the folder", &error))?;
        if data.replay().is_some() {
            config::ask_for_replay(data)?;
        }
        config::write(&folder, socket.path(), data, cluster, &libraries)
            .map_err(|error| cannot("be configured", &error))?;
        if let Some(user) = user {
            user.give(&folder)?;
            for name in [config::CONFIG, config::HBA, config::IDENT] {
                user.give(&folder.join(name))?;
            }
        }
        let started = Instant::now();
        let command = command(programs, data, &folder, user).map_err(|error| cannot("be started", &error))?;
        let (child, stay) = spawn(command).map_err(|error| cannot("be started", &error))?;
        let (superuser, major) = (cluster.superuser.clone(), cluster.major());
        let answered_after = Duration::ZERO;
        let mut server = Self { data, child, _stay: stay, folder, socket, superuser, major, left_out, answered_after };
        server.until_it_answers(within.saturating_sub(began.elapsed())).await?;
        server.answered_after = started.elapsed();
        Ok(server)
    }

    async fn until_it_answers(&mut self, within: Duration) -> std::result::Result<(), Setback> {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("Postgres does not start from it ({status})")));
            }
            if self.says_ready() {
                match tokio::time::timeout(ATTEMPT, self.has_recovered()).await {
                    Ok(Ok(true)) => return Ok(()),
                    Ok(Err(error)) if !is_on_its_way(&error) => {
                        let what = format!("Postgres starts from it and does not let us in: {}", said(&error));
                        return Err(self.failed(&what));
                    }
                    _ => {}
                }
            }
            if began.elapsed() > within {
                let (within, log) = (format_seconds(within.as_secs_f64()), self.log());
                let why =
                    format!("it had not recovered after {within}, when the time for it was over; its log:\n{log}");
                return Err(Setback::NotTried(why));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// By the last line of its `postmaster.pid`, as `pg_ctl` does it. To ask over and over during a long recovery would
    /// fill the log with refusals.
    fn says_ready(&self) -> bool {
        let text = fs::read_to_string(self.data.path().join("postmaster.pid")).unwrap_or_default();
        text.lines().nth(7).is_some_and(|state| matches!(state.trim_end(), "ready" | "standby"))
    }

    async fn has_recovered(&self) -> std::result::Result<bool, tokio_postgres::Error> {
        let client = self.enter().await?;
        Ok(!client.query_one("SELECT pg_is_in_recovery()", &[]).await?.try_get::<_, bool>(0)?)
    }

    /// `what` with the words of the log; not the folder's fault when the scratch disk is full.
    pub(crate) fn failed(&self, what: &str) -> Setback {
        let log = self.log();
        let why = format!("{what}; its log:\n{log}");
        if log.contains("No space left on device") { Setback::NotTried(why) } else { Setback::Failed(why) }
    }

    /// A session in a database that is there.
    pub(crate) async fn enter(&self) -> std::result::Result<Client, tokio_postgres::Error> {
        match self.connect("postgres").await {
            // Some drop it. The other goes with intent only.
            Err(error) if error.code() == Some(&SqlState::INVALID_CATALOG_NAME) => self.connect("template1").await,
            other => other,
        }
    }

    /// A superuser's session. What the cluster sets for a role or a database has no say in it, and no trigger fires.
    pub async fn connect(&self, database: &str) -> std::result::Result<Client, tokio_postgres::Error> {
        self.connect_as(&self.superuser, database, &self.session_options()).await
    }

    /// A session of any role, with these options.
    pub(crate) async fn connect_as(
        &self,
        role: &str,
        database: &str,
        options: &str,
    ) -> std::result::Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket.path()).port(config::PORT).user(role).dbname(database);
        config.application_name("groundskeeper-drill").options(options);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // Whoever waits for an answer gets this error as well.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a scratch server ended");
            }
        });
        Ok(client)
    }

    /// The folder of its socket.
    pub(super) fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// The settings of every session of ours, as `PGOPTIONS` takes them.
    pub(crate) fn session_options(&self) -> String {
        let mut options = "-c role=none -c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 \
                           -c default_transaction_read_only=off -c session_replication_role=replica \
                           -c session_preload_libraries= -c local_preload_libraries="
            .to_owned();
        if self.major >= 17 {
            options += " -c transaction_timeout=0 -c event_triggers=off";
        }
        options
    }

    /// How the programs of Postgres reach it.
    pub(crate) fn address(&self) -> Vec<OsString> {
        let host = self.socket.path().as_os_str().to_owned();
        vec!["-h".into(), host, "-p".into(), config::PORT.to_string().into(), "-U".into(), (&self.superuser).into()]
    }

    pub fn data(&self) -> &'a DataFolder<'a> {
        self.data
    }

    /// Libraries of `shared_preload_libraries` that are not installed here.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// From the start of Postgres to its first answer after recovery.
    pub fn answered_after(&self) -> Duration {
        self.answered_after
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        last_lines(&self.folder.join(LOG))
    }

    /// A fast shutdown, an immediate one when that takes too long, and then the end by force.
    pub async fn stop(mut self) -> Result<()> {
        for (signal, within) in [(Signal::INT, FAST), (Signal::QUIT, IMMEDIATE)] {
            self.signal(signal);
            let asked = Instant::now();
            while asked.elapsed() < within {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return Ok(());
                }
                tokio::time::sleep(POLL).await;
            }
        }
        let log = self.log();
        Err(Error::Scratch(format!("a scratch server had to be ended by force; its log:\n{log}")))
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for ScratchServer<'_> {
    #[expect(
        clippy::disallowed_methods,
        reason = "drop cannot await, and the folder must not go before the server has"
    )]
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::QUIT);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < IMMEDIATE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn last_lines(log: &Path) -> String {
    let bytes = File::open(log).and_then(|mut log| {
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(QUOTED_BYTES)))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes).map(|_| bytes)
    });
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

/// Not listening yet, or not open yet.
fn is_on_its_way(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| *code == SqlState::CANNOT_CONNECT_NOW)
}

/// What the server said, or the driver where it said nothing.
pub(crate) fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

fn cannot(what: &str, error: &io::Error) -> Setback {
    Setback::NotTried(format!("a scratch server cannot {what}: {error}"))
}

pub(super) fn own_folder(place: &Path) -> io::Result<PathBuf> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("server-").permissions(fs::Permissions::from_mode(0o700));
    Ok(builder.tempdir_in(place)?.keep())
}

pub(super) async fn socket_for(folder: &Path, user: Option<&User>) -> Result<Socket> {
    // Postgres splits the setting at commas, and quotes would have to be taken off again.
    let plain = |folder: &Path| {
        let text = folder.as_os_str().as_encoded_bytes();
        let short = text.len() + format!("/.s.PGSQL.{}", config::PORT).len() <= SOCKET_PATH;
        short && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
    };
    if plain(folder) {
        return Ok(Socket::Own(folder.to_owned()));
    }
    let temporary = std::env::temp_dir();
    let parents = [temporary.as_path(), Path::new("/tmp"), Path::new("/var/tmp")];
    let fits = |parent: &&&Path| {
        let reached = user.is_none_or(|user| user.must_reach(parent).is_ok());
        reached && parent.is_dir() && plain(&parent.join("groundskeeper-drill-123456"))
    };
    let parent = parents.iter().find(fits).ok_or_else(|| {
        Error::Scratch(format!(
            "{} is too long a path for a socket, and there is no folder for temporary files with a shorter one; set \
             `scratch` of [backup] to a shorter path",
            folder.display()
        ))
    })?;
    marked::sweep(parent).await;
    Ok(Socket::Short(Marked::make_in(parent, user)?))
}

/// Starts a program on a thread that stays until the second value is dropped.
pub(super) fn spawn(mut command: Command) -> io::Result<(Child, mpsc::Sender<()>)> {
    let (tell, told) = mpsc::channel();
    let (stay, left) = mpsc::channel::<()>();
    std::thread::Builder::new().name("scratch-server".to_owned()).spawn(move || {
        let _ = tell.send(command.spawn());
        let _ = left.recv();
    })?;
    let child = told.recv().map_err(|_| io::Error::other("its thread ended"))??;
    Ok((child, stay))
}

fn command(programs: &Programs, data: &DataFolder<'_>, folder: &Path, user: Option<&User>) -> io::Result<Command> {
    let postgres = programs.path("postgres");
    let mut command = match dies_with_us() {
        Some((setpriv, option)) => {
            let mut command = Command::new(setpriv);
            command.arg(option).arg("--").arg(postgres);
            command
        }
        None => Command::new(postgres),
    };
    let file = |name: &str, value: &str| -> OsString {
        let mut setting = OsString::from(format!("{name}="));
        setting.push(folder.join(value));
        setting
    };
    command.arg("-D").arg(data.path());
    for (name, value) in [("config_file", config::CONFIG), ("hba_file", config::HBA), ("ident_file", config::IDENT)] {
        command.arg("-c").arg(file(name, value));
    }
    for (name, value) in config::bolts(data) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let log = File::options().create(true).append(true).open(folder.join(LOG))?;
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C is for us, and we end it in our own order.
    command.process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    Ok(command)
}

/// The program by which the kernel ends a child with its parent, when it is there and knows how (busybox's does not).
pub(super) fn dies_with_us() -> Option<(PathBuf, &'static str)> {
    let option = "--pdeathsig=QUIT";
    let found = ["/usr/bin/setpriv", "/bin/setpriv"].into_iter().find(|program| fs::metadata(program).is_ok())?;
    let probe = Command::new(found).args([option, "--", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success()).then(|| (PathBuf::from(found), option))
}
