//! A Qdrant that takes in restored snapshots.
//!
//! It listens on 127.0.0.1 only, on ports that were free a moment ago, and answers nobody without a key that was made for
//! it. It is in no cluster, reads no configuration, and reports to nobody. It goes with this value, and with us, as
//! [`super::ScratchServer`] does.

use super::server::{POLL, Setback, dies_with_us, last_lines, own_folder, spawn};
use super::{ScratchPlace, User};
use crate::programs::PATH;
use crate::source::qdrant::hexadecimal;
use groundskeeper_core::observation::{Failure, FailureKind};
use groundskeeper_core::quantity::format_seconds;
use groundskeeper_core::receipt::PointId;
use groundskeeper_systems::qdrant::{Endpoint, survey};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One question while it starts.
const ATTEMPT: Duration = Duration::from_secs(5);
/// It has nothing to save at its end.
const GOODBYE: Duration = Duration::from_secs(10);
const LOG: &str = "log";
const STORAGE: &str = "storage";
const SNAPSHOTS: &str = "snapshots";

#[derive(Debug)]
pub(crate) struct ScratchQdrant {
    child: Child,
    /// The server's thread stays until this is gone.
    _stay: mpsc::Sender<()>,
    endpoint: Endpoint,
    folder: PathBuf,
    version: String,
}

impl ScratchQdrant {
    /// Starts an empty one in a folder of its own, and waits until it answers.
    pub(crate) async fn start(program: &Path, place: &ScratchPlace, within: Duration) -> Result<Self, Setback> {
        let cannot = |error: io::Error| Setback::NotTried(format!("a scratch Qdrant cannot be started: {error}"));
        let user = place.user();
        let folder = own_folder(place.path()).map_err(cannot)?;
        for part in [STORAGE, SNAPSHOTS] {
            fs::create_dir(folder.join(part)).map_err(cannot)?;
        }
        if let Some(user) = user {
            for path in [folder.clone(), folder.join(STORAGE), folder.join(SNAPSHOTS)] {
                user.give(&path)?;
            }
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| cannot(io::Error::other(error.to_string())))?;
        let key = SecretString::from(hexadecimal(&random));
        let ports = free_ports().map_err(cannot)?;
        let endpoint = Endpoint::new(&format!("http://127.0.0.1:{}", ports[0]), Some(&key), None)
            .map_err(|error| cannot(io::Error::other(error)))?;
        let command = command(program, &folder, ports, &key, user).map_err(cannot)?;
        let (child, stay) = spawn(command).map_err(cannot)?;
        let mut server = Self { child, _stay: stay, endpoint, folder, version: String::new() };
        server.version = server.until_it_answers(within).await?;
        Ok(server)
    }

    async fn until_it_answers(&mut self, within: Duration) -> Result<String, Setback> {
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = self.log();
                return Err(Setback::NotTried(format!("the scratch Qdrant ended ({status}); its log:\n{log}")));
            }
            if let Ok(node) = survey(&self.endpoint, ATTEMPT).await {
                return Ok(node.version);
            }
            if began.elapsed() > within {
                let (within, log) = (format_seconds(within.as_secs_f64()), self.log());
                let why = format!("Qdrant did not answer within {within}; its log:\n{log}");
                return Err(Setback::NotTried(why));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Takes in a snapshot, which lies where it was restored to and is in this server's folder afterwards.
    pub(crate) async fn recover(
        &self,
        collection: &str,
        snapshot: &Path,
        user: Option<&User>,
        within: Duration,
    ) -> Result<(), Setback> {
        // A server takes files from its own folder only.
        let file = self.folder.join(SNAPSHOTS).join("restored.snapshot");
        fs::rename(snapshot, &file).map_err(|error| Setback::NotTried(format!("{}: {error}", snapshot.display())))?;
        if let Some(user) = user {
            user.give(&file)?;
        }
        let recovered = self.endpoint.recover(collection, &file.display().to_string(), within).await;
        recovered.map_err(|failure| {
            let why = format!(
                "collection {collection}: Qdrant {} does not take its snapshot: {}",
                self.version, failure.message
            );
            if self.log().contains("No space left on device") || failure.kind == FailureKind::Timeout {
                Setback::NotTried(why)
            } else {
                Setback::Failed(why)
            }
        })
    }

    /// Points, counted one by one.
    pub(crate) async fn count(&self, collection: &str, within: Duration) -> Result<u64, Setback> {
        self.endpoint.count(collection, within).await.map_err(|failure| self.silent(collection, &failure))
    }

    /// Every id, in order.
    pub(crate) async fn ids(&self, collection: &str, most: usize, until: Instant) -> Result<Vec<PointId>, String> {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the points of {collection} were not all read when the time for it was over"));
            }
            let page = self.endpoint.ids(collection, from, left).await;
            let (ids, next) = page.map_err(|failure| format!("{collection}: {}", failure.message))?;
            all.extend(ids);
            if all.len() > most {
                return Err(format!("{collection} has more than {most} points, and no more are compared"));
            }
            if next.is_none() {
                break;
            }
            from = next;
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    fn silent(&self, collection: &str, failure: &Failure) -> Setback {
        let why = format!("collection {collection}: {}; the server's log:\n{}", failure.message, self.log());
        if failure.kind == FailureKind::Timeout { Setback::NotTried(why) } else { Setback::Failed(why) }
    }

    fn log(&self) -> String {
        last_lines(&self.folder.join(LOG))
    }
}

impl Drop for ScratchQdrant {
    #[expect(
        clippy::disallowed_methods,
        reason = "drop cannot await, and the folder must not go before the server has"
    )]
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < GOODBYE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For REST and gRPC. Both are held until both are known.
fn free_ports() -> io::Result<[u16; 2]> {
    let held = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port()])
}

fn command(
    program: &Path,
    folder: &Path,
    [rest, grpc]: [u16; 2],
    key: &SecretString,
    user: Option<&User>,
) -> io::Result<Command> {
    let mut command = match dies_with_us() {
        Some((setpriv, option)) => {
            let mut command = Command::new(setpriv);
            command.arg(option).arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    let log = File::options().create(true).append(true).open(folder.join(LOG))?;
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("RUN_MODE", "drill");
    command.env("QDRANT__SERVICE__HOST", "127.0.0.1");
    command.env("QDRANT__SERVICE__HTTP_PORT", rest.to_string());
    command.env("QDRANT__SERVICE__GRPC_PORT", grpc.to_string());
    // In the environment and not among the arguments, which everybody sees.
    command.env("QDRANT__SERVICE__API_KEY", key.expose_secret());
    command.env("QDRANT__SERVICE__ENABLE_TLS", "false");
    command.env("QDRANT__CLUSTER__ENABLED", "false");
    command.env("QDRANT__STORAGE__STORAGE_PATH", folder.join(STORAGE));
    command.env("QDRANT__STORAGE__SNAPSHOTS_PATH", folder.join(SNAPSHOTS));
    command.env("QDRANT__TELEMETRY_DISABLED", "true");
    // A configuration is looked for where it is started.
    command.current_dir(folder);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Ctrl-C is for us, and we end it in our own order.
    command.process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    Ok(command)
}
