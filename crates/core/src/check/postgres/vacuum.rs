//! Does vacuum keep up, and does the planner know today's rows?
//!
//! Every table is measured against *its own* trigger (the number of rows at which autovacuum would start, after the
//! table's settings): a fixed percentage is wrong for small tables and for very large ones alike.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Postgres, Server, Table};
use crate::quantity::{Unit, Value, format_count};
use crate::severity::Severity;

const MINIMUM_ROWS_WHY: &str = "below a thousand rows neither bloat nor a wrong estimate costs anything";

pub static DEAD_ROWS_PAST_TRIGGER: Check = Check {
    id: "postgres.dead_rows_past_trigger",
    title: "Dead rows pile up faster than vacuum removes them",
    runbook: Runbook {
        means: "Updated and deleted rows stay in the table until vacuum removes them. Autovacuum should have started \
                long ago and did not, or could not finish: scans read more pages, and the disk fills.",
        confirm: "SELECT relname, n_live_tup, n_dead_tup, last_vacuum, last_autovacuum FROM pg_stat_user_tables ORDER \
                  BY n_dead_tup DESC LIMIT 10;",
        act: "Run VACUUM (ANALYZE) on the tables; it blocks neither reads nor writes. If the dead rows stay, something \
              old still needs them: look for long transactions, replication slots and prepared transactions. If it \
              happens again, let autovacuum run more often on that table: ALTER TABLE … SET \
              (autovacuum_vacuum_scale_factor = 0.02).",
    },
    source: "pg_stat_user_tables.n_dead_tup against autovacuum_vacuum_threshold + scale factor × reltuples",
    thresholds: &[
        Threshold {
            name: "factor",
            default: 2.0,
            unit: Unit::Ratio,
            why: "autovacuum starts at 1; at twice that for an hour it does not keep up",
        },
        Threshold { name: "minimum_rows", default: 1_000.0, unit: Unit::Count, why: MINIMUM_ROWS_WHY },
    ],
    hold: Hold::minutes(60.0, 5.0),
    judge: Judge::Postgres(dead_rows_past_trigger),
};

fn dead_rows_past_trigger(sight: &Sight<'_, Postgres>) -> Judged {
    let (factor, minimum) = (sight.limit("factor"), sight.limit("minimum_rows"));
    let late = late_tables(sight, |table| {
        let dead = table.dead_rows as f64;
        let times = dead / table.vacuum_trigger.max(1.0);
        (times > factor && dead >= minimum).then(|| Late {
            times,
            note: format!(
                "{} dead rows, {times:.1} times its trigger of {}{}",
                format_count(dead),
                format_count(table.vacuum_trigger.round()),
                if table.autovacuum { "" } else { "; autovacuum is switched off for it" }
            ),
        })
    })?;
    let wording = Wording {
        summary: "have dead rows past twice the point where vacuum starts",
        evidence: "dead rows against the table's trigger",
        command: "VACUUM (ANALYZE)",
        source: DEAD_ROWS_PAST_TRIGGER.source,
    };
    Ok(draft(&sight.seen.server, &late, factor, &wording))
}

pub static STATISTICS_STALE: Check = Check {
    id: "postgres.statistics_stale",
    title: "The planner works with old statistics",
    runbook: Runbook {
        means: "So many rows changed since the last ANALYZE that the planner's picture of the table is wrong, or it has \
                no picture at all. It may choose a plan that is a hundred times slower.",
        confirm: "SELECT relname, n_live_tup, n_mod_since_analyze, last_analyze, last_autoanalyze FROM \
                  pg_stat_user_tables ORDER BY n_mod_since_analyze DESC LIMIT 10;",
        act: "Run ANALYZE on the tables; it takes seconds and blocks neither reads nor writes. After a bulk load make \
              ANALYZE a part of the load. If it happens again: ALTER TABLE … SET (autovacuum_analyze_scale_factor = \
              0.02).",
    },
    source: "pg_stat_user_tables.n_mod_since_analyze against autovacuum_analyze_threshold + scale factor × reltuples",
    thresholds: &[
        Threshold {
            name: "factor",
            default: 2.0,
            unit: Unit::Ratio,
            why: "autovacuum analyzes at 1; at twice that for an hour it does not keep up",
        },
        Threshold { name: "minimum_rows", default: 1_000.0, unit: Unit::Count, why: MINIMUM_ROWS_WHY },
    ],
    hold: Hold::minutes(60.0, 5.0),
    judge: Judge::Postgres(statistics_stale),
};

