//! Reads the indexes and constraints of the connected database out of its catalogue.

use super::observe::{Asking, count, get};
use groundskeeper_core::observation::{ForeignKey, Index, Named, Part, Structure, TableName};
use tokio_postgres::Row;

/// Tables of users, not of the server or of temporary use.
const OURS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
   AND t.relpersistence <> 't'";

/// A build of somebody whose progress is hidden from us may be that of any index. Expressions are turned into text only
/// where there are any: for that the server looks into the table.
fn indexes() -> String {
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name, x.relname::text AS name, am.amname::text AS method,
       current_setting('block_size')::int8 * x.relpages AS size,
       coalesce(pg_stat_get_numscans(x.oid), 0)::int8 AS scans,
       i.indisvalid AS valid,
       CASE WHEN i.indisvalid THEN false ELSE EXISTS (
         SELECT 1 FROM pg_stat_progress_create_index p
          WHERE p.datname = current_database() AND (p.relid = t.oid OR p.relid IS NULL)) END AS being_built,
       i.indisunique AS is_unique,
       i.indisprimary OR i.indisexclusion OR i.indisreplident
         OR x.oid IN (SELECT conindid FROM pg_constraint WHERE conindid <> 0) AS needed,
       x.relispartition AS partition,
       ARRAY(SELECT concat_ws(' ', i.indkey[k], i.indclass[k], i.indcollation[k], i.indoption[k])
               FROM generate_series(0, i.indnkeyatts - 1) k) AS keys,
       ARRAY(SELECT i.indkey[k]::int4 FROM generate_series(i.indnkeyatts::int4, i.indnatts - 1) k) AS included,
       CASE WHEN i.indexprs IS NULL THEN '' ELSE pg_get_expr(i.indexprs, i.indrelid) END AS expressions,
       CASE WHEN i.indpred IS NULL THEN '' ELSE pg_get_expr(i.indpred, i.indrelid) END AS predicate
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_am am ON am.oid = x.relam
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE x.relkind = 'i' AND {OURS}
 ORDER BY x.relpages DESC, 1, 3 LIMIT 5000"
    )
}

/// A foreign key is looked up by equality, so an index of the rows that are not null does as well. Texts of different
/// types compare without a conversion.
fn foreign_keys() -> String {
    format!(
        "WITH keys AS (
  SELECT c.oid, c.conrelid, c.confrelid, c.conkey, c.conname::text AS name, n.nspname::text AS schema,
         t.relname::text AS table_name, CASE WHEN t.reltuples >= 0 THEN t.reltuples::float8 END AS rows_estimated,
         NOT EXISTS (
           SELECT 1 FROM pg_index i
            WHERE i.indrelid = c.conrelid AND i.indisvalid AND i.indnkeyatts >= cardinality(c.conkey)
              AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey
              AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (
                SELECT '(' || quote_ident(a.attname) || ' IS NOT NULL)' FROM pg_attribute a
                 WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)))) AS unindexed,
         EXISTS (
           SELECT 1 FROM unnest(c.conkey, c.confkey) AS pair (here, there)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = pair.here
             JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = pair.there
             JOIN pg_type at ON at.oid = a.atttypid
             JOIN pg_type bt ON bt.oid = b.atttypid
            WHERE at.oid <> bt.oid AND NOT (at.typcategory = 'S' AND bt.typcategory = 'S')) AS mismatched
    FROM pg_constraint c
    JOIN pg_class t ON t.oid = c.conrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
   WHERE c.contype = 'f' AND c.conparentid = 0 AND {OURS})
SELECT k.schema, k.table_name, k.name, k.rows_estimated, k.unindexed, k.mismatched,
       fn.nspname::text AS referenced_schema, f.relname::text AS referenced_name,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS part (number, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = part.number ORDER BY part.place) AS columns
  FROM keys k
  JOIN pg_class f ON f.oid = k.confrelid
  JOIN pg_namespace fn ON fn.oid = f.relnamespace
 WHERE k.unindexed OR k.mismatched
 ORDER BY 1, 2, 3 LIMIT 1000"
    )
}

