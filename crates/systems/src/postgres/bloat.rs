//! Reads how much of the largest tables and indexes is air.
//!
//! In every reading: one pass over `pg_stats` for at most 200 tables and 200 indexes, catalogue only. On request, and
//! within a budget: the pages themselves of a few, by the extension `pgstattuple`. That takes the lock that a SELECT
//! takes, and is given up when it would have to wait for it.

use super::client::{APPLICATION_NAME, Endpoint, reading_settings};
use super::observe::{Asking, count, gap, get};
use groundskeeper_core::bloat::{Basis, Column, Estimate, Shape};
use groundskeeper_core::observation::{Failure, Footprint, Footprints, Gap, NoEstimate, Part, TableName, suspects};
use groundskeeper_core::remedy::quoted;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// 1 MiB: smaller ones are not worth a rebuild.
const SMALLEST_PAGES: u32 = 128;
/// After so much of a table has changed its statistics are those of another table.
const STALE_AFTER: f64 = 0.2;
/// The pages of so many tables, and of so many indexes, are read at most.
const MOST_READ: usize = 5;

const OURS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
   AND t.relpersistence <> 't'";

/// What both questions take together for each column, from the attribute `a` and its statistics `s`.
const OF_COLUMNS: &str = "count(*)::int8 AS columns, count(s.attname)::int8 AS known,
       array_agg(coalesce(s.avg_width, 0)::float8 ORDER BY a.attnum) AS widths,
       array_agg(coalesce(s.null_frac, 0)::float8 ORDER BY a.attnum) AS nulls,
       array_agg(coalesce(s.n_distinct, 0)::float8 ORDER BY a.attnum) AS distincts,
       array_agg(CASE a.attalign WHEN 'c' THEN 1 WHEN 's' THEN 2 WHEN 'i' THEN 4 ELSE 8 END ORDER BY a.attnum) AS aligns,
       array_agg(a.attlen < 0 ORDER BY a.attnum) AS variable";

/// Of the relations `big` alone: the view asks for a privilege on each column that it passes by. What an expression is made of
/// has its statistics under the name of the index.
fn statistics(names: &str) -> String {
    format!(
        "stats AS MATERIALIZED (
  SELECT schemaname, tablename, attname, avg_width, null_frac, n_distinct FROM pg_stats
   WHERE NOT inherited AND tablename = ANY (ARRAY({names})))"
    )
}

fn tables() -> String {
    format!(
        "WITH big AS MATERIALIZED (
  SELECT t.oid, n.nspname, t.relname, t.reltuples, t.relpages,
         coalesce((SELECT option_value::float8 FROM pg_options_to_table(t.reloptions) WHERE option_name = 'fillfactor'),
                  100) AS fillfactor
    FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_am am ON am.oid = t.relam
   WHERE t.relkind IN ('r', 'm') AND am.amname = 'heap' AND t.relpages >= {SMALLEST_PAGES} AND {OURS}
   ORDER BY t.relpages DESC LIMIT 200),
{stats}
SELECT b.nspname::text AS schema, b.relname::text AS table_name, NULL::text AS name, b.reltuples::float8 AS tuples,
       b.relpages::int8 AS pages, current_setting('block_size')::int8 AS page_size, b.fillfactor,
       false AS is_unique, false AS deduplicates,
       has_table_privilege(b.oid, 'SELECT') AND NOT row_security_active(b.oid) AS shown,
       pg_stat_get_mod_since_analyze(b.oid)::float8 AS changed, {OF_COLUMNS}
  FROM big b
  JOIN pg_attribute a ON a.attrelid = b.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN stats s ON s.schemaname = b.nspname AND s.tablename = b.relname AND s.attname = a.attname
 GROUP BY b.oid, b.nspname, b.relname, b.reltuples, b.relpages, b.fillfactor
 ORDER BY pages DESC, 1, 2",
        stats = statistics("SELECT relname FROM big"),
    )
}

