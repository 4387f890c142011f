//! Do the standbys keep up?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{LagParts, Postgres, Replication, Standby};
use crate::quantity::{Unit, Value, format_number};
use crate::severity::Severity;
use std::cmp::Reverse;

const STANDBYS: &str = "pg_stat_replication: pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) and replay_lag";
const PARTS: &str = "sent_lsn, flush_lsn and replay_lsn of pg_stat_replication";
const REPLAY: &str = "now() - pg_last_xact_replay_timestamp(), pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn()";
const MIB: f64 = 1024.0 * 1024.0;

pub static REPLICATION_LAG: Check = Check {
    id: "postgres.replication_lag",
    title: "A standby lags behind",
    runbook: Runbook {
        means: "Readers of the standby see old data, and if the primary is lost now, what the standby does not have is \
                lost with it. A standby that stays away makes the primary keep its log, until the disk is full.",
        confirm: "On the primary: SELECT application_name, state, replay_lag, \
                  pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) FROM pg_stat_replication; on the standby: SELECT \
                  pg_last_xact_replay_timestamp(), status FROM pg_stat_wal_receiver;",
        act: "Compare sent_lsn, flush_lsn and replay_lsn: a gap before sent means the network or the primary, one before \
              flush the way or the standby's disk, one before replay the standby's disk, or a long query there that holds replay up (max_standby_streaming_delay). If the \
              receiver does not run, the standby's log says why: the password, pg_hba.conf, or a segment that the primary \
              already removed; the last needs a new base backup.",
    },
    source: "pg_stat_replication on a primary; pg_stat_wal_receiver and the replay functions on a standby",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 60.0,
            unit: Unit::Seconds,
            why: "a standby on the same network is behind by milliseconds; a minute is no hiccup",
        },
        Threshold {
            name: "critical",
            default: 300.0,
            unit: Unit::Seconds,
            why: "five minutes of writes would be lost with the primary",
        },
        Threshold {
            name: "warning_bytes",
            default: 256.0 * MIB,
            unit: Unit::Bytes,
            why: "16 segments of log: seconds of a bulk load, so more than that for a while is a real backlog",
        },
        Threshold {
            name: "critical_bytes",
            default: 2048.0 * MIB,
            unit: Unit::Bytes,
            why: "twice the default max_wal_size: the primary may soon remove log that the standby still needs",
        },
    ],
    hold: Hold::minutes(1.0, 1.0),
    judge: Judge::Postgres(replication_lag),
};

fn replication_lag(sight: &Sight<'_, Postgres>) -> Judged {
    let replication = sight.seen.replication.as_ref()?;
    let draft = if sight.seen.server.in_recovery { standby(sight, replication) } else { primary(sight, replication) };
    Ok(draft.into_iter().collect())
}

/// A measure that is past a limit.
struct Past {
    severity: Severity,
    value: Value,
    limit: Value,
}

fn past_seconds(sight: &Sight<'_, Postgres>, seconds: f64) -> Option<Past> {
    let (severity, limit) = sight.graded(seconds)?;
    Some(Past { severity, value: Value::seconds(seconds), limit: Value::seconds(limit) })
}

fn past_bytes(sight: &Sight<'_, Postgres>, bytes: u64) -> Option<Past> {
    let limits = [("critical_bytes", Severity::Critical), ("warning_bytes", Severity::Warning)];
    let mut crossed = limits.into_iter().map(|(name, severity)| (severity, sight.limit(name)));
    let (severity, limit) = crossed.find(|(_, limit)| bytes as f64 >= *limit)?;
    Some(Past { severity, value: Value::bytes(bytes), limit: Value::number(limit, Unit::Bytes) })
}

/// The worse of the two; bytes win a tie, for they are what must still be sent.
fn worst(seconds: Option<Past>, bytes: Option<Past>) -> Option<Past> {
    [seconds, bytes].into_iter().flatten().max_by_key(|past| past.severity)
}

