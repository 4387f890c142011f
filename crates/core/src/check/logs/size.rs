//! How large are the logs, and how fast do they grow?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind, measured};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{LogFile, Logs};
use crate::quantity::{Unit, Value, format_bytes};

const GIB: f64 = 1_073_741_824.0;

/// A sum over a folder that was not read whole is a lower bound: it can convict, but it cannot acquit.
fn partly_read(seen: &Logs) -> Option<Unknown> {
    let reason = if seen.truncated {
        format!("the folder has more than {} files; the rest was not counted", seen.files)
    } else {
        format!("a part of the folder could not be read: {}", seen.unreadable.first()?)
    };
    Some(Unknown { kind: UnknownKind::NotRead, reason })
}

pub static FOLDER_TOO_LARGE: Check = Check {
    id: "logs.folder_too_large",
    title: "The log folder is large",
    runbook: Runbook {
        means: "Old logs are kept for too long, or too much is logged. In the end the disk is full.",
        confirm: "du -sh FOLDER; du -ah FOLDER | sort -rh | head",
        act: "Set a retention in logrotate (rotate 7, daily, compress, maxsize) or in the application. Compress rotated \
              files. Do not delete a file that is still open: its space stays taken; truncate it or rotate instead.",
    },
    source: "sizes of all files in the folder",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 5.0 * GIB,
            unit: Unit::Bytes,
            why: "a week of a busy small service, compressed, is well below",
        },
        Threshold {
            name: "critical",
            default: 20.0 * GIB,
            unit: Unit::Bytes,
            why: "on the usual 50 to 100 GB system disk that is a fifth or more",
        },
    ],
    hold: Hold::minutes(5.0, 5.0),
    judge: Judge::Logs(folder_too_large),
};

fn folder_too_large(sight: &Sight<'_, Logs>) -> Judged {
    let seen = sight.seen;
    let Some((severity, limit)) = sight.graded(seen.bytes as f64) else {
        return partly_read(seen).map_or(Ok(Vec::new()), Err);
    };
    let (value, limit) = measured(seen.bytes as f64, limit, Unit::Bytes);
    let source = format!("sizes of the files in {}", seen.folder);
    // What is rotated is a matter of retention, what is not is a matter of rotation.
    let fix = if seen.rotated_bytes * 2 >= seen.bytes {
        "keep fewer rotated files: lower `rotate` and set `compress` in the logrotate rule of this folder"
    } else {
        "rotate the files that are written to: add a logrotate rule with daily, maxsize 500M, rotate 7, compress"
    };
    Ok(vec![
        Draft::new(severity, format!("The logs in {} take {}", seen.folder, format_bytes(seen.bytes as f64)))
            .against("size of the folder", value, limit, source.clone())
            .saw("of that rotated", Value::bytes(seen.rotated_bytes), source.clone())
            .saw("files", Value::count(seen.files as f64), source)
            .offenders(seen.largest.iter().map(offender).collect())
            .fix(fix),
    ])
}

fn offender(file: &LogFile) -> Offender {
    Offender {
        target: Target::Path { path: file.path.clone() },
        weight: file.bytes as f64,
        note: format!("{} ({})", format_bytes(file.bytes as f64), if file.rotated { "rotated" } else { "in use" }),
    }
}

pub static FILE_TOO_LARGE: Check = Check {
    id: "logs.file_too_large",
    title: "A log file was not rotated",
    runbook: Runbook {
        means: "Rotation does not work for this file: it grows until the disk is full, and nobody can open it any more.",
        confirm: "ls -lhS FOLDER | head; logrotate --debug /etc/logrotate.conf 2>&1 | grep -A5 FILE",
        act: "Add or mend the logrotate rule: pattern, permissions of the folder (su USER GROUP), and copytruncate for a \
              program that does not reopen its log. Then logrotate --force the rule once.",
    },
    source: "sizes of the files whose names do not show a rotation",
    thresholds: &[Threshold {
        name: "warning",
        default: GIB,
        unit: Unit::Bytes,
        why: "logrotate rules in use rotate between 10 MB and 500 MB, or daily; a larger file was missed",
    }],
    hold: Hold::minutes(5.0, 5.0),
    judge: Judge::Logs(file_too_large),
};

fn file_too_large(sight: &Sight<'_, Logs>) -> Judged {
    let seen = sight.seen;
    let too_large = |file: &&LogFile| !file.rotated && sight.graded(file.bytes as f64).is_some();
    let mut files: Vec<&LogFile> = seen.largest.iter().filter(too_large).collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    let Some(largest) = files.first() else { return partly_read(seen).map_or(Ok(Vec::new()), Err) };
    let Some((severity, limit)) = sight.graded(largest.bytes as f64) else { return Ok(Vec::new()) };
    let (value, limit) = measured(largest.bytes as f64, limit, Unit::Bytes);
    let size = format_bytes(largest.bytes as f64);
    let summary = match files.len() {
        1 => format!("{} has {size} and was not rotated", largest.path),
        n => format!("{n} log files were not rotated; the largest, {}, has {size}", largest.path),
    };
    Ok(vec![
        Draft::new(severity, summary)
            .against("size of the largest file", value, limit, format!("size of {}", largest.path))
            .fix(format!("logrotate --debug /etc/logrotate.conf 2>&1 | grep -A5 '{}'", largest.path))
            .offenders(files.into_iter().map(offender).collect()),
    ])
}

