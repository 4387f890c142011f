//! A Redis that has loaded a restored RDB file, and that nobody but us reaches.
//!
//! A Unix socket in a folder of its own and no port; nothing is written back, and it follows nobody, whatever the settings
//! of the original were: they are not read. It goes with this value, and with us, as [`super::ScratchServer`] does.

use super::server::{POLL, Setback, Socket, dies_with_us, last_lines, own_folder, socket_for, spawn};
use super::{ScratchPlace, User};
use crate::programs::{PATH, RedisPrograms};
use groundskeeper_core::quantity::format_seconds;
use groundskeeper_systems::redis::{Endpoint, Facts, Sizes, facts, sizes};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One question; while it loads, it answers between two pieces of work.
const ATTEMPT: Duration = Duration::from_secs(5);
/// It has nothing to save at its end.
const GOODBYE: Duration = Duration::from_secs(10);
const SOCKET: &str = "redis.sock";
const LOG: &str = "log";

#[derive(Debug)]
pub(crate) struct ScratchRedis {
    child: Child,
    /// The server's thread stays until this is gone.
    _stay: mpsc::Sender<()>,
    endpoint: Endpoint,
    _socket: Socket,
    folder: PathBuf,
    answered_after: Duration,
}

impl ScratchRedis {
    /// Starts one on `rdb`, a file in the place, and waits until it has loaded that. `databases` is how many it must have.
    pub(crate) async fn start(
        programs: &RedisPrograms,
        place: &ScratchPlace,
        rdb: &Path,
        databases: u32,
        within: Duration,
    ) -> Result<Self, Setback> {
        let cannot = |error: io::Error| Setback::NotTried(format!("a scratch Redis cannot be started: {error}"));
        let server = programs.server()?;
        let user = place.user();
        let folder = own_folder(place.path()).map_err(cannot)?;
        if let Some(user) = user {
            user.give(&folder)?;
        }
        let socket = socket_for(&folder, user).await?;
        let path = socket.path().join(SOCKET);
        let endpoint =
            Endpoint::parse(&path.to_string_lossy(), None).map_err(|error| cannot(io::Error::other(error)))?;
        let command = command(server, &folder, &path, rdb, databases, user).map_err(cannot)?;
        let started = Instant::now();
        let (child, stay) = spawn(command).map_err(cannot)?;
        let answered_after = Duration::ZERO;
        let mut server = Self { child, _stay: stay, endpoint, _socket: socket, folder, answered_after };
        server.until_it_has_loaded(within).await?;
        server.answered_after = started.elapsed();
        Ok(server)
    }

    async fn until_it_has_loaded(&mut self, within: Duration) -> Result<(), Setback> {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.refused(&format!("Redis does not start from it ({status})")));
            }
            if self.facts().await.is_ok_and(|facts| !facts.loading) {
                return Ok(());
            }
            if began.elapsed() > within {
                let within = format_seconds(within.as_secs_f64());
                let why = format!("Redis had not loaded it after {within}, when the time for it was over");
                return Err(Setback::NotTried(why));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What this server is too old for, or lacks a module for, is no fault of the file.
    fn refused(&self, what: &str) -> Setback {
        let log = last_lines(&self.folder.join(LOG));
        let why = format!("{what}; its log:\n{log}");
        let lacks = ["Can't handle RDB format version", "module", "No space left on device", "Out Of Memory", "OOM"];
        if lacks.iter().any(|lack| log.contains(lack)) { Setback::NotTried(why) } else { Setback::Failed(why) }
    }

    pub(crate) async fn facts(&self) -> Result<Facts, Setback> {
        facts(&self.endpoint, ATTEMPT).await.map_err(|failure| Setback::NotTried(failure.message))
    }

    /// The keys of these databases.
    pub(crate) async fn sizes(&self, databases: &[u32]) -> Result<Sizes, Setback> {
        sizes(&self.endpoint, databases, ATTEMPT).await.map_err(|failure| Setback::Failed(failure.message))
    }

    /// From its start to its first answer with everything loaded.
    pub(crate) fn answered_after(&self) -> Duration {
        self.answered_after
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for ScratchRedis {
    #[expect(
        clippy::disallowed_methods,
        reason = "drop cannot await, and the folder must not go before the server has"
    )]
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < GOODBYE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(
    server: &Path,
    folder: &Path,
    socket: &Path,
    rdb: &Path,
    databases: u32,
    user: Option<&User>,
) -> io::Result<Command> {
    let mut command = match dies_with_us() {
        Some((setpriv, option)) => {
            let mut command = Command::new(setpriv);
            command.arg(option).arg("--").arg(server);
            command
        }
        None => Command::new(server),
    };
    let nowhere = || io::Error::other("the RDB file has no folder");
    let (dir, file) = (rdb.parent().ok_or_else(nowhere)?, rdb.file_name().ok_or_else(nowhere)?);
    let databases = databases.max(16).to_string();
    let options: [(&str, OsString); 14] = [
        ("--port", "0".into()),
        ("--unixsocket", socket.into()),
        ("--unixsocketperm", "700".into()),
        ("--dir", dir.into()),
        ("--dbfilename", file.to_owned()),
        ("--databases", databases.into()),
        ("--daemonize", "no".into()),
        ("--save", "".into()),
        ("--appendonly", "no".into()),
        ("--maxmemory", "0".into()),
        ("--rdbchecksum", "yes".into()),
        ("--cluster-enabled", "no".into()),
        ("--aclfile", "".into()),
        ("--logfile", "".into()),
    ];
    for (name, value) in options {
        command.arg(name).arg(value);
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
