//! PDFs are opened in a process of their own, whose address space and processor time the kernel limits: a panic, a stack
//! that overflows or a file that unpacks without end is the end of that process, not of the service.
//!
//! It is the `docrag` program itself, called `docrag parse-pdf`. On its standard input come one line of JSON, the
//! limits, and then the file; on its standard output comes one line of JSON, the answer. It gets no environment.

use super::blocks::Bounds;
use super::{ParseError, ParseLimits, Parsed, pdf};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "parse-pdf";

/// A message of a process that went down is rarely longer, and never worth more.
const STDERR_BYTES: u64 = 16 << 10;

#[derive(Serialize, Deserialize)]
struct Order {
    text_bytes: usize,
    memory_bytes: u64,
    milliseconds: u64,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Parsed(Parsed),
    NoText,
    TooMuchText,
    TooSlow,
    Broken(String),
}

/// Reads a PDF in a child process of `program`.
pub(super) async fn parse(program: &Path, bytes: Vec<u8>, limits: &ParseLimits) -> Result<Parsed, ParseError> {
    let interrupted = |cause: io::Error| ParseError::Interrupted(format!("{}: {cause}", program.display()));
    let mut child = Command::new(program)
        .arg(SUBCOMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(interrupted)?;
    let Ok(output) = timeout(limits.time, converse(&mut child, bytes, limits)).await else {
        // Waits for it, too: it leaves no zombie.
        child.kill().await.map_err(interrupted)?;
        return Err(ParseError::TooSlow(limits.time));
    };
    let output = output.map_err(interrupted)?;
    judge(&output, limits)
}

/// Hands over the file, and collects what comes back until the process has ended.
async fn converse(child: &mut Child, bytes: Vec<u8>, limits: &ParseLimits) -> io::Result<Output> {
    let order = Order {
        text_bytes: limits.text_bytes,
        memory_bytes: limits.memory_bytes,
        milliseconds: u64::try_from(limits.time.as_millis()).unwrap_or(u64::MAX),
    };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async move {
        let Some(mut stdin) = stdin else { return };
        let mut head = serde_json::to_vec(&order).unwrap_or_default();
        head.push(b'\n');
        // A process that goes down early closes its end; what became of it says its status.
        if stdin.write_all(&head).await.is_ok() {
            let _ = stdin.write_all(&bytes).await;
        }
    };
    let ((), stdout, stderr) =
        tokio::join!(write, collect(stdout, limits.text_bytes as u64 * 4 + (1 << 20)), collect(stderr, STDERR_BYTES));
    Ok(Output { status: child.wait().await?, stdout: stdout?, stderr: stderr? })
}

/// Everything of a stream, of which the first `limit` bytes are kept.
async fn collect(stream: Option<impl tokio::io::AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(limit).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

fn judge(output: &Output, limits: &ParseLimits) -> Result<Parsed, ParseError> {
    // Whatever a library may have printed stands before the answer.
    let line = output.stdout.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    match serde_json::from_slice(line) {
        Ok(Answer::Parsed(parsed)) if output.status.success() => Ok(parsed),
        Ok(Answer::NoText) => Err(ParseError::NoText { hint: pdf::SCANNED }),
        Ok(Answer::TooMuchText) => Err(ParseError::TooMuchText { limit: limits.text_bytes }),
        Ok(Answer::TooSlow) => Err(ParseError::TooSlow(limits.time)),
        Ok(Answer::Broken(cause)) => Err(ParseError::Broken { format: "PDF", cause }),
        _ => Err(downfall(output.status, &String::from_utf8_lossy(&output.stderr), limits)),
    }
}

/// Why a process ended without an answer.
fn downfall(status: ExitStatus, stderr: &str, limits: &ParseLimits) -> ParseError {
    let broken = |cause: String| ParseError::Broken { format: "PDF", cause };
    if stderr.contains("memory allocation of") || stderr.contains("capacity overflow") {
        return broken(format!("it needs more than {} MiB of memory to be read", limits.memory_bytes >> 20));
    }
    match status.signal() {
        // SIGXCPU
        Some(24) => ParseError::TooSlow(limits.time),
        // SIGKILL and SIGTERM come from outside: the kernel short of memory, or a shutdown.
        Some(signal @ (9 | 15)) => ParseError::Interrupted(format!("signal {signal}")),
        Some(_) if stderr.contains("overflowed its stack") => broken("its parts are nested too deeply".to_owned()),
        Some(signal) => broken(format!("the reader went down with signal {signal}")),
        // What Rust's panics exit with.
        None if status.code() == Some(101) => broken(panic_message(stderr)),
        None => ParseError::Interrupted(format!("{status}: {}", stderr.lines().next().unwrap_or("no message"))),
    }
}

/// `thread 'main' panicked at file:line:column:` stands before the message.
fn panic_message(stderr: &str) -> String {
    let mut lines = stderr.lines().skip_while(|line| !line.contains("panicked at"));
    lines.next();
    let message: String = lines.next().unwrap_or("the reader gave up").chars().take(200).collect();
    format!("the reader gave up: {message}")
}

/// The program to call: this one; or, where this is another one that has Doc-RAG as its library (a test, a bench), the
/// `docrag` beside it or a folder above, where cargo puts it.
pub(super) fn program() -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let name = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().trim_end_matches(" (deleted)") == "docrag")
    };
    let beside = || {
        let folder = this.parent()?;
        [Some(folder), folder.parent()]
            .into_iter()
            .flatten()
            .map(|folder| folder.join("docrag"))
            .find(|path| path.is_file())
    };
    let other = if name(&this) { None } else { beside() };
    // Not by its path: an upgrade may have put another file there.
    Ok(other.unwrap_or_else(|| PathBuf::from("/proc/self/exe")))
}

/// What the child process does: limits itself, reads a PDF, and answers.
pub fn serve(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut head = String::new();
    (&mut input).take(1 << 10).read_line(&mut head)?;
    let order: Order = serde_json::from_str(&head)?;
    limit_process(&order)?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let limits = ParseLimits {
        text_bytes: order.text_bytes,
        time: Duration::from_millis(order.milliseconds),
        memory_bytes: order.memory_bytes,
    };
    let answer = match pdf::extract(&bytes, Bounds::start(&limits)) {
        Ok(parsed) => Answer::Parsed(parsed),
        Err(ParseError::NoText { .. }) => Answer::NoText,
        Err(ParseError::TooMuchText { .. }) => Answer::TooMuchText,
        Err(ParseError::TooSlow(_)) => Answer::TooSlow,
        Err(ParseError::Broken { cause, .. }) => Answer::Broken(cause),
        Err(other) => Answer::Broken(other.to_string()),
    };
    output.write_all(b"\n")?;
    serde_json::to_writer(&mut output, &answer)?;
    output.write_all(b"\n")?;
    output.flush()
}

fn limit_process(order: &Order) -> io::Result<()> {
    let limit = |resource, soft, hard| setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) });
    limit(Resource::As, order.memory_bytes, order.memory_bytes)?;
    // Should the parent be gone, nobody else ends a loop. At the soft limit comes SIGXCPU, which tells why.
    let seconds = order.milliseconds / 1000 + 1;
    limit(Resource::Cpu, seconds, seconds + 1)?;
    limit(Resource::Core, 0, 0)?;
    Ok(())
}
