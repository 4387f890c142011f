//! Reads `pg_stat_statements`: the leading statements by several measures, in one question.
//!
//! The columns follow from the version of the extension in this database, not from the server's: an upgrade of the server
//! leaves an old one behind until somebody says `ALTER EXTENSION … UPDATE`.

use super::mask::masked;
use super::observe::{Asking, QUERY_SHOWN, count, get};
use groundskeeper_core::observation::{Gap, Leaders, Part, Statement, Totals};
use groundskeeper_core::remedy::quoted;
use tokio_postgres::Row;

/// The oldest with minimum, maximum and deviation; it came with Postgres 9.5.
const OLDEST: (u32, u32) = (1, 3);
/// Of each list. The four together have 60 statements at most.
const LEADERS: u32 = 15;

/// None where the extension or its library is not there.
pub(super) async fn read(
    asking: &Asking<'_>,
    schema: Option<&str>,
    version: Option<&str>,
) -> Option<Part<Box<Leaders>>> {
    let (schema, version) = (schema?, version?);
    let Some(parsed) = parsed(version).filter(|parsed| *parsed >= OLDEST) else {
        return Some(Err(Gap::new(format!(
            "the columns of pg_stat_statements {version} are not known; ALTER EXTENSION pg_stat_statements UPDATE; brings \
             them to those of the server"
        ))));
    };
    let rows = asking.many(&question(schema, parsed), |row| Ok((totals(row)?, statement(row)?))).await;
    Some(rows.and_then(|rows| gathered(rows).ok_or_else(|| Gap::new("the server gave an empty answer"))))
}

