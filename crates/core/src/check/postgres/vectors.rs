//! Do the indexes of pgvector suit their rows, and what does it cost to keep them?
//!
//! The rules are those of pgvector's README. What an application sets in its own sessions is not seen: where that would change
//! the answer, the finding says so, and is no more than information.

use super::queries::leaders;
use super::usage::INDEX_UNUSED;
use crate::check::{Check, Hold, Judge, Judged, Limits, Runbook, Sight, Threshold};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Postgres, Statement, VectorColumn, VectorIndex, VectorIndexKind, Vectors};
use crate::quantity::{Unit, Value, format_bytes, format_count, format_seconds};
use crate::remedy::quoted;
use crate::severity::Severity;
use std::collections::BTreeMap;

const README: &str = "https://github.com/pgvector/pgvector#readme";
const MIB: f64 = 1_048_576.0;
/// The defaults of pgvector.
const EF_SEARCH: f64 = 40.0;
const PROBES: f64 = 1.0;
/// More is refused.
const MOST_LISTS: f64 = 32_768.0;

pub static VECTOR_INDEX_UNSUITED: Check = Check {
    id: "postgres.vector_index_unsuited",
    title: "An index of pgvector does not suit its rows",
    runbook: Runbook {
        means: "An IVFFlat index sorts rows into lists when it is built. With many more rows than then, or too many lists, \
                searches read too much or miss the nearest. An HNSW index gives no more rows than ef_search, is built many \
                times slower when its graph does not fit into maintenance_work_mem, and makes vacuum slow. A column without an \
                index is read whole by each search.",
        confirm: "SELECT indexrelid::regclass, pg_get_indexdef(indexrelid), idx_scan, pg_size_pretty(pg_relation_size(indexrelid)) \
                  FROM pg_stat_user_indexes WHERE pg_get_indexdef(indexrelid) ~ 'USING (hnsw|ivfflat)'; SELECT reltuples FROM \
                  pg_class WHERE oid = 'TABLE'::regclass; SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting;",
        act: "First what only changes a search: ALTER DATABASE … SET ivfflat.probes or hnsw.ef_search; new sessions take it up. \
              Measure the recall with and without (SET LOCAL enable_indexscan = off is exact). Then build anew with other \
              parameters: SET lock_timeout = '2s'; ALTER INDEX … SET (lists = …); REINDEX INDEX CONCURRENTLY …; it needs the room of \
              a second index, and for HNSW a session with enough maintenance_work_mem. Before a vacuum of many dead rows: \
              REINDEX INDEX CONCURRENTLY the HNSW index first, then VACUUM. An index that nobody uses: DROP INDEX CONCURRENTLY.",
    },
    source: "pg_class.reloptions of hnsw and ivfflat indexes, pg_db_role_setting, pg_stat_statements; rules of pgvector's README",
    thresholds: &[
        Threshold {
            name: "factor",
            default: 4.0,
            unit: Unit::Ratio,
            why: "times more or fewer lists than the README's start (rows / 1000 up to a million rows, the root of the rows above): \
                  half or double is within what one tunes by hand",
        },
        Threshold {
            name: "minimum_rows",
            default: 10_000.0,
            unit: Unit::Count,
            why: "fewer rows are searched exactly in milliseconds",
        },
        Threshold {
            name: "unindexed_rows",
            default: 50_000.0,
            unit: Unit::Count,
            why: "at 1,536 dimensions an exact search reads 300 MB for so many rows",
        },
        Threshold {
            name: "dead",
            default: 20.0,
            unit: Unit::Percent,
            why: "of the rows: autovacuum_vacuum_scale_factor's default; from here on a vacuum is due",
        },
        Threshold {
            name: "minimum_size",
            default: 64.0 * MIB,
            unit: Unit::Bytes,
            why: "of an index for what its build and vacuum cost: maintenance_work_mem's default holds it",
        },
    ],
    hold: Hold::minutes(60.0, 0.0),
    judge: Judge::Postgres(vector_index_unsuited),
};

/// One thing that does not suit.
struct Unsuited {
    severity: Severity,
    target: Target,
    weight: f64,
    note: String,
    fix: String,
}

