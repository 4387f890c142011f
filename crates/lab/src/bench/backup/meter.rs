//! What a tool costs, with all of its processes: time, CPU (the server's beside it), memory.

use crate::bench::process::{cpu_of_tree, peak_megabytes, reaped_cpu_seconds, resident_megabytes, tree};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// Often enough for the memory of a run of seconds, seldom enough not to be seen in its CPU time.
const SAMPLE: Duration = Duration::from_millis(50);
/// A backend counts its CPU time until it has ended, a moment after its client.
const BACKEND_ENDS: Duration = Duration::from_millis(300);

/// One run of a tool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    /// Seconds.
    pub(super) wall: f64,
    /// CPU seconds of the tool and all processes that it started.
    pub(super) cpu: f64,
    /// CPU seconds of the server's processes, and what they started (such as `archive_command`), meanwhile.
    pub(super) server: f64,
    /// Megabytes (10^6): the highest sum of what the tool's processes had resident at one moment.
    pub(super) memory: f64,
}

/// Runs a command to its end. `server` is the postmaster, when there is one. A command that fails is an error with the
/// end of what it said.
pub(super) async fn run(mut command: Command, log: &Path, server: Option<u32>) -> Result<Cost> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).kill_on_drop(true);
    // A group of its own, so that a pipeline ends as a whole when the bench does.
    command.process_group(0);
    let server_before = server.map(cpu_of_tree).transpose()?;
    let own_before = reaped_cpu_seconds(std::process::id())?;
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let pid = child.id().context("it ended at once")?;
    let _group = Group(pid);
    let mut memory: f64 = 0.0;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = sleep(SAMPLE) => memory = memory.max(resident(pid)),
        }
    };
    let wall = started.elapsed().as_secs_f64();
    if !status.success() {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        bail!("{:?} ended with {status}:\n{}", command.as_std(), lines[lines.len().saturating_sub(15)..].join("\n"));
    }
    let cpu = reaped_cpu_seconds(std::process::id())? - own_before;
    let server = match (server, server_before) {
        (Some(server), Some(before)) => {
            sleep(BACKEND_ENDS).await;
            cpu_of_tree(server)? - before
        }
        _ => 0.0,
    };
    Ok(Cost { wall, cpu, server, memory })
}

/// What all processes below have now, or one of them had at its highest. A process that has just ended counts nothing.
fn resident(pid: u32) -> f64 {
    let pids = tree(pid);
    let sum: f64 = pids.iter().filter_map(|pid| resident_megabytes(*pid).ok()).sum();
    pids.iter().filter_map(|pid| peak_megabytes(*pid).ok()).fold(sum, f64::max)
}

/// Ends what is left of a group of processes.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}
