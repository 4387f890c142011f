//! What is wrong with tables by their definition.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Unknown};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Part, Postgres, Structure, TableName};
use crate::quantity::Value;
use crate::remedy::quoted;
use crate::severity::Severity;

pub static PRIMARY_KEY_MISSING: Check = Check {
    id: "postgres.primary_key_missing",
    title: "A table has no primary key",
    runbook: Runbook {
        means: "Nothing keeps a row from being there twice, and nothing names one row. Logical \
                replication refuses its updates and deletes, unless it is given another identity.",
        confirm: "SELECT oid::regclass FROM pg_class c WHERE relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_index \
                  i WHERE i.indrelid = c.oid AND i.indisprimary);",
        act: "Where a column or several are unique already: make them NOT NULL without a long lock (ADD CONSTRAINT … CHECK \
              (c IS NOT NULL) NOT VALID; VALIDATE CONSTRAINT …; SET NOT NULL), CREATE UNIQUE INDEX CONCURRENTLY …; then \
              ALTER TABLE … ADD PRIMARY KEY USING INDEX …. Else add a column: ALTER TABLE … ADD COLUMN id bigint GENERATED ALWAYS AS \
              IDENTITY PRIMARY KEY, which rewrites the table under a lock that shuts everybody out.",
    },
    source: "pg_index.indisprimary",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(primary_key_missing),
};

fn primary_key_missing(sight: &Sight<'_, Postgres>) -> Judged {
    let tables = seen_on_primary(sight, |structure| &structure.without_key)?;
    let found: Vec<_> = tables.into_iter().flatten().map(|table| (table, "no primary key".to_owned())).collect();
    Ok(listed(
        sight,
        &PRIMARY_KEY_MISSING,
        Severity::Info,
        &found,
        &Wording {
            one: "table has no primary key",
            many: "tables have no primary key",
            fix: |table, _| {
                format!("Give {} a primary key: see the runbook for the way without a long lock.", told(table))
            },
        },
    ))
}

pub static CONSTRAINT_NOT_VALIDATED: Check = Check {
    id: "postgres.constraint_not_validated",
    title: "A constraint was never checked against the rows that were there",
    runbook: Runbook {
        means: "It was added with NOT VALID, or its check failed. New rows meet it, old ones may not: who trusts it may \
                read rows that it forbids.",
        confirm: "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE NOT \
                  convalidated;",
        act: "ALTER TABLE … VALIDATE CONSTRAINT …; it reads the whole table, and lets others read and write meanwhile. If \
              it fails, it names a row that breaks the constraint: mend those rows first.",
    },
    source: "pg_constraint.convalidated",
    thresholds: &[],
    // A migration adds it as NOT VALID and validates it a little later.
    hold: Hold::minutes(60.0, 0.0),
    judge: Judge::Postgres(constraint_not_validated),
};

fn constraint_not_validated(sight: &Sight<'_, Postgres>) -> Judged {
    let constraints = seen_on_primary(sight, |structure| &structure.unvalidated)?;
    let found: Vec<_> = constraints.into_iter().flatten().map(|one| (&one.table, one.name.clone())).collect();
    Ok(listed(
        sight,
        &CONSTRAINT_NOT_VALIDATED,
        Severity::Warning,
        &found,
        &Wording {
            one: "constraint was never validated",
            many: "constraints were never validated",
            fix: |table, name| format!("ALTER TABLE {} VALIDATE CONSTRAINT {};", told(table), quoted(name)),
        },
    ))
}

pub static FOREIGN_KEY_TYPES_DIFFER: Check = Check {
    id: "postgres.foreign_key_types_differ",
    title: "A foreign key refers to a column of another type",
    runbook: Runbook {
        means: "The two columns can hold different values (an integer that refers to a bigint): one day an insert fails \
                because the number does not fit. Until then each comparison converts, and some plans cannot use an index.",
        confirm: "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f';",
        act: "Change the column that refers to the type of the other one. For a large table add a new column, fill it in \
              batches, and swap: ALTER TABLE … ALTER COLUMN … TYPE rewrites the table under a lock that shuts everybody \
              out.",
    },
    source: "pg_constraint (contype f), pg_attribute.atttypid",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(foreign_key_types_differ),
};

