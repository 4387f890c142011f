//! A Qdrant for one test: free ports, a folder of its own, gone with the value that owns it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use groundskeeper_testing::port::{self, Reservation};
use groundskeeper_testing::process::{Launch, NotReady, RunAs, ServerProcess};
use groundskeeper_testing::scratch::Scratch;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The path of a `qdrant-stand-in`; wins over the one beside the test.
pub const BIN_VARIABLE: &str = "GROUNDSKEEPER_TEST_QDRANT_BIN";
const PROGRAM: &str = "qdrant-stand-in";
const READY_WITHIN: Duration = Duration::from_mins(1);
const STOP_WITHIN: Duration = Duration::from_secs(20);
const ATTEMPTS: usize = 5;

/// A Qdrant on two ports of its own; ends with this value, also when the test is killed.
#[derive(Debug)]
pub struct QdrantServer {
    // The order matters: the server must be gone before its folder is.
    process: Option<ServerProcess>,
    reservations: Vec<Reservation>,
    program: PathBuf,
    http_port: u16,
    grpc_port: u16,
    folder: Scratch,
}

impl QdrantServer {
    pub async fn start() -> Result<Self> {
        let program = find_program()?;
        let folder = Scratch::new("qdrant")?;
        let mut server = Self { process: None, reservations: Vec::new(), program, http_port: 0, grpc_port: 0, folder };
        for _ in 0..ATTEMPTS {
            (server.http_port, server.grpc_port) = (port::free()?, port::free()?);
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(NotReady::PortTaken) => {}
                Err(NotReady::Failed(error)) => return Err(error),
            }
        }
        bail!("qdrant found its ports taken {ATTEMPTS} times in a row")
    }

    async fn launch(&mut self) -> Result<(), NotReady> {
        let (http, grpc) = (self.http_port.to_string(), self.grpc_port.to_string());
        let storage = self.storage();
        let arguments = ["--http-port", &http, "--grpc-port", &grpc, "--storage"].map(Into::into);
        let mut process = ServerProcess::spawn(Launch {
            name: PROGRAM,
            program: &self.program,
            arguments: arguments.into_iter().chain([storage.into_os_string()]).collect(),
            run_as: &RunAs::Me,
            folder: self.folder.path(),
            goodbye: Signal::KILL,
        })
        .map_err(NotReady::Failed)?;
        let (port, id) = (self.http_port, process.id());
        process.until_ready(READY_WITHIN, || answers(port, id)).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Where gRPC answers, as `qdrant-client` wants it.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc_port)
    }

    /// Where REST answers.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The folder that holds the server's data.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }

    /// The server's process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::id)
    }

    /// An orderly end. The ports stay reserved for [`Self::start_again`].
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM).await
    }

    /// `kill -9`: nothing is flushed. The ports stay reserved for [`Self::start_again`].
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL).await
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.stop(signal, STOP_WITHIN).await?;
            self.reservations = vec![Reservation::hold(self.http_port)?, Reservation::hold(self.grpc_port)?];
        }
        Ok(())
    }

    /// Starts a stopped server: the same data, the same ports.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("qdrant already runs on port {}", self.http_port);
        }
        self.reservations.clear();
        self.launch().await.map_err(|error| match error {
            NotReady::PortTaken => anyhow!("a port of qdrant was taken while it was stopped"),
            NotReady::Failed(error) => error,
        })
    }

    /// Stops the server from being scheduled: connections are accepted by the kernel and nothing answers.
    pub fn freeze(&self) -> Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    /// Keeps rebuilds of segments from starting: a collection with work to do stays yellow.
    pub async fn hold_optimizers(&self, collection: &str) -> Result<()> {
        self.control(collection, "hold").await
    }

    /// Lets held rebuilds start.
    pub async fn release_optimizers(&self, collection: &str) -> Result<()> {
        self.control(collection, "release").await
    }

    /// Forgets that anything has called for a rebuild, as a restart does: a collection with work to do turns grey, and
    /// stays it until the next update.
    pub async fn forget_optimizers(&self, collection: &str) -> Result<()> {
        self.control(collection, "forget").await
    }

    async fn control(&self, collection: &str, what: &str) -> Result<()> {
        let path = format!("/stand-in/collections/{collection}/optimizers/{what}");
        let answer = ask(self.http_port, "POST", &path).await?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("qdrant refused {path}: {answer}");
        }
        Ok(())
    }

    fn running(&self) -> Result<&ServerProcess> {
        self.process.as_ref().context("qdrant does not run")
    }
}

/// Whether the server that answers is ours, and not another test's on the same port.
async fn answers(port: u16, id: u32) -> Result<()> {
    let answer = ask(port, "GET", "/stand-in/process").await?;
    if answer.rsplit("\r\n").next() != Some(id.to_string().as_str()) {
        bail!("something else answers on port {port}: {answer}");
    }
    Ok(())
}

/// One request and the whole answer, head and body. Nothing here is worth an HTTP client.
async fn ask(port: u16, method: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A folder with a program `qdrant` that takes its ports and its storage from the environment, as the real one does, and
/// that every user may run.
pub fn install_program(folder: &Path) -> Result<()> {
    // A build folder may be closed to the user that servers of a test run as.
    std::fs::copy(find_program()?, folder.join(PROGRAM))?;
    let script = format!(
        "#!/bin/sh\nexec '{}' --http-port \"$QDRANT__SERVICE__HTTP_PORT\" --grpc-port \"$QDRANT__SERVICE__GRPC_PORT\" \
         --storage \"$QDRANT__STORAGE__STORAGE_PATH\"\n",
        folder.join(PROGRAM).display()
    );
    std::fs::write(folder.join("qdrant"), script)?;
    for name in [PROGRAM, "qdrant"] {
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Beside the test: `target/debug/deps/it-…` runs `target/debug/qdrant-stand-in`.
fn find_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BIN_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let test = std::env::current_exe().context("cannot tell where this test runs from")?;
    let folder = test.parent().unwrap_or(Path::new("."));
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let program = folder.join(PROGRAM);
    if !program.is_file() {
        bail!("{} is not there; run `cargo build -p groundskeeper-qdrant`", program.display());
    }
    Ok(program)
}
