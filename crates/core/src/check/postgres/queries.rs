//! The statements that cost the most at present: slow, heavy, spilling into files, missing the cache.
//!
//! The present is what happened between two readings; totals since the statistics began tell of a past that may be long
//! mended. A statement whose counters were reset or forgotten in between gets no answer in that round.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Leaders, Postgres, Statement};
use crate::quantity::{Unit, Value, format_bytes, format_count, format_number, format_seconds, seconds_between};
use crate::severity::Severity;

const STATEMENTS: &str = "pg_stat_statements of the connected database, between two readings";
/// Of a statement in a sentence.
const QUOTED: usize = 80;

pub static QUERY_SLOW: Check = Check {
    id: "postgres.query_slow",
    title: "A statement that runs often is slow",
    runbook: Runbook {
        means: "Users wait for it each time. One that is meant to be slow (a report, a nightly job) is harmless; one that \
                belongs to a request is not.",
        confirm: "SELECT queryid, calls, mean_exec_time, stddev_exec_time, query FROM pg_stat_statements WHERE calls >= \
                  100 ORDER BY mean_exec_time DESC LIMIT 10; the figures run since the last reset, ours since the last \
                  reading.",
        act: "EXPLAIN (ANALYZE, BUFFERS) it with values that are slow, in a transaction that you roll back if it writes. \
              A scan of a whole table wants an index, a wrong estimate wants ANALYZE or more statistics, much sorting \
              wants work_mem, and a mean that varies much may be waiting for locks.",
    },
    source: STATEMENTS,
    thresholds: &[
        Threshold {
            name: "minimum_mean",
            default: 0.02,
            unit: Unit::Seconds,
            why: "execution of one call; from 20 ms on pgHero calls a statement slow",
        },
        Threshold {
            name: "warning",
            default: 1.0,
            unit: Unit::Seconds,
            why: "a second of one call: what log_min_duration_statement is usually set to, and a wait that users notice",
        },
        Threshold {
            name: "minimum_calls",
            default: 100.0,
            unit: Unit::Count,
            why: "since the statistics began (pgHero's limit): what ran less often is no habit",
        },
    ],
    hold: Hold::minutes(10.0, 60.0),
    judge: Judge::Postgres(query_slow),
};

fn query_slow(sight: &Sight<'_, Postgres>) -> Judged {
    let Between { leaders, statements, seconds } = between(sight)?;
    let is_habit = |statement: &&Statement| {
        let whole = leaders.statements.iter().find(|whole| whole.query_id == statement.query_id);
        whole.is_some_and(|whole| whole.calls as f64 >= sight.limit("minimum_calls"))
    };
    let slow = statements
        .iter()
        .filter(is_habit)
        .filter(|statement| statement.mean() >= sight.limit("minimum_mean"))
        .map(|statement| {
            let (severity, limit) = graded(sight, statement.mean(), "minimum_mean");
            Leading { statement, severity, measure: statement.mean(), limit, note: per_call(statement) }
        })
        .collect();
    let told = |worst: &Leading<'_>| {
        format!(
            "a call takes {} on average in the last {}",
            format_seconds(worst.statement.mean()),
            format_seconds(seconds)
        )
    };
    let draft = finding(sight, &QUERY_SLOW, slow, told, "mean of one call", Unit::Seconds);
    all_shown(
        leaders,
        draft.map(|draft| {
            draft.fix(
        "EXPLAIN (ANALYZE, BUFFERS) it with values that are slow, and look where the time goes: SELECT query FROM \
         pg_stat_statements WHERE queryid = the number above; has its whole text.",
    )
        }),
    )
}

