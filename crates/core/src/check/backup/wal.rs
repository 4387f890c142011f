//! Is the WAL in the repository, all of it, and does it not pile up at the server?

#![allow(clippy::unnecessary_wraps, reason = "every judging function has one type, also those that always know")]

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::{Draft, Target};
use crate::observation::{Backup, WalGap, WalStream};
use crate::quantity::{Unit, Value, format_bytes, format_seconds, seconds_between};
use crate::severity::Severity;

/// Where to see a stream with other eyes.
const VIEW: &str = "pg_stat_replication and pg_replication_slots on the server; the folder wal of the repository";

pub static WAL_LAGGING: Check = Check {
    id: "backup.wal_lagging",
    title: "WAL does not reach the repository",
    runbook: Runbook {
        means: "What was written since is lost if the database is lost now, and the server keeps its WAL for us, which \
                fills its disk.",
        confirm: "on the server: SELECT slot_name, active, restart_lsn, pg_current_wal_lsn() FROM pg_replication_slots; in \
                  the repository: ls -lt FOLDER/wal/*/*",
        act: "The finding says why it does not stream. Is the keeper up, can it reach the server and the repository, does \
              its role have REPLICATION, and is a place left in max_wal_senders and max_replication_slots?",
    },
    source: "the streams of WAL",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 300.0,
            unit: Unit::Seconds,
            why: "since all that was written was in the repository; it is a few seconds when all is well, and a restart \
                  of the server or of the keeper is over by then",
        },
        Threshold {
            name: "critical",
            default: 1_800.0,
            unit: Unit::Seconds,
            why: "since all that was written was in the repository; it does not mend itself",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Backup(wal_lagging),
};

fn wal_lagging(sight: &Sight<'_, Backup>) -> Judged {
    let lagging = |stream: &WalStream| {
        let behind = seconds_between(stream.safe_until.unwrap_or(stream.since), sight.now);
        let (severity, limit) = sight.graded(behind)?;
        let (value, limit) = measured(behind, limit, Unit::Seconds);
        let behind = format_seconds(behind.round());
        let since = if stream.safe_until.is_some() { "for" } else { "at all, and was to for" };
        let why = stream.trouble.as_deref().map_or(String::new(), |why| format!(": {why}"));
        let draft = Draft::new(
            severity,
            format!("WAL of {} has not reached the repository {since} {behind}{why}", stream.system),
        )
        .about(Target::Source { system: stream.system.to_string() })
        .against("time since all that was written was safe", value, limit, VIEW);
        let draft = match (stream.durable, stream.written) {
            (Some(durable), Some(written)) => draft
                .saw("in the repository up to", Value::text(durable.to_string()), "the folder wal of the repository")
                .saw("written by the server up to", Value::text(written.to_string()), "IDENTIFY_SYSTEM"),
            _ => draft,
        };
        Some(draft.fix("groundskeeper backup status says why it does not stream; is `groundskeeper run` up?"))
    };
    Ok(sight.seen.wal.iter().filter_map(lagging).collect())
}

pub static WAL_GAP: Check = Check {
    id: "backup.wal_gap",
    title: "WAL is missing in the repository",
    runbook: Runbook {
        means: "No point in time between the gap and the next backup set can be restored: WAL is of use only without a gap \
                from a set on.",
        confirm: "ls FOLDER/wal/*/* shows the segments: their names count up",
        act: "groundskeeper backup run makes a new set, from which on there is no gap. If a segment was removed from the \
              repository by hand, bring it back from wherever the repository is copied to.",
    },
    source: "the folder wal of the repository",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Backup(wal_gap),
};

fn wal_gap(sight: &Sight<'_, Backup>) -> Judged {
    // While the sets cannot be listed it is not known whether one closes the gap.
    if sight.seen.wal.iter().all(|stream| stream.gaps.is_empty()) {
        return Ok(Vec::new());
    }
    let receipts = sight.seen.receipts.as_ref()?;
    let open = |stream: &WalStream| {
        let open: Vec<&WalGap> = stream.gaps.iter().filter(|gap| !gap.is_closed_by(receipts)).collect();
        let newest = open.last()?;
        let more = if open.len() > 1 { format!(" (and {} more gaps)", open.len() - 1) } else { String::new() };
        let draft = Draft::new(
            Severity::Warning,
            format!(
                "WAL of {} is missing in the repository from {} to {} on timeline {}{more}: {}",
                stream.system, newest.from, newest.to, newest.timeline, newest.why
            ),
        )
        .about(Target::Source { system: stream.system.to_string() })
        .saw("noticed", Value::Time { at: newest.noticed }, "the folder wal of the repository");
        Some(draft.fix("groundskeeper backup run; from that set on there is no gap"))
    };
    Ok(sight.seen.wal.iter().filter_map(open).collect())
}

pub static SLOT_RETENTION: Check = Check {
    id: "backup.slot_retention",
    title: "A server keeps much WAL for the backups",
    runbook: Runbook {
        means: "The server may not remove WAL that is not in the repository yet. If that goes on its disk fills up, and \
                then it stops.",
        confirm: "SELECT slot_name, active, wal_status, pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), \
                  restart_lsn)) FROM pg_replication_slots",
        act: "Mend what keeps the WAL from the repository (backup.wal_lagging says what). At `wal_keep` of [backup] the \
              slot is given up: the server is free again, and a gap remains until the next set. By hand, in need: SELECT \
              pg_drop_replication_slot('groundskeeper_wal').",
    },
    source: "IDENTIFY_SYSTEM, READ_REPLICATION_SLOT",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 50.0,
            unit: Unit::Percent,
            why: "of `wal_keep`; half of what was allowed is left to react",
        },
        Threshold {
            name: "critical",
            default: 90.0,
            unit: Unit::Percent,
            why: "of `wal_keep`; the slot is about to go",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Backup(slot_retention),
};

