//! Reads the indexes and constraints of the connected database out of its catalogue.

use super::observe::{Asking, count, get};
use groundskeeper_core::observation::{ForeignKey, ForeignKeys, Index, Named, Structure, TableName, Trigger};
use tokio_postgres::Row;

/// Tables of users, not of the server or of temporary use.
const OURS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
   AND t.relpersistence <> 't'";

/// A build of somebody whose progress is hidden from us may be that of any index. Expressions are compared as the catalogue
/// stores them, without the places in the statement that they came from: to write them as SQL the server would lock the
/// table. What is invalid is never cut off.
fn indexes(version_num: u32) -> String {
    let nulls = if version_num >= 150_000 { "i.indnullsnotdistinct" } else { "false" };
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
       i.indnkeyatts::int4 AS searchable, i.indkey::text AS columns, i.indclass::text AS classes,
       i.indcollation::text AS collations, i.indoption::text AS options,
       CASE WHEN i.indisexclusion THEN x.oid::text
            ELSE concat_ws(' ', i.indisunique, i.indimmediate, {nulls}) END AS rule,
       coalesce(md5(regexp_replace(i.indexprs::text, ':location -?[0-9]+', '', 'g')), '') AS expressions,
       coalesce(md5(regexp_replace(i.indpred::text, ':location -?[0-9]+', '', 'g')), '') AS predicate
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_am am ON am.oid = x.relam
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE x.relkind = 'i' AND {OURS}
 ORDER BY i.indisvalid, x.relpages DESC, 1, 3 LIMIT 5000"
    )
}

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

pub(super) async fn read(asking: &Asking<'_>, version_num: u32) -> Box<Structure> {
    let (indexes, keys, without_key) = (indexes(version_num), foreign_keys(version_num), without_key());
    let (unvalidated, disabled) = (unvalidated(version_num), disabled_triggers());
    let (indexes, keys, without_key, unvalidated, disabled_triggers) = tokio::join!(
        asking.many(&indexes, index),
        asking.many(&keys, |row| Ok((foreign_key(row)?, get(row, "unindexed")?, get(row, "mismatched")?))),
        asking.many(&without_key, table),
        asking.many(&unvalidated, named),
        asking.many(&disabled, trigger),
    );
    Box::new(Structure { indexes, foreign_keys: keys.map(sorted), without_key, unvalidated, disabled_triggers })
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

fn table(row: &Row) -> Result<TableName, String> {
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

fn index(row: &Row) -> Result<Index, String> {
    let (keys, included) = columns(row)?;
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
        keys,
        included,
        rule: get(row, "rule")?,
        expressions: get(row, "expressions")?,
        predicate: get(row, "predicate")?,
    })
}

/// The key of an index, each column with its class, collation and order, and what it carries besides. The catalogue's vectors
/// are taken apart here: in SQL that would be a question for each index.
fn columns(row: &Row) -> Result<(Vec<String>, Vec<i32>), String> {
    let [columns, classes, collations, options]: [String; 4] =
        [get(row, "columns")?, get(row, "classes")?, get(row, "collations")?, get(row, "options")?];
    let searchable = get::<i32>(row, "searchable")?.unsigned_abs() as usize;
    let parts = columns.split(' ').zip(classes.split(' ')).zip(collations.split(' ')).zip(options.split(' '));
    let keys = parts
        .take(searchable)
        .map(|(((column, class), collation), option)| format!("{column} {class} {collation} {option}"));
    let included = columns.split(' ').skip(searchable).map(str::parse).collect::<Result<_, _>>();
    Ok((keys.collect(), included.map_err(|error| format!("a column of an index has no number: {error}"))?))
}
