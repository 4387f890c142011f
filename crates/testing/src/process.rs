//! Child servers: started so that they cannot outlive the test, stopped with a bound.
//!
//! Every child goes through `setpriv --pdeathsig=KILL`, which also changes the user where a server refuses root. It
//! replaces itself with the server, so the process id is the server's. See the crate's documentation on threads.

use std::ffi::OsString;
use std::fs::{self, File};
use std::future::Future;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

const POLL: Duration = Duration::from_millis(20);
/// How long a dropped server has to leave by itself before it is killed.
const GOODBYE: Duration = Duration::from_secs(8);

/// Whom a child runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunAs {
    /// The user of the test.
    Me,
    /// Another user and the group of the same name; only root can do that.
    Other(String),
}

/// `setpriv …, program` in a clean environment: a `PGPORT` or `LC_ALL` of the developer must not reach the server.
pub(crate) fn command(program: &Path, run_as: &RunAs) -> Command {
    let mut command = Command::new("setpriv");
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command.arg("--pdeathsig=KILL");
    if let RunAs::Other(user) = run_as {
        command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    }
    command.arg("--").arg(program).stdin(Stdio::null());
    command
}

/// Why a server that was started cannot be used.
#[derive(Debug)]
pub enum NotReady {
    /// Somebody else took the port in the meantime: try another one.
    PortTaken,
    Failed(Error),
}

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    pub name: &'static str,
    pub program: &'a Path,
    pub arguments: Vec<OsString>,
    pub run_as: &'a RunAs,
    pub folder: &'a Path,
    /// The signal by which this server ends quickly and leaves nothing behind.
    pub goodbye: Signal,
}

/// A running server. Ends with this value.
#[derive(Debug)]
pub struct ServerProcess {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Where in the log this start begins; earlier starts wrote what is before.
    log_start: usize,
    goodbye: Signal,
}

impl ServerProcess {
    pub fn spawn(launch: Launch<'_>) -> Result<Self> {
        let path = launch.folder.join("log");
        let log = File::options().create(true).append(true).open(&path)?;
        let log_start = log.metadata()?.len() as usize;
        let child = command(launch.program, launch.run_as)
            .args(launch.arguments)
            .current_dir(launch.folder)
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the program that started it, which then ends its servers in its own order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run setpriv (package util-linux) to start {}", launch.name))?;
        Ok(Self { name: launch.name, child, log: path, log_start, goodbye: launch.goodbye })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Calls `probe` until it succeeds, the server ends, or `within` is over.
    ///
    /// The bound is real time, also in a test that has paused tokio's clock: the server does not know of that.
    pub async fn until_ready<P, F>(&mut self, within: Duration, probe: P) -> Result<(), NotReady>
    where
        P: Fn() -> F,
        F: Future<Output = Result<()>>,
    {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| NotReady::Failed(error.into()))? {
                return Err(self.ended_at_once(status));
            }
            let Err(error) = probe().await else { return Ok(()) };
            if started.elapsed() > within {
                let (name, log) = (self.name, self.log_tail());
                let error = error.context(format!("{name} was not ready after {within:?}; its log:\n{log}"));
                return Err(NotReady::Failed(error));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn ended_at_once(&self, status: ExitStatus) -> NotReady {
        let log = self.log_tail();
        if log.contains("Address already in use") {
            return NotReady::PortTaken;
        }
        let mut error = anyhow!("{} ended while starting ({status}); its log:\n{log}", self.name);
        if status.signal() == Some(Signal::KILL.as_raw()) {
            error = error.context("the server was killed: was it started on a thread that has ended (spawn_blocking)?");
        }
        NotReady::Failed(error)
    }

    fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot send {signal:?} to {} (process {})", self.name, self.id()))
    }

    /// Asks the server to end by `signal` and waits until it has.
    pub async fn stop(mut self, signal: Signal, within: Duration) -> Result<()> {
        // One that a test has frozen could not hear the signal.
        self.signal(Signal::CONT)?;
        self.signal(signal)?;
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > within {
                bail!("{} did not stop within {within:?}; its log:\n{}", self.name, self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    #[expect(clippy::disallowed_methods, reason = "drop cannot await, and must not leave before the server has")]
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = self.signal(Signal::CONT);
        let _ = self.signal(self.goodbye);
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < GOODBYE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
