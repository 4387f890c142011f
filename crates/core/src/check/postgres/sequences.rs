//! Does a sequence give numbers that its table has already?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{LeftAlone, NotCompared, Postgres, SequenceBehind, Sequences, TableName};
use crate::quantity::{Value, format_count};
use crate::remedy::{Step, quoted};
use crate::severity::Severity;
use std::cmp::Reverse;
use std::fmt::Write as _;

const COMPARED: &str = "last_value and is_called of the sequence against the values ahead of it in its column, by an index of \
                        that column, in one statement";

pub static SEQUENCE_BEHIND: Check = Check {
    id: "postgres.sequence_behind",
    title: "A sequence is behind the column that it fills",
    runbook: Runbook {
        means: "The sequence is about to give numbers that the table has already: inserts fail with a duplicate key, one for each \
                number, until it is past them. A restore of rows without their sequences does that, a copy by logical \
                replication, and rows that were inserted with numbers of their own.",
        confirm: "SELECT last_value, is_called FROM SEQUENCE; beside SELECT max(COLUMN) FROM TABLE; the sequence's name: SELECT \
                  pg_get_serial_sequence('TABLE', 'COLUMN');",
        act: "Move it on under a lock that keeps inserts out, which the fix of the finding does; without the lock somebody may \
              insert between the question and setval. Not beyond a single far number that was written by hand (the largest of the \
              type as a marker): the sequence would be used up. Where a program takes whole blocks of numbers (Hibernate), stop it \
              first and go a block further than the furthest. Sessions that took numbers in advance (CACHE) still use those.",
    },
    source: COMPARED,
    // The next number is taken, or it is not.
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(sequence_behind),
};

fn sequence_behind(sight: &Sight<'_, Postgres>) -> Judged {
    // A standby has the primary's sequences, up to 32 numbers ahead of what was given.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let Some(deep) = &sight.seen.deep else {
        return Err(Unknown::not_asked("what tables hold ahead of their sequences"));
    };
    let sequences = deep.sequences.as_ref()?;
    let mut behind: Vec<&SequenceBehind> = sequences.behind.iter().collect();
    behind.sort_by_key(|one| (Reverse(urgency(one)), &one.sequence));
    let blind = not_compared(sight, sequences);
    let Some(worst) = behind.first() else { return blind.map_or_else(|| Ok(Vec::new()), Err) };
    let database = &sight.seen.server.database;
    let more = if behind.len() > 1 { format!(", and {} more", behind.len() - 1) } else { String::new() };
    // Once a day it is looked at: a critical finding would hold all routine work back until then, also after it was mended.
    let severity = if urgency(worst) == 0 { Severity::Info } else { Severity::Warning };
    let mut draft = Draft::new(severity, format!("{}{more}", told(worst)))
        .about(Target::Database { name: database.clone() })
        .against(
            "the next value",
            Value::count(worst.advance.next as f64),
            Value::count(worst.first as f64),
            "the first that is taken",
        )
        .saw("the furthest that is taken", Value::count(worst.taken as f64), COMPARED)
        .saw("sequences compared", Value::count(sequences.compared as f64), COMPARED)
        .offenders(behind.iter().map(|one| offender(database, one)).collect())
        .fix(way_out(database, worst));
    if let Some(blind) = blind {
        draft = draft.saw("not known", Value::text(blind.reason), COMPARED);
    }
    Ok(vec![draft])
}

/// Where the very next insert fails comes first; what a subscription fills is written here by nobody else yet, and a number that
/// is far away is in nobody's way yet.
fn urgency(one: &SequenceBehind) -> u8 {
    match one {
        _ if matches!(one.left_alone(), Some(LeftAlone::Subscribed | LeftAlone::Far)) => 0,
        _ if one.is_unique && one.first == one.advance.next => 2,
        _ => 1,
    }
}

fn offender(database: &str, one: &SequenceBehind) -> Offender {
    Offender {
        target: Target::Sequence {
            database: database.to_owned(),
            schema: one.sequence.schema.clone(),
            name: one.sequence.name.clone(),
            advance: one.left_alone().is_none().then(|| Box::new(one.advance.clone())),
        },
        weight: f64::from(urgency(one)),
        note: told(one),
    }
}