fn vector_index_unsuited(sight: &Sight<'_, Postgres>) -> Judged {
    let Some(vectors) = sight.seen.vectors.as_ref()? else { return Ok(Vec::new()) };
    // A standby shows the primary's a second time.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let mut found: Vec<Unsuited> = Vec::new();
    for index in &vectors.indexes {
        match index.kind {
            VectorIndexKind::IvfFlat { lists } => found.extend(lists_unsuited(sight, vectors, index, f64::from(lists))),
            VectorIndexKind::Hnsw { m, ef_construction } => {
                found.extend(unbuildable(sight, index, m, ef_construction));
                found.extend(spills(sight, vectors, index));
                found.extend(slow_to_vacuum(sight, index));
            }
        }
    }
    found.extend(cut_short(sight, vectors));
    found.extend(unused_operators(sight, vectors));
    found.extend(vectors.unindexed.iter().filter_map(|column| unindexed(sight, column)));
    found.sort_by(|a, b| {
        (b.severity, b.weight).partial_cmp(&(a.severity, a.weight)).unwrap_or(std::cmp::Ordering::Equal)
    });
    let Some(worst) = found.first() else { return Ok(Vec::new()) };
    let database = &sight.seen.server.database;
    let others = if found.len() > 1 { format!("; {} more", found.len() - 1) } else { String::new() };
    let draft = Draft::new(worst.severity, format!("vectors of {database}: {}{others}", worst.note))
        .about(Target::Database { name: database.clone() })
        .saw("how many", Value::count(found.len() as f64), VECTOR_INDEX_UNSUITED.source)
        .saw("rules", Value::text("pgvector's README"), README)
        .fix(format!("In database {database}: {}", worst.fix));
    let offenders = found.into_iter().map(|one| Offender { target: one.target, weight: one.weight, note: one.note });
    Ok(vec![draft.offenders(offenders.collect())])
}

/// `IVFFlat`: its lists, or how many of them a search reads.
fn lists_unsuited(sight: &Sight<'_, Postgres>, vectors: &Vectors, index: &VectorIndex, lists: f64) -> Option<Unsuited> {
    let rows = index.rows.filter(|rows| *rows >= sight.limit("minimum_rows"))?;
    let fitting = if rows <= 1_000_000.0 { rows / 1_000.0 } else { rows.sqrt() }.round().clamp(1.0, MOST_LISTS);
    let name = whole_name(index);
    let told = format!("the IVFFlat index {} has {} lists", index.name, format_count(lists));
    if (fitting / lists).max(lists / fitting) >= sight.limit("factor") {
        return Some(unsuited(
            sight,
            index,
            format!(
                "{told} for {} rows, about {} would fit, and they are placed by the rows that were there when it was built",
                format_count(rows),
                format_count(fitting)
            ),
            format!(
                "SET lock_timeout = '2s'; ALTER INDEX {name} SET (lists = {fitting:.0}); REINDEX INDEX CONCURRENTLY {name};"
            ),
        ));
    }
    let (probes, start) = (vectors.most("ivfflat.probes").unwrap_or(PROBES), lists.sqrt().round());
    (probes * 2.0 < start).then(|| {
        unsuited(
            sight,
            index,
            format!(
                "{told}, and a search reads {} of them unless its session says otherwise; the root, {}, is a good start",
                format_count(probes),
                format_count(start)
            ),
            format!(
                "ALTER DATABASE {} SET ivfflat.probes = {start:.0}; unless the application sets it itself.",
                quoted(&sight.seen.server.database)
            ),
        )
    })
}

/// Parameters of an index can be changed to what no build accepts; the old graph stays as it is until then.
fn unbuildable(sight: &Sight<'_, Postgres>, index: &VectorIndex, m: u32, ef_construction: u32) -> Option<Unsuited> {
    let least = m.saturating_mul(2);
    (ef_construction < least).then(|| Unsuited {
        severity: Severity::Warning,
        ..unsuited(
            sight,
            index,
            format!(
                "the HNSW index {} cannot be built anew: ef_construction is {ef_construction}, and has to be at least twice m, \
                 which is {m}",
                index.name
            ),
            format!(
                "SET lock_timeout = '2s'; ALTER INDEX {} SET (ef_construction = {});",
                whole_name(index),
                least.max(64)
            ),
        )
    })
}

