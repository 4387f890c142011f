//! The statements that take the most, as lines for a person.

use groundskeeper_core::observation::{Leaders, Statement, Statements};
use groundskeeper_core::quantity::{Value, format_bytes, format_count, format_number, format_seconds};
use groundskeeper_core::{SystemId, Unit};
use std::fmt::Write as _;

/// The guide's own limits for a statement worth reading: more than 100 calls, the top ten.
const MINIMUM_CALLS: u64 = 100;
const SHOWN: usize = 10;

/// What a review says of the statements of one database, and how many it names.
pub(super) fn lines(system: &SystemId, statements: &Statements) -> (Vec<String>, usize) {
    let leaders = match &statements.leaders {
        None => return (vec![format!("{system}: pg_stat_statements is not there, so no statement can be named")], 0),
        Some(Err(gap)) => return (vec![format!("{system}: statements could not be read: {}", gap.reason)], 0),
        Some(Ok(leaders)) => leaders,
    };
    let mut lines = vec![heading(system, leaders)];
    let mut named = 0;
    for (title, list) in [
        ("by time in all", ranked(leaders, |_| true, |statement| statement.time)),
        ("by mean, more than 100 calls", ranked(leaders, |one| one.calls > MINIMUM_CALLS, Statement::mean)),
        ("by temporary files", ranked(leaders, |_| true, |statement| statement.temporary_bytes as f64)),
        ("by blocks that were not in the cache", ranked(leaders, |_| true, |statement| statement.blocks_read as f64)),
    ] {
        if list.is_empty() {
            continue;
        }
        named += list.len();
        lines.push(format!("  {title}"));
        lines.extend(list.into_iter().map(|statement| line(statement, leaders)));
    }
    if leaders.hidden > 0 {
        lines.push(format!(
            "  {} statements of other roles are hidden from us; grant pg_monitor to see them",
            format_count(leaders.hidden as f64)
        ));
    }
    (lines, named)
}

fn heading(system: &SystemId, leaders: &Leaders) -> String {
    let since = leaders.stats_reset.map_or_else(String::new, |at| format!(" since {}", Value::Time { at }));
    let evictions = match leaders.evictions {
        Some(times) if times > 0 => format!(
            "; the least used ones were forgotten {} times to make room, so figures of rare ones are too low \
             (pg_stat_statements.max)",
            format_count(times as f64)
        ),
        _ => String::new(),
    };
    format!(
        "{system}, {} statements, {} calls and {} of execution{since}{evictions}",
        format_count(leaders.all.statements as f64),
        format_count(leaders.all.calls as f64),
        format_seconds(leaders.all.time),
    )
}

/// The first ten by a measure; what has nothing of it does not lead.
fn ranked(leaders: &Leaders, wanted: fn(&Statement) -> bool, measure: fn(&Statement) -> f64) -> Vec<&Statement> {
    let mut list: Vec<&Statement> =
        leaders.statements.iter().filter(|statement| wanted(statement) && measure(statement) > 0.0).collect();
    list.sort_by(|a, b| measure(b).total_cmp(&measure(a)));
    list.truncate(SHOWN);
    list
}

fn line(statement: &Statement, leaders: &Leaders) -> String {
    let share = if leaders.all.time > 0.0 { statement.time / leaders.all.time * 100.0 } else { 0.0 };
    let mut text = format!(
        "    {:>7} {:>9} in all, mean {} (± {}), {} calls, {} rows a call",
        format_number(share.min(100.0), Unit::Percent),
        format_seconds(statement.time),
        format_seconds(statement.mean()),
        format_seconds(statement.deviation),
        format_count(statement.calls as f64),
        format_number(statement.rows_per_call(), Unit::Ratio),
    );
    if statement.temporary_bytes > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {} of temporary files", format_bytes(statement.temporary_bytes as f64));
    }
    if statement.blocks_read > 0 {
        let all = (statement.blocks_hit + statement.blocks_read) as f64;
        let missed = format_number(statement.blocks_read as f64 / all * 100.0, Unit::Percent);
        let _ = write!(text, ", {} blocks read ({missed})", format_count(statement.blocks_read as f64));
    }
    format!("{text}: {} [{}]", statement.query, statement.query_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::SystemKind;
    use groundskeeper_core::observation::{Gap, Totals};

    fn statement(query_id: i64, calls: u64, time: f64) -> Statement {
        Statement {
            query_id,
            query: format!("SELECT {query_id}"),
            calls,
            rows: calls * 2,
            time,
            deviation: 0.01,
            fastest: 0.001,
            slowest: 1.0,
            blocks_hit: 300,
            blocks_read: 100,
            read_time: 0.0,
            temporary_bytes: 0,
            since: None,
        }
    }

    fn said(leaders: Option<Result<Leaders, Gap>>) -> (Vec<String>, usize) {
        let statements = Statements { leaders: leaders.map(|part| part.map(Box::new)), ..Statements::default() };
        lines(&SystemId::new(SystemKind::Postgres, "main"), &statements)
    }

    #[test]
    fn the_mean_of_a_statement_that_ran_a_hundred_times_is_no_leader_yet() {
        let statements = vec![statement(1, 1_000, 60.0), statement(2, 100, 30.0), statement(3, 101, 10.1)];
        let all = Totals { statements: 3, calls: 1_201, time: 120.0 };
        let (lines, named) = said(Some(Ok(Leaders { statements, all, evictions: Some(3), ..Leaders::default() })));
        let order: Vec<&str> = lines.iter().filter_map(|line| line.rsplit_once(" [")).map(|(_, id)| id).collect();
        assert_eq!(order, ["1]", "2]", "3]", "3]", "1]", "1]", "2]", "3]"], "{lines:#?}");
        assert_eq!(named, order.len());
        assert!(lines[0].contains("forgotten 3 times"), "{}", lines[0]);
        let (share, blocks) = ("50 %     1 min in all, mean 60 ms (± 10 ms)", "100 blocks read (25 %): SELECT 1 [1]");
        assert!(lines[2].contains(share) && lines[2].ends_with(blocks), "{}", lines[2]);
        assert!(!lines.iter().any(|line| line.contains("temporary")), "{lines:#?}");
    }

    #[test]
    fn what_could_not_be_read_is_said() {
        assert!(said(None).0[0].ends_with("so no statement can be named"));
        let refused = said(Some(Err(Gap::permission("permission denied; grant pg_monitor"))));
        assert_eq!(refused.0, ["postgres.main: statements could not be read: permission denied; grant pg_monitor"]);
        let hidden = said(Some(Ok(Leaders { hidden: 7, ..Leaders::default() })));
        assert!(hidden.0[1].contains("7 statements of other roles are hidden"), "{hidden:?}");
    }
}
