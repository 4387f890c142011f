//! Does an integer key come to its end?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{IntegerKey, IntegerKeys, Postgres, TableName};
use crate::quantity::{Unit, Value, format_count, format_number};
use crate::remedy::quoted;

const POSITIONS: &str = "pg_sequences.last_value against its max_value and the type of its column; of a key without a \
                         sequence, the largest value in pg_stats";

pub static INTEGER_KEY_RUNNING_OUT: Check = Check {
    id: "postgres.integer_key_running_out",
    title: "An integer key comes to its end",
    runbook: Runbook {
        means: "An integer ends at 2,147,483,647, a smallint at 32,767. After the last one every insert into that table \
                fails, and the way out takes hours on a large table. Deleted rows and failed inserts used up numbers, too.",
        confirm: "SELECT schemaname, sequencename, last_value, max_value, data_type FROM pg_sequences WHERE last_value > \
                  0.7 * max_value; and against the column: a bigint sequence fills an integer column, too.",
        act: "Make it a bigint while there is time. A small table: ALTER TABLE … ALTER COLUMN … TYPE bigint, which rewrites it \
              under a lock that shuts everybody out. A large one: add a bigint column, fill it by a trigger and in batches, \
              build its unique index CONCURRENTLY, and swap them in one short transaction; the columns that refer to it as \
              well. In an emergency, if nothing reads an order out of it: let the sequence go on in the negative numbers.",
    },
    source: POSITIONS,
    thresholds: &[
        Threshold {
            name: "warning",
            default: 75.0,
            unit: Unit::Percent,
            why: "half a billion of an integer is left: time to plan the change",
        },
        Threshold {
            name: "critical",
            default: 90.0,
            unit: Unit::Percent,
            why: "pgHero and check_postgres warn here at the latest: growing tables take the rest fast",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(integer_key_running_out),
};

fn integer_key_running_out(sight: &Sight<'_, Postgres>) -> Judged {
    // A standby counts what the primary counts.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let keys = sight.seen.keys.as_ref()?;
    let mut late: Vec<&IntegerKey> = keys.keys.iter().filter(|key| sight.graded(key.used * 100.0).is_some()).collect();
    late.sort_by(|a, b| b.used.total_cmp(&a.used));
    let graded = late.first().and_then(|worst| Some((*worst, sight.graded(worst.used * 100.0)?)));
    let Some((worst, (severity, limit))) = graded else { return all_seen(sight, keys) };
    let database = &sight.seen.server.database;
    let offenders = late.iter().map(|key| Offender {
        target: key.column.as_ref().map_or_else(
            || Target::Database { name: database.clone() },
            |(table, _)| Target::Table {
                database: database.clone(),
                schema: table.schema.clone(),
                name: table.name.clone(),
            },
        ),
        weight: key.used,
        note: described(key),
    });
    let more = if late.len() > 1 { format!(", and {} more", late.len() - 1) } else { String::new() };
    let left = worst.limit.saturating_sub(worst.last).max(0) as f64;
    let mut draft = Draft::new(
        severity,
        format!(
            "{} has used {} of its numbers, {} are left{more}",
            name(worst),
            format_number(worst.used * 100.0, Unit::Percent),
            format_count(left)
        ),
    )
    .about(Target::Database { name: database.clone() })
    .against("used", Value::percent(worst.used * 100.0), Value::percent(limit), POSITIONS)
    .saw("last value", Value::count(worst.last as f64), POSITIONS)
    .saw("its end", Value::count(worst.limit as f64), "the smaller of the sequence's and the column's")
    .offenders(offenders.collect())
    .fix(way_out(database, worst));
    if let Some(blind) = unseen(sight, keys) {
        draft = draft.saw("not known", Value::text(blind.reason), POSITIONS);
    }
    Ok(vec![draft])
}

fn all_seen(sight: &Sight<'_, Postgres>, keys: &IntegerKeys) -> Judged {
    unseen(sight, keys).map_or_else(|| Ok(Vec::new()), Err)
}

fn unseen(sight: &Sight<'_, Postgres>, keys: &IntegerKeys) -> Option<Unknown> {
    let user = quoted(&sight.seen.access.user);
    if let Some(first) = keys.hidden_sequences.first() {
        return Some(Unknown {
            kind: UnknownKind::NotRead,
            reason: format!(
                "the position of {} sequences is hidden from us, {first} among them; GRANT SELECT ON ALL SEQUENCES IN SCHEMA \
                 {} TO {user}; it lets nobody move them",
                keys.hidden_sequences.len(),
                quoted(&first.schema)
            ),
        });
    }
    if keys.unread > 0 {
        return Some(Unknown {
            kind: UnknownKind::NotRead,
            reason: format!("{} more sequences than the 500 that were read", keys.unread),
        });
    }
    let first = keys.hidden_keys.first()?;
    Some(Unknown {
        // Only the rows themselves could tell, and to read them is a right that a watcher need not have.
        kind: UnknownKind::NotHere,
        reason: format!(
            "{} keys have no sequence, and their values are hidden from us, those of {first} among them; GRANT SELECT ON {}.{} \
             TO {user} would show them",
            keys.hidden_keys.len(),
            quoted(&first.schema),
            quoted(&first.name)
        ),
    })
}

fn way_out(database: &str, key: &IntegerKey) -> String {
    match (&key.column, &key.sequence) {
        (Some((table, column)), _) if key.of_type != "bigint" => format!(
            "In database {database}, for a small table: ALTER TABLE {table} ALTER COLUMN {column} TYPE bigint;{sequence} it \
             rewrites the table and shuts everybody out meanwhile. For a large one see the runbook.",
            table = whole(table),
            column = quoted(column),
            sequence = key
                .sequence
                .as_ref()
                .map_or_else(String::new, |sequence| format!(" ALTER SEQUENCE {} AS bigint;", whole(sequence)))
        ),
        (_, Some(sequence)) => {
            format!("In database {database}: ALTER SEQUENCE {} AS bigint NO MAXVALUE;", whole(sequence))
        }
        (_, None) => "Make it a bigint: see the runbook.".to_owned(),
    }
}

fn whole(name: &TableName) -> String {
    format!("{}.{}", quoted(&name.schema), quoted(&name.name))
}

fn name(key: &IntegerKey) -> String {
    match (&key.column, &key.sequence) {
        (Some((table, column)), _) => format!("{table}.{column} ({})", key.of_type),
        (None, Some(sequence)) => format!("the sequence {sequence}"),
        (None, None) => "a key".to_owned(),
    }
}

fn described(key: &IntegerKey) -> String {
    let by = match &key.sequence {
        Some(sequence) => format!("by {sequence}"),
        None => "without a sequence, as of the last ANALYZE".to_owned(),
    };
    format!(
        "{}: {} of {}, {} {by}",
        name(key),
        format_count(key.last as f64),
        format_count(key.limit as f64),
        format_number(key.used * 100.0, Unit::Percent)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, status, table_name};
    use crate::observation::Gap;
    use crate::severity::Severity;

    const ID: &str = "postgres.integer_key_running_out";

    fn key(used: f64) -> IntegerKey {
        IntegerKey {
            column: Some((table_name("events"), "id".into())),
            sequence: Some(table_name("events_id_seq")),
            of_type: "integer".into(),
            used,
            last: (used * 2_147_483_647.0) as i64,
            limit: 2_147_483_647,
        }
    }

    fn with(keys: Vec<IntegerKey>) -> Postgres {
        change(|seen| seen.keys.as_mut().unwrap().keys = keys)
    }

    #[test]
    fn three_quarters_are_a_warning_and_nine_tenths_critical() {
        assert_eq!(found_in(with(vec![key(0.749)])), []);
        let warning = finding(ID, found_in(with(vec![key(0.1), key(0.75)])));
        assert_eq!((warning.severity, warning.offenders.len()), (Severity::Warning, 1));
        assert!(warning.summary.starts_with("public.events.id (integer) has used 75 % of its numbers, 536,870,9"));
        let critical = finding(ID, found_in(with(vec![key(0.8), key(0.9)])));
        assert_eq!((critical.severity, critical.offenders.len()), (Severity::Critical, 2));
        assert!(
            critical
                .fix
                .contains("ALTER COLUMN \"id\" TYPE bigint; ALTER SEQUENCE \"public\".\"events_id_seq\" AS bigint;"),
            "{}",
            critical.fix
        );
    }

    #[test]
    fn a_sequence_without_a_column_is_widened_and_a_key_without_a_sequence_is_a_guess() {
        let alone = IntegerKey { column: None, ..key(0.8) };
        let found = finding(ID, found_in(with(vec![alone])));
        assert!(
            found.fix.ends_with("ALTER SEQUENCE \"public\".\"events_id_seq\" AS bigint NO MAXVALUE;"),
            "{}",
            found.fix
        );
        let filled = IntegerKey { sequence: None, ..key(0.8) };
        let found = finding(ID, found_in(with(vec![filled])));
        assert!(found.offenders[0].note.ends_with("without a sequence, as of the last ANALYZE"), "{found:#?}");
    }

    #[test]
    fn what_is_hidden_is_unknown_and_does_not_hide_what_is_found() {
        let hide = |what: fn(&mut IntegerKeys)| change(|seen| what(seen.keys.as_mut().unwrap()));
        let sequences = hide(|keys| keys.hidden_sequences = vec![table_name("events_id_seq")]);
        let Status::Unknown(unknown) = status(ID, sequences, None) else { panic!("hidden is not ok") };
        assert_eq!(unknown.kind, UnknownKind::NotRead);
        assert!(unknown.reason.contains("ON ALL SEQUENCES IN SCHEMA \"public\" TO \"groundskeeper\""), "{unknown:?}");
        let cut_off = hide(|keys| keys.unread = 7);
        assert!(matches!(status(ID, cut_off, None), Status::Unknown(_)));
        let rows = hide(|keys| keys.hidden_keys = vec![table_name("events")]);
        let Status::Unknown(unknown) = status(ID, rows, None) else { panic!("hidden is not ok") };
        assert_eq!(unknown.kind, UnknownKind::NotHere);
        let unread = change(|seen| seen.keys = Err(Gap::new("lock timeout")));
        assert!(matches!(status(ID, unread.clone(), None), Status::Unknown(_)));
        let mut standby = unread;
        standby.server.in_recovery = true;
        assert_eq!(status(ID, standby, None), Status::Ok, "the primary tells it");

        let mut both = with(vec![key(0.95)]);
        both.keys.as_mut().unwrap().hidden_sequences = vec![table_name("other")];
        assert!(finding(ID, found_in(both)).evidence.iter().any(|one| one.what == "not known"));
    }
}