pub static QUERY_HEAVY: Check = Check {
    id: "postgres.query_heavy",
    title: "One statement takes most of the server's time",
    runbook: Runbook {
        means: "More than half of all execution is one statement, and it is not little. To make it cheaper, or to ask it \
                less often, helps everything else on the server more than any setting.",
        confirm: "SELECT queryid, calls, total_exec_time, total_exec_time / sum(total_exec_time) OVER () AS share, query \
                  FROM pg_stat_statements ORDER BY 3 DESC LIMIT 5; twice, a minute apart, and compare.",
        act: "Many cheap calls: ask less often, several at once, or keep the answer for a while. Few dear ones: EXPLAIN \
              (ANALYZE, BUFFERS), then an index or another way to write it. Where it is simply what the server is for, \
              raise the threshold.",
    },
    source: "total_exec_time of pg_stat_statements, between two readings; since its last reset where there is one reading",
    thresholds: &[
        Threshold {
            name: "minimum_share",
            default: 50.0,
            unit: Unit::Percent,
            why: "of the time of all statements: to halve it is felt everywhere",
        },
        Threshold {
            name: "minimum_load",
            default: 0.2,
            unit: Unit::Ratio,
            why: "seconds of execution in each second: a fifth of a core; on a server that rests, anything leads",
        },
        Threshold {
            name: "warning",
            default: 1.0,
            unit: Unit::Ratio,
            why: "seconds of execution in each second: one statement keeps a core busy all the time, or waits as long",
        },
    ],
    hold: Hold::minutes(30.0, 60.0),
    judge: Judge::Postgres(query_heavy),
};

fn query_heavy(sight: &Sight<'_, Postgres>) -> Judged {
    let leaders = leaders(sight.seen)?;
    let (statements, all, seconds) = if sight.before.is_some() {
        let Between { statements, seconds, .. } = between(sight)?;
        let (earlier, _) = sight.since("the time of statements")?;
        let all = leaders.time_since(self::leaders(earlier)?).ok_or_else(was_reset)?;
        (statements, all, seconds)
    } else {
        let since = leaders.stats_reset.ok_or_else(|| Unknown::needs_history("the time of statements"))?;
        (leaders.statements.clone(), leaders.all.time, seconds_between(since, sight.now))
    };
    if all <= 0.0 || seconds <= 0.0 {
        return all_shown(leaders, None);
    }
    // What is called inside of a function may have outrun the call that it is a part of, which is still on its way.
    let share = |statement: &Statement| (statement.time / all * 100.0).min(100.0);
    let heavy = statements
        .iter()
        .filter(|statement| share(statement) >= sight.limit("minimum_share"))
        .filter(|statement| statement.time / seconds >= sight.limit("minimum_load"))
        .map(|statement| {
            let (severity, limit) = graded(sight, statement.time / seconds, "minimum_load");
            let note =
                format!("{} of all time, {}", format_number(share(statement), Unit::Percent), per_call(statement));
            Leading { statement, severity, measure: statement.time / seconds, limit, note }
        })
        .collect();
    let told = |worst: &Leading<'_>| {
        format!(
            "{} of all execution time of the last {} is one statement, {} calls of {}",
            format_number(share(worst.statement), Unit::Percent),
            format_seconds(seconds),
            format_count(worst.statement.calls as f64),
            format_seconds(worst.statement.mean())
        )
    };
    let draft = finding(sight, &QUERY_HEAVY, heavy, told, "seconds of execution in each second", Unit::Ratio);
    all_shown(
        leaders,
        draft.map(|draft| {
            draft.fix(
                "See whether it is asked more often than needed; then EXPLAIN (ANALYZE, BUFFERS) it: SELECT query FROM \
         pg_stat_statements WHERE queryid = the number above; has its whole text.",
            )
        }),
    )
}

pub static QUERY_SPILLS: Check = Check {
    id: "postgres.query_spills",
    title: "A statement sorts or joins in temporary files",
    runbook: Runbook {
        means: "What it sorts, hashes or keeps does not fit into work_mem and goes through files: it takes several times \
                as long, and the disk is busy for everybody.",
        confirm: "SELECT queryid, calls, temp_blks_written, query FROM pg_stat_statements ORDER BY temp_blks_written DESC \
                  LIMIT 10; log_temp_files = 0 names each file in the server's log.",
        act: "EXPLAIN (ANALYZE, BUFFERS) it: an index in the right order needs no sort, fewer columns and rows need less \
              room. Then SET LOCAL work_mem in that transaction, or ALTER ROLE … SET work_mem for the role that runs it; \
              every sort of every session may take as much, so do not raise it for all.",
    },
    source: STATEMENTS,
    thresholds: &[
        Threshold {
            name: "minimum_rate",
            default: 1_048_576.0,
            unit: Unit::Bytes,
            why: "written in each second: 84 GiB a day",
        },
        Threshold {
            name: "warning",
            default: 26_214_400.0,
            unit: Unit::Bytes,
            why: "written in each second, and read again: 25 MiB are a fifth of what a usual cloud disk (125 MiB/s) gives",
        },
    ],
    hold: Hold::minutes(10.0, 60.0),
    judge: Judge::Postgres(query_spills),
};

