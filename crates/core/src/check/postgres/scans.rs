//! Tables that are read from beginning to end again and again.

use super::queries::leaders;
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Postgres, Statement, Table};
use crate::quantity::{Unit, Value, format_bytes, format_count, format_seconds};
use crate::severity::Severity;

const SCANS: &str = "seq_scan and seq_tup_read of pg_stat_user_tables, between two readings";
/// Pages of a table of fewer bytes are read in a millisecond or two, whatever an index would do.
pub const MINIMUM_SIZE: u64 = 8 << 20;
/// Of the table's rows: a scan that stops early (LIMIT, EXISTS) is not what an index is missing for.
const WHOLE: f64 = 0.5;
const WORKERS: &str = "max_parallel_workers_per_gather";
/// Postgres's default of that setting.
const DEFAULT_WORKERS: f64 = 2.0;

pub static INDEX_MISSING: Check = Check {
    id: "postgres.index_missing",
    title: "A large table is read whole again and again",
    runbook: Runbook {
        means: "Queries look through every row of a table to find a few. Each time costs as much as the table is large, and \
                more as it grows; the pages that they read push others out of the cache.",
        confirm: "SELECT relname, seq_scan, seq_tup_read, seq_tup_read / greatest(seq_scan, 1) AS rows_a_scan, idx_scan, \
                  n_live_tup FROM pg_stat_user_tables ORDER BY seq_tup_read DESC LIMIT 10; twice, a minute apart, and \
                  compare.",
        act: "Find the statement (the finding names those among the leaders that mention the table) and look at it with \
              EXPLAIN. `groundskeeper task run performance-review` proposes indexes and has the planner compare their \
              cost first, where the extension hypopg is created in the database: CREATE EXTENSION hypopg; it makes nothing \
              real. Then CREATE INDEX CONCURRENTLY. What has to read every row (a sum over all, an export) is right as it \
              is: raise the threshold or keep its answer for a while.",
    },
    source: SCANS,
    thresholds: &[
        Threshold {
            name: "minimum_rows",
            default: 10_000.0,
            unit: Unit::Count,
            why: "of the table: pgHero's limit for a missing index; fewer are read in a millisecond or two",
        },
        Threshold {
            name: "minimum_rate",
            default: 100_000.0,
            unit: Unit::PerSecond,
            why: "rows read by whole scans: about a hundredth of a core, which reads some 10 million a second",
        },
        Threshold {
            name: "warning",
            default: 2_000_000.0,
            unit: Unit::PerSecond,
            why: "rows read by whole scans: a fifth of a core does nothing else",
        },
    ],
    hold: Hold::minutes(30.0, 60.0),
    judge: Judge::Postgres(index_missing),
};

/// Of one table between two readings.
struct Scanned<'a> {
    table: &'a Table,
    scans: u64,
    rows: u64,
}

fn index_missing(sight: &Sight<'_, Postgres>) -> Judged {
    let tables = sight.seen.tables.as_ref()?;
    let (earlier, seconds) = sight.since("how often tables are read whole")?;
    let earlier = earlier.tables.as_ref()?;
    let between = tables.iter().filter_map(|table| {
        let before = earlier.iter().find(|before| before.schema == table.schema && before.name == table.name)?;
        // Counters that went back were reset.
        let scans = table.whole_scans.checked_sub(before.whole_scans)?;
        Some(Scanned { table, scans, rows: table.rows_scanned.checked_sub(before.rows_scanned)? })
    });
    let mut found: Vec<Scanned<'_>> = between
        .filter(|one| {
            is_large(one.table, sight.limit("minimum_rows")) && is_whole(sight.seen, one.table, one.scans, one.rows)
        })
        .filter(|one| one.rows as f64 / seconds >= sight.limit("minimum_rate"))
        .collect();
    found.sort_by_key(|one| std::cmp::Reverse(one.rows));
    let Some(worst) = found.first() else { return Ok(Vec::new()) };
    let rate = worst.rows as f64 / seconds;
    let (severity, limit) = sight.graded(rate).unwrap_or((Severity::Info, sight.limit("minimum_rate")));
    let (value, threshold) = measured(rate, limit, Unit::PerSecond);
    let database = &sight.seen.server.database;
    let offenders = found.iter().map(|one| offender(sight, one));
    let others = if found.len() > 1 { format!(" (and {} more tables)", found.len() - 1) } else { String::new() };
    let draft = Draft::new(
        severity,
        format!(
            "{}.{} in {database} was read whole {} times in the last {}, {} rows each time{others}",
            worst.table.schema,
            worst.table.name,
            format_count(worst.times() as f64),
            format_seconds(seconds),
            format_count((worst.rows / worst.times()) as f64)
        ),
    )
    .about(Target::Database { name: database.clone() })
    .against("rows read by whole scans", value, threshold, SCANS)
    .saw("size of the table with its indexes", Value::bytes(worst.table.size), "pg_class.relpages")
    .offenders(offenders.collect())
    .fix(format!(
        "groundskeeper task run performance-review; it proposes indexes that the planner would use, if {database} has the \
         extension hypopg (CREATE EXTENSION hypopg; the package is named like postgresql-15-hypopg). Without it: EXPLAIN the \
         statements that are named here, and CREATE INDEX CONCURRENTLY on the columns of their conditions.",
    ));
    Ok(vec![draft])
}