fn slot_retention(sight: &Sight<'_, Backup>) -> Judged {
    let retaining = |stream: &WalStream| {
        let source = "IDENTIFY_SYSTEM, READ_REPLICATION_SLOT";
        let about = Target::Source { system: stream.system.to_string() };
        if let Some(at) = stream.gave_up {
            let summary = format!("The slot of {} was given up, so that its disk does not fill up", stream.system);
            let draft =
                Draft::new(Severity::Critical, summary).about(about).saw("given up", Value::Time { at }, source);
            return Some(draft.fix("mend what backup.wal_lagging names; then groundskeeper backup run closes the gap"));
        }
        let retained = stream.retained? as f64;
        let share = retained / (stream.retained_limit.max(1) as f64) * 100.0;
        let (severity, limit) = sight.graded(share)?;
        let (value, limit) = measured(share, limit, Unit::Percent);
        let draft = Draft::new(
            severity,
            format!(
                "{} keeps {} of WAL for the backups, of at most {}",
                stream.system,
                format_bytes(retained),
                format_bytes(stream.retained_limit as f64)
            ),
        )
        .about(about)
        .against("share of wal_keep", value, limit, source);
        Some(draft.fix("mend what keeps the WAL from the repository: groundskeeper backup status"))
    };
    Ok(sight.seen.wal.iter().filter_map(retaining).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{HOUR, ago, failing, healthy, judged, one, set, status};
    use super::*;
    use crate::observation::Gap;
    use crate::receipt::{Cluster, Lsn};
    use std::collections::BTreeMap;

    fn stream() -> WalStream {
        WalStream {
            system: "postgres.main".parse().unwrap(),
            since: ago(8.0 * HOUR),
            system_identifier: Some("7".into()),
            timeline: Some(1),
            durable: Some(Lsn(100)),
            written: Some(Lsn(100)),
            safe_until: Some(ago(2.0)),
            worst_seconds: Some(2.5),
            retained: Some(1 << 20),
            retained_limit: 8 << 30,
            gave_up: None,
            trouble: None,
            gaps: Vec::new(),
        }
    }

    fn with(stream: WalStream) -> Backup {
        Backup { wal: vec![stream], ..healthy() }
    }

    fn gap(from: u64, to: u64) -> WalGap {
        WalGap {
            system_identifier: "7".into(),
            timeline: 1,
            from: Lsn(from),
            to: Lsn(to),
            noticed: ago(HOUR),
            why: "the server had removed it".into(),
        }
    }

    /// The healthy backups with a set of that cluster that begins at `start`.
    fn with_set(start: u64, stream: WalStream) -> Backup {
        let mut newest = set(1.0);
        newest.parts[0].postgres = Some(Cluster {
            version: 150_000,
            system_identifier: "7".into(),
            timeline: 1,
            start: Lsn(start),
            stop: Lsn(start),
            tablespaces: Vec::new(),
            superuser: "postgres".into(),
            settings: BTreeMap::new(),
            read_in_place: false,
        });
        let mut seen = with(stream);
        seen.receipts.as_mut().unwrap().insert(0, newest);
        seen
    }

    #[test]
    fn a_stream_that_keeps_up_is_silent() {
        assert_eq!(failing(&judged(with(stream()))), []);
    }

    #[test]
    fn the_time_since_all_was_safe_is_graded_also_where_nobody_tells_any_more() {
        let lagging = |seconds| failing(&judged(with(WalStream { safe_until: Some(ago(seconds)), ..stream() })));
        assert_eq!(lagging(299.0), []);
        assert_eq!(lagging(301.0), one("backup.wal_lagging", Severity::Warning));
        assert_eq!(lagging(1_801.0), one("backup.wal_lagging", Severity::Critical));
        let never = WalStream { safe_until: None, since: ago(400.0), trouble: Some("no answer".into()), ..stream() };
        assert_eq!(failing(&judged(with(never))), one("backup.wal_lagging", Severity::Warning));
    }

    #[test]
    fn a_gap_stands_until_a_set_was_made_behind_it() {
        let gone = WalStream { gaps: vec![gap(50, 80)], ..stream() };
        assert_eq!(failing(&judged(with(gone.clone()))), one("backup.wal_gap", Severity::Warning));
        assert_eq!(failing(&judged(with_set(79, gone.clone()))), one("backup.wal_gap", Severity::Warning));
        assert_eq!(failing(&judged(with_set(80, gone.clone()))), []);
        let mut blind = with(gone);
        blind.receipts = Err(Gap::new("no key"));
        assert_eq!(status(&judged(blind), "backup.wal_gap"), "unknown");
    }

    #[test]
    fn what_the_server_keeps_is_told_before_the_slot_goes_and_when_it_went() {
        let keeping = |retained| failing(&judged(with(WalStream { retained: Some(retained), ..stream() })));
        assert_eq!(keeping(3 << 30), []);
        assert_eq!(keeping(5 << 30), one("backup.slot_retention", Severity::Warning));
        assert_eq!(keeping(8 << 30), one("backup.slot_retention", Severity::Critical));
        let gone = WalStream { retained: None, gave_up: Some(ago(60.0)), ..stream() };
        assert_eq!(failing(&judged(with(gone))), one("backup.slot_retention", Severity::Critical));
    }
}