/// `1.10` comes after `1.9`.
fn parsed(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether our role is there to watch: no superuser, and in this database it neither owns a relation nor was it given one to
/// write. What it runs is ours, and nothing that anybody would have to make faster.
pub(super) const WATCHER: &str = "
  SELECT r.oid FROM pg_roles r
   WHERE r.rolname = current_user AND NOT r.rolsuper
     AND NOT EXISTS (
       SELECT 1 FROM pg_shdepend d JOIN pg_class c ON c.oid = d.objid
        WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid AND d.classid = 'pg_class'::regclass
          AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (c.relowner = r.oid
               OR EXISTS (SELECT 1 FROM aclexplode(c.relacl) p
                           WHERE p.grantee = r.oid AND p.privilege_type IN ('INSERT', 'UPDATE', 'DELETE'))))";

/// The totals are in every row, so that they are there when nothing else is. A statement that several roles run is one.
fn question(schema: &str, version: (u32, u32)) -> String {
    let schema = quoted(schema);
    let time = if version >= (1, 8) { "exec_time" } else { "time" };
    let read_time = if version >= (1, 11) { "s.shared_blk_read_time" } else { "s.blk_read_time" };
    let top = if version >= (1, 9) { "s.toplevel" } else { "true" };
    let since = if version >= (1, 11) { "max(s.stats_since)" } else { "NULL::timestamptz" };
    let (reset, evictions) = if version >= (1, 9) {
        let info = |column: &str| format!("(SELECT {column} FROM {schema}.pg_stat_statements_info)");
        (info("stats_reset"), info("dealloc"))
    } else {
        ("NULL::timestamptz".to_owned(), "NULL".to_owned())
    };
    format!(
        "WITH s AS MATERIALIZED (
  SELECT s.queryid, left(s.query, 4000) AS query, s.calls, s.rows, s.total_{time} / 1000 AS time,
         s.mean_{time} / 1000 AS mean, s.stddev_{time} / 1000 AS deviation, s.min_{time} / 1000 AS fastest,
         s.max_{time} / 1000 AS slowest, s.shared_blks_hit, s.shared_blks_read, {read_time} / 1000 AS read_time,
         s.temp_blks_written, {top} AS top{stats_since}
    FROM {schema}.pg_stat_statements s
   WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND s.userid IS DISTINCT FROM ({WATCHER})),
totals AS (
  SELECT count(*)::int8 AS all_statements, coalesce(sum(calls) FILTER (WHERE top), 0)::int8 AS all_calls,
         coalesce(sum(time) FILTER (WHERE top), 0)::float8 AS all_time,
         count(*) FILTER (WHERE queryid IS NULL)::int8 AS hidden
    FROM s),
merged AS (
  SELECT s.queryid, min(s.query COLLATE \"C\") AS query, sum(s.calls)::int8 AS calls, sum(s.rows)::int8 AS rows,
         sum(s.time)::float8 AS time,
         sqrt(greatest(sum(s.calls * (s.deviation ^ 2 + s.mean ^ 2)) / sum(s.calls)
                       - (sum(s.time) / sum(s.calls)) ^ 2, 0))::float8 AS deviation,
         min(s.fastest)::float8 AS fastest, max(s.slowest)::float8 AS slowest,
         sum(s.shared_blks_hit)::int8 AS blocks_hit, sum(s.shared_blks_read)::int8 AS blocks_read,
         sum(s.read_time)::float8 AS read_time,
         (sum(s.temp_blks_written) * current_setting('block_size')::int8)::int8 AS temporary_bytes, {since} AS since
    FROM s WHERE s.queryid IS NOT NULL AND s.calls > 0 GROUP BY s.queryid),
ranked AS (
  SELECT merged.*,
         row_number() OVER (ORDER BY time DESC, queryid) AS by_time,
         row_number() OVER (ORDER BY calls >= 100 DESC, time / calls DESC, queryid) AS by_mean,
         row_number() OVER (ORDER BY temporary_bytes DESC, queryid) AS by_temporary,
         row_number() OVER (ORDER BY blocks_read DESC, queryid) AS by_read
    FROM merged)
SELECT t.all_statements, t.all_calls, t.all_time, t.hidden, {reset} AS stats_reset, {evictions}::int8 AS evictions,
       r.queryid, r.query, r.calls, r.rows, r.time, r.deviation, r.fastest, r.slowest, r.blocks_hit, r.blocks_read,
       r.read_time, r.temporary_bytes, r.since
  FROM totals t LEFT JOIN ranked r
    ON r.by_time <= {LEADERS} OR r.by_mean <= {LEADERS}
    OR (r.by_temporary <= {LEADERS} AND r.temporary_bytes > 0) OR (r.by_read <= {LEADERS} AND r.blocks_read > 0)
 ORDER BY r.time DESC, r.queryid",
        stats_since = if version >= (1, 11) { ", s.stats_since" } else { "" },
    )
}

fn totals(row: &Row) -> Result<Leaders, String> {
    Ok(Leaders {
        statements: Vec::new(),
        all: Totals {
            statements: count(row, "all_statements")?,
            calls: count(row, "all_calls")?,
            time: get(row, "all_time")?,
        },
        stats_reset: get(row, "stats_reset")?,
        evictions: get::<Option<i64>>(row, "evictions")?.map(super::observe::unsigned),
        hidden: count(row, "hidden")?,
    })
}

/// None for the row that has only the totals.
fn statement(row: &Row) -> Result<Option<Statement>, String> {
    let Some(query_id) = get::<Option<i64>>(row, "queryid")? else { return Ok(None) };
    Ok(Some(Statement {
        query_id,
        query: masked(&get::<Option<String>>(row, "query")?.unwrap_or_default(), QUERY_SHOWN),
        calls: count(row, "calls")?,
        rows: count(row, "rows")?,
        time: get(row, "time")?,
        deviation: get(row, "deviation")?,
        fastest: get(row, "fastest")?,
        slowest: get(row, "slowest")?,
        blocks_hit: count(row, "blocks_hit")?,
        blocks_read: count(row, "blocks_read")?,
        read_time: get(row, "read_time")?,
        temporary_bytes: count(row, "temporary_bytes")?,
        since: get(row, "since")?,
    }))
}

fn gathered(rows: Vec<(Leaders, Option<Statement>)>) -> Option<Box<Leaders>> {
    let totals = rows.first()?.0.clone();
    let statements = rows.into_iter().filter_map(|(_, statement)| statement).collect();
    Some(Box::new(Leaders { statements, ..totals }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_not_text() {
        assert!(parsed("1.10") > parsed("1.9"));
        assert_eq!((parsed("1.8"), parsed("2"), parsed("1.x")), (Some((1, 8)), None, None));
    }
}