/// Whether an index could matter at all.
pub fn is_large(table: &Table, minimum_rows: f64) -> bool {
    table.size >= MINIMUM_SIZE && table.rows_estimated.is_some_and(|rows| rows >= minimum_rows)
}

/// Whether these scans read most of it each time. Each worker of a parallel scan counts as a scan of its own, of its share of
/// the rows.
pub fn is_whole(seen: &Postgres, table: &Table, scans: u64, rows: u64) -> bool {
    let setting = seen.settings.as_ref().ok().and_then(|settings| settings.number(WORKERS));
    let participants = 1.0 + setting.unwrap_or(DEFAULT_WORKERS).max(0.0);
    reads_share(table, scans, rows, WHOLE / participants)
}

fn reads_share(table: &Table, scans: u64, rows: u64, share: f64) -> bool {
    scans > 0 && rows as f64 / scans as f64 >= table.rows_estimated.unwrap_or(f64::INFINITY) * share
}

impl Scanned<'_> {
    /// How often it was read, however many workers took part: where each read too little for a whole scan, as often as its
    /// rows go into those that were read.
    fn times(&self) -> u64 {
        let all = self.table.rows_estimated.unwrap_or(0.0);
        if all <= 0.0 || reads_share(self.table, self.scans, self.rows, WHOLE) {
            return self.scans.max(1);
        }
        ((self.rows as f64 / all).round() as u64).max(1)
    }
}

fn offender(sight: &Sight<'_, Postgres>, one: &Scanned<'_>) -> Offender {
    let table = one.table;
    // Without the statements the table is still worth telling.
    let leading = leaders(sight.seen).map(|leaders| leaders.statements.as_slice()).unwrap_or_default();
    let mentioning = leading.iter().filter(|statement| mentions(statement, &table.name)).take(3);
    let named: Vec<String> =
        mentioning.map(|statement| format!("{} [{}]", statement.query, statement.query_id)).collect();
    let statements = if named.is_empty() {
        "no leading statement mentions it".to_owned()
    } else {
        format!("mentioned by: {}", named.join("; "))
    };
    Offender {
        target: Target::Table {
            database: sight.seen.server.database.clone(),
            schema: table.schema.clone(),
            name: table.name.clone(),
        },
        weight: one.rows as f64,
        note: format!(
            "{} scans of {} rows, {}; {statements}",
            format_count(one.times() as f64),
            format_count(table.rows_estimated.unwrap_or(0.0).round()),
            format_bytes(table.size as f64),
        ),
    }
}

