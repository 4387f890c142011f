//! Who keeps the server from cleaning up: old views of the database, prepared transactions, slots.

use super::activity::all_seen;
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{HeldBy, Holder, Postgres, Prepared, Session, Slot};
use crate::quantity::{Unit, Value, format_bytes, format_count, format_seconds};
use crate::severity::Severity;
use jiff::Timestamp;

const HOLDERS: &str = "age(backend_xmin) of pg_stat_activity and pg_stat_replication, age(xmin) and age(catalog_xmin) of \
                       pg_replication_slots, age(transaction) of pg_prepared_xacts";

pub static XMIN_HELD_BACK: Check = Check {
    id: "postgres.xmin_held_back",
    title: "Something old keeps vacuum from removing dead rows",
    runbook: Runbook {
        means: "Rows that were updated or deleted stay in every table of the database for as long as one transaction, \
                slot, standby or prepared transaction may still want to see them. Vacuum runs and removes nothing: \
                tables and indexes grow, and queries on busy tables get slower every minute.",
        confirm: "SELECT pid, age(backend_xmin), state, query FROM pg_stat_activity WHERE backend_xmin IS NOT NULL \
                  ORDER BY 2 DESC; SELECT slot_name, age(xmin), age(catalog_xmin) FROM pg_replication_slots; SELECT gid, \
                  age(transaction) FROM pg_prepared_xacts; SELECT application_name, age(backend_xmin) FROM \
                  pg_stat_replication;",
        act: "Mend the oldest one first. A session, if it is no backup (pg_dump): cancel its statement or end it. A \
              slot that somebody reads from, or a standby: end the long query there, and set a statement_timeout there. A \
              slot whose consumer is gone for good: SELECT pg_drop_replication_slot('NAME'). A prepared transaction: ask \
              who made it, then ROLLBACK PREPARED 'GID'.",
    },
    source: HOLDERS,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 1_000_000.0,
            unit: Unit::Count,
            why: "transactions since then, each of which may have left a dead row; a query of an hour on a server with \
                  100 writes a second holds back 360,000",
        },
        Threshold {
            name: "critical",
            default: 50_000_000.0,
            unit: Unit::Count,
            why: "a quarter of autovacuum_freeze_max_age (200 million): soon not even rows can be frozen",
        },
    ],
    hold: Hold::minutes(5.0, 5.0),
    judge: Judge::Postgres(xmin_held_back),
};

fn xmin_held_back(sight: &Sight<'_, Postgres>) -> Judged {
    let (horizon, activity) = (sight.seen.horizon.as_ref()?, sight.seen.activity.as_ref()?);
    // What a standby holds back with its feedback is seen on the primary.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let is_old = |holder: &&Holder| sight.graded(holder.age as f64).is_some();
    let mut old: Vec<&Holder> = horizon.holders.iter().filter(is_old).collect();
    // Who holds back the catalogues only does not hide who holds back every table.
    old.sort_by_key(|holder| (is_of_catalogues(&holder.by), std::cmp::Reverse(holder.age)));
    let graded = old.first().and_then(|oldest| Some((*oldest, sight.graded(oldest.age as f64)?)));
    let Some((oldest, (severity, limit))) = graded else { return all_seen(activity, Vec::new()) };
    let (severity, what) = if is_of_catalogues(&oldest.by) {
        (Severity::Warning, "row of the system catalogues")
    } else {
        (severity, "row")
    };
    let offenders = old.iter().map(|holder| Offender {
        target: match &holder.by {
            HeldBy::Session { pid, backend_start, .. } => Target::Session { pid: *pid, backend_start: *backend_start },
            HeldBy::Standby { name } => Target::Standby { name: name.clone() },
            HeldBy::Slot { .. } | HeldBy::Prepared { .. } => Target::System,
        },
        weight: holder.age as f64,
        note: format!("{}, {} transactions ago", named(&holder.by), format_count(holder.age as f64)),
    });
    let age = format_count(oldest.age as f64);
    let draft = Draft::new(
        severity,
        format!(
            "vacuum removes no {what} that died in the last {age} transactions: {} may still want to see it",
            named(&oldest.by)
        ),
    )
    .against("transactions since the oldest view", Value::count(oldest.age as f64), Value::count(limit), HOLDERS)
    .offenders(offenders.collect())
    .fix(way_out(&oldest.by, &activity.sessions));
    Ok(vec![draft])
}

