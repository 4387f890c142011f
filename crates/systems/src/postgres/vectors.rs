//! Reads what pgvector has in the connected database. Where the extension is not created, nothing more is asked than that.

use super::observe::{Asking, count, get};
use groundskeeper_core::observation::{
    Part, TableName, VectorColumn, VectorIndex, VectorIndexKind, VectorSetting, Vectors,
};
use tokio_postgres::Row;

/// The defaults of pgvector, as its README has them.
const LISTS: u32 = 100;
const M: u32 = 16;
const EF_CONSTRUCTION: u32 = 64;

const OURS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
   AND t.relpersistence <> 't'";

/// How long vacuums took is kept from 18 on.
fn indexes(version_num: u32) -> String {
    let vacuum_seconds = if version_num >= 180_000 {
        "(pg_stat_get_total_vacuum_time(t.oid) + pg_stat_get_total_autovacuum_time(t.oid)) / 1000
         / nullif(pg_stat_get_vacuum_count(t.oid) + pg_stat_get_autovacuum_count(t.oid), 0)"
    } else {
        "NULL"
    };
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name,
       x.relname::text AS name, am.amname = 'hnsw' AS is_hnsw,
       current_setting('block_size')::int8 * x.relpages AS size,
       coalesce(pg_stat_get_numscans(x.oid), 0)::int8 AS scans, a.attname::text AS column_name,
       o.opcname::text AS operators,
       CASE WHEN i.indpred IS NULL THEN t.reltuples ELSE x.reltuples END::float8 AS rows_estimated,
       pg_stat_get_dead_tuples(t.oid)::int8 AS dead_rows, ({vacuum_seconds})::float8 AS vacuum_seconds,
       (SELECT option_value::int8 FROM pg_options_to_table(x.reloptions) WHERE option_name = 'lists') AS lists,
       (SELECT option_value::int8 FROM pg_options_to_table(x.reloptions) WHERE option_name = 'm') AS m,
       (SELECT option_value::int8 FROM pg_options_to_table(x.reloptions)
         WHERE option_name = 'ef_construction') AS ef_construction
  FROM pg_am am
  JOIN pg_class x ON x.relam = am.oid
  JOIN pg_index i ON i.indexrelid = x.oid
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_opclass o ON o.oid = i.indclass[0]
  LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0] AND a.attnum > 0
 WHERE am.amname IN ('hnsw', 'ivfflat') AND x.relkind = 'i' AND i.indisvalid AND {OURS}
 ORDER BY x.relpages DESC, 1, 4 LIMIT 500"
    )
}

/// Other extensions have index methods of their own for these types, and wide vectors are indexed by an expression: any index
/// that is none of the server's own methods counts.
fn unindexed() -> String {
    format!(
        "WITH types AS MATERIALIZED (
  SELECT y.oid, y.typname FROM pg_type y JOIN pg_extension e ON e.extnamespace = y.typnamespace
   WHERE e.extname = 'vector' AND y.typname IN ('vector', 'halfvec', 'sparsevec')),
big AS MATERIALIZED (
  SELECT t.oid, n.nspname, t.relname, t.reltuples
    FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
   WHERE t.relkind IN ('r', 'm') AND t.reltuples > 0 AND {OURS} AND EXISTS (SELECT 1 FROM types)
   ORDER BY t.relpages DESC LIMIT 200)
SELECT b.nspname::text AS schema, b.relname::text AS table_name, a.attname::text AS column_name,
       y.typname::text AS kind, nullif(a.atttypmod, -1)::int8 AS dimensions, b.reltuples::float8 AS rows_estimated
  FROM big b
  JOIN pg_attribute a ON a.attrelid = b.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN types y ON y.oid = a.atttypid
 WHERE NOT EXISTS (
     SELECT 1 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am am ON am.oid = x.relam
      WHERE i.indrelid = b.oid AND am.amname NOT IN ('btree', 'hash', 'gin', 'gist', 'spgist', 'brin')
        AND (a.attnum = ANY (i.indkey::int2[]) OR 0 = ANY (i.indkey::int2[])))
 ORDER BY rows_estimated DESC, 1, 2, 3 LIMIT 100"
    )
}