/// Rows that a partial index leaves out are often those without a value: its own are taken to have one. Equal keys of some
/// types may look different, and are kept apart (`btequalimage`).
fn indexes() -> String {
    format!(
        "WITH big AS MATERIALIZED (
  SELECT x.oid, t.oid AS table_oid, n.nspname, t.relname AS table_name, x.relname, x.reltuples, x.relpages,
         t.reltuples AS table_rows, i.indkey, i.indisunique, i.indpred IS NOT NULL AS partial, i.indnatts > i.indnkeyatts AS has_included,
         coalesce((SELECT option_value::float8 FROM pg_options_to_table(x.reloptions) WHERE option_name = 'fillfactor'),
                  90) AS fillfactor,
         coalesce((SELECT option_value::bool FROM pg_options_to_table(x.reloptions)
                    WHERE option_name = 'deduplicate_items'), true) AS wants_to_share
    FROM pg_index i
    JOIN pg_class x ON x.oid = i.indexrelid
    JOIN pg_am am ON am.oid = x.relam
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
   WHERE x.relkind = 'i' AND am.amname = 'btree' AND i.indisvalid AND x.relpages >= {SMALLEST_PAGES} AND {OURS}
   ORDER BY x.relpages DESC LIMIT 200),
{stats}
SELECT b.nspname::text AS schema, b.table_name::text AS table_name, b.relname::text AS name,
       b.reltuples::float8 AS tuples, b.relpages::int8 AS pages, current_setting('block_size')::int8 AS page_size,
       b.fillfactor, b.indisunique AS is_unique,
       b.wants_to_share AND NOT b.has_included AND NOT bool_or(
         a.atttypid IN ('numeric'::regtype, 'float4'::regtype, 'float8'::regtype, 'jsonb'::regtype)
         OR ty.typtype IN ('c', 'r', 'm') OR ty.typcategory = 'A' OR NOT coalesce(co.collisdeterministic, true))
         AS deduplicates,
       has_table_privilege(b.table_oid, 'SELECT') AND NOT row_security_active(b.table_oid) AS shown,
       pg_stat_get_mod_since_analyze(b.table_oid)::float8 AS changed, {of_columns}
  FROM big b
  JOIN pg_attribute a ON a.attrelid = b.oid AND a.attnum > 0
  JOIN pg_type ty ON ty.oid = a.atttypid
  LEFT JOIN pg_collation co ON co.oid = a.attcollation
  LEFT JOIN pg_attribute o ON o.attrelid = b.table_oid AND o.attnum = b.indkey[a.attnum - 1] AND o.attnum <> 0
  LEFT JOIN stats s ON s.schemaname = b.nspname
       AND s.tablename = CASE WHEN o.attname IS NULL THEN b.relname ELSE b.table_name END
       AND s.attname = coalesce(o.attname, a.attname)
 GROUP BY b.oid, b.table_oid, b.nspname, b.table_name, b.relname, b.reltuples, b.relpages, b.fillfactor, b.indisunique,
          b.wants_to_share, b.has_included
 ORDER BY pages DESC, 1, 3",
        stats = statistics("SELECT relname FROM big UNION SELECT table_name FROM big"),
        of_columns = OF_COLUMNS.replace(
            "coalesce(s.null_frac, 0)::float8",
            "CASE WHEN b.partial THEN 0 ELSE coalesce(s.null_frac, 0) END::float8"
        )
        // A fraction is one of the table's rows, of which a partial index has some.
        .replace(
            "coalesce(s.n_distinct, 0)::float8",
            "CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * greatest(b.table_rows, 0) ELSE coalesce(s.n_distinct, 0) END::float8"
        )
    )
}

pub(super) async fn read(asking: &Asking<'_>) -> Part<Box<Footprints>> {
    let (tables, indexes) = (tables(), indexes());
    let (tables, indexes) = tokio::join!(asking.many(&tables, space), asking.many(&indexes, space));
    Ok(Box::new(Footprints { tables: tables?, indexes: indexes? }))
}