/// What an extension made is its own affair.
fn without_key() -> String {
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition AND {OURS}
   AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary)
   AND NOT EXISTS (SELECT 1 FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = t.oid AND d.deptype = 'e')
 ORDER BY 1, 2 LIMIT 1000"
    )
}

/// From 18 on a constraint can be meant to be not enforced, and is then not valid either.
fn unvalidated(version_num: u32) -> String {
    let enforced = if version_num >= 180_000 { "AND c.conenforced" } else { "" };
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name, c.conname::text AS name
  FROM pg_constraint c
  JOIN pg_class t ON t.oid = c.conrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE NOT c.convalidated {enforced} AND c.conparentid = 0 AND {OURS}
 ORDER BY 1, 2, 3 LIMIT 1000"
    )
}

/// The triggers of a foreign key are told by its name, once.
fn disabled_triggers() -> String {
    format!(
        "SELECT DISTINCT n.nspname::text AS schema, t.relname::text AS table_name,
       coalesce(c.conname, g.tgname)::text AS name
  FROM pg_trigger g
  JOIN pg_class t ON t.oid = g.tgrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  LEFT JOIN pg_constraint c ON c.oid = g.tgconstraint
 WHERE g.tgenabled = 'D' AND {OURS}
 ORDER BY 1, 2, 3 LIMIT 1000"
    )
}

pub(super) async fn read(asking: &Asking<'_>, version_num: u32) -> Part<Box<Structure>> {
    let (indexes, keys, without_key) = (indexes(), foreign_keys(), without_key());
    let (unvalidated, disabled) = (unvalidated(version_num), disabled_triggers());
    let (indexes, keys, without_key, unvalidated, disabled_triggers) = tokio::join!(
        asking.many(&indexes, index),
        asking.many(&keys, |row| Ok((foreign_key(row)?, get(row, "unindexed")?, get(row, "mismatched")?))),
        asking.many(&without_key, table),
        asking.many(&unvalidated, named),
        asking.many(&disabled, named),
    );
    let keys: Vec<(ForeignKey, bool, bool)> = keys?;
    let chosen = |is_chosen: fn(&(ForeignKey, bool, bool)) -> bool| {
        keys.iter().filter(|key| is_chosen(key)).map(|(key, ..)| key.clone()).collect()
    };
    Ok(Box::new(Structure {
        indexes: indexes?,
        unindexed: chosen(|(_, unindexed, _)| *unindexed),
        mismatched: chosen(|(.., mismatched)| *mismatched),
        without_key: without_key?,
        unvalidated: unvalidated?,
        disabled_triggers: disabled_triggers?,
    }))
}

fn table(row: &Row) -> Result<TableName, String> {
    Ok(TableName { schema: get(row, "schema")?, name: get(row, "table_name")? })
}

fn named(row: &Row) -> Result<Named, String> {
    Ok(Named { table: table(row)?, name: get(row, "name")? })
}

fn foreign_key(row: &Row) -> Result<ForeignKey, String> {
    Ok(ForeignKey {
        table: table(row)?,
        name: get(row, "name")?,
        columns: get(row, "columns")?,
        referenced: TableName { schema: get(row, "referenced_schema")?, name: get(row, "referenced_name")? },
        rows: get(row, "rows_estimated")?,
    })
}

fn index(row: &Row) -> Result<Index, String> {
    Ok(Index {
        table: table(row)?,
        name: get(row, "name")?,
        method: get(row, "method")?,
        size: count(row, "size")?,
        scans: count(row, "scans")?,
        is_valid: get(row, "valid")?,
        is_being_built: get(row, "being_built")?,
        is_unique: get(row, "is_unique")?,
        is_needed: get(row, "needed")?,
        is_partition: get(row, "partition")?,
        keys: get(row, "keys")?,
        included: get(row, "included")?,
        expressions: get(row, "expressions")?,
        predicate: get(row, "predicate")?,
    })
}