/// A session that has not loaded the library knows of its settings only where somebody gave them a value, and `pg_settings`
/// leaves them out: what is in force is the server's then, unless the session's own role or database is given one.
const SETTINGS: &str = "
SELECT name, value, whose FROM (
SELECT name::text AS name, setting::text AS value, 'the server' AS whose FROM pg_settings
 WHERE name IN ('hnsw.ef_search', 'hnsw.iterative_scan', 'ivfflat.probes')
   AND source NOT IN ('default', 'client', 'session', 'user', 'database', 'database user')
UNION ALL
SELECT of_pgvector, current_setting(of_pgvector, true), 'the server'
  FROM unnest(ARRAY['hnsw.ef_search', 'hnsw.iterative_scan', 'ivfflat.probes']) AS of_pgvector
 WHERE current_setting(of_pgvector, true) <> ''
   AND NOT EXISTS (SELECT 1 FROM pg_settings WHERE pg_settings.name = of_pgvector)
   AND NOT EXISTS (
       SELECT 1 FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS given
        WHERE s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
          AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
          AND split_part(given, '=', 1) = of_pgvector)
UNION ALL
SELECT split_part(given, '=', 1), split_part(given, '=', 2),
       concat_ws(' in ', 'role ' || r.rolname, 'database ' || d.datname)
  FROM pg_db_role_setting s
 CROSS JOIN unnest(s.setconfig) AS given
  LEFT JOIN pg_roles r ON r.oid = s.setrole
  LEFT JOIN pg_database d ON d.oid = s.setdatabase
 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
   AND split_part(given, '=', 1) IN ('hnsw.ef_search', 'hnsw.iterative_scan', 'ivfflat.probes', 'maintenance_work_mem')
) given WHERE EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'vector')
 ORDER BY 1, 3 LIMIT 200";

/// None where pgvector is not created.
pub(super) async fn read(asking: &Asking<'_>, version_num: u32, is_created: bool) -> Part<Option<Box<Vectors>>> {
    if !is_created {
        return Ok(None);
    }
    let (of_indexes, of_columns) = (indexes(version_num), unindexed());
    let (indexes, unindexed, settings) = tokio::join!(
        asking.many(&of_indexes, index),
        asking.many(&of_columns, column),
        asking.many(SETTINGS, setting),
    );
    Ok(Some(Box::new(Vectors { indexes: indexes?, unindexed: unindexed?, settings: settings? })))
}

fn table(row: &Row) -> Result<TableName, String> {
    Ok(TableName { schema: get(row, "schema")?, name: get(row, "table_name")? })
}

fn index(row: &Row) -> Result<VectorIndex, String> {
    let option = |name: &str, default: u32| {
        let given = get::<Option<i64>>(row, name)?.and_then(|given| u32::try_from(given).ok());
        Ok::<_, String>(given.unwrap_or(default))
    };
    let kind = if get(row, "is_hnsw")? {
        VectorIndexKind::Hnsw { m: option("m", M)?, ef_construction: option("ef_construction", EF_CONSTRUCTION)? }
    } else {
        VectorIndexKind::IvfFlat { lists: option("lists", LISTS)? }
    };
    Ok(VectorIndex {
        table: table(row)?,
        name: get(row, "name")?,
        kind,
        size: count(row, "size")?,
        scans: count(row, "scans")?,
        column: get(row, "column_name")?,
        operators: get(row, "operators")?,
        rows: Some(get::<f64>(row, "rows_estimated")?).filter(|rows| *rows > 0.0),
        dead_rows: count(row, "dead_rows")?,
        vacuum_seconds: get(row, "vacuum_seconds")?,
    })
}

fn column(row: &Row) -> Result<VectorColumn, String> {
    let dimensions: Option<i64> = get(row, "dimensions")?;
    Ok(VectorColumn {
        table: table(row)?,
        name: get(row, "column_name")?,
        kind: get(row, "kind")?,
        dimensions: dimensions.and_then(|count| u32::try_from(count).ok()),
        rows: get(row, "rows_estimated")?,
    })
}

fn setting(row: &Row) -> Result<VectorSetting, String> {
    Ok(VectorSetting { name: get(row, "name")?, value: get(row, "value")?, of: get(row, "whose")? })
}