fn primary(sight: &Sight<'_, Postgres>, replication: &Replication) -> Option<Draft> {
    // A base backup streams through the same view, and is no standby.
    let standbys = replication.standbys.iter().filter(|standby| standby.state != "backup");
    let mut late: Vec<(&Standby, Past)> = standbys
        .filter_map(|standby| {
            // The view keeps the last measured delay for a while: with nothing left to replay it is history.
            let seconds = standby.lag_seconds.filter(|_| standby.lag_bytes != Some(0));
            let past = worst(
                seconds.and_then(|seconds| past_seconds(sight, seconds)),
                standby.lag_bytes.and_then(|bytes| past_bytes(sight, bytes)),
            )?;
            Some((standby, past))
        })
        .collect();
    late.sort_by_key(|(standby, past)| Reverse((past.severity, standby.lag_bytes)));
    let (first, past) = late.first()?;
    let offenders = late.iter().map(|(standby, past)| Offender {
        target: Target::Standby { name: label(standby) },
        weight: standby.lag_bytes.unwrap_or(0) as f64,
        note: format!("{}, state {}, {}", label(standby), standby.state, behind(standby, past)),
    });
    let more = if late.len() > 1 { format!(", and {} more", late.len() - 1) } else { String::new() };
    let where_it_is =
        slowest(&first.parts).map_or_else(String::new, |part| format!(", most of which {}", part.named()));
    let draft =
        Draft::new(past.severity, format!("standby {} is {}{where_it_is}{more}", label(first), behind(first, past)))
            .against("lag of the worst standby", past.value.clone(), past.limit.clone(), STANDBYS)
            .saw("its state", Value::text(first.state.clone()), "pg_stat_replication.state")
            .offenders(offenders.collect())
            .saw("where", Value::text(divided(&first.parts)), PARTS);
    Some(draft.fix(slowest(&first.parts).map_or(
        "See where it is held up: SELECT application_name, sent_lsn, flush_lsn, replay_lsn FROM pg_stat_replication;",
        Slow::way_out,
    )))
}

/// The part of the way that most of the lag is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slow {
    Sending,
    Shipping,
    Replaying,
}

impl Slow {
    fn named(self) -> &'static str {
        match self {
            Self::Sending => "is not sent yet",
            Self::Shipping => "is on its way or not on the standby's disk yet",
            Self::Replaying => "has arrived and is not replayed yet",
        }
    }

    fn way_out(self) -> &'static str {
        match self {
            Self::Sending => {
                "The primary does not get rid of it: look at the network between the two, at the CPU of its walsender, and, \
                 in the state catchup, at the primary's disk, from which old segments are read."
            }
            Self::Shipping => {
                "Look at the network's round trip, and at the standby's disk, which must write each piece before it answers: \
                 there SELECT * FROM pg_stat_wal_receiver; and the load of the disk under pg_wal."
            }
            Self::Replaying => {
                "On the standby look for a query that holds replay up: SELECT pid, now() - xact_start, query FROM \
                 pg_stat_activity WHERE state <> 'idle' ORDER BY xact_start; then SELECT pg_is_wal_replay_paused(); and SHOW \
                 recovery_min_apply_delay; then at its disk: one process replays what many have written."
            }
        }
    }
}

fn slowest(parts: &LagParts) -> Option<Slow> {
    let parts = [(parts.unsent, Slow::Sending), (parts.unflushed, Slow::Shipping), (parts.unreplayed, Slow::Replaying)];
    let known = parts.into_iter().filter_map(|(bytes, part)| Some((bytes?, part)));
    known.filter(|(bytes, _)| *bytes > 0).max_by_key(|(bytes, _)| *bytes).map(|(_, part)| part)
}

fn divided(parts: &LagParts) -> String {
    let bytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "an unknown part".to_owned(), |bytes| format_number(bytes as f64, Unit::Bytes))
    };
    let after = parts.flush_seconds.map_or_else(String::new, |seconds| {
        format!(" (it is on the standby's disk after {})", format_number(seconds, Unit::Seconds))
    });
    format!(
        "{} not sent, {} on the way, {} not replayed{after}",
        bytes(parts.unsent),
        bytes(parts.unflushed),
        bytes(parts.unreplayed)
    )
}