fn query_spills(sight: &Sight<'_, Postgres>) -> Judged {
    let Between { leaders, statements, seconds } = between(sight)?;
    let spilling = statements
        .iter()
        .filter(|statement| statement.temporary_bytes as f64 / seconds >= sight.limit("minimum_rate").max(1.0))
        .map(|statement| {
            let rate = statement.temporary_bytes as f64 / seconds;
            let (severity, limit) = graded(sight, rate, "minimum_rate");
            let each = format_bytes(statement.temporary_bytes as f64 / statement.calls as f64);
            let note = format!("{each} of files a call, {}", per_call(statement));
            Leading { statement, severity, measure: rate, limit, note }
        })
        .collect();
    let told = |worst: &Leading<'_>| {
        format!(
            "{} of temporary files in the last {} come from one statement, {} a call",
            format_bytes(worst.statement.temporary_bytes as f64),
            format_seconds(seconds),
            format_bytes(worst.statement.temporary_bytes as f64 / worst.statement.calls as f64)
        )
    };
    let draft = finding(sight, &QUERY_SPILLS, spilling, told, "temporary bytes in each second", Unit::Bytes);
    all_shown(leaders, draft.map(|draft| draft.fix(
        "EXPLAIN (ANALYZE, BUFFERS) it and look for `Disk:`; if it must sort that much, SET LOCAL work_mem = '64MB' in its own \
         transaction.",
    )))
}

pub static QUERY_MISSES_CACHE: Check = Check {
    id: "postgres.query_misses_cache",
    title: "A statement reads much from outside the cache",
    runbook: Runbook {
        means: "Most of what others lose to the cache is this statement's: it fetches pages that nobody had in \
                shared_buffers, and pushes out those that others need.",
        confirm: "SELECT queryid, calls, shared_blks_hit, shared_blks_read, query FROM pg_stat_statements ORDER BY \
                  shared_blks_read DESC LIMIT 10;",
        act: "EXPLAIN (ANALYZE, BUFFERS) it: a scan of a whole table wants an index or a smaller question; an index scan \
              that still reads much wants the rows closer together (an index with INCLUDE, a partition by time). \
              track_io_timing = on shows how long the reading takes.",
    },
    source: STATEMENTS,
    thresholds: &[
        Threshold {
            name: "minimum_hit",
            default: 90.0,
            unit: Unit::Percent,
            why: "of its blocks found in the cache; the same limit as for a whole server (postgres.cache_hit_low)",
        },
        Threshold {
            name: "minimum_blocks",
            default: 10_000.0,
            unit: Unit::Count,
            why: "read between two readings: 80 MB; less is gone in a moment",
        },
    ],
    hold: Hold::minutes(10.0, 60.0),
    judge: Judge::Postgres(query_misses_cache),
};

fn query_misses_cache(sight: &Sight<'_, Postgres>) -> Judged {
    let Between { leaders, statements, seconds } = between(sight)?;
    let hit = |statement: &Statement| {
        statement.blocks_hit as f64 / (statement.blocks_hit + statement.blocks_read).max(1) as f64 * 100.0
    };
    let missing = statements
        .iter()
        .filter(|statement| statement.blocks_read as f64 >= sight.limit("minimum_blocks").max(1.0))
        .filter(|statement| hit(statement) < sight.limit("minimum_hit"))
        .map(|statement| {
            let mut note = format!(
                "{} blocks read, {} found in the cache, {}",
                format_count(statement.blocks_read as f64),
                format_number(hit(statement), Unit::Percent),
                per_call(statement)
            );
            if statement.read_time > 0.0 {
                note.push_str(", ");
                note.push_str(&format_seconds(statement.read_time));
                note.push_str(" spent reading");
            }
            let (measure, limit) = (statement.blocks_read as f64, sight.limit("minimum_blocks"));
            Leading { statement, severity: Severity::Info, measure, limit, note }
        })
        .collect();
    let told = |worst: &Leading<'_>| {
        format!(
            "one statement read {} blocks from outside the cache in the last {}, and found only {} in it",
            format_count(worst.statement.blocks_read as f64),
            format_seconds(seconds),
            format_number(hit(worst.statement), Unit::Percent)
        )
    };
    let draft = finding(sight, &QUERY_MISSES_CACHE, missing, told, "blocks read", Unit::Count);
    all_shown(leaders, draft.map(|draft| draft.fix(
        "EXPLAIN (ANALYZE, BUFFERS) it and look which node reads: SELECT query FROM pg_stat_statements WHERE queryid = the \
         number above; has its whole text.",
    )))
}

