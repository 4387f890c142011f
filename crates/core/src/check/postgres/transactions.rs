//! Transactions that come to nothing.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::{Draft, Target};
use crate::observation::{Database, Postgres};
use crate::quantity::{Unit, Value, format_count, format_number, format_seconds};
use crate::severity::Severity;

const COUNTERS: &str = "pg_stat_database, between two readings";

pub static DEADLOCKS: Check = Check {
    id: "postgres.deadlocks",
    title: "Transactions wait for each other and are broken off",
    runbook: Runbook {
        means: "Two transactions took the same locks in a different order. The server ends one of them with an error \
                after deadlock_timeout; its user saw that error, or a retry hid it.",
        confirm: "SELECT datname, deadlocks FROM pg_stat_database ORDER BY 2 DESC; the server's log has both statements \
                  of each deadlock.",
        act: "Read the two statements in the server's log, and let both parts of the application take the locks in the \
              same order (rows by their key, tables by their name). Let it try again on SQLSTATE 40P01.",
    },
    source: COUNTERS,
    thresholds: &[Threshold {
        name: "warning",
        default: 1.0,
        unit: Unit::Count,
        why: "in the interval: each one broke off somebody's transaction",
    }],
    hold: Hold { open_after: 0.0, clear_after: 3_600.0 },
    judge: Judge::Postgres(deadlocks),
};

fn deadlocks(sight: &Sight<'_, Postgres>) -> Judged {
    let databases = sight.seen.databases.as_ref()?;
    let (earlier, seconds) = sight.since("deadlocks")?;
    let earlier = earlier.databases.as_ref()?;
    let drafts =
        databases.iter().filter_map(|database| {
            let before = earlier.iter().find(|before| before.name == database.name)?;
            let new = database.deadlocks.checked_sub(before.deadlocks)?;
            let count = new as f64;
            let (severity, limit) = sight.graded(count)?;
            let (value, threshold) = measured(count, limit, Unit::Count);
            let times = if new == 1 { "1 deadlock".to_owned() } else { format!("{} deadlocks", format_count(count)) };
            let draft = Draft::new(
                severity,
                format!("{times} in {} during the last {}", database.name, format_seconds(seconds)),
            )
            .about(Target::Database { name: database.name.clone() })
            .against("deadlocks", value, threshold, COUNTERS)
            .saw("since the statistics began", Value::count(database.deadlocks as f64), "pg_stat_database.deadlocks")
            .fix("Look for `deadlock detected` in the server's log: its DETAIL names both statements.");
            Some(draft)
        });
    Ok(drafts.collect())
}

pub static ROLLBACKS_FREQUENT: Check = Check {
    id: "postgres.rollbacks_frequent",
    title: "Many transactions are rolled back",
    runbook: Runbook {
        means: "Statements fail, or an application gives up what it began: users see errors, or retries hide them. Each \
                one has cost as much as if it had succeeded, and left its dead rows.",
        confirm: "SELECT datname, xact_commit, xact_rollback FROM pg_stat_database ORDER BY 3 DESC; twice, a minute apart.",
        act: "The server's log names the errors, with their statements (log_min_error_statement = error is the default). Duplicate keys, timeouts and \
              serialization failures are the usual ones. A pool that ends each read with ROLLBACK (SQLAlchemy's \
              does) is harmless: raise the threshold then.",
    },
    source: COUNTERS,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 10.0,
            unit: Unit::Percent,
            why: "a healthy service rolls back less than one in a hundred; one in ten is felt",
        },
        Threshold {
            name: "minimum_transactions",
            default: 1_000.0,
            unit: Unit::Count,
            why: "in the interval; with fewer, one session at a prompt decides the figure",
        },
    ],
    hold: Hold::minutes(10.0, 10.0),
    judge: Judge::Postgres(rollbacks_frequent),
};

fn rollbacks_frequent(sight: &Sight<'_, Postgres>) -> Judged {
    let databases = sight.seen.databases.as_ref()?;
    let (earlier, seconds) = sight.since("the ratio of rollbacks")?;
    let earlier = earlier.databases.as_ref()?;
    let drafts = databases.iter().filter_map(|database| {
        let before = earlier.iter().find(|before| before.name == database.name)?;
        let (ended, rolled_back) = ended(database, before)?;
        if ended < sight.limit("minimum_transactions").max(1.0) {
            return None;
        }
        let percent = rolled_back / ended * 100.0;
        // Pools that end each read so are too common to wake anybody.
        let (_, limit) = sight.graded(percent)?;
        let (value, threshold) = measured(percent, limit, Unit::Percent);
        let draft = Draft::new(
            Severity::Info,
            format!(
                "{} of the transactions in {} were rolled back during the last {}",
                format_number(percent, Unit::Percent),
                database.name,
                format_seconds(seconds)
            ),
        )
        .about(Target::Database { name: database.name.clone() })
        .against("rolled back", value, threshold, COUNTERS)
        .saw("transactions", Value::count(ended), "xact_commit + xact_rollback of pg_stat_database")
        .saw("rolled back", Value::count(rolled_back), "pg_stat_database.xact_rollback")
        .fix("Look for ERROR in the server's log, most frequent first.");
        Some(draft)
    });
    Ok(drafts.collect())
}

/// Transactions that ended since, and those of them that were rolled back. None when the statistics were reset.
fn ended(now: &Database, before: &Database) -> Option<(f64, f64)> {
    let commits = now.commits.checked_sub(before.commits)?;
    let rollbacks = now.rollbacks.checked_sub(before.rollbacks)?;
    Some(((commits + rollbacks) as f64, rollbacks as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::postgres::fixtures::{change, finding, found_in, healthy, status};
    use crate::check::{Status, UnknownKind};

    fn since(what: impl FnOnce(&mut Database)) -> Postgres {
        change(|seen| what(&mut seen.databases.as_mut().unwrap()[0]))
    }

    #[test]
    fn one_deadlock_since_the_last_reading_is_told() {
        let finding = finding("postgres.deadlocks", found_in(since(|database| database.deadlocks += 1)));
        assert!(finding.summary.starts_with("1 deadlock in docrag during the last 1 min"), "{}", finding.summary);
        let old = since(|database| database.deadlocks = 7);
        let Status::Ok = status("postgres.deadlocks", old.clone(), Some(old)) else { panic!("they are long over") };
    }

    #[test]
    fn one_rollback_in_ten_is_told_when_there_are_enough() {
        let busy = |commits, rollbacks| {
            since(|database| {
                database.commits += commits;
                database.rollbacks += rollbacks;
            })
        };
        let finding = finding("postgres.rollbacks_frequent", found_in(busy(900, 100)));
        assert!(finding.summary.starts_with("10 % of the transactions in docrag"), "{}", finding.summary);
        assert_eq!(found_in(busy(901, 99)), []);
        assert_eq!(found_in(busy(0, 999)), [], "too few");
    }

    #[test]
    fn counters_that_went_back_and_first_readings_prove_nothing() {
        let reset = since(|database| (database.commits, database.rollbacks, database.deadlocks) = (0, 900, 0));
        assert_eq!(found_in(reset), []);
        for check in [&DEADLOCKS, &ROLLBACKS_FREQUENT] {
            let Status::Unknown(unknown) = status(check.id, healthy(), None) else { panic!("{}", check.id) };
            assert_eq!(unknown.kind, UnknownKind::NeedsHistory);
        }
    }
}