fn is_of_catalogues(by: &HeldBy) -> bool {
    matches!(by, HeldBy::Slot { only_catalogues: true, .. })
}

fn named(by: &HeldBy) -> String {
    match by {
        HeldBy::Session { pid, who, .. } => format!("session {pid} ({who})"),
        HeldBy::Slot { name, .. } => format!("the replication slot {name}"),
        HeldBy::Standby { name } => format!("the standby {name}"),
        HeldBy::Prepared { gid } => format!("the prepared transaction {gid}"),
    }
}

/// Nobody is told to end a session that is protected, or that could not be looked into.
fn way_out(by: &HeldBy, sessions: &[Session]) -> String {
    let is_free = |pid: i32, start: Timestamp| {
        sessions.iter().any(|session| session.pid == pid && session.backend_start == start && !session.protected)
    };
    match by {
        HeldBy::Session { pid, backend_start, .. } if is_free(*pid, *backend_start) => format!(
            "SELECT * FROM pg_stat_activity WHERE pid = {pid}; then SELECT pg_cancel_backend({pid}) if it runs a \
             statement that nobody waits for, or SELECT pg_terminate_backend({pid}) if it is idle in a transaction."
        ),
        HeldBy::Session { pid, .. } => format!(
            "Session {pid} belongs to a superuser, to replication or to a backup, or could not be looked into: ask its \
             owner before anything is ended. SELECT * FROM pg_stat_activity WHERE pid = {pid};"
        ),
        HeldBy::Slot { name, is_active: true, .. } => format!(
            "Somebody reads from {name} and needs it: a standby with hot_standby_feedback has a long query (there: SELECT \
             pid, xact_start, query FROM pg_stat_activity ORDER BY 2;), or a logical consumer has confirmed nothing for long."
        ),
        HeldBy::Slot { name, .. } => format!(
            "Start the consumer of {name} again; only if it is gone for good: SELECT pg_drop_replication_slot({});",
            literal(name)
        ),
        HeldBy::Standby { name } => {
            format!("Look on {name} for long queries: SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY 2;")
        }
        HeldBy::Prepared { gid } => {
            format!("Ask who prepared it; then COMMIT PREPARED {gid}; or ROLLBACK PREPARED {gid};", gid = literal(gid))
        }
    }
}

pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

const PREPARED: &str = "pg_prepared_xacts";

pub static PREPARED_TRANSACTION_FORGOTTEN: Check = Check {
    id: "postgres.prepared_transaction_forgotten",
    title: "A prepared transaction was neither committed nor rolled back",
    runbook: Runbook {
        means: "It belongs to no session any more, survives restarts, and keeps its locks and its view of the database: \
                others wait for it, and vacuum removes nothing that died since.",
        confirm: "SELECT gid, prepared, owner, database FROM pg_prepared_xacts ORDER BY prepared;",
        act: "Ask the transaction manager that made it what became of it; only that knows. Then, in its database, COMMIT \
              PREPARED 'GID' or ROLLBACK PREPARED 'GID'. Where nobody uses two-phase commit \
              and none is left, set max_prepared_transactions = 0, its default, on the primary first: with one left a \
              server does not start so.",
    },
    source: PREPARED,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 300.0,
            unit: Unit::Seconds,
            why: "a transaction manager commits within a second; the manual warns against leaving one for long",
        },
        Threshold {
            name: "critical",
            default: 3_600.0,
            unit: Unit::Seconds,
            why: "after an hour its manager has forgotten it, and its locks stand until a person ends it",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(prepared_transaction_forgotten),
};