fn foreign_key_types_differ(sight: &Sight<'_, Postgres>) -> Judged {
    let keys = seen_on_primary(sight, |structure| &structure.foreign_keys)?;
    let found: Vec<_> = keys
        .into_iter()
        .flat_map(|keys| &keys.mismatched)
        .map(|key| (&key.table, format!("{} ({}) to {}", key.name, key.columns.join(", "), key.referenced)))
        .collect();
    Ok(listed(
        sight,
        &FOREIGN_KEY_TYPES_DIFFER,
        Severity::Warning,
        &found,
        &Wording {
            one: "foreign key refers to a column of another type",
            many: "foreign keys refer to columns of another type",
            fix: |table, key| format!("Give the columns of {key} in {} the types that they refer to.", told(table)),
        },
    ))
}

pub static TRIGGER_DISABLED: Check = Check {
    id: "postgres.trigger_disabled",
    title: "A trigger is switched off",
    runbook: Runbook {
        means: "Somebody switched it off, mostly for a bulk load, and did not switch it on again. What it should do is \
                not done; of a foreign key's own trigger that is the check itself, and wrong rows get in.",
        confirm: "SELECT tgrelid::regclass, tgname, tgconstraint <> 0 AS foreign_key FROM pg_trigger WHERE tgenabled = 'D';",
        act: "Find out whether it is meant to be off. If not: ALTER TABLE … ENABLE TRIGGER …; (one of a foreign \
              key is named RI_ConstraintTrigger_…, and needs a superuser). What came in meanwhile was not checked: look for rows that refer to nothing.",
    },
    source: "pg_trigger.tgenabled",
    thresholds: &[],
    hold: Hold::minutes(60.0, 0.0),
    judge: Judge::Postgres(trigger_disabled),
};

fn trigger_disabled(sight: &Sight<'_, Postgres>) -> Judged {
    let Some(triggers) = seen_on_primary(sight, |structure| &structure.disabled_triggers)? else {
        return Ok(Vec::new());
    };
    let found: Vec<_> = triggers.iter().map(|one| (&one.table, one.name.clone())).collect();
    let mut drafts = listed(
        sight,
        &TRIGGER_DISABLED,
        Severity::Warning,
        &found,
        &Wording {
            one: "trigger is switched off",
            many: "triggers are switched off",
            fix: |table, name| {
                format!("If it should be on: ALTER TABLE {} ENABLE TRIGGER {};", told(table), quoted(name))
            },
        },
    );
    for draft in &mut drafts {
        for (offender, one) in draft.offenders.iter_mut().zip(triggers) {
            if let Some(constraint) = &one.constraint {
                offender.note = format!("{}: {}, of the constraint {constraint}", one.table, one.name);
            }
        }
    }
    Ok(drafts)
}

/// On a standby everything would be told a second time, an index that the primary builds looks like one that was left,
/// and nothing can be mended: none there.
pub(super) fn seen_on_primary<'s, T>(
    sight: &Sight<'s, Postgres>,
    part: fn(&Structure) -> &Part<T>,
) -> Result<Option<&'s T>, Unknown> {
    let read = part(&sight.seen.structure).as_ref()?;
    Ok((!sight.seen.server.in_recovery).then_some(read))
}

struct Wording {
    one: &'static str,
    many: &'static str,
    /// For the first of them: its table, and what it is.
    fix: fn(&TableName, &str) -> String,
}

/// One finding about the database for all of them.
fn listed(
    sight: &Sight<'_, Postgres>,
    check: &'static Check,
    severity: Severity,
    found: &[(&TableName, String)],
    wording: &Wording,
) -> Vec<Draft> {
    let Some((table, what)) = found.first() else { return Vec::new() };
    let database = &sight.seen.server.database;
    let count = found.len();
    let (said, others) = if count == 1 { (wording.one, "") } else { (wording.many, " and others") };
    let offenders = found.iter().map(|(table, note)| Offender {
        target: Target::Table { database: database.clone(), schema: table.schema.clone(), name: table.name.clone() },
        weight: 1.0,
        note: format!("{table}: {note}"),
    });
    let draft = Draft::new(severity, format!("{count} {said} in {database}: {table}{others}"))
        .about(Target::Database { name: database.clone() })
        .saw("how many", Value::count(count as f64), check.source)
        .offenders(offenders.collect())
        .fix(format!("In database {database}: {}", (wording.fix)(table, what)));
    vec![draft]
}