fn standby(sight: &Sight<'_, Postgres>, replication: &Replication) -> Option<Draft> {
    let disconnected = replication.receiving == Some(false);
    // While the primary writes nothing, the last replayed transaction grows old although nothing is missing: the delay
    // counts only with a backlog, or when nobody brings us one.
    let delayed = disconnected || replication.replay_backlog != Some(0);
    let seconds = replication.replay_delay.filter(|_| delayed).and_then(|delay| past_seconds(sight, delay));
    let past = worst(seconds, replication.replay_backlog.and_then(|bytes| past_bytes(sight, bytes)));
    if !disconnected && past.is_none() {
        return None;
    }
    let severity = past.as_ref().map_or(Severity::Warning, |past| past.severity.max(Severity::Warning));
    let delay = replication.replay_delay.map(|delay| format_number(delay, Unit::Seconds));
    let summary = match (&past, disconnected) {
        (_, true) => format!(
            "this standby receives nothing from its primary; its newest transaction is {} old",
            delay.unwrap_or_else(|| "an unknown time".to_owned())
        ),
        (Some(past), false) => format!("this standby is {} behind in replaying", past.value),
        (None, false) => return None,
    };
    let mut draft = Draft::new(severity, summary);
    if let Some(past) = past {
        draft = draft.against("behind the primary", past.value, past.limit, REPLAY);
    }
    let received = match replication.receiving {
        Some(true) => "running",
        Some(false) => "not running",
        None => "not configured",
    };
    let fix = if disconnected {
        "Read why in this standby's log (\"could not connect\", \"requested WAL segment … has already been removed\"), \
         check primary_conninfo and that the primary answers from here."
    } else {
        "Look for a query that holds replay up: SELECT pid, now() - xact_start, query FROM pg_stat_activity WHERE state \
         <> 'idle' ORDER BY xact_start; then at the disk of this machine."
    };
    Some(draft.saw("WAL receiver", Value::text(received), "pg_stat_wal_receiver").fix(fix))
}

fn label(standby: &Standby) -> String {
    match (standby.name.as_str(), standby.client.as_str()) {
        ("", client) => client.to_owned(),
        (name, "") => name.to_owned(),
        (name, client) => format!("{name} ({client})"),
    }
}