fn told(one: &SequenceBehind) -> String {
    let column = one.advance.columns.first().map_or_else(
        || "its column".to_owned(),
        |filled| format!("{}.{}.{}", filled.schema, filled.table, filled.column),
    );
    let number = |value: i64| format_count(value as f64);
    let what = if one.first == one.advance.next {
        format!("gives {} next, which {column} has already", number(one.first))
    } else {
        format!(
            "gives {} next and comes to {}, which {column} has already",
            number(one.advance.next),
            number(one.first)
        )
    };
    let mut text = format!("{} {what}; the furthest there is {}", one.sequence, number(one.taken));
    if let Some(beyond) = one.beyond {
        let then = if one.leaves_room() { "and is left out" } else { "as are more, so it is not moved by itself" };
        let _ = write!(text, "; {} is beyond half of what is left of its range, {then}", number(beyond));
    }
    if let Some(why @ (LeftAlone::InBlocks | LeftAlone::Far | LeftAlone::Sparse)) = one.left_alone() {
        let _ = write!(text, "; {}, so it is not moved by itself", why.told());
    }
    if one.is_subscribed {
        text +=
            "; its rows come by a subscription, which moves no sequence: it matters when somebody else begins to write";
    }
    if one.cache > 1 {
        let _ = write!(text, "; sessions take {} numbers in advance and still use those", one.cache);
    }
    text
}

fn way_out(database: &str, one: &SequenceBehind) -> String {
    let TableName { schema, name } = &one.sequence;
    let step = Step::AdvanceSequence {
        system: crate::system::SystemId::new(crate::system::SystemKind::Postgres, ""),
        database: database.to_owned(),
        schema: schema.clone(),
        sequence: name.clone(),
        advance: one.advance.clone(),
    };
    let taken = format_count(one.taken as f64);
    let whole = super::horizon::literal(&format!("{}.{}", quoted(schema), quoted(name)));
    let setval = |rest: &str| format!("SELECT setval({whole}, {rest});");
    match (one.left_alone(), one.beyond) {
        (Some(LeftAlone::InBlocks), _) => format!(
            "The program uses {} numbers for each that it takes: stop it, and choose one that is further than {taken} by as many \
             at least (in database {database}: {})",
            one.advance.increment.unsigned_abs(),
            setval("NUMBER, false")
        ),
        (Some(LeftAlone::Far | LeftAlone::Sparse), _) => format!(
            "Look at the rows up to {taken}. What was numbered by hand can be given another number; to begin behind it gives up \
             all numbers before it (in database {database}: {})",
            setval("NUMBER, true")
        ),
        (Some(LeftAlone::NoRoom), Some(beyond)) => format!(
            "Look at the rows from {} on: to begin behind them would use up more than half of what is left of its range. \
             Somebody has to choose where it begins (in database {database}: {}), or to make the column and the sequence a \
             bigint first.",
            format_count(beyond as f64),
            setval("NUMBER, true")
        ),
        _ => format!("In database {database}: {};", step.statement()),
    }
}

