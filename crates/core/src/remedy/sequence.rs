//! Moving a sequence on that is behind the column that it fills.
//!
//! Never back, and never beyond half of what is left of its range: a row with a number far ahead may be one that somebody
//! wrote by hand on purpose, and to begin behind it would use the numbers up.

use super::{Proposal, Step, StepState, Verification, quoted};
use crate::finding::{Finding, Target};
use serde::{Deserialize, Serialize};

/// Within a second, while inserts wait: a tenth of it on a slow machine.
const MOST_DRAWN: u32 = 100_000;

/// A column that takes its values from a sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FilledColumn {
    pub schema: String,
    pub table: String,
    pub column: String,
}

impl FilledColumn {
    fn relation(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.table))
    }
}

/// How a sequence is moved on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Advance {
    /// Those that it fills; of partitions and children, the table above them.
    pub columns: Vec<FilledColumn>,
    /// What it gives next. Others are whole steps of `increment` away from it: what lies between them is somebody else's.
    pub next: i64,
    pub increment: i64,
    /// It is not moved beyond this one.
    pub limit: i64,
}

impl Advance {
    /// Nobody can insert into these tables while it is held; everybody can read.
    pub fn lock(&self) -> String {
        let mut tables: Vec<String> = self.columns.iter().map(FilledColumn::relation).collect();
        tables.sort();
        tables.dedup();
        format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", tables.join(", "))
    }

    /// Moves the sequence past the furthest value of its columns, if it is still behind it. By drawing numbers, which cannot go
    /// back whoever else draws, up to [`MOST_DRAWN`] of them. A longer way it is set, after the first draw has taken the lock that
    /// `setval` takes: nothing that waits is between reading the position and setting it.
    pub fn catch_up(&self, schema: &str, sequence: &str) -> String {
        let is_ascending = self.increment > 0;
        let (furthest, of_all, beyond) = if is_ascending { ("max", "greatest", ">") } else { ("min", "least", "<") };
        let (from, to) = if is_ascending { (self.next, self.limit) } else { (self.limit, self.next) };
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|filled| {
                let column = quoted(&filled.column);
                let steps = if self.increment.abs() == 1 {
                    String::new()
                } else {
                    format!(" AND ({column}::numeric - {}) % {} = 0", self.next, self.increment)
                };
                format!(
                    "(SELECT {furthest}({column}) FROM {} WHERE {column} BETWEEN {from} AND {to}{steps})",
                    filled.relation()
                )
            })
            .collect();
        let whole = format!("{}.{}", quoted(schema), quoted(sequence));
        let (name, columns, increment) = (literal(&whole), columns.join(", "), self.increment);
        format!(
            "WITH RECURSIVE held AS MATERIALIZED (SELECT {of_all}({columns})::int8 AS taken), \
             drawn AS (SELECT nextval({name}) AS at, taken FROM held, {whole} \
             WHERE taken {beyond} last_value OR taken = last_value AND NOT is_called \
             UNION ALL SELECT nextval({name}), taken FROM drawn \
             WHERE taken {beyond} at AND (taken::numeric - at) / {increment} <= {MOST_DRAWN}) \
             SELECT coalesce((SELECT setval({name}, taken, true) FROM {whole} WHERE taken {beyond} last_value), at) \
             FROM (SELECT {furthest}(at) AS at, {furthest}(taken) AS taken FROM drawn) AS done WHERE at IS NOT NULL"
        )
    }

    pub(super) fn statement(&self, schema: &str, sequence: &str) -> String {
        format!("BEGIN; SET LOCAL lock_timeout = '200ms'; {}; {}; COMMIT", self.lock(), self.catch_up(schema, sequence))
    }
}

/// A string in SQL, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

pub(super) fn propose(finding: &Finding) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    for offender in &finding.offenders {
        let Target::Sequence { database, schema, name, advance: Some(advance) } = &offender.target else { continue };
        proposals.push(Proposal {
            step: Step::AdvanceSequence {
                system: finding.system.clone(),
                database: database.clone(),
                schema: schema.clone(),
                sequence: name.clone(),
                advance: (**advance).clone(),
            },
            why: offender.note.clone(),
            expected: "inserts get numbers that are free; those that come in that moment wait for it, for a fraction of a second"
                .to_owned(),
        });
    }
    proposals
}