fn behind(standby: &Standby, past: &Past) -> String {
    let bytes = standby.lag_bytes.map(|bytes| format_number(bytes as f64, Unit::Bytes));
    let seconds = standby.lag_seconds.map(|seconds| format_number(seconds, Unit::Seconds));
    let parts: Vec<_> = [bytes, seconds].into_iter().flatten().collect();
    if parts.is_empty() { format!("{} behind", past.value) } else { format!("{} behind", parts.join(" and ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, status};
    use crate::observation::Gap;

    fn standby_with(lag_bytes: Option<u64>, lag_seconds: Option<f64>) -> Standby {
        Standby {
            name: "b".into(),
            client: "10.0.0.6".into(),
            state: "streaming".into(),
            lag_bytes,
            lag_seconds,
            parts: LagParts::default(),
        }
    }

    fn primary_of(standbys: Vec<Standby>) -> Postgres {
        change(|seen| seen.replication.as_mut().unwrap().standbys = standbys)
    }

    fn standby_at(delay: Option<f64>, backlog: Option<u64>, receiving: Option<bool>) -> Postgres {
        change(|seen| {
            seen.server.in_recovery = true;
            seen.replication =
                Ok(Replication { standbys: Vec::new(), replay_delay: delay, replay_backlog: backlog, receiving });
        })
    }

    #[test]
    fn a_primary_finds_a_standby_that_lags_in_seconds_or_in_bytes() {
        for (bytes, seconds, severity) in [
            (Some(10), Some(60.0), Severity::Warning),
            (Some(10), Some(300.0), Severity::Critical),
            (Some(256 << 20), None, Severity::Warning),
            (Some(2 << 30), Some(70.0), Severity::Critical),
            (None, Some(61.0), Severity::Warning),
        ] {
            let seen = primary_of(vec![standby_with(bytes, seconds), standby_with(Some(0), None)]);
            let finding = finding("postgres.replication_lag", found_in(seen));
            assert_eq!(finding.severity, severity, "{}", finding.summary);
            assert_eq!(finding.offenders.len(), 1);
        }
    }

    #[test]
    fn the_part_that_is_slow_is_named_with_what_to_look_at() {
        let at = |unsent: u64, unflushed: u64, unreplayed: u64| {
            let [unsent, unflushed, unreplayed] = [unsent, unflushed, unreplayed].map(|mib| Some(mib << 20));
            let parts = LagParts { unsent, unflushed, unreplayed, flush_seconds: Some(2.0) };
            let late = Standby { parts, ..standby_with(Some(300 << 20), None) };
            finding("postgres.replication_lag", found_in(primary_of(vec![late])))
        };
        for (finding, part, place) in [
            (at(290, 0, 10), "most of which is not sent yet", "walsender"),
            (at(0, 290, 10), "most of which is on its way", "pg_stat_wal_receiver"),
            (at(5, 5, 290), "most of which has arrived and is not replayed yet", "pg_is_wal_replay_paused"),
        ] {
            assert!(finding.summary.contains(part) && finding.fix.contains(place), "{finding:#?}");
        }
        let whole = at(5, 6, 290).evidence.iter().any(|one| {
            one.value
                == Value::text(
                    "5 MiB not sent, 6 MiB on the way, 290 MiB not replayed (it is on the standby's disk after 2 s)",
                )
        });
        assert!(whole);
    }

    #[test]
    fn a_standby_that_has_everything_is_fine_whatever_delay_is_still_shown() {
        assert_eq!(found_in(primary_of(vec![standby_with(Some(0), Some(900.0)), standby_with(None, None)])), []);
        let backup = Standby { state: "backup".into(), ..standby_with(Some(9 << 30), None) };
        assert_eq!(found_in(primary_of(vec![backup])), []);
    }

    #[test]
    fn two_standbys_of_one_name_are_one_finding() {
        let seen = primary_of(vec![standby_with(Some(300 << 20), None), standby_with(Some(900 << 20), None)]);
        let finding = finding("postgres.replication_lag", found_in(seen));
        assert!(finding.summary.contains("900 MiB") && finding.summary.ends_with("and 1 more"), "{}", finding.summary);
    }

    #[test]
    fn an_idle_primary_does_not_make_its_standby_late() {
        assert_eq!(found_in(standby_at(Some(90_000.0), Some(0), Some(true))), []);
        assert_eq!(found_in(standby_at(None, None, None)), []);
    }

    #[test]
    fn a_standby_that_replays_late_is_found() {
        let finding = finding("postgres.replication_lag", found_in(standby_at(Some(120.0), Some(4_096), Some(true))));
        assert_eq!(finding.severity, Severity::Warning);
    }

    #[test]
    fn a_standby_without_a_receiver_is_found_at_once_and_is_critical_when_old() {
        for (delay, severity) in
            [(Some(1.0), Severity::Warning), (Some(301.0), Severity::Critical), (None, Severity::Warning)]
        {
            let finding = finding("postgres.replication_lag", found_in(standby_at(delay, Some(0), Some(false))));
            assert_eq!(finding.severity, severity, "{}", finding.summary);
        }
    }

    #[test]
    fn replication_that_we_may_not_see_is_unknown() {
        let seen = change(|seen| seen.replication = Err(Gap::permission("grant pg_monitor")));
        assert!(matches!(status("postgres.replication_lag", seen, None), Status::Unknown(_)));
    }
}