/// The graph is about as large as the index that is written from it.
fn spills(sight: &Sight<'_, Postgres>, vectors: &Vectors, index: &VectorIndex) -> Option<Unsuited> {
    let size = index.size as f64;
    let of_server = sight.seen.settings.as_ref().ok()?.number("maintenance_work_mem")?;
    let given = vectors.settings.iter().filter(|setting| setting.name == "maintenance_work_mem");
    let most = given.filter_map(|setting| bytes(&setting.value)).fold(of_server, f64::max);
    if size < sight.limit("minimum_size") || size <= most {
        return None;
    }
    let memory = sight.seen.machine.as_ref().and_then(|machine| machine.memory);
    let wanted = (size / (256.0 * MIB)).ceil() * 256.0;
    // A role's own setting would be that of the autovacuum workers on its tables too.
    let fix = match memory {
        Some(memory) if wanted * MIB <= memory as f64 / 4.0 => format!(
            "in the session that builds it, and nowhere else: SET maintenance_work_mem = '{wanted:.0}MB'; REINDEX INDEX \
             CONCURRENTLY {};",
            whole_name(index)
        ),
        Some(_) => format!(
            "{} are more than a quarter of the machine's memory: plan hours for a build, or make the vectors smaller (halfvec \
             takes half).",
            format_bytes(size)
        ),
        None => format!(
            "whether {wanted:.0} MB for a build are too many is not known, for the memory of the server's machine is not: put \
             machine = {{ memory = \"8 GiB\" }} with what it has into its table of the configuration."
        ),
    };
    Some(unsuited(
        sight,
        index,
        format!(
            "the graph of the HNSW index {} ({}) does not fit into maintenance_work_mem ({}): a build of it goes many times \
             slower, unless its session is given more",
            index.name,
            format_bytes(size),
            format_bytes(most)
        ),
        fix,
    ))
}

/// As a person writes it; without a unit it is kB.
fn bytes(written: &str) -> Option<f64> {
    let digits = written.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match &written[digits.len()..] {
        "" | "kB" => 1_024.0,
        "MB" => MIB,
        "GB" => 1_024.0 * MIB,
        "TB" => 1_024.0 * 1_024.0 * MIB,
        _ => return None,
    };
    Some(digits.trim().parse::<f64>().ok()? * unit)
}

/// How long it takes is told where the server has kept it or one runs now, and by sizes otherwise.
fn slow_to_vacuum(sight: &Sight<'_, Postgres>, index: &VectorIndex) -> Option<Unsuited> {
    let (rows, dead) = (index.rows?, index.dead_rows as f64);
    let is_large = index.size as f64 >= sight.limit("minimum_size") && dead >= sight.limit("minimum_rows");
    if !is_large || dead * 100.0 < rows * sight.limit("dead") {
        return None;
    }
    let workers = sight.seen.vacuuming.iter().flat_map(|vacuuming| &vacuuming.workers);
    let running = workers.filter(|worker| worker.table.as_ref() == Some(&index.table)).map(|worker| worker.running);
    let took = match (running.reduce(f64::max), index.vacuum_seconds) {
        (Some(seconds), _) => format!("; one has run for {}", format_seconds(seconds)),
        (None, Some(seconds)) => format!("; one took {} on average", format_seconds(seconds)),
        (None, None) => String::new(),
    };
    let (name, table) = (whole_name(index), &index.table);
    Some(unsuited(
        sight,
        index,
        format!(
            "a vacuum of {table} repairs the graph of {} ({}) for {} dead rows, which is slow{took}",
            index.name,
            format_bytes(index.size as f64),
            format_count(dead)
        ),
        format!(
            "REINDEX INDEX CONCURRENTLY {name}; and then VACUUM {}.{}; each outside of a transaction.",
            quoted(&table.schema),
            quoted(&table.name)
        ),
    ))
}

/// Searches that return as many rows as `ef_search` and not one more, each time: their LIMIT is larger, or is just that.
fn cut_short(sight: &Sight<'_, Postgres>, vectors: &Vectors) -> Option<Unsuited> {
    let is_given = vectors.settings.iter().any(|one| one.name.starts_with("hnsw."));
    let statements = &leaders(sight.seen).ok()?.statements;
    if is_given {
        return None;
    }
    let is_search = |statement: &&Statement| {
        let pinned = statement.rows_per_call() / EF_SEARCH;
        statement.calls >= 100
            && (0.98..=1.0).contains(&pinned)
            && ["<->", "<=>", "<#>", "<+>"].iter().any(|operator| statement.query.contains(operator))
    };
    let hnsw = |statement: &Statement| {
        vectors.indexes.iter().find(|index| index.is_hnsw() && statement.query.contains(&index.table.name))
    };
    let (statement, index) =
        statements.iter().filter(is_search).find_map(|statement| Some((statement, hnsw(statement)?)))?;
    Some(unsuited(
        sight,
        index,
        format!(
            "a search by {} returns {} rows in each of {} calls: hnsw.ef_search is {EF_SEARCH} and ends it, if its LIMIT is larger",
            index.name,
            format_count(statement.rows_per_call().round()),
            format_count(statement.calls as f64)
        ),
        format!(
            "look at the LIMIT of: {}; if it is larger than {EF_SEARCH}: ALTER DATABASE {} SET hnsw.ef_search = 100; at least that \
             LIMIT.",
            statement.query,
            quoted(&sight.seen.server.database)
        ),
    ))
}