/// Whether the name is a word of the statement: a hint for a person, who reads it anyway.
fn mentions(statement: &Statement, table: &str) -> bool {
    let words = statement.query.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
    table.is_ascii() && words.into_iter().any(|word| word.eq_ignore_ascii_case(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, healthy, status};
    use crate::observation::{Gap, Setting};

    /// The first table, of 100,000 rows, a minute later.
    fn scanned(scans: u64, rows: u64, what: impl FnOnce(&mut Table)) -> Postgres {
        change(|seen| {
            let table = &mut seen.tables.as_mut().unwrap()[0];
            table.whole_scans += scans;
            table.rows_scanned += rows;
            what(table);
        })
    }

    #[test]
    fn a_table_that_is_read_whole_once_a_second_is_found_with_the_statements_that_mention_it() {
        assert_eq!(found_in(scanned(59, 5_900_000, |_| ())), []);
        let missing = finding("postgres.index_missing", found_in(scanned(60, 6_000_000, |_| ())));
        assert_eq!(missing.severity, Severity::Info);
        assert!(
            missing
                .summary
                .contains("public.chunks in docrag was read whole 60 times in the last 1 min, 100,000 rows each"),
            "{}",
            missing.summary
        );
        assert!(missing.offenders[0].note.contains("mentioned by: SELECT body FROM chunks"), "{:?}", missing.offenders);
        let busy = finding("postgres.index_missing", found_in(scanned(1_200, 120_000_000, |_| ())));
        assert_eq!(busy.severity, Severity::Warning);
    }

    #[test]
    fn small_tables_short_scans_and_resets_say_nothing() {
        assert_eq!(found_in(scanned(600, 6_000_000, |_| ())), [], "a tenth of the rows each time");
        assert_eq!(found_in(scanned(60, 6_000_000, |table| table.size = MINIMUM_SIZE - 1)), []);
        assert_eq!(found_in(scanned(600, 6_000_000, |table| table.rows_estimated = Some(9_999.0))), []);
        assert_eq!(found_in(scanned(60, 6_000_000, |table| table.rows_estimated = None)), []);
        assert_eq!(found_in(scanned(0, 0, |table| table.whole_scans = 0)), []);
    }

    /// The setting, as the server has it or as our role alone has it.
    fn with_workers(seen: &mut Postgres, workers: &str, source: &str) {
        let list = &mut seen.settings.as_mut().unwrap().list;
        list.retain(|setting| setting.name != WORKERS);
        let (name, value, source) = (WORKERS.to_owned(), workers.to_owned(), source.to_owned());
        list.push(Setting { name, value, source, unit: None, ..list[0].clone() });
    }

    #[test]
    fn the_workers_of_a_parallel_scan_share_its_rows() {
        // 60 scans by a leader and two workers each, of a table of 100,000 rows.
        let judged = |workers: &str, source: &str| {
            let mut seen = scanned(180, 6_000_000, |_| ());
            with_workers(&mut seen, workers, source);
            let mut before = healthy();
            with_workers(&mut before, workers, source);
            status("postgres.index_missing", seen, Some(before))
        };
        let Status::Failing { findings } = judged("2", "default") else { panic!("read whole by three together") };
        assert!(
            findings[0].summary.contains("read whole 60 times in the last 1 min, 100,000 rows each"),
            "{findings:#?}"
        );
        assert!(findings[0].offenders[0].note.starts_with("60 scans of 100,000 rows"), "{findings:#?}");
        assert_eq!(judged("0", "configuration file"), Status::Ok, "one process reads a third of it");
        assert!(matches!(judged("0", "user"), Status::Failing { .. }), "what others run with is not known");
        let mut unread = scanned(180, 6_000_000, |_| ());
        unread.settings = Err(Gap::new("no"));
        assert!(matches!(status("postgres.index_missing", unread, Some(healthy())), Status::Failing { .. }));
    }

    #[test]
    fn what_could_not_be_read_or_compared_is_unknown() {
        let unread = change(|seen| seen.tables = Err(Gap::new("no")));
        for (seen, before) in [(unread.clone(), Some(healthy())), (healthy(), Some(unread)), (healthy(), None)] {
            assert!(matches!(status("postgres.index_missing", seen, before), Status::Unknown(_)));
        }
        let mut no_statements = scanned(60, 6_000_000, |_| ());
        no_statements.statements.leaders = None;
        let Status::Failing { findings } = status("postgres.index_missing", no_statements, Some(healthy())) else {
            panic!()
        };
        assert!(findings[0].offenders[0].note.contains("no leading statement mentions it"), "{findings:#?}");
    }
}
