//! What a process has used, from /proc.

use anyhow::{Context, Result, bail};

/// Megabytes (10^6) of resident memory now.
pub(super) fn resident_megabytes(pid: u32) -> Result<f64> {
    of_status(pid, "VmRSS:")
}

/// Megabytes (10^6) of resident memory at its highest.
pub(super) fn peak_megabytes(pid: u32) -> Result<f64> {
    of_status(pid, "VmHWM:")
}

fn of_status(pid: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())
        .with_context(|| format!("{name} is missing in /proc/{pid}/status"))?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// User and system time so far. Fields 14 and 15 of /proc/PID/stat are in ticks, of which Linux shows 100 a second.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).context("/proc/PID/stat has an unknown form")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok((user + system) / 100.0),
        _ => bail!("/proc/{pid}/stat has an unknown form"),
    }
}