fn prepared_transaction_forgotten(sight: &Sight<'_, Postgres>) -> Judged {
    let horizon = sight.seen.horizon.as_ref()?;
    let mut open: Vec<&Prepared> = horizon.prepared.iter().collect();
    open.sort_by(|a, b| b.age.total_cmp(&a.age));
    let Some(oldest) = open.first() else { return Ok(Vec::new()) };
    let Some((severity, limit)) = sight.graded(oldest.age) else { return Ok(Vec::new()) };
    let warning = sight.limit("warning").min(limit);
    let late: Vec<_> = open.iter().filter(|one| one.age >= warning).collect();
    let told = late
        .iter()
        .take(10)
        .map(|one| format!("{} in {} by {}, {}", one.gid, one.database, one.owner, format_seconds(one.age)));
    let told = told.collect::<Vec<_>>().join("; ");
    let (count, verb) = if late.len() == 1 {
        ("1 prepared transaction".to_owned(), "waits")
    } else {
        (format!("{} prepared transactions", late.len()), "wait")
    };
    let draft =
        Draft::new(severity, format!("{count} {verb} for an end, {} for {}", oldest.gid, format_seconds(oldest.age)))
            .against("age of the oldest", Value::seconds(oldest.age), Value::seconds(limit), PREPARED)
            .saw("which", Value::text(told), PREPARED)
            .fix(format!(
                "In database {}: ROLLBACK PREPARED {gid}; or COMMIT PREPARED {gid}; as the one who prepared it says.",
                oldest.database,
                gid = literal(&oldest.gid)
            ));
    Ok(vec![draft])
}

const SLOTS: &str = "restart_lsn and wal_status of pg_replication_slots";
/// Slots of ours are judged by the checks of backups, against what they may keep.
const OURS: &str = "groundskeeper";

pub static SLOT_RETAINING: Check = Check {
    id: "postgres.slot_retaining",
    title: "A replication slot keeps WAL that nobody fetches",
    runbook: Runbook {
        means: "The server deletes no WAL that a slot's consumer has not confirmed. When the consumer is gone or slow, \
                pg_wal grows until the disk is full, and then Postgres stops. A slot that has lost its WAL can never go \
                on: its consumer has silently stopped.",
        confirm: "SELECT slot_name, slot_type, active, wal_status, pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), \
                  restart_lsn)) FROM pg_replication_slots ORDER BY restart_lsn;",
        act: "Start the consumer, or find out why it is slow. If it is gone for good: SELECT \
              pg_drop_replication_slot('NAME'). Bound what any slot may keep: ALTER SYSTEM SET max_slot_wal_keep_size = \
              '16GB'; SELECT pg_reload_conf(). A slot that is behind by more is lost at \
              the next checkpoint, and a lost slot's consumer has to be made anew.",
    },
    source: SLOTS,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 1_073_741_824.0,
            unit: Unit::Bytes,
            why: "1 GiB is max_wal_size's default: a server keeps as much without any slot",
        },
        Threshold {
            name: "critical",
            default: 17_179_869_184.0,
            unit: Unit::Bytes,
            why: "16 GiB fills a small disk, and grows with every write",
        },
    ],
    hold: Hold::minutes(10.0, 5.0),
    judge: Judge::Postgres(slot_retaining),
};