/// Where the extension is not there, `postgres.statements_missing` says so, and once is enough.
pub(super) fn leaders(seen: &Postgres) -> Result<&Leaders, Unknown> {
    match &seen.statements.leaders {
        Some(read) => Ok(read.as_ref()?),
        None => Err(Unknown {
            kind: UnknownKind::NotHere,
            reason: "pg_stat_statements cannot be used here (postgres.statements_missing)".to_owned(),
        }),
    }
}

struct Between<'a> {
    leaders: &'a Leaders,
    /// With what they did between the readings.
    statements: Vec<Statement>,
    seconds: f64,
}

fn between<'a>(sight: &Sight<'a, Postgres>) -> Result<Between<'a>, Unknown> {
    let now = leaders(sight.seen)?;
    let (earlier, seconds) = sight.since("what statements take")?;
    let statements = now.since(leaders(earlier)?).ok_or_else(was_reset)?;
    Ok(Between { leaders: now, statements, seconds })
}

fn was_reset() -> Unknown {
    Unknown {
        kind: UnknownKind::NeedsHistory,
        reason: "somebody reset pg_stat_statements between the last two readings".to_owned(),
    }
}

/// Nothing bad among the statements that we may see proves nothing about those that are hidden from us.
pub(super) fn all_shown(leaders: &Leaders, draft: Option<Draft>) -> Judged {
    if leaders.hidden == 0 || draft.is_some() {
        return Ok(draft.into_iter().collect());
    }
    Err(Unknown {
        kind: UnknownKind::NotRead,
        reason: format!(
            "{} of {} statements are hidden from us; grant pg_monitor to see them",
            leaders.hidden, leaders.all.statements
        ),
    })
}

/// A statement that is past a limit.
pub(super) struct Leading<'a> {
    pub(super) statement: &'a Statement,
    pub(super) severity: Severity,
    /// To sort by, against `limit`.
    pub(super) measure: f64,
    pub(super) limit: f64,
    pub(super) note: String,
}

/// Past the limit of that name anyway; information below `warning`.
fn graded(sight: &Sight<'_, Postgres>, value: f64, least: &str) -> (Severity, f64) {
    sight.graded(value).unwrap_or((Severity::Info, sight.limit(least)))
}

/// One finding for all, with the worst one in the sentence.
pub(super) fn finding(
    sight: &Sight<'_, Postgres>,
    check: &'static Check,
    mut leading: Vec<Leading<'_>>,
    told: impl Fn(&Leading<'_>) -> String,
    what: &str,
    unit: Unit,
) -> Option<Draft> {
    leading.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.measure.total_cmp(&a.measure)));
    let worst = leading.first()?;
    let target = Target::Database { name: sight.seen.server.database.clone() };
    let others = match leading.len() - 1 {
        0 => String::new(),
        1 => " (and 1 other)".to_owned(),
        more => format!(" (and {more} others)"),
    };
    let offenders = leading.iter().map(|one| Offender {
        target: target.clone(),
        weight: one.measure,
        note: format!("queryid {}, {}: {}", one.statement.query_id, one.note, one.statement.query),
    });
    let draft = Draft::new(
        worst.severity,
        format!("in {}, {}: {}{others}", sight.seen.server.database, told(worst), shortened(&worst.statement.query)),
    )
    .about(target.clone())
    .against(what, Value::number(worst.measure, unit), Value::number(worst.limit, unit), check.source)
    .saw("queryid", Value::text(worst.statement.query_id.to_string()), "pg_stat_statements.queryid")
    .offenders(offenders.collect());
    Some(draft)
}

fn per_call(statement: &Statement) -> String {
    format!("{} calls of {}", format_count(statement.calls as f64), format_seconds(statement.mean()))
}

fn shortened(query: &str) -> String {
    match query.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{} …", query[..end].trim_end()),
        None => query.to_owned(),
    }
}

#[cfg(test)]
mod tests;