/// Of several indexes of one column a query uses that of its operator only. That none uses it is for `postgres.index_unused`
/// to say, by its defaults: for how long it was counted, how old the index is, and what standbys do.
fn unused_operators(sight: &Sight<'_, Postgres>, vectors: &Vectors) -> Vec<Unsuited> {
    let own = Limits { check: &INDEX_UNUSED, overrides: None };
    let Judge::Postgres(judge) = INDEX_UNUSED.judge else { return Vec::new() };
    let Ok(told) = judge(&Sight { limits: own, ..*sight }) else { return Vec::new() };
    let is_told = |index: &VectorIndex| {
        let begin = format!("{} on {}, ", index.name, index.table);
        told.iter().flat_map(|draft| &draft.offenders).any(|offender| offender.note.starts_with(&begin))
    };
    let mut of_column: BTreeMap<(String, &str), Vec<&VectorIndex>> = BTreeMap::new();
    for index in &vectors.indexes {
        if let Some(column) = &index.column {
            of_column.entry((index.table.to_string(), column)).or_default().push(index);
        }
    }
    let found = of_column.into_iter().filter_map(|((table, column), indexes)| {
        let used = indexes.iter().find(|index| index.scans > 0)?;
        let is_unused = |index: &VectorIndex| index.scans == 0 && index.operators != used.operators && is_told(index);
        let unused = indexes.iter().find(|index| is_unused(index))?;
        Some(unsuited(
            sight,
            unused,
            format!(
                "{column} of {table} has an index for {} that no query uses ({}, {}), beside {} for {}",
                unused.operators,
                unused.name,
                format_bytes(unused.size as f64),
                used.name,
                used.operators
            ),
            format!("if no yearly job needs it: DROP INDEX CONCURRENTLY {};", whole_name(unused)),
        ))
    });
    found.collect()
}

fn unindexed(sight: &Sight<'_, Postgres>, column: &VectorColumn) -> Option<Unsuited> {
    (column.rows >= sight.limit("unindexed_rows")).then(|| {
        let VectorColumn { table, name, rows, .. } = column;
        let target = Target::Table {
            database: sight.seen.server.database.clone(),
            schema: table.schema.clone(),
            name: table.name.clone(),
        };
        Unsuited {
            severity: Severity::Info,
            target,
            weight: *rows,
            note: format!("{name} of {table} has no index: a search reads all {} rows", format_count(*rows)),
            fix: format!(
                "if it is searched here, and for the operator of the queries (<=> is cosine): CREATE INDEX CONCURRENTLY ON \
                 {}.{} USING hnsw ({});",
                quoted(&table.schema),
                quoted(&table.name),
                indexable(column)
            ),
        }
    })
}

/// Wider vectors than an index takes are indexed as `halfvec`, and still wider ones by their signs.
fn indexable(column: &VectorColumn) -> String {
    let (name, kind) = (quoted(&column.name), column.kind.as_str());
    match (kind, column.dimensions) {
        ("vector", Some(wide @ 2_001..=4_000)) => format!("({name}::halfvec({wide})) halfvec_cosine_ops"),
        ("vector" | "halfvec", Some(wide @ 4_001..)) => {
            format!("(binary_quantize({name})::bit({wide})) bit_hamming_ops")
        }
        ("vector" | "halfvec", None) => format!("({name}::{kind}(DIMENSIONS)) {kind}_cosine_ops"),
        _ => format!("{name} {kind}_cosine_ops"),
    }
}

fn unsuited(sight: &Sight<'_, Postgres>, index: &VectorIndex, note: String, fix: String) -> Unsuited {
    let target = Target::Index {
        database: sight.seen.server.database.clone(),
        schema: index.table.schema.clone(),
        table: index.table.name.clone(),
        name: index.name.clone(),
    };
    Unsuited { severity: Severity::Info, target, weight: index.size as f64, note, fix }
}

fn whole_name(index: &VectorIndex) -> String {
    format!("{}.{}", quoted(&index.table.schema), quoted(&index.name))
}

#[cfg(test)]
mod tests;