/// What was not compared, the part that a grant opens first.
fn not_compared(sight: &Sight<'_, Postgres>, sequences: &Sequences) -> Option<Unknown> {
    let user = quoted(&sight.seen.access.user);
    let whole = |name: &TableName| format!("{}.{}", quoted(&name.schema), quoted(&name.name));
    let rank = |why: &NotCompared| match why {
        NotCompared::HiddenSequence => 0,
        NotCompared::Failed(_) | NotCompared::Late => 1,
        NotCompared::HiddenTable(_) => 2,
        _ => 3,
    };
    let (sequence, why) = sequences.not_compared.iter().min_by_key(|(_, why)| rank(why))?;
    let (kind, because) = match why {
        NotCompared::HiddenSequence => (
            UnknownKind::NotRead,
            format!(
                "its position is hidden from us; GRANT SELECT ON SEQUENCE {} TO {user}; it lets nobody move it",
                whole(sequence)
            ),
        ),
        NotCompared::Failed(reason) => (UnknownKind::NotRead, reason.clone()),
        NotCompared::Late => (UnknownKind::NotRead, "the time for it was over".to_owned()),
        // To read the rows is a right that a watcher need not have.
        NotCompared::HiddenTable(table) => (
            UnknownKind::NotHere,
            format!(
                "the rows of {table} are hidden from us; GRANT SELECT ON {} TO {user} would show them",
                whole(table)
            ),
        ),
        NotCompared::WithoutIndex(filled) => (
            UnknownKind::NotHere,
            format!(
                "no B-tree begins with {}.{}.{}, and we read no whole table",
                filled.schema, filled.table, filled.column
            ),
        ),
        NotCompared::Foreign(table) => (UnknownKind::NotHere, format!("{table} is on another server")),
        NotCompared::ManyTables(count) => (
            UnknownKind::NotHere,
            format!("it fills {count} tables, and more than 200 are not looked into for one sequence"),
        ),
    };
    let all = sequences.not_compared.len();
    let more = if all > 1 { format!(" ({all} sequences were not compared in all)") } else { String::new() };
    Some(Unknown { kind, reason: format!("{sequence} was not compared: {because}{more}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, judged, reading, status, table_name};
    use crate::observation::{Gap, Observation};
    use crate::remedy::{Advance, FilledColumn, find};

    const ID: &str = "postgres.sequence_behind";

    fn behind() -> SequenceBehind {
        let filled = FilledColumn { schema: "public".into(), table: "events".into(), column: "id".into() };
        SequenceBehind {
            sequence: table_name("events_id_seq"),
            advance: Advance { columns: vec![filled], next: 501, increment: 1, limit: 1_073_742_073 },
            last: 500,
            first: 501,
            taken: 1_000,
            beyond: None,
            is_unique: true,
            is_subscribed: false,
            cache: 1,
            in_blocks: false,
            is_dense: false,
        }
    }

    fn with(behind: Vec<SequenceBehind>) -> Postgres {
        change(|seen| seen.deep.as_mut().unwrap().sequences.as_mut().unwrap().behind = behind)
    }

    fn blind(why: NotCompared) -> Postgres {
        let of = table_name("events_id_seq");
        change(|seen| seen.deep.as_mut().unwrap().sequences.as_mut().unwrap().not_compared = vec![(of, why)])
    }

    fn proposals(found: &crate::finding::Finding) -> usize {
        (find("postgres.advance_sequence").unwrap().propose)(found).len()
    }

    #[test]
    fn a_next_value_that_is_taken_comes_first_and_a_later_one_after_it() {
        let found = finding(ID, found_in(with(vec![behind()])));
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(
            found.summary,
            "public.events_id_seq gives 501 next, which public.events.id has already; the furthest there is 1,000"
        );
        assert!(found.fix.contains("IN SHARE ROW EXCLUSIVE MODE; WITH RECURSIVE"), "{}", found.fix);
        assert_eq!(proposals(&found), 1);
        let later = SequenceBehind { first: 900, ..behind() };
        let found = finding(ID, found_in(with(vec![later.clone()])));
        assert!(found.summary.contains("gives 501 next and comes to 900, which"), "{}", found.summary);
        let both = finding(ID, found_in(with(vec![later, SequenceBehind { sequence: table_name("z"), ..behind() }])));
        assert!(both.summary.starts_with("public.z gives 501 next") && both.summary.ends_with(", and 1 more"));
        assert_eq!(proposals(&both), 2);
    }

    #[test]
    fn what_would_use_the_range_up_and_what_a_subscription_fills_is_told_and_left_alone() {
        let full = SequenceBehind { beyond: Some(1_073_742_080), taken: 1_073_742_073, ..behind() };
        let found = finding(ID, found_in(with(vec![full])));
        assert_eq!((found.severity, proposals(&found)), (Severity::Warning, 0));
        assert!(found.summary.contains("1,073,742,080 is beyond half of what is left of its range, as are more"));
        assert!(found.fix.starts_with("Look at the rows from 1,073,742,080 on"), "{}", found.fix);
        let marked = SequenceBehind { beyond: Some(2_147_483_647), ..behind() };
        let found = finding(ID, found_in(with(vec![marked])));
        assert_eq!((found.severity, proposals(&found)), (Severity::Warning, 1));
        assert!(found.summary.ends_with("of its range, and is left out"), "{}", found.summary);
        assert!(found.fix.contains("BETWEEN 501 AND 1073742073"), "the marker is not in it: {}", found.fix);
        let lone = SequenceBehind { first: 1_000_000_000, taken: 1_000_000_000, ..behind() };
        let found = finding(ID, found_in(with(vec![lone.clone()])));
        assert_eq!((found.severity, proposals(&found)), (Severity::Info, 0), "nothing collides for years");
        assert!(found.summary.ends_with("more than 1,000 away, so it is not moved by itself"), "{}", found.summary);
        let sparse = SequenceBehind { first: 600, ..lone };
        let found = finding(ID, found_in(with(vec![sparse.clone()])));
        assert_eq!((found.severity, proposals(&found)), (Severity::Warning, 0));
        assert!(found.fix.contains("SELECT setval('\"public\".\"events_id_seq\"', NUMBER, true);"), "{}", found.fix);
        let dense = finding(ID, found_in(with(vec![SequenceBehind { is_dense: true, ..sparse.clone() }])));
        assert_eq!(proposals(&dense), 1, "a restore leaves many rows");
        let part = finding(ID, found_in(with(vec![SequenceBehind { taken: 21_000_000, ..sparse }])));
        assert_eq!(proposals(&part), 1, "less than 1 % of what is left");
        let found = finding(ID, found_in(with(vec![SequenceBehind { in_blocks: true, ..behind() }])));
        assert_eq!((found.severity, proposals(&found)), (Severity::Warning, 0));
        assert!(found.fix.starts_with("The program uses 1 numbers for each"), "{}", found.fix);
        let subscribed = SequenceBehind { is_subscribed: true, ..behind() };
        let found = finding(ID, found_in(with(vec![subscribed])));
        assert_eq!((found.severity, proposals(&found)), (Severity::Info, 0));
    }

    #[test]
    fn what_was_not_asked_is_not_judged_and_what_was_not_seen_is_unknown() {
        let watch = change(|seen| seen.deep = None);
        let answers = judged(&Observation::Postgres(reading(watch)), None);
        assert!(!answers.is_empty() && answers.iter().all(|judgement| judgement.check != ID), "its last answer stands");
        for (why, kind, part) in [
            (NotCompared::HiddenSequence, UnknownKind::NotRead, "ON SEQUENCE \"public\".\"events_id_seq\" TO"),
            (
                NotCompared::HiddenTable(table_name("events")),
                UnknownKind::NotHere,
                "GRANT SELECT ON \"public\".\"events\" TO",
            ),
            (NotCompared::Foreign(table_name("far")), UnknownKind::NotHere, "on another server"),
            (NotCompared::ManyTables(300), UnknownKind::NotHere, "fills 300 tables"),
            (NotCompared::Failed("a lock".into()), UnknownKind::NotRead, "a lock"),
            (NotCompared::Late, UnknownKind::NotRead, "time for it was over"),
        ] {
            let Status::Unknown(unknown) = status(ID, blind(why), None) else { panic!("{part}: not seen is not ok") };
            assert!(unknown.kind == kind && unknown.reason.contains(part), "{unknown:?}");
        }
        let gap = change(|seen| seen.deep.as_mut().unwrap().sequences = Err(Gap::new("cut off")));
        assert!(matches!(status(ID, gap.clone(), None), Status::Unknown(_)));
        let mut standby = gap;
        standby.server.in_recovery = true;
        assert_eq!(status(ID, standby, None), Status::Ok, "the primary tells it");
        let mut both = with(vec![behind()]);
        both.deep.as_mut().unwrap().sequences.as_mut().unwrap().not_compared =
            vec![(table_name("x"), NotCompared::HiddenSequence)];
        assert!(finding(ID, found_in(both)).evidence.iter().any(|one| one.what == "not known"));
    }
}