fn told(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{
        change, finding, found_in, healthy, judged, minute_before, reading, table_name,
    };
    use crate::observation::{ForeignKey, Gap, Named, Observation, Trigger};

    fn with(what: impl FnOnce(&mut Structure)) -> Postgres {
        change(|seen| what(&mut seen.structure))
    }

    fn named(name: &str) -> Named {
        Named { table: table_name("chunks"), name: name.into() }
    }

    fn trigger(name: &str) -> Trigger {
        Trigger { table: table_name("chunks"), name: name.into(), constraint: None }
    }

    #[test]
    fn tables_without_a_key_are_one_finding() {
        let seen = with(|seen| seen.without_key = Ok(vec![table_name("log"), table_name("raw")]));
        let finding = finding("postgres.primary_key_missing", found_in(seen));
        assert_eq!((finding.severity, finding.offenders.len()), (Severity::Info, 2));
        assert!(finding.summary.starts_with("2 tables have no primary key in docrag"), "{}", finding.summary);
    }

    #[test]
    fn what_is_not_validated_or_switched_off_is_named_with_its_statement() {
        let seen = with(|seen| seen.unvalidated = Ok(vec![named("positive")]));
        let open = finding("postgres.constraint_not_validated", found_in(seen));
        assert!(
            open.fix.ends_with("ALTER TABLE \"public\".\"chunks\" VALIDATE CONSTRAINT \"positive\";"),
            "{}",
            open.fix
        );
        let off = finding(
            "postgres.trigger_disabled",
            found_in(with(|seen| seen.disabled_triggers = Ok(vec![trigger("t")]))),
        );
        assert!(off.fix.ends_with("ENABLE TRIGGER \"t\";"), "{}", off.fix);
    }

    #[test]
    fn columns_of_two_types_are_named() {
        let key = ForeignKey {
            table: table_name("chunks"),
            name: "chunks_document_fkey".into(),
            columns: vec!["document".into()],
            referenced: table_name("documents"),
            is_partitioned: false,
            rows: None,
        };
        let seen = with(|seen| seen.foreign_keys.as_mut().unwrap().mismatched = vec![key]);
        let finding = finding("postgres.foreign_key_types_differ", found_in(seen));
        assert!(finding.offenders[0].note.contains("(document) to public.documents"), "{:?}", finding.offenders);
    }

    #[test]
    fn a_question_that_fails_makes_the_checks_unknown_that_ask_it_and_no_others() {
        use crate::check::postgres::indexes::{
            FOREIGN_KEY_WITHOUT_INDEX, INDEX_DUPLICATE, INDEX_INVALID, INDEX_OVERLAPPING,
        };
        type Asked<'c> = (fn(&mut Structure), &'c [&'static Check]);
        let questions: [Asked<'_>; 5] = [
            (|seen| seen.indexes = Err(Gap::new("no")), &[&INDEX_INVALID, &INDEX_DUPLICATE, &INDEX_OVERLAPPING]),
            (|seen| seen.foreign_keys = Err(Gap::new("no")), &[&FOREIGN_KEY_WITHOUT_INDEX, &FOREIGN_KEY_TYPES_DIFFER]),
            (|seen| seen.without_key = Err(Gap::new("no")), &[&PRIMARY_KEY_MISSING]),
            (|seen| seen.unvalidated = Err(Gap::new("no")), &[&CONSTRAINT_NOT_VALIDATED]),
            (|seen| seen.disabled_triggers = Err(Gap::new("no")), &[&TRIGGER_DISABLED]),
        ];
        for (fails, asking) in questions {
            let reading = Observation::Postgres(reading(with(fails)));
            let unknown: Vec<String> = judged(&reading, Some(&minute_before(healthy())))
                .into_iter()
                .filter(|judgement| matches!(judgement.status, Status::Unknown(_)))
                .map(|judgement| judgement.check)
                .collect();
            assert_eq!(unknown, asking.iter().map(|check| check.id).collect::<Vec<_>>());
        }
    }
}