/// One of the largest indexes as the catalogue has it now; none where it is not among them.
pub(super) async fn index_now(
    client: &Client,
    schema: &str,
    index: &str,
) -> Result<Option<Footprint>, tokio_postgres::Error> {
    let rows = client.query_typed(&indexes(), &[]).await?;
    let is_it = |one: &Footprint| one.table.schema == schema && one.index.as_deref() == Some(index);
    Ok(rows.iter().filter_map(|row| space(row).ok()).find(is_it))
}

fn space(row: &Row) -> Result<Footprint, String> {
    let index: Option<String> = get(row, "name")?;
    let shape = Shape {
        rows: get(row, "tuples")?,
        pages: count(row, "pages")?,
        page_size: count(row, "page_size")? as u32,
        fillfactor: get(row, "fillfactor")?,
        columns: columns(row)?,
    };
    let (known, columns) = (count(row, "known")?, count(row, "columns")?);
    let (is_shown, changed): (bool, f64) = (get(row, "shown")?, get::<Option<f64>>(row, "changed")?.unwrap_or(0.0));
    let estimate = if known < columns {
        Err(if is_shown { NoEstimate::NotAnalyzed } else { NoEstimate::Hidden })
    } else if shape.rows < 0.0 || (shape.rows == 0.0 && changed > 0.0) {
        Err(NoEstimate::NotAnalyzed)
    } else if changed > shape.rows * STALE_AFTER {
        Err(NoEstimate::Stale)
    } else if index.is_some() {
        Ok(Estimate::of_btree(&shape, get(row, "is_unique")?, get(row, "deduplicates")?))
    } else {
        Ok(Estimate::of_heap(&shape))
    };
    Ok(Footprint {
        table: TableName { schema: get(row, "schema")?, name: get(row, "table_name")? },
        index,
        size: shape.size(),
        rows: shape.rows,
        fillfactor: shape.fillfactor,
        estimate,
        second: None,
    })
}

fn columns(row: &Row) -> Result<Vec<Column>, String> {
    let (widths, nulls): (Vec<f64>, Vec<f64>) = (get(row, "widths")?, get(row, "nulls")?);
    let (distincts, aligns): (Vec<f64>, Vec<i32>) = (get(row, "distincts")?, get(row, "aligns")?);
    let variable: Vec<bool> = get(row, "variable")?;
    let figures = widths.into_iter().zip(nulls).zip(distincts).zip(aligns).zip(variable);
    Ok(figures
        .map(|((((width, nulls), distinct), align), is_variable)| Column {
            width,
            nulls,
            align: u8::try_from(align).unwrap_or(8),
            is_variable,
            distinct,
        })
        .collect())
}

/// Reads the pages of the few that the statistics call the most bloated, and puts what they say beside it. Gives what could
/// not be read and why; an error only where the server was not reached. Takes `budget` at most; meant for the maintenance
/// and the weekly review, not for a reading every 30 seconds.
pub async fn confirm(
    endpoint: &Endpoint,
    spaces: &mut Footprints,
    ratio: f64,
    wasted: f64,
    budget: Duration,
) -> Result<Vec<(String, Gap)>, Failure> {
    let chosen = |all: &[Footprint]| -> Vec<Footprint> {
        suspects(all, ratio, wasted).into_iter().take(MOST_READ).map(|(space, _)| space.clone()).collect()
    };
    let asked: Vec<Footprint> = chosen(&spaces.indexes).into_iter().chain(chosen(&spaces.tables)).collect();
    let mut gaps = Vec::new();
    for (space, answer) in asked.iter().zip(read_pages(endpoint, &asked, budget).await?) {
        let is_it = |other: &&mut Footprint| (&other.table, &other.index) == (&space.table, &space.index);
        match answer {
            Ok(estimate) => {
                let all = if space.index.is_some() { &mut spaces.indexes } else { &mut spaces.tables };
                if let Some(found) = all.iter_mut().find(is_it) {
                    found.second = Some(estimate);
                }
            }
            Err(gap) => gaps.push((space.name(), gap)),
        }
    }
    Ok(gaps)
}

