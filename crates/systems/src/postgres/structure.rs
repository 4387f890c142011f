//! Reads the constraints and triggers of the connected database out of its catalogue, and gathers its structure.

use super::indexes;
use super::observe::{Asking, get};
use groundskeeper_core::observation::{
    ForeignKey, ForeignKeys, IndexUsage, Named, Part, Structure, TableName, Trigger,
};
use tokio_postgres::Row;

/// Tables of users, not of the server or of temporary use.
pub(super) const OURS: &str =
    "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
   AND t.relpersistence <> 't'";

/// A foreign key is looked up by equality, so an index of the rows that are not null does as well. Texts of different
/// types compare without a conversion, and a domain with what it is made of; most keys have the same type on both sides, which is
/// asked first. The rows of a partitioned table are those of its leaves.
fn foreign_keys(version_num: u32) -> String {
    let enforced = enforced(version_num);
    format!(
        "WITH indexed AS MATERIALIZED (
  SELECT c.oid FROM pg_constraint c JOIN pg_index i ON i.indrelid = c.conrelid
   WHERE c.contype = 'f' AND i.indisvalid AND i.indnkeyatts >= cardinality(c.conkey)
     AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey
     AND (i.indpred IS NULL OR i.indpred::text ~ ('^[{{]NULLTEST :arg [{{]VAR :varno 1 :varattno ('
       || array_to_string(c.conkey, '|') || ') [^{{}}]*[}}] :nulltesttype 1 '))),
keys AS (
  SELECT c.oid, c.conrelid, c.confrelid, c.conkey, c.conname::text AS name, n.nspname::text AS schema,
         t.relname::text AS table_name, t.relkind = 'p' AS partitioned,
         CASE WHEN t.relkind = 'p' THEN (
           WITH RECURSIVE below AS (
             SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = t.oid
             UNION ALL SELECT h.inhrelid FROM pg_inherits h JOIN below b ON h.inhparent = b.inhrelid)
           SELECT sum(greatest(l.reltuples, 0))::float8 FROM below JOIN pg_class l ON l.oid = below.inhrelid)
              WHEN t.reltuples >= 0 THEN t.reltuples::float8 END AS rows_estimated,
         c.oid NOT IN (SELECT oid FROM indexed) AS unindexed,
         EXISTS (
           SELECT 1 FROM unnest(c.conkey, c.confkey) AS pair (here, there)
            WHERE (SELECT atttypid FROM pg_attribute WHERE attrelid = c.conrelid AND attnum = pair.here)
               <> (SELECT atttypid FROM pg_attribute WHERE attrelid = c.confrelid AND attnum = pair.there))
         AND EXISTS (
           SELECT 1 FROM unnest(c.conkey, c.confkey) AS pair (here, there)
             JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = pair.here
             JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = pair.there
             JOIN pg_type at ON at.oid = a.atttypid
             JOIN pg_type bt ON bt.oid = b.atttypid
            WHERE coalesce(nullif(at.typbasetype, 0), at.oid) <> coalesce(nullif(bt.typbasetype, 0), bt.oid)
              AND NOT (at.typcategory = 'S' AND bt.typcategory = 'S')) AS mismatched
    FROM pg_constraint c
    JOIN pg_class t ON t.oid = c.conrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
   WHERE c.contype = 'f' AND c.conparentid = 0 {enforced} AND {OURS})
SELECT k.schema, k.table_name, k.name, k.rows_estimated, k.partitioned, k.unindexed, k.mismatched,
       fn.nspname::text AS referenced_schema, f.relname::text AS referenced_name,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS part (number, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = part.number ORDER BY part.place) AS columns
  FROM keys k
  JOIN pg_class f ON f.oid = k.confrelid
  JOIN pg_namespace fn ON fn.oid = f.relnamespace
 WHERE k.unindexed OR k.mismatched
 ORDER BY k.rows_estimated DESC NULLS LAST, 1, 2, 3 LIMIT 1000"
    )
}

