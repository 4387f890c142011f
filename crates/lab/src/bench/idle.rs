//! What the keeper costs while nothing happens: resident memory and CPU of `groundskeeper run` over some minutes.

use super::keeper;
use super::process::{cpu_seconds, resident_megabytes};
use crate::bar::{Bar, Wanted};
use crate::stack::Stack;
use anyhow::{Context, Result, bail};
use groundskeeper_testing::HttpTarget;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The first seconds (start, first watch) are not idle.
const SETTLE: Duration = Duration::from_secs(10);

pub(super) async fn measure(seconds: u64) -> Result<Vec<Bar>> {
    let binary = keeper::binary()?;
    let stack = Stack::with_tables().await?;
    let target = HttpTarget::start().await?;
    let health = format!("{}/health", target.url());
    let more = "[web]\nlisten = \"127.0.0.1:0\"\n";
    let config = stack.configure(&health, more)?;
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
