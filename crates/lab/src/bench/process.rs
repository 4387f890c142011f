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

/// User and system time so far.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    ticks(pid, [11, 12])
}

/// The sum of two fields of /proc/PID/stat, counted behind the name, in seconds. Linux shows 100 ticks a second.
fn ticks(pid: u32, fields: [usize; 2]) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).context("/proc/PID/stat has an unknown form")?;
    let words: Vec<&str> = after_name.split_whitespace().collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<f64>().ok());
    match fields.map(number) {
        [Some(one), Some(other)] => Ok((one + other) / 100.0),
        _ => bail!("/proc/{pid}/stat has an unknown form"),
    }
}

/// User and system time of the children that it has waited for, and of theirs.
pub(super) fn reaped_cpu_seconds(pid: u32) -> Result<f64> {
    ticks(pid, [13, 14])
}

/// User and system time of a process, of everything below it, and of what of that has ended.
pub(super) fn cpu_of_tree(pid: u32) -> Result<f64> {
    let own = ticks(pid, [11, 12])? + ticks(pid, [13, 14])?;
    let below = tree(pid).into_iter().filter(|below| *below != pid);
    // One that ends meanwhile is counted by whoever waits for it.
    Ok(own + below.filter_map(|pid| Some(ticks(pid, [11, 12]).ok()? + ticks(pid, [13, 14]).ok()?)).sum::<f64>())
}

/// A process and everything below it.
pub(super) fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}