/// What an extension made is its own affair, and a child has the definition of its parent.
fn without_key() -> String {
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition AND {OURS}
   AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary)
   AND NOT EXISTS (SELECT 1 FROM pg_inherits h WHERE h.inhrelid = t.oid)
   AND NOT EXISTS (SELECT 1 FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = t.oid AND d.deptype = 'e')
 ORDER BY 1, 2 LIMIT 1000"
    )
}

/// From 18 on a constraint can be meant to be not enforced, and is then not valid either.
fn enforced(version_num: u32) -> &'static str {
    if version_num >= 180_000 { "AND c.conenforced" } else { "" }
}

fn unvalidated(version_num: u32) -> String {
    let enforced = enforced(version_num);
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name, c.conname::text AS name
  FROM pg_constraint c
  JOIN pg_class t ON t.oid = c.conrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE NOT c.convalidated {enforced} AND c.conparentid = 0 AND c.coninhcount = 0 AND {OURS}
 ORDER BY 1, 2, 3 LIMIT 1000"
    )
}

/// One that a partition has from its parent is told of the parent.
fn disabled_triggers() -> String {
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name, g.tgname::text AS name,
       c.conname::text AS constraint_name
  FROM pg_trigger g
  JOIN pg_class t ON t.oid = g.tgrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  LEFT JOIN pg_constraint c ON c.oid = g.tgconstraint
 WHERE g.tgenabled = 'D' AND {OURS}
   AND NOT EXISTS (SELECT 1 FROM pg_trigger p WHERE p.oid = g.tgparentid AND p.tgenabled = 'D')
 ORDER BY 1, 2, 3 LIMIT 1000"
    )
}

/// With how the indexes are used, which the same question tells.
pub(super) async fn read(
    asking: &Asking<'_>,
    version_num: u32,
    indexes: u64,
) -> (Box<Structure>, Part<Box<IndexUsage>>) {
    let (keys, without_key) = (foreign_keys(version_num), without_key());
    let (unvalidated, disabled) = (unvalidated(version_num), disabled_triggers());
    let ((indexes, usage), keys, without_key, unvalidated, disabled_triggers) = tokio::join!(
        indexes::read(asking, version_num, indexes),
        asking.many(&keys, |row| Ok((foreign_key(row)?, get(row, "unindexed")?, get(row, "mismatched")?))),
        asking.many(&without_key, table),
        asking.many(&unvalidated, named),
        asking.many(&disabled, trigger),
    );
    let foreign_keys = keys.map(sorted);
    (Box::new(Structure { indexes, foreign_keys, without_key, unvalidated, disabled_triggers }), usage)
}

/// By what is wrong with each: whether it has no index, and whether its types differ.
fn sorted(keys: Vec<(ForeignKey, bool, bool)>) -> ForeignKeys {
    let mut found = ForeignKeys::default();
    for (key, is_unindexed, is_mismatched) in keys {
        if is_mismatched {
            found.mismatched.push(key.clone());
        }
        if is_unindexed {
            found.unindexed.push(key);
        }
    }
    found
}

pub(super) fn table(row: &Row) -> Result<TableName, String> {
    Ok(TableName { schema: get(row, "schema")?, name: get(row, "table_name")? })
}

fn named(row: &Row) -> Result<Named, String> {
    Ok(Named { table: table(row)?, name: get(row, "name")? })
}

fn trigger(row: &Row) -> Result<Trigger, String> {
    Ok(Trigger { table: table(row)?, name: get(row, "name")?, constraint: get(row, "constraint_name")? })
}

fn foreign_key(row: &Row) -> Result<ForeignKey, String> {
    Ok(ForeignKey {
        table: table(row)?,
        name: get(row, "name")?,
        columns: get(row, "columns")?,
        referenced: TableName { schema: get(row, "referenced_schema")?, name: get(row, "referenced_name")? },
        is_partitioned: get(row, "partitioned")?,
        rows: get(row, "rows_estimated")?,
    })
}