fn statistics_stale(sight: &Sight<'_, Postgres>) -> Judged {
    let (factor, minimum) = (sight.limit("factor"), sight.limit("minimum_rows"));
    let late = late_tables(sight, |table| {
        let (modified, live) = (table.modified_since_analyze as f64, table.live_rows as f64);
        let trigger = table.analyze_trigger.max(1.0);
        if table.rows_estimated.is_none() && table.last_analyze.is_none() {
            let note = format!("{} rows and never analyzed", format_count(live));
            return (table.live_rows > 0 && live >= minimum)
                .then(|| Late { times: live.max(modified) / trigger, note });
        }
        let times = modified / trigger;
        let note = format!(
            "{} rows changed since its last ANALYZE, {times:.1} times its trigger of {}",
            format_count(modified),
            format_count(table.analyze_trigger.round())
        );
        (times > factor && modified >= minimum).then_some(Late { times, note })
    })?;
    let wording = Wording {
        summary: "have statistics that are out of date",
        evidence: "rows changed against the table's trigger",
        command: "ANALYZE",
        source: STATISTICS_STALE.source,
    };
    Ok(draft(&sight.seen.server, &late, factor, &wording))
}

/// How far a table is past its trigger.
struct Late {
    times: f64,
    note: String,
}

/// Worst first. A standby keeps no such counters and cannot vacuum: nothing is judged there.
fn late_tables<'a>(
    sight: &Sight<'a, Postgres>,
    late: impl Fn(&Table) -> Option<Late>,
) -> Result<Vec<(&'a Table, Late)>, crate::check::Unknown> {
    let tables = sight.seen.tables.as_ref()?;
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let mut found: Vec<_> = tables.iter().filter_map(|table| Some((table, late(table)?))).collect();
    found.sort_by(|(_, a), (_, b)| b.times.total_cmp(&a.times));
    Ok(found)
}

struct Wording {
    summary: &'static str,
    evidence: &'static str,
    command: &'static str,
    source: &'static str,
}

fn draft(server: &Server, late: &[(&Table, Late)], factor: f64, wording: &Wording) -> Vec<Draft> {
    let Some((worst, worst_late)) = late.first() else { return Vec::new() };
    let Wording { summary, evidence, command, source } = wording;
    let database = &server.database;
    let count = late.len();
    let tables = if count == 1 { "1 table".to_owned() } else { format!("{count} tables") };
    let (ours, others): (Vec<_>, Vec<_>) = late.iter().partition(|(table, _)| table.maintainable);
    let offenders = ours.iter().map(|(table, late)| Offender {
        target: Target::Table { database: database.clone(), schema: table.schema.clone(), name: table.name.clone() },
        weight: late.times,
        note: late.note.clone(),
    });
    let verb = if count == 1 { summary.replacen("have", "has", 1) } else { (*summary).to_owned() };
    let mut draft =
        Draft::new(Severity::Warning, format!("{tables} in {database} {verb}; the worst is {}", name(worst)))
            .about(Target::Database { name: database.clone() })
            .against(
                *evidence,
                Value::number(worst_late.times, Unit::Ratio),
                Value::number(factor, Unit::Ratio),
                *source,
            )
            .saw("the worst table", Value::text(format!("{}: {}", name(worst), worst_late.note)), *source)
            .offenders(offenders.collect());
    if !others.is_empty() {
        let names: Vec<_> = others.iter().take(10).map(|(table, _)| name(table)).collect();
        let more = others.len().saturating_sub(names.len());
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        draft = draft.saw(
            "not ours to maintain",
            Value::text(format!(
                "{}{rest}: we are neither owner nor superuser, nor may we MAINTAIN (from 17 on)",
                names.join(", ")
            )),
            "pg_class.relowner and has_table_privilege",
        );
    }
    let quoted = format!("{}.{}", crate::remedy::quoted(&worst.schema), crate::remedy::quoted(&worst.name));
    vec![
        draft.fix(format!("In database {database}: {command} {quoted};{}", if count > 1 { " and so on." } else { "" })),
    ]
}

fn name(table: &Table) -> String {
    format!("{}.{}", table.schema, table.name)
}

#[cfg(test)]
mod tests {
    use crate::check::postgres::fixtures::{change, finding, found_in, status, table};
    use crate::check::{Status, UnknownKind};
    use crate::finding::Target;
    use crate::observation::{Gap, Postgres, Table};
    use crate::remedy;

    fn with_tables(tables: Vec<Table>) -> Postgres {
        change(|seen| seen.tables = Ok(tables))
    }

    fn dead(name: &str, dead_rows: u64) -> Table {
        Table { dead_rows, ..table(name) }
    }

