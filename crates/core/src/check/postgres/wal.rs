//! Checkpoints and the archiving of the write-ahead log.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::{Checkpoints, Postgres};
use crate::quantity::{Unit, Value, format_number, seconds_between};
use crate::severity::Severity;

pub static CHECKPOINTS_REQUESTED: Check = Check {
    id: "postgres.checkpoints_requested",
    title: "Checkpoints come before their time",
    runbook: Runbook {
        means: "The write-ahead log reaches max_wal_size before checkpoint_timeout is over. Each early checkpoint \
                writes all changed pages at once and makes the log itself larger: writers stall in waves.",
        confirm: "SELECT checkpoints_timed, checkpoints_req FROM pg_stat_bgwriter; (from 17 on: SELECT num_timed, \
                  num_requested FROM pg_stat_checkpointer;)",
        act: "Raise max_wal_size until checkpoints come by time: ALTER SYSTEM SET max_wal_size = '4GB'; SELECT \
              pg_reload_conf(); no restart is needed, the disk must have the room, and recovery after a crash takes \
              somewhat longer. Bulk loads, backups that start and CHECKPOINT by hand request them too. Totals since the \
              last reset forget slowly; after the change you may reset them: SELECT pg_stat_reset_shared('bgwriter') \
              ('checkpointer' from 17 on).",
    },
    source: "pg_stat_bgwriter (13 to 16), pg_stat_checkpointer (17 on)",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 50.0,
            unit: Unit::Percent,
            why: "the manual wants nearly all of them by time; when half are early, max_wal_size is too small",
        },
        Threshold {
            name: "minimum_checkpoints",
            default: 10.0,
            unit: Unit::Count,
            why: "with fewer in the interval one bulk load decides; then the totals since the reset are used",
        },
        Threshold {
            name: "minimum_total",
            default: 30.0,
            unit: Unit::Count,
            why: "two and a half hours at the default of 5 minutes; before that a young server proves nothing",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(checkpoints_requested),
};

fn checkpoints_requested(sight: &Sight<'_, Postgres>) -> Judged {
    let totals = sight.seen.checkpoints.as_ref()?;
    // On a standby these are restartpoints, which the primary's checkpoints drive.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let interval = sight.before.and_then(|(at, earlier)| Some((at, earlier.checkpoints.as_ref().ok()?)));
    let recent = interval.and_then(|(at, earlier)| {
        let timed = totals.timed.checked_sub(earlier.timed)?;
        let requested = totals.requested.checked_sub(earlier.requested)?;
        let seconds = seconds_between(at, sight.now);
        let span = format!("during the last {}", format_number(seconds, Unit::Seconds));
        ((timed + requested) as f64 >= sight.limit("minimum_checkpoints")).then_some((timed, requested, span))
    });
    let (timed, requested, span) = recent.unwrap_or_else(|| (totals.timed, totals.requested, since_reset(totals)));
    let count = (timed + requested) as f64;
    let minimum = sight.limit("minimum_checkpoints").min(sight.limit("minimum_total"));
    let is_total = timed == totals.timed && requested == totals.requested;
    if count < minimum.max(1.0) || (is_total && count < sight.limit("minimum_total")) {
        return Ok(Vec::new());
    }
    let percent = requested as f64 / count * 100.0;
    let Some((severity, limit)) = sight.graded(percent) else { return Ok(Vec::new()) };
    let (value, threshold) = measured(percent, limit, Unit::Percent);
    let draft = Draft::new(
        severity,
        format!("{} of {count} checkpoints {span} came before their time", format_number(percent, Unit::Percent)),
    )
    .against("checkpoints requested", value, threshold, CHECKPOINTS_REQUESTED.source)
    .saw("by time", Value::count(timed as f64), CHECKPOINTS_REQUESTED.source)
    .saw("requested", Value::count(requested as f64), CHECKPOINTS_REQUESTED.source)
    .saw("checkpoint_timeout", Value::seconds(sight.seen.server.checkpoint_timeout), "pg_settings")
    .fix(
        "Double max_wal_size (SHOW max_wal_size; ALTER SYSTEM SET max_wal_size = …; SELECT pg_reload_conf();) and look \
         again after a day; mind the free space of the disk with pg_wal.",
    );
    Ok(vec![draft])
}

fn since_reset(totals: &Checkpoints) -> String {
    totals
        .stats_reset
        .map_or_else(|| "since the statistics began".to_owned(), |at| format!("since {}", at.strftime("%Y-%m-%d")))
}

const ARCHIVER: &str = "pg_stat_archiver";

pub static ARCHIVE_FAILING: Check = Check {
    id: "postgres.archive_failing",
    title: "The write-ahead log is not being archived",
    runbook: Runbook {
        means: "archive_command fails, so no new log segment leaves this machine. A restore could only go back to the \
                last archived one; and the segments stay in pg_wal until the disk is full and Postgres stops.",
        confirm: "SELECT last_archived_wal, last_archived_time, last_failed_wal, last_failed_time, failed_count FROM \
                  pg_stat_archiver;",
        act: "The server's log has the command's own error message. Usual causes: the target is full, unreachable or \
              refuses our credentials, or the file is already there. Mend that; the archiver tries again by itself every \
              minute. Never delete files from pg_wal.",
    },
    source: ARCHIVER,
    thresholds: &[Threshold {
        name: "critical",
        default: 900.0,
        unit: Unit::Seconds,
        why: "the newest archived segment is this old, so this much would be lost with the machine: the usual RPO is \
              15 minutes",
    }],
    hold: Hold::minutes(2.0, 0.0),
    judge: Judge::Postgres(archive_failing),
};