fn slot_retaining(sight: &Sight<'_, Postgres>) -> Judged {
    let horizon = sight.seen.horizon.as_ref()?;
    let retained = |slot: &Slot| slot.retained.unwrap_or(0) as f64;
    let mut slots: Vec<&Slot> = horizon.slots.iter().filter(|slot| !slot.name.starts_with(OURS)).collect();
    slots.sort_by(|a, b| {
        (b.is_lost, retained(b)).partial_cmp(&(a.is_lost, retained(a))).unwrap_or(std::cmp::Ordering::Equal)
    });
    let warning = sight.limit("warning");
    let bad: Vec<&&Slot> = slots.iter().filter(|slot| slot.is_lost || retained(slot) >= warning).collect();
    let Some(worst) = bad.first() else { return Ok(Vec::new()) };
    let most = bad.iter().map(|slot| retained(slot)).fold(0.0, f64::max);
    let (severity, limit) = sight.graded(most).unwrap_or((Severity::Warning, warning));
    let told = |slot: &Slot| {
        let state = if slot.is_active { "its consumer is slow" } else { "nobody reads from it" };
        match (slot.is_lost, slot.retained) {
            (true, _) => format!("the slot {} has lost its WAL and can never go on", slot.name),
            (false, kept) => {
                format!("the slot {} keeps {} of WAL: {state}", slot.name, format_bytes(kept.unwrap_or(0) as f64))
            }
        }
    };
    let all: Vec<String> = bad.iter().take(10).map(|slot| told(slot)).collect();
    let draft = Draft::new(severity, told(worst))
        .against("WAL kept for the slot that keeps most", Value::bytes(most as u64), Value::bytes(limit as u64), SLOTS)
        .saw("which", Value::text(all.join("; ")), SLOTS)
        .fix(format!(
            "Start the consumer of {}; if it is gone for good: SELECT pg_drop_replication_slot({});",
            worst.name,
            literal(&worst.name)
        ));
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{self, ago, change, finding, found_in, status};
    use crate::observation::Gap;

    fn held(holders: Vec<Holder>) -> Postgres {
        change(|seen| {
            seen.horizon.as_mut().unwrap().holders = holders;
            let free = Session { backend_start: ago(90_000.0), ..fixtures::session(7) };
            seen.activity.as_mut().unwrap().sessions.push(free);
        })
    }

    fn slot_holder(name: &str, is_active: bool, only_catalogues: bool) -> HeldBy {
        HeldBy::Slot { name: name.into(), is_active, only_catalogues }
    }

    #[test]
    fn nobody_is_told_to_end_a_backup() {
        let mut seen = held(vec![session(2_000_000)]);
        seen.activity.as_mut().unwrap().sessions.last_mut().unwrap().protected = true;
        let found = finding("postgres.xmin_held_back", found_in(seen));
        assert!(found.fix.contains("ask its owner") && !found.fix.contains("terminate"), "{}", found.fix);
        let mut unseen = held(vec![session(2_000_000)]);
        unseen.activity.as_mut().unwrap().sessions.clear();
        let found = finding("postgres.xmin_held_back", found_in(unseen));
        assert!(!found.fix.contains("terminate"), "{}", found.fix);
    }

    #[test]
    fn a_logical_slot_holds_back_the_catalogues_only_and_hides_nobody_else() {
        let logical = || Holder { by: slot_holder("cdc", true, true), age: 90_000_000 };
        let found = finding("postgres.xmin_held_back", found_in(held(vec![logical()])));
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.summary.contains("no row of the system catalogues"), "{}", found.summary);
        let found = finding("postgres.xmin_held_back", found_in(held(vec![logical(), session(1_000_000)])));
        assert!(found.summary.contains("session 7"), "{}", found.summary);
    }

    #[test]
    fn on_a_standby_nothing_holds_vacuum_back() {
        let mut seen = held(vec![session(90_000_000)]);
        seen.server.in_recovery = true;
        assert!(matches!(status("postgres.xmin_held_back", seen, None), Status::Ok));
    }

    fn session(age: u64) -> Holder {
        Holder { by: HeldBy::Session { pid: 7, backend_start: ago(90_000.0), who: "docrag, etl".into() }, age }
    }

    #[test]
    fn the_oldest_view_is_named_and_graded_by_what_happened_since() {
        for (age, severity) in [(1_000_000, Severity::Warning), (50_000_000, Severity::Critical)] {
            let slot = Holder { by: slot_holder("replica", false, false), age: age - 10 };
            let finding = finding("postgres.xmin_held_back", found_in(held(vec![slot, session(age)])));
            assert_eq!(finding.severity, severity);
            assert!(finding.summary.contains("session 7 (docrag, etl)"), "{}", finding.summary);
            assert!(finding.fix.contains("pg_terminate_backend(7)"), "{}", finding.fix);
        }
        assert_eq!(found_in(held(vec![session(999_999)])), []);
    }

    #[test]
    fn each_kind_of_holder_has_its_own_way_out() {
        for (by, fix) in [
            (slot_holder("it's", false, false), "pg_drop_replication_slot('it''s')"),
            (slot_holder("replica", true, false), "a standby with hot_standby_feedback has a long query"),
            (HeldBy::Standby { name: "replica".into() }, "Look on replica"),
            (HeldBy::Prepared { gid: "g'1".into() }, "ROLLBACK PREPARED 'g''1'"),
        ] {
            let found = finding("postgres.xmin_held_back", found_in(held(vec![Holder { by, age: 2_000_000 }])));
            assert!(found.fix.contains(fix), "{}", found.fix);
        }
    }

    #[test]
    fn what_could_not_be_read_is_unknown() {
        let seen = change(|seen| seen.horizon = Err(Gap::new("no")));
        for check in [&XMIN_HELD_BACK, &PREPARED_TRANSACTION_FORGOTTEN, &SLOT_RETAINING] {
            assert!(matches!(status(check.id, seen.clone(), None), Status::Unknown(_)), "{}", check.id);
        }
    }

    fn prepared(gid: &str, age: f64) -> Prepared {
        Prepared { gid: gid.into(), owner: "app".into(), database: "docrag".into(), age }
    }

    #[test]
    fn a_prepared_transaction_is_forgotten_after_minutes() {
        let open = |all: Vec<Prepared>| change(|seen| seen.horizon.as_mut().unwrap().prepared = all);
        assert_eq!(found_in(open(vec![prepared("young", 299.0)])), []);
        for (age, severity) in [(300.0, Severity::Warning), (3_600.0, Severity::Critical)] {
            let seen = open(vec![prepared("young", 10.0), prepared("old", age)]);
            let finding = finding("postgres.prepared_transaction_forgotten", found_in(seen));
            assert_eq!(finding.severity, severity);
            assert!(finding.summary.starts_with("1 prepared transaction waits for an end, old"), "{}", finding.summary);
        }
    }

    fn slot(name: &str, retained: u64) -> Slot {
        Slot { name: name.into(), is_logical: false, is_active: false, retained: Some(retained), is_lost: false }
    }

    fn slots(slots: Vec<Slot>) -> Postgres {
        change(|seen| seen.horizon.as_mut().unwrap().slots = slots)
    }

    #[test]
    fn a_slot_is_judged_by_what_it_keeps() {
        assert_eq!(found_in(slots(vec![slot("replica", (1 << 30) - 1)])), []);
        for (kept, severity) in [(1 << 30, Severity::Warning), (16 << 30, Severity::Critical)] {
            let finding = finding("postgres.slot_retaining", found_in(slots(vec![slot("a", 5), slot("cdc", kept)])));
            assert_eq!(finding.severity, severity);
            assert!(finding.summary.contains("cdc") && finding.summary.contains("nobody reads"), "{}", finding.summary);
        }
        assert_eq!(found_in(slots(vec![slot("groundskeeper_main", 16 << 30)])), [], "backups judge their own");
    }

    #[test]
    fn a_slot_that_lost_its_wal_is_found_whatever_it_keeps() {
        let lost = Slot { is_lost: true, retained: None, ..slot("cdc", 0) };
        let finding = finding("postgres.slot_retaining", found_in(slots(vec![slot("big", 2 << 30), lost])));
        assert!(finding.summary.contains("cdc has lost its WAL"), "{}", finding.summary);
    }
}