    #[test]
    fn dead_rows_count_from_twice_the_tables_own_trigger() {
        assert_eq!(found_in(with_tables(vec![dead("chunks", 40_100)])), []);
        let finding = finding("postgres.dead_rows_past_trigger", found_in(with_tables(vec![dead("chunks", 40_101)])));
        assert_eq!(finding.subject, Target::Database { name: "docrag".into() });
        assert!(finding.fix.contains("VACUUM (ANALYZE) \"public\".\"chunks\""), "{}", finding.fix);
        let tuned = Table { vacuum_trigger: 1_000.0, ..dead("chunks", 5_000) };
        assert_eq!(found_in(with_tables(vec![tuned])).len(), 1);
    }

    #[test]
    fn the_worst_table_comes_first_and_the_remedy_gets_every_one() {
        let seen = with_tables(vec![dead("a", 50_000), dead("b", 90_000), dead("c", 10)]);
        let finding = finding("postgres.dead_rows_past_trigger", found_in(seen));
        let proposals = (remedy::find("postgres.vacuum_table").unwrap().propose)(&finding);
        let names: Vec<_> = proposals.iter().map(|proposal| proposal.step.target().to_string()).collect();
        assert_eq!(names, ["table docrag.public.b", "table docrag.public.a"]);
        assert!(finding.summary.starts_with("2 tables in docrag have"), "{}", finding.summary);
    }

    #[test]
    fn a_table_that_we_may_not_maintain_is_named_but_no_offender() {
        let theirs = Table { maintainable: false, ..dead("theirs", 90_000) };
        let finding = finding("postgres.dead_rows_past_trigger", found_in(with_tables(vec![theirs])));
        assert_eq!(finding.offenders, []);
        assert!(finding.evidence.iter().any(|evidence| evidence.value.to_string().starts_with("public.theirs:")));
    }

    #[test]
    fn small_tables_do_not_count() {
        let small = Table {
            live_rows: 10,
            modified_since_analyze: 999,
            vacuum_trigger: 52.0,
            analyze_trigger: 51.0,
            ..dead("small", 999)
        };
        assert_eq!(found_in(with_tables(vec![small])), []);
    }

    #[test]
    fn statistics_count_from_twice_the_tables_own_trigger() {
        let changed = |modified_since_analyze| Table { modified_since_analyze, ..table("chunks") };
        assert_eq!(found_in(with_tables(vec![changed(20_100)])), []);
        let finding = finding("postgres.statistics_stale", found_in(with_tables(vec![changed(20_101)])));
        assert_eq!(finding.offenders.len(), 1);
        assert!(finding.fix.contains("ANALYZE \"public\".\"chunks\""));
    }

    #[test]
    fn a_table_with_rows_that_was_never_analyzed_counts_and_an_empty_one_does_not() {
        let fresh = |live_rows| Table {
            rows_estimated: None,
            last_analyze: None,
            live_rows,
            modified_since_analyze: live_rows,
            analyze_trigger: 50.0,
            vacuum_trigger: 50.0,
            dead_rows: 0,
            ..table("fresh")
        };
        let finding = finding("postgres.statistics_stale", found_in(with_tables(vec![fresh(1_000)])));
        assert!(finding.offenders[0].note.contains("never analyzed"));
        assert_eq!(found_in(with_tables(vec![fresh(0)])), []);
        assert_eq!(found_in(with_tables(Vec::new())), []);
    }

    #[test]
    fn a_trigger_of_zero_or_without_end_does_no_harm() {
        let odd = |trigger| Table { vacuum_trigger: trigger, analyze_trigger: trigger, ..dead("odd", 0) };
        for trigger in [f64::INFINITY, f64::NAN] {
            assert_eq!(
                found_in(with_tables(vec![Table { dead_rows: 100, modified_since_analyze: 0, ..odd(trigger) }])),
                []
            );
        }
        let zero = Table { dead_rows: 1_000, modified_since_analyze: 0, ..odd(0.0) };
        finding("postgres.dead_rows_past_trigger", found_in(with_tables(vec![zero])));
    }

    #[test]
    fn a_standby_is_not_judged_by_counters_that_it_does_not_keep() {
        let seen = change(|seen| {
            seen.server.in_recovery = true;
            seen.tables = Ok(vec![dead("chunks", 900_000)]);
        });
        assert_eq!(found_in(seen), []);
    }

    #[test]
    fn tables_that_could_not_be_read_are_unknown() {
        let seen = change(|seen| seen.tables = Err(Gap::new("lock timeout")));
        let Status::Unknown(unknown) = status("postgres.statistics_stale", seen, None) else { panic!() };
        assert_eq!(unknown.kind, UnknownKind::NotRead);
    }
}