pub(super) fn verify(before: &StepState, after: &StepState) -> Verification {
    let (StepState::Sequence { last: from, .. }, StepState::Sequence { last, taken, next, .. }) = (before, after)
    else {
        let gone = matches!(after, StepState::Gone);
        return Verification::DidNotHelp(
            if gone { "the sequence is gone" } else { "the sequence was not read" }.to_owned(),
        );
    };
    match (taken, next) {
        (Some(taken), _) => Verification::DidNotHelp(format!("it is at {last}, and {taken} is taken as well")),
        (None, Some(next)) => Verification::Helped(format!("{from} -> {last}; the next value is {next}, and is free")),
        (None, None) => Verification::DidNotHelp(format!("{from} -> {last}, which is its last value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Draft, Offender};
    use crate::remedy::{Undo, find};
    use crate::severity::Severity;
    use crate::system::{SystemId, SystemKind};

    fn filled(table: &str) -> FilledColumn {
        FilledColumn { schema: "public".into(), table: table.into(), column: "id".into() }
    }

    fn advance(columns: Vec<FilledColumn>, increment: i64, next: i64, limit: i64) -> Advance {
        Advance { columns, next, increment, limit }
    }

    fn state(last: i64, next: Option<i64>, taken: Option<i64>) -> StepState {
        StepState::Sequence { last, is_called: true, next, taken }
    }

    #[test]
    fn what_is_printed_is_what_is_sent_and_only_moves_on() {
        let step = advance(vec![filled("it's")], 1, 501, 1_000_000);
        assert_eq!(
            step.statement("public", "it's_id_seq"),
            "BEGIN; SET LOCAL lock_timeout = '200ms'; LOCK TABLE \"public\".\"it's\" IN SHARE ROW EXCLUSIVE MODE; WITH \
             RECURSIVE held AS MATERIALIZED (SELECT greatest((SELECT max(\"id\") FROM \"public\".\"it's\" WHERE \"id\" BETWEEN \
             501 AND 1000000))::int8 AS taken), drawn AS (SELECT nextval('\"public\".\"it''s_id_seq\"') AS at, taken FROM held, \
             \"public\".\"it's_id_seq\" WHERE taken > last_value OR taken = last_value AND NOT is_called UNION ALL SELECT \
             nextval('\"public\".\"it''s_id_seq\"'), taken FROM drawn WHERE taken > at AND (taken::numeric - at) / 1 <= \
             100000) SELECT coalesce((SELECT setval('\"public\".\"it''s_id_seq\"', taken, true) FROM \
             \"public\".\"it's_id_seq\" WHERE taken > last_value), at) FROM (SELECT max(at) AS at, max(taken) AS taken FROM \
             drawn) AS done WHERE at IS NOT NULL; COMMIT"
        );
        let down = advance(vec![filled("b"), filled("a"), filled("a")], -2, -501, -1_000_000);
        assert!(down.lock().starts_with("LOCK TABLE \"public\".\"a\", \"public\".\"b\" IN"), "{}", down.lock());
        let setval = down.catch_up("public", "s");
        for part in [
            "least((SELECT min(\"id\")",
            "BETWEEN -1000000 AND -501 AND (\"id\"::numeric - -501) % -2 = 0",
            "taken < last_value",
            "taken < at AND (taken::numeric - at) / -2 <= 100000",
        ] {
            assert!(setval.contains(part), "{part}: {setval}");
        }
    }

    #[test]
    fn it_helped_when_the_next_value_is_free() {
        use Verification::{DidNotHelp, Helped};
        let before = state(500, Some(501), Some(1_000));
        let after = state(1_000, Some(1_001), None);
        assert_eq!(verify(&before, &after), Helped("500 -> 1000; the next value is 1001, and is free".into()));
        assert!(matches!(verify(&before, &before), DidNotHelp(_)));
        assert!(matches!(verify(&before, &state(1_000, None, None)), DidNotHelp(_)), "used up");
        assert!(matches!(verify(&before, &StepState::Gone), DidNotHelp(_)));
    }

    #[test]
    fn a_sequence_is_moved_only_where_the_finding_says_how_far() {
        let target = |name: &str, advance| Target::Sequence {
            database: "docrag".into(),
            schema: "public".into(),
            name: name.into(),
            advance,
        };
        let how = Some(Box::new(advance(vec![filled("events")], 1, 501, 1_000_000)));
        let offenders = [target("events_id_seq", how), target("far_id_seq", None)].map(|target| Offender {
            target,
            weight: 1.0,
            note: "behind".into(),
        });
        let draft = Draft::new(Severity::Critical, "2 behind").offenders(offenders.to_vec());
        let system = SystemId::new(SystemKind::Postgres, "main");
        let finding = Finding::from_draft("postgres.sequence_behind", &system, draft);
        let proposals = (find("postgres.advance_sequence").unwrap().propose)(&finding);
        assert_eq!(proposals.len(), 1);
        let step = &proposals[0].step;
        assert_eq!(step.subject(), "postgres.main sequence docrag.public.events_id_seq");
        assert!(matches!(step.undo(&state(500, Some(501), Some(1_000))), Undo::NotNeeded(_)));
        assert!(matches!(step.verify(&state(500, Some(501), Some(9)), &StepState::Gone), Verification::DidNotHelp(_)));
    }
}
