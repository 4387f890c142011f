//! How far are the transaction ids from running out?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Database, Postgres};
use crate::quantity::{Unit, Value, format_count, format_number};

/// Ids are compared modulo 2^32, so a row may be at most 2^31 transactions old.
const IDS: f64 = 2_147_483_648.0;
const AGES: &str = "age(datfrozenxid) and mxid_age(datminmxid) FROM pg_database";

pub static TRANSACTION_ID_AGE: Check = Check {
    id: "postgres.transaction_id_age",
    title: "Transaction ids are running out",
    runbook: Runbook {
        means: "Vacuum has not frozen old rows for very long. About three million ids before the end (one million before 14) the server \
                refuses every write, in all its databases, until someone vacuums by hand.",
        confirm: "SELECT datname, age(datfrozenxid), mxid_age(datminmxid) FROM pg_database ORDER BY 2 DESC;",
        act: "Find what holds vacuum back: the oldest transaction (pg_stat_activity.backend_xmin), prepared transactions \
              (pg_prepared_xacts) and replication slots (pg_replication_slots.xmin); end or drop what nobody needs. \
              Then run VACUUM (FREEZE) on the oldest tables of that database. Do not restart into single-user mode: it \
              is not needed.",
    },
    source: AGES,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 50.0,
            unit: Unit::Percent,
            why: "autovacuum freezes from 200 million on (9 %): at half of the 2^31 ids it has failed for long (Coroot \
                  uses the same)",
        },
        Threshold {
            name: "critical",
            default: 75.0,
            unit: Unit::Percent,
            why: "emergency vacuums run since 1.6 billion (vacuum_failsafe_age, from 14 on); writes stop near 100 %",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(transaction_id_age),
};

fn transaction_id_age(sight: &Sight<'_, Postgres>) -> Judged {
    let databases = sight.seen.databases.as_ref()?;
    let mut used: Vec<_> = databases.iter().map(|database| (database, percent(database))).collect();
    used.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let Some((worst, value)) = used.first().copied() else { return Ok(Vec::new()) };
    let Some((severity, limit)) = sight.graded(value) else { return Ok(Vec::new()) };

    let warning = sight.limit("warning");
    let offenders =
        used.iter().filter(|(_, percent)| *percent >= warning.min(limit)).map(|(database, percent)| Offender {
            target: Target::Database { name: database.name.clone() },
            weight: *percent,
            note: format!(
                "{} of the ids used: {} transactions, {} multixacts",
                format_number(*percent, Unit::Percent),
                format_count(database.xid_age as f64),
                format_count(database.multixact_age as f64)
            ),
        });
    let kind = if worst.multixact_age > worst.xid_age { "multixact ids" } else { "transaction ids" };
    let (number, threshold) = measured(value, limit, Unit::Percent);
    let draft = Draft::new(
        severity,
        format!("{} of the {kind} of database {} are used up", format_number(value, Unit::Percent), worst.name),
    )
    .against(format!("{kind} used of 2^31"), number, threshold, AGES)
    .saw("age of the oldest transaction id", Value::count(worst.xid_age as f64), AGES)
    .saw("age of the oldest multixact id", Value::count(worst.multixact_age as f64), AGES)
    .saw(
        "autovacuum freezes from",
        Value::count(sight.seen.server.autovacuum_freeze_max_age as f64),
        "autovacuum_freeze_max_age",
    )
    .offenders(offenders.collect())
    .fix(format!(
        "In database {}: SELECT oid::regclass, age(relfrozenxid), mxid_age(relminmxid) FROM pg_class WHERE relkind IN \
         ('r', 't', 'm') ORDER BY 2 DESC LIMIT 10; then VACUUM (FREEZE, VERBOSE) them, after what holds vacuum back is \
         gone (old transactions, slots, prepared transactions).",
        worst.name
    ));
    Ok(vec![draft])
}

fn percent(database: &Database) -> f64 {
    database.xid_age.max(database.multixact_age) as f64 / IDS * 100.0
}

#[cfg(test)]
mod tests {
    use crate::check::postgres::fixtures::{change, database, finding, found_in};
    use crate::observation::{Database, Postgres};
    use crate::severity::Severity;

    fn with(databases: Vec<Database>) -> Postgres {
        change(|seen| seen.databases = Ok(databases))
    }

    #[test]
    fn half_of_the_ids_is_a_warning_and_three_quarters_critical() {
        for (xid_age, severity) in [(1 << 30, Severity::Warning), (3 << 29, Severity::Critical)] {
            let finding = finding(
                "postgres.transaction_id_age",
                found_in(with(vec![database("docrag"), Database { xid_age, ..database("old") }])),
            );
            assert_eq!(finding.severity, severity);
            assert!(finding.summary.contains("database old"), "{}", finding.summary);
            assert_eq!(finding.offenders.len(), 1);
        }
        assert_eq!(found_in(with(vec![Database { xid_age: (1 << 30) - 1, ..database("old") }])), []);
    }

    #[test]
    fn multixact_ids_count_as_well() {
        let finding = finding(
            "postgres.transaction_id_age",
            found_in(with(vec![Database { multixact_age: 1_700_000_000, ..database("docrag") }])),
        );
        assert!(finding.summary.contains("multixact ids"), "{}", finding.summary);
    }

    #[test]
    fn several_old_databases_are_one_finding() {
        let old = |name, xid_age| Database { xid_age, ..database(name) };
        let seen = with(vec![old("a", 1_200_000_000), old("b", 1_900_000_000)]);
        let finding = finding("postgres.transaction_id_age", found_in(seen));
        assert_eq!(finding.offenders.len(), 2);
        assert!(finding.summary.contains("database b"));
    }
}
