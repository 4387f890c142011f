//! Does the machine have memory and processors to spare?

#![allow(clippy::unnecessary_wraps, reason = "every judging function has one type, also those that always know")]

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind, measured};
use crate::finding::Draft;
use crate::observation::Host;
use crate::quantity::{Unit, Value, format_bytes, format_number};

pub static MEMORY_LOW: Check = Check {
    id: "host.memory_low",
    title: "The machine has little memory left",
    runbook: Runbook {
        means: "The next process that needs memory makes the machine swap, or makes the kernel kill something.",
        confirm: "free -m; ps aux --sort=-rss | head",
        act: "Find the process that grew (ps, smem) and see whether it leaks or has simply more to do. Lower what is \
              configured too large (shared_buffers, work_mem × connections, maxmemory, worker counts), then add memory.",
    },
    source: "/proc/meminfo: MemAvailable, MemTotal",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 10.0,
            unit: Unit::Percent,
            why: "of the memory available; MemAvailable already counts the page cache that can be given back",
        },
        Threshold {
            name: "critical",
            default: 5.0,
            unit: Unit::Percent,
            why: "of the memory available; the OOM killer is near",
        },
    ],
    hold: Hold::minutes(5.0, 5.0),
    judge: Judge::Host(memory_low),
};

fn memory_low(sight: &Sight<'_, Host>) -> Judged {
    let memory = &sight.seen.memory;
    if memory.total == 0 {
        return Err(Unknown { kind: UnknownKind::NotRead, reason: "the system does not tell its memory".into() });
    }
    let share = memory.available as f64 / memory.total as f64 * 100.0;
    let Some((severity, limit)) = sight.graded_below(share) else { return Ok(Vec::new()) };
    let (value, limit) = measured(share, limit, Unit::Percent);
    Ok(vec![
        Draft::new(
            severity,
            format!(
                "{} of {} of memory is available ({})",
                format_bytes(memory.available as f64),
                format_bytes(memory.total as f64),
                format_number(share, Unit::Percent)
            ),
        )
        .against("available share", value, limit, "/proc/meminfo: MemAvailable / MemTotal")
        .saw("swap in use", Value::bytes(memory.swap_used), "/proc/meminfo: SwapTotal - SwapFree")
        .fix("ps aux --sort=-rss | head, and look at the process that grew"),
    ])
}

pub static LOAD_HIGH: Check = Check {
    id: "host.load_high",
    title: "The machine is overloaded",
    runbook: Runbook {
        means: "Work waits for a processor or for a disk: everything on this machine is slow.",
        confirm: "uptime; nproc; vmstat 5 3 (r: waits for a processor, b: waits for a disk)",
        act: "Many in r: find the process with top and see why it works so much. Many in b: the disk or a network \
              filesystem is slow or hangs (iostat -x 5, dmesg). Then move work elsewhere or add processors.",
    },
    source: "/proc/loadavg (5 minutes), number of processors",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 4.0,
            unit: Unit::Ratio,
            why: "runnable or disk-bound tasks per processor over 5 minutes; 1 is a machine that is fully used, and \
                  instant or low limits alarm on every build and backup",
        },
        Threshold {
            name: "critical",
            default: 8.0,
            unit: Unit::Ratio,
            why: "per processor; each task then gets an eighth of one at best",
        },
    ],
    hold: Hold::minutes(10.0, 5.0),
    judge: Judge::Host(load_high),
};

fn load_high(sight: &Sight<'_, Host>) -> Judged {
    let [_, load, _] = sight.seen.load;
    let cores = sight.seen.cores.max(1);
    let each = load / f64::from(cores);
    let Some((severity, limit)) = sight.graded(each) else { return Ok(Vec::new()) };
    let (value, limit) = measured(each, limit, Unit::Ratio);
    Ok(vec![
        Draft::new(
            severity,
            format!(
                "The load over 5 minutes is {} on {cores} processors ({} for each)",
                format_number(load, Unit::Ratio),
                format_number(each, Unit::Ratio)
            ),
        )
        .against("load per processor", value, limit, "/proc/loadavg")
        .saw("processors", Value::count(cores), "/proc/stat")
        .fix("vmstat 5 3: many in r means processors, many in b means disks; then top or iostat -x 5"),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, judged, one, status};
    use super::*;
    use crate::severity::Severity;

    fn found(change: impl FnOnce(&mut Host)) -> Vec<(String, Severity)> {
        let mut seen = healthy();
        change(&mut seen);
        failing(&judged(seen))
    }

    #[test]
    fn memory_is_graded() {
        assert_eq!(found(|host| host.memory.available = host.memory.total / 8), []);
        assert_eq!(
            found(|host| host.memory.available = host.memory.total / 12),
            one("host.memory_low", Severity::Warning)
        );
        assert_eq!(found(|host| host.memory.available = 0), one("host.memory_low", Severity::Critical));
        let mut silent = healthy();
        (silent.memory.total, silent.memory.available) = (0, 0);
        assert_eq!(status(&judged(silent), "host.memory_low"), "unknown");
    }

    #[test]
    fn load_counts_by_processor_and_over_five_minutes() {
        assert_eq!(found(|host| host.load = [60.0, 15.0, 1.0]), []);
        assert_eq!(found(|host| host.load = [1.0, 17.0, 1.0]), one("host.load_high", Severity::Warning));
        assert_eq!(found(|host| host.load = [1.0, 40.0, 1.0]), one("host.load_high", Severity::Critical));
        assert_eq!(found(|host| (host.cores, host.load) = (0, [1.0, 1.0, 1.0])), []);
    }
}