/// What the pages of each say, in the order given. One after the other, so that one scan runs at a time.
pub async fn read_pages(
    endpoint: &Endpoint,
    asked: &[Footprint],
    budget: Duration,
) -> Result<Vec<Part<Estimate>>, Failure> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let until = Instant::now() + budget;
    let session = endpoint.connect(APPLICATION_NAME, &reading_settings(budget), budget).await?;
    let mut answers = Vec::with_capacity(asked.len());
    if let Some(client) = session.client() {
        let schema = within(until, schema_of_extension(client)).await;
        for space in asked {
            answers.push(match &schema {
                Ok(schema) => within(until, pages(client, schema, space)).await,
                Err(gap) => Err(gap.clone()),
            });
        }
    }
    answers.resize(asked.len(), Err(Gap::new("the server closed the connection")));
    session.close(until.saturating_duration_since(Instant::now())).await;
    Ok(answers)
}

async fn within<T>(until: Instant, answer: impl Future<Output = Part<T>>) -> Part<T> {
    timeout_at(until, answer).await.unwrap_or_else(|_| Err(Gap::new("its pages were not read in the time given")))
}

async fn schema_of_extension(client: &Client) -> Part<String> {
    let sql = "SELECT n.nspname::text, current_database()::text FROM pg_database d
                 LEFT JOIN (pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace) ON e.extname = 'pgstattuple'
                WHERE d.datname = current_database()";
    let row = client.query_typed_one(sql, &[]).await.map_err(|error| gap(&error))?;
    let (schema, database): (Option<String>, String) =
        (row.try_get(0).map_err(|error| gap(&error))?, row.try_get(1).map_err(|error| gap(&error))?);
    schema.ok_or_else(|| {
        Gap::new(format!(
            "pgstattuple is not there; in database {database}, as a superuser: CREATE EXTENSION pgstattuple; members of \
             pg_monitor may use it"
        ))
    })
}

async fn pages(client: &Client, schema: &str, space: &Footprint) -> Part<Estimate> {
    let name = space.index.as_ref().unwrap_or(&space.table.name);
    let name = format!("{}.{}", quoted(&space.table.schema), quoted(name));
    let values: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
    let schema = quoted(schema);
    let sql = if space.index.is_some() {
        format!(
            "SELECT index_size AS size, current_setting('block_size')::float8 AS page,
                    (1 + internal_pages)::float8 AS upper, leaf_pages::float8 AS leaves, avg_leaf_density AS density
               FROM {schema}.pgstatindex($1::text::regclass)"
        )
    } else {
        format!(
            "SELECT table_len AS size, (approx_free_space + dead_tuple_len)::float8 AS free
               FROM {schema}.pgstattuple_approx($1::text::regclass)"
        )
    };
    let row = client.query_typed_one(&sql, &values).await.map_err(|error| gap(&error))?;
    let read = || -> Result<Estimate, String> {
        let size = count(&row, "size")?;
        let expected = if space.index.is_some() {
            let (upper, leaves): (f64, f64) = (get(&row, "upper")?, get(&row, "leaves")?);
            // An index without a leaf has no density.
            let density = Some(get::<f64>(&row, "density")?).filter(|density| density.is_finite()).unwrap_or(0.0);
            get::<f64>(&row, "page")? * (upper + (leaves * density / space.fillfactor).ceil())
        } else {
            size as f64 - get::<f64>(&row, "free")?
        };
        Ok(Estimate::new(Basis::Pages, size, expected))
    };
    read().map_err(Gap::new)
}