pub static GROWING_FAST: Check = Check {
    id: "logs.growing_fast",
    title: "The logs grow fast",
    runbook: Runbook {
        means: "Something logs far more than usual: an error in a loop, or a debug level that was left on.",
        confirm: "du -s FOLDER; sleep 60; du -s FOLDER; then tail the largest file",
        act: "Read the last lines of the largest file: the message that repeats names the cause. Mend that; lower the \
              log level; limit the rate of that message. Watch the disk until it stops.",
    },
    source: "size of the folder between two readings",
    thresholds: &[Threshold {
        name: "warning",
        default: GIB,
        unit: Unit::Bytes,
        why: "in one hour; at 24 GiB a day a usual system disk is full within days",
    }],
    hold: Hold::minutes(10.0, 10.0),
    judge: Judge::Logs(growing_fast),
};

fn growing_fast(sight: &Sight<'_, Logs>) -> Judged {
    let seen = sight.seen;
    let (before, seconds) = sight.since("the growth of the folder")?;
    // A part that was unreadable in one reading and not in the other would look like growth.
    if let Some(unknown) = [seen, before].into_iter().find_map(partly_read) {
        return Err(unknown);
    }
    // A folder that shrank was rotated or cleaned up: that is no growth, and nothing is wrong with it.
    let grown = seen.bytes.saturating_sub(before.bytes) as f64;
    let hourly = grown / seconds * 3_600.0;
    let Some((severity, limit)) = sight.graded(hourly) else { return Ok(Vec::new()) };
    let (value, limit) = measured(hourly, limit, Unit::Bytes);
    let source = format!("size of {} between two readings", seen.folder);
    let fix = match seen.largest.iter().find(|file| !file.rotated) {
        Some(file) => format!("tail -n 50 '{}' and mend what it repeats", file.path),
        None => format!("ls -lt '{}' | head, then read the newest file", seen.folder),
    };
    Ok(vec![
        Draft::new(severity, format!("The logs in {} grow by {} an hour", seen.folder, format_bytes(hourly)))
            .against("growth in an hour", value, limit, source.clone())
            .saw("grown since the last reading", Value::number(grown, Unit::Bytes), source)
            .fix(fix),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, file, first, healthy, judged, one, status};
    use super::*;
    use crate::severity::Severity;

    const GIB: u64 = 1 << 30;

    fn with(change: impl FnOnce(&mut Logs)) -> Logs {
        let mut seen = healthy();
        change(&mut seen);
        seen
    }

    #[test]
    fn a_large_folder_is_graded() {
        let large = |gib: u64| with(|logs| (logs.bytes, logs.rotated_bytes) = (gib * GIB, (gib - 1) * GIB));
        // Already that large before: it does not grow.
        let found = |gib| failing(&judged(Some(large(gib)), large(gib)));
        assert_eq!(found(4), []);
        assert_eq!(found(5), one("logs.folder_too_large", Severity::Warning));
        assert_eq!(found(30), one("logs.folder_too_large", Severity::Critical));
    }

    #[test]
    fn a_file_that_was_not_rotated_is_one_finding() {
        let with_file = |rotated| {
            with(|logs| {
                logs.bytes += 2 * GIB;
                logs.largest.insert(0, file("/var/log/app/api.log", 2 * GIB, rotated));
            })
        };
        assert_eq!(
            failing(&judged(Some(with_file(false)), with_file(false))),
            one("logs.file_too_large", Severity::Warning)
        );
        assert_eq!(failing(&judged(Some(with_file(true)), with_file(true))), []);
    }

    #[test]
    fn growth_is_measured_by_the_hour() {
        // A minute lies between the readings.
        let grown = |bytes: u64| with(|logs| logs.bytes += bytes);
        assert_eq!(failing(&judged(Some(healthy()), grown(GIB / 59))), one("logs.growing_fast", Severity::Warning));
        assert_eq!(failing(&judged(Some(healthy()), grown(GIB / 61))), []);
        assert_eq!(failing(&judged(Some(grown(GIB)), healthy())), []);
        assert_eq!(status(&judged(Some(grown(GIB)), healthy()), "logs.growing_fast"), "ok");
        assert_eq!(status(&first(healthy()), "logs.growing_fast"), "unknown");
    }

    #[test]
    fn what_was_not_read_whole_can_convict_but_not_acquit() {
        for part in [with(|logs| logs.truncated = true), with(|logs| logs.unreadable.push("/x: denied".into()))] {
            let judgements = judged(Some(healthy()), part.clone());
            assert_eq!(failing(&judgements), []);
            for check in ["logs.folder_too_large", "logs.file_too_large", "logs.growing_fast"] {
                assert_eq!(status(&judgements, check), "unknown");
            }
            let large = Logs { bytes: 30 * GIB, ..part };
            assert_eq!(failing(&first(large)), one("logs.folder_too_large", Severity::Critical));
        }
    }
}
