//! Reads what the planner's samples miss: columns of the largest tables whose list of common values is full.
//!
//! Catalogue and statistics only. A column counts when an index has it as a key, or when one of the statements that take the
//! most time compares it with something.

use super::explaining::{STATEMENTS, statements};
use super::observe::{gap, get};
use groundskeeper_core::advice::{TableShape, compared};
use groundskeeper_core::observation::{ColumnDistribution, Distribution, Distributions, Gap, TableName};
use std::collections::BTreeSet;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

/// So many tables, the largest ones. The view asks for a privilege on each column that it passes by.
const TABLES: usize = 50;
/// A smaller table is read whole for the sample of a target of 334, and cheap to read anyway.
const SMALLEST_ROWS: u32 = 100_000;
/// After so much of a table has changed its statistics are those of another table.
const STALE_AFTER: f64 = 0.2;

/// What is taken from a column `a` and its statistics `s`.
const FIGURES: &str = "CASE WHEN a.attstattarget >= 0 THEN a.attstattarget::int4 END AS target,
       current_setting('default_statistics_target')::int4 AS default_target,
       coalesce(cardinality(s.most_common_freqs), 0)::int4 AS common,
       coalesce(s.most_common_freqs[cardinality(s.most_common_freqs)], 0)::float8 AS least,
       (1 - coalesce(s.null_frac, 0)::float8
          - coalesce((SELECT sum(f::float8) FROM unnest(s.most_common_freqs) f), 0))::float8 AS others_share,
       CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * t.reltuples ELSE coalesce(s.n_distinct, 0) END::float8 AS distincts";

fn columns() -> String {
    format!(
        "WITH big AS MATERIALIZED (
  SELECT t.oid, n.nspname, t.relname, t.reltuples
    FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
   WHERE t.relkind = 'r' AND t.relpersistence <> 't' AND t.reltuples >= {SMALLEST_ROWS}
     AND n.nspname NOT IN ('pg_catalog', 'information_schema')
     AND pg_stat_get_mod_since_analyze(t.oid) <= t.reltuples * {STALE_AFTER}
   ORDER BY t.relpages DESC, t.oid LIMIT {TABLES}),
stats AS MATERIALIZED (
  SELECT schemaname, tablename, attname, null_frac, n_distinct, most_common_freqs FROM pg_stats
   WHERE NOT inherited AND tablename = ANY (ARRAY(SELECT relname FROM big)))
SELECT t.nspname::text AS schema, t.relname::text AS table_name, a.attname::text AS column, {FIGURES},
       has_column_privilege(t.oid, a.attnum, 'SELECT') AND NOT row_security_active(t.oid) AS shown,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = t.oid AND i.indisvalid
                  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS indexed
  FROM big t
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN stats s ON s.schemaname = t.nspname AND s.tablename = t.relname AND s.attname = a.attname"
    )
}

/// A column as it was read.
struct Candidate {
    column: ColumnDistribution,
    is_shown: bool,
    is_indexed: bool,
}

pub(super) async fn read(client: &Client, until: Instant) -> Result<Distributions, Gap> {
    let columns = columns();
    let rows = match timeout_at(until, client.query_typed(&columns, &[])).await {
        Ok(answer) => answer.map_err(|error| gap(&error))?,
        Err(_) => return Err(Gap::new("the columns' statistics were not read in the time given")),
    };
    let candidates: Vec<Candidate> = rows.iter().map(candidate).collect::<Result<_, _>>().map_err(Gap::new)?;
    // Only for what an index does not answer for already.
    let asked = |one: &Candidate| !one.is_indexed && (!one.is_shown || one.column.figures.is_full());
    let used = if candidates.iter().any(asked) {
        match timeout_at(until, compared_by_statements(client, &candidates)).await {
            Ok(Ok(used)) => used,
            // Without statements those of the indexes are left.
            Ok(Err(error)) => {
                tracing::debug!(%error, "the statements were not read");
                BTreeSet::new()
            }
            Err(_) => BTreeSet::new(),
        }
    } else {
        BTreeSet::new()
    };
    let mut seen = Distributions::default();
    for one in candidates {
        let name = (one.column.table.clone(), one.column.column.clone());
        if !one.is_indexed && !used.contains(&name) {
            continue;
        }
        if !one.is_shown {
            if !seen.hidden.contains(&name.0) {
                seen.hidden.push(name.0);
            }
        } else if one.column.figures.common > 0 {
            seen.seen += 1;
            if one.column.figures.is_full() {
                seen.full.push(one.column);
            }
        }
    }
    Ok(seen)
}

/// What the leading statements compare, as far as the extension is there.
async fn compared_by_statements(
    client: &Client,
    candidates: &[Candidate],
) -> Result<BTreeSet<(TableName, String)>, Error> {
    let Some(found) = statements(client, STATEMENTS).await? else { return Ok(BTreeSet::new()) };
    let mut shapes: Vec<TableShape> = Vec::new();
    for Candidate { column, .. } in candidates {
        match shapes.iter_mut().find(|shape| shape.table == column.table) {
            Some(shape) => shape.columns.push(column.column.clone()),
            None => shapes.push(TableShape {
                table: column.table.clone(),
                columns: vec![column.column.clone()],
                indexes: Vec::new(),
            }),
        }
    }
    Ok(found.iter().flat_map(|(_, text)| compared(text, &shapes)).collect())
}

fn candidate(row: &Row) -> Result<Candidate, String> {
    let table = TableName { schema: get(row, "schema")?, name: get(row, "table_name")? };
    Ok(Candidate {
        column: ColumnDistribution { table, column: get(row, "column")?, figures: figures(row)? },
        is_shown: get(row, "shown")?,
        is_indexed: get(row, "indexed")?,
    })
}

fn figures(row: &Row) -> Result<Distribution, String> {
    let target = get::<Option<i32>>(row, "target")?.and_then(|target| u32::try_from(target).ok());
    let default = get::<i32>(row, "default_target")?.unsigned_abs();
    let common = get::<i32>(row, "common")?.unsigned_abs();
    Ok(Distribution {
        target,
        in_force: target.unwrap_or(default),
        common,
        least: get(row, "least")?,
        // What was rounded may be a little below zero.
        others_share: get::<f64>(row, "others_share")?.max(0.0),
        others: (get::<f64>(row, "distincts")? - f64::from(common)).max(0.0),
    })
}

/// The figures of one column as they are now, with the number of its table, and whether they are shown to us; none where it is
/// not there.
pub(super) async fn of_column(
    client: &Client,
    (schema, table, column): (&str, &str, &str),
) -> Result<Option<(Distribution, u32, bool)>, Error> {
    let question = format!(
        "SELECT {FIGURES}, t.oid, has_column_privilege(t.oid, a.attnum, 'SELECT') AND NOT row_security_active(t.oid) AS shown
  FROM pg_class t
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_stats s ON s.schemaname = $1 AND s.tablename = $2 AND s.attname = $3 AND NOT s.inherited
 WHERE n.nspname = $1 AND t.relname = $2 AND t.relkind = 'r' AND t.relpersistence <> 't'"
    );
    let names: [(&(dyn ToSql + Sync), Type); 3] = [(&schema, Type::TEXT), (&table, Type::TEXT), (&column, Type::TEXT)];
    let rows = client.query_typed(&question, &names).await?;
    let read = |row: &Row| Ok::<_, String>((figures(row)?, get::<u32>(row, "oid")?, get::<bool>(row, "shown")?));
    Ok(rows.first().and_then(|row| read(row).ok()))
}