fn archive_failing(sight: &Sight<'_, Postgres>) -> Judged {
    let archiver = sight.seen.archiver.as_ref()?;
    let Some(failed) = archiver.last_failed.filter(|_| archiver.enabled) else { return Ok(Vec::new()) };
    // A failed segment is tried again until it works: an archived one after the failure means that all is well again.
    if archiver.last_archived.is_some_and(|archived| archived >= failed) {
        return Ok(Vec::new());
    }
    let exposed = seconds_between(archiver.last_archived.unwrap_or(sight.seen.server.started), sight.now).max(0.0);
    let limit = sight.limit("critical");
    let severity = if exposed >= limit { Severity::Critical } else { Severity::Warning };
    let segment = archiver.last_failed_segment.as_deref().unwrap_or("a segment");
    let last = archiver.last_archived.map_or_else(
        || "none has been archived since the statistics began".to_owned(),
        |_| format!("the newest archived one is {} old", format_number(exposed, Unit::Seconds)),
    );
    let draft = Draft::new(severity, format!("archiving of {segment} fails; {last}"))
        .against("age of the newest archived segment", Value::seconds(exposed), Value::seconds(limit), ARCHIVER)
        .saw("last failure", Value::Time { at: failed }, "pg_stat_archiver.last_failed_time")
        .saw("failures since the statistics began", Value::count(archiver.failed as f64), "pg_stat_archiver.failed_count")
        .fix(
            "Read the error of archive_command in the server's log, then check the target's free space, its address and \
             our credentials there; SHOW archive_command; and run it by hand for one segment.",
        );
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::postgres::fixtures::{ago, change, finding, found, found_in, minute_before, reading};
    use crate::observation::{Archiver, Gap, Observation};

    fn checkpoints(timed: u64, requested: u64) -> Postgres {
        change(|seen| seen.checkpoints = Ok(Checkpoints { timed, requested, stats_reset: Some(ago(86_400.0)) }))
    }

    fn found_between(before: Postgres, current: Postgres) -> Vec<crate::Finding> {
        found(&Observation::Postgres(reading(current)), Some(&minute_before(before)))
    }

    #[test]
    fn totals_are_judged_when_the_interval_has_too_few() {
        let finding = finding("postgres.checkpoints_requested", found_in(checkpoints(15, 15)));
        assert!(finding.summary.starts_with("50 % of 30 checkpoints since 2026-11-20"), "{}", finding.summary);
        assert_eq!(found_in(checkpoints(16, 15)), []);
        assert_eq!(found_in(checkpoints(0, 29)), [], "a young server proves nothing");
        assert_eq!(found_in(checkpoints(0, 0)), []);
    }

    #[test]
    fn the_interval_decides_when_it_has_enough() {
        let busy = found_between(checkpoints(1_000, 10), checkpoints(1_002, 20));
        let finding = finding("postgres.checkpoints_requested", busy);
        assert!(finding.summary.contains("of 12 checkpoints during the last 1 min"), "{}", finding.summary);
        assert_eq!(found_between(checkpoints(0, 1_000), checkpoints(20, 1_000)), [], "it was mended since");
    }

    #[test]
    fn a_reset_between_two_readings_falls_back_to_the_totals() {
        assert_eq!(found_between(checkpoints(1_000, 1_000), checkpoints(1, 2)), []);
    }

    #[test]
    fn a_standby_has_no_checkpoints_of_its_own() {
        let mut seen = checkpoints(0, 500);
        seen.server.in_recovery = true;
        assert_eq!(found_in(seen), []);
    }

    fn archiver(what: impl FnOnce(&mut Archiver)) -> Postgres {
        change(|seen| what(seen.archiver.as_mut().unwrap()))
    }

    #[test]
    fn a_failure_after_the_last_success_is_found_and_graded_by_what_would_be_lost() {
        for (archived, severity) in [(600.0, Severity::Warning), (900.0, Severity::Critical)] {
            let seen = archiver(|archiver| {
                archiver.last_archived = Some(ago(archived));
                archiver.last_failed = Some(ago(5.0));
            });
            assert_eq!(finding("postgres.archive_failing", found_in(seen)).severity, severity);
        }
    }

    #[test]
    fn an_archive_that_never_worked_is_found() {
        let seen = archiver(|archiver| {
            archiver.last_archived = None;
            archiver.last_failed = Some(ago(5.0));
        });
        let finding = finding("postgres.archive_failing", found_in(seen));
        assert_eq!(finding.severity, Severity::Critical);
        assert!(finding.summary.contains("none has been archived"), "{}", finding.summary);
    }

    #[test]
    fn a_failure_that_was_mended_and_an_archiver_that_is_off_are_fine() {
        let mended = archiver(|archiver| {
            archiver.last_failed = Some(ago(130.0));
            archiver.last_archived = Some(ago(120.0));
        });
        assert_eq!(found_in(mended), []);
        let off = archiver(|archiver| {
            archiver.enabled = false;
            archiver.last_failed = Some(ago(5.0));
        });
        assert_eq!(found_in(off), []);
    }

    #[test]
    fn a_clock_that_runs_behind_does_no_harm() {
        let seen = archiver(|archiver| {
            archiver.last_archived = Some(ago(-50.0));
            archiver.last_failed = Some(ago(-60.0));
        });
        assert_eq!(finding("postgres.archive_failing", found_in(seen)).severity, Severity::Warning);
        assert_eq!(found_in(change(|seen| seen.archiver = Err(Gap::new("no")))), []);
    }
}
