//! Does the planner's sample miss values that are common?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{ColumnDistribution, Distributions, Postgres};
use crate::quantity::{Unit, Value, format_count, format_number};
use crate::remedy::{next_target, quoted};
use crate::severity::Severity;

const DISTRIBUTION: &str = "most_common_freqs, n_distinct and null_frac of pg_stats";

pub static STATISTICS_TOO_COARSE: Check = Check {
    id: "postgres.statistics_too_coarse",
    title: "The planner's sample of a column misses common values",
    runbook: Runbook {
        means: "ANALYZE keeps as many common values of a column as its statistics target says, and the planner takes every other \
                value for one of the average: (1 - null_frac - the list's frequencies) / (n_distinct - the list's length). Here \
                the list is full, and its least common value is still many times as frequent as that average. Values that just \
                missed the list are taken for that much rarer than they are, and plans are chosen for a few rows that turn out \
                to be thousands.",
        confirm: "SELECT cardinality(most_common_freqs), most_common_freqs[cardinality(most_common_freqs)], n_distinct, null_frac \
                  FROM pg_stats WHERE tablename = 'TABLE' AND attname = 'COLUMN'; then EXPLAIN ANALYZE a query for a common value \
                  that is not in most_common_vals, and compare the rows.",
        act: "ALTER TABLE … ALTER COLUMN … SET STATISTICS with twice the target, ANALYZE the column, look again. It blocks neither \
              reads nor writes. Step by step and for that column only: the target of the widest column says how many rows are read \
              for the whole table, and each plan looks through the lists. -1 takes it back.",
    },
    source: DISTRIBUTION,
    thresholds: &[
        Threshold {
            name: "error",
            default: 10.0,
            unit: Unit::Ratio,
            why: "the least common value of the list against the average of the others: from an order of magnitude on the planner \
                  chooses other plans (nested loops for what wants a hash join)",
        },
        Threshold {
            name: "others",
            default: 20.0,
            unit: Unit::Percent,
            why: "share of the rows whose value is not in the list: below a fifth most queries are about values that are known",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(statistics_too_coarse),
};

fn statistics_too_coarse(sight: &Sight<'_, Postgres>) -> Judged {
    // A standby has the primary's statistics.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let Some(deep) = &sight.seen.deep else { return Err(Unknown::not_asked("what the planner's samples miss")) };
    let seen = deep.distributions.as_ref()?;
    let (error, others) = (sight.limit("error"), sight.limit("others"));
    let mut coarse: Vec<&ColumnDistribution> = seen
        .full
        .iter()
        .filter(|one| one.figures.error() >= error && one.figures.others_share * 100.0 >= others)
        .collect();
    coarse.sort_by(|a, b| b.figures.error().total_cmp(&a.figures.error()));
    let Some(worst) = coarse.first() else { return all_shown(sight, seen) };
    let database = &sight.seen.server.database;
    let more = if coarse.len() > 1 { format!(", and {} more", coarse.len() - 1) } else { String::new() };
    let next = next_target(worst.figures.in_force);
    let fix = match next {
        Some(next) => format!(
            "In database {database}: ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS {next}; ANALYZE {table} ({column});",
            table = format_args!("{}.{}", quoted(&worst.table.schema), quoted(&worst.table.name)),
            column = quoted(&worst.column)
        ),
        None => format!(
            "Its target is {} already: a larger list costs more than it helps. Look whether a partial index, partitions or \
             CREATE STATISTICS serve its queries.",
            worst.figures.in_force
        ),
    };
    Ok(vec![
        Draft::new(Severity::Info, format!("{}{more}", told(worst)))
            .about(Target::Database { name: database.clone() })
            .against(
                "least common against the average of the others",
                Value::number(worst.figures.error(), Unit::Ratio),
                Value::number(error, Unit::Ratio),
                DISTRIBUTION,
            )
            .against(
                "rows whose value is not in the list",
                Value::percent(worst.figures.others_share * 100.0),
                Value::percent(others),
                DISTRIBUTION,
            )
            .saw("values in the list", Value::count(worst.figures.common), DISTRIBUTION)
            .offenders(coarse.iter().map(|one| offender(database, one)).collect())
            .fix(fix),
    ])
}

fn offender(database: &str, one: &ColumnDistribution) -> Offender {
    Offender {
        target: Target::Column {
            database: database.to_owned(),
            schema: one.table.schema.clone(),
            table: one.table.name.clone(),
            name: one.column.clone(),
            target: next_target(one.figures.in_force),
            seen: one.figures.target,
        },
        weight: one.figures.error(),
        note: told(one),
    }
}

fn told(one: &ColumnDistribution) -> String {
    format!(
        "{}.{}: the least common of {} listed values is {} times as frequent as the average of the {} others, which have {} of \
         the rows",
        one.table,
        one.column,
        one.figures.common,
        format_count(one.figures.error().round()),
        format_count(one.figures.others.round()),
        format_number(one.figures.others_share * 100.0, Unit::Percent)
    )
}

fn all_shown(sight: &Sight<'_, Postgres>, seen: &Distributions) -> Judged {
    let Some(first) = seen.hidden.first() else { return Ok(Vec::new()) };
    Err(Unknown {
        // The values are in the statistics: a watcher that may not see them is a fair choice.
        kind: UnknownKind::NotHere,
        reason: format!(
            "the statistics of {} tables are hidden from us, those of {first} among them; GRANT SELECT ON {}.{} TO {} would show \
             them, and the rows with them",
            seen.hidden.len(),
            quoted(&first.schema),
            quoted(&first.name),
            quoted(&sight.seen.access.user)
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, judged, reading, status, table_name};
    use crate::observation::{Distribution, Gap, Observation};
    use crate::remedy::find;

    const ID: &str = "postgres.statistics_too_coarse";

    /// 100 values are listed, the rest are 50,000 with half of the rows: 0.00001 each.
    fn column(error: f64) -> ColumnDistribution {
        let figures = Distribution {
            target: None,
            in_force: 100,
            common: 100,
            least: error * 0.000_01,
            others_share: 0.5,
            others: 50_000.0,
        };
        ColumnDistribution { table: table_name("chunks"), column: "tenant".into(), figures }
    }

    fn with(full: Vec<ColumnDistribution>) -> Postgres {
        change(|seen| seen.deep.as_mut().unwrap().distributions.as_mut().unwrap().full = full)
    }

    #[test]
    fn a_full_list_whose_last_value_is_far_above_the_rest_is_told_with_the_next_target() {
        assert_eq!(found_in(with(vec![column(9.9)])), []);
        let few = ColumnDistribution {
            figures: Distribution { others_share: 0.1, others: 10_000.0, ..column(50.0).figures },
            ..column(50.0)
        };
        assert_eq!(found_in(with(vec![few])), [], "hardly a row is meant");
        let found = finding(ID, found_in(with(vec![column(12.0), column(81.0)])));
        assert_eq!((found.severity, found.offenders.len()), (Severity::Info, 2));
        assert_eq!(
            found.summary,
            "public.chunks.tenant: the least common of 100 listed values is 81 times as frequent as the average of the 50,000 \
             others, which have 50 % of the rows, and 1 more"
        );
        assert!(
            found.fix.ends_with("SET STATISTICS 200; ANALYZE \"public\".\"chunks\" (\"tenant\");"),
            "{}",
            found.fix
        );
        assert_eq!((find("postgres.raise_statistics_target").unwrap().propose)(&found).len(), 2);
    }

    #[test]
    fn at_the_largest_target_it_is_told_and_nothing_is_proposed() {
        let mut end = column(50.0);
        (end.figures.in_force, end.figures.common, end.figures.target) = (1_000, 1_000, Some(1_000));
        let found = finding(ID, found_in(with(vec![end])));
        assert!(found.fix.starts_with("Its target is 1000 already"), "{}", found.fix);
        assert_eq!((find("postgres.raise_statistics_target").unwrap().propose)(&found), []);
    }

    #[test]
    fn what_was_not_asked_is_not_judged_and_what_is_hidden_is_unknown() {
        let watch = change(|seen| seen.deep = None);
        let answers = judged(&Observation::Postgres(reading(watch)), None);
        assert!(answers.iter().all(|judgement| judgement.check != ID), "its last answer stands");
        let hidden = change(|seen| {
            seen.deep.as_mut().unwrap().distributions.as_mut().unwrap().hidden = vec![table_name("chunks")];
        });
        let Status::Unknown(unknown) = status(ID, hidden, None) else { panic!("hidden is not ok") };
        assert_eq!(unknown.kind, UnknownKind::NotHere);
        assert!(unknown.reason.contains("GRANT SELECT ON \"public\".\"chunks\" TO \"groundskeeper\""), "{unknown:?}");
        let gap = change(|seen| seen.deep.as_mut().unwrap().distributions = Err(Gap::new("cut off")));
        assert!(matches!(status(ID, gap.clone(), None), Status::Unknown(_)));
        let mut standby = gap;
        standby.server.in_recovery = true;
        assert_eq!(status(ID, standby, None), Status::Ok, "the primary tells it");
    }
}
