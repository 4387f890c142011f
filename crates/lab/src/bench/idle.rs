//! What the keeper costs while nothing happens: resident memory and CPU of `groundskeeper run` over some minutes.

use super::keeper;
use crate::bar::{Bar, Wanted};
use crate::service::Service;
use crate::stack::Stack;
use anyhow::{Context, Result, bail};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The first seconds (start, first watch) are not idle.
const SETTLE: Duration = Duration::from_secs(10);

pub(super) async fn measure(seconds: u64) -> Result<Vec<Bar>> {
    let binary = keeper::binary()?;
    let stack = Stack::start().await?;
    let service = Service::start(&stack.app_url(), &stack.redis.url(), &stack.log_folder().join("access.log")).await?;
    let more = "[web]\nlisten = \"127.0.0.1:0\"\n";
    let config = stack.configure(&service.url("/health"), more)?;
    let mut child = keeper::command(&binary, &config)
        .arg("run")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the keeper")?;
    let pid = child.id().context("the keeper ended at once")?;
    tokio::time::sleep(SETTLE).await;

    let (started, ticks) = (Instant::now(), cpu_seconds(pid)?);
    let mut highest: f64 = 0.0;
    while started.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(status) = child.try_wait()? {
            bail!("the keeper ended in the middle: {status}");
        }
        highest = highest.max(resident_megabytes(pid)?);
    }
    let spent = cpu_seconds(pid)? - ticks;
    let share = spent / started.elapsed().as_secs_f64() * 100.0;
    println!("idle for {seconds} s: at most {highest:.1} MB resident, {spent:.2} s of CPU, {share:.3} % of a core");
    println!("{}; four systems every 30 s", keeper::version(&binary.display().to_string(), "--version").await?);
    child.kill().await?;
    Ok(vec![
        Bar::new("idle.memory", highest, "MB", Wanted::Below, 50.0),
        Bar::new("idle.cpu", share, "%", Wanted::Below, 1.0),
    ])
}

/// Megabytes (10^6) of resident memory, from `VmRSS`.
fn resident_megabytes(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())
        .context("VmRSS is missing in /proc")?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// User and system time so far. Fields 14 and 15 of /proc/PID/stat are in ticks, of which Linux shows 100 a second.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).context("/proc/PID/stat has an unknown form")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok((user + system) / 100.0),
        _ => bail!("/proc/{pid}/stat has an unknown form"),
    }
}
