//! Reads how far integer keys have come.
//!
//! To read a sequence's position takes a light lock on it until the statement ends: hence at most 500 of them, and only
//! those that can come to an end. Of a key without a sequence the statistics know the largest value.

use super::observe::{Asking, count, get};
use groundskeeper_core::observation::{IntegerKey, IntegerKeys, Part, TableName};
use tokio_postgres::Row;

const MOST: usize = 500;

/// The largest value of an integer type.
const LARGEST: &str = "CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                            ELSE 9223372036854775807 END";

/// A sequence belongs to a column (serial, identity), or a column's default asks it. One row for each: of several columns the
/// first that comes to its end, and of those the one that hands its default down to partitions and children.
fn narrow() -> String {
    format!(
        "uses AS (
  SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS number
    FROM pg_sequence s JOIN pg_depend d ON d.objid = s.seqrelid
   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
     AND d.deptype IN ('a', 'i')
  UNION
  SELECT d.refobjid, f.adrelid, f.adnum FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
   WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'),
narrow AS MATERIALIZED (
  SELECT DISTINCT ON (s.seqrelid)
         s.seqrelid, s.seqmin, s.seqmax, s.seqincrement, n.nspname::text AS schema, c.relname::text AS name,
         tn.nspname::text AS table_schema, t.relname::text AS table_name, a.attname::text AS column,
         format_type(coalesce(a.atttypid, s.seqtypid), NULL) AS of_type,
         least(s.seqmax, {LARGEST})::int8 AS highest,
         has_sequence_privilege(s.seqrelid, 'SELECT,USAGE') AS shown
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN uses u ON u.sequence = s.seqrelid
    LEFT JOIN pg_attribute a ON a.attrelid = u.relation AND a.attnum = u.number
         AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
    LEFT JOIN pg_class t ON t.oid = a.attrelid
    LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
   WHERE c.relpersistence <> 't' AND s.seqincrement > 0
     AND least(s.seqmax, {LARGEST}) < 9223372036854775807
     AND NOT (s.seqcycle AND s.seqmax <= {LARGEST})
   ORDER BY s.seqrelid, least(s.seqmax, {LARGEST}), t.relispartition OR a.attinhcount > 0, t.oid)"
    )
}

/// Those that are hidden from us are named, and their position is not asked for.
fn sequences() -> String {
    format!(
        "WITH {}, counted AS MATERIALIZED (
  SELECT *, count(*) OVER (PARTITION BY shown) AS all_of_them,
         row_number() OVER (PARTITION BY shown ORDER BY highest, seqrelid) AS place
    FROM narrow)
SELECT schema, name, table_schema, table_name, \"column\", of_type, seqmin, highest, all_of_them, shown,
       CASE WHEN shown THEN pg_sequence_last_value(seqrelid) END AS last
  FROM counted WHERE place <= {MOST} ORDER BY shown, schema, name",
        narrow()
    )
}

/// Primary keys of one narrow integer that nothing counts up for them. A partition has no identity of its own: that of the
/// table above it counts. The class of the index tells the type before the columns of all tables are looked through.
fn keys() -> String {
    format!(
        "WITH {},
keys AS MATERIALIZED (
  SELECT n.nspname, t.relname, a.attname, format_type(a.atttypid, NULL) AS of_type, {LARGEST}::int8 AS highest,
         has_column_privilege(t.oid, a.attnum, 'SELECT') AND NOT row_security_active(t.oid) AS shown
    FROM pg_index i
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
   WHERE i.indisprimary AND i.indnkeyatts = 1 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype)
     AND i.indclass[0] IN (SELECT oid FROM pg_opclass WHERE opcintype IN ('int2'::regtype, 'int4'::regtype))
     AND t.relkind = 'r' AND t.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
     AND NOT EXISTS (SELECT 1 FROM uses u WHERE u.relation = t.oid AND u.number = a.attnum)
     AND NOT (t.relispartition
              AND EXISTS (SELECT 1 FROM pg_partition_ancestors(t.oid) p
                            JOIN pg_attribute o ON o.attrelid = p.relid AND o.attname = a.attname
                            JOIN uses u ON u.relation = o.attrelid AND u.number = o.attnum))
   ORDER BY t.reltuples DESC, 1, 2 LIMIT {MOST}),
stats AS MATERIALIZED (
  SELECT schemaname, tablename, attname, histogram_bounds, most_common_vals FROM pg_stats
   WHERE NOT inherited AND tablename = ANY (ARRAY(SELECT relname FROM keys)))
SELECT k.nspname::text AS schema, k.relname::text AS table_name, k.attname::text AS column, k.of_type, k.highest, k.shown,
       (SELECT max(v) FROM unnest(s.histogram_bounds::text::int8[] || s.most_common_vals::text::int8[]) v) AS last
  FROM keys k
  LEFT JOIN stats s ON s.schemaname = k.nspname AND s.tablename = k.relname AND s.attname = k.attname",
        narrow()
    )
}

pub(super) async fn read(asking: &Asking<'_>) -> Part<Box<IntegerKeys>> {
    let (sequences, keys) = (sequences(), keys());
    let (sequences, keys) = tokio::join!(
        asking.many(&sequences, |row| {
            Ok((sequence(row)?, table(row, "schema", "name")?, count(row, "all_of_them")?, get(row, "shown")?))
        }),
        asking.many(&keys, |row| Ok((key(row)?, table(row, "schema", "table_name")?, get(row, "shown")?))),
    );
    let (sequences, keys): (Vec<(_, _, u64, bool)>, Vec<(_, _, bool)>) = (sequences?, keys?);
    let (shown, hidden): (Vec<_>, Vec<_>) = sequences.into_iter().partition(|(.., shown)| *shown);
    let all = shown.first().map_or(0, |(.., all, _)| *all);
    let mut seen = IntegerKeys {
        unread: all.saturating_sub(shown.len() as u64),
        hidden_sequences: hidden.into_iter().map(|(_, name, ..)| name).collect(),
        hidden_keys: keys.iter().filter(|(.., shown)| !shown).map(|(_, table, _)| table.clone()).collect(),
        keys: shown.into_iter().filter_map(|(key, ..)| key).collect(),
    };
    seen.keys.extend(keys.into_iter().filter_map(|(key, ..)| key));
    Ok(Box::new(seen))
}

fn table(row: &Row, schema: &str, name: &str) -> Result<TableName, String> {
    Ok(TableName { schema: get(row, schema)?, name: get(row, name)? })
}

/// None for one that has given nothing yet.
fn sequence(row: &Row) -> Result<Option<IntegerKey>, String> {
    let Some(last) = get::<Option<i64>>(row, "last")? else { return Ok(None) };
    let (first, limit): (i64, i64) = (get(row, "seqmin")?, get(row, "highest")?);
    let of_table: Option<String> = get(row, "table_name")?;
    let column = match of_table {
        Some(_) => Some((table(row, "table_schema", "table_name")?, get(row, "column")?)),
        None => None,
    };
    Ok(Some(IntegerKey {
        column,
        sequence: Some(table(row, "schema", "name")?),
        of_type: get(row, "of_type")?,
        used: share(first, last, limit),
        last,
        limit,
    }))
}

fn key(row: &Row) -> Result<Option<IntegerKey>, String> {
    let Some(last) = get::<Option<i64>>(row, "last")? else { return Ok(None) };
    let limit: i64 = get(row, "highest")?;
    Ok(Some(IntegerKey {
        column: Some((table(row, "schema", "table_name")?, get(row, "column")?)),
        sequence: None,
        of_type: get(row, "of_type")?,
        used: share(1, last, limit),
        last,
        limit,
    }))
}

fn share(first: i64, last: i64, limit: i64) -> f64 {
    let span = |to: i64| (i128::from(to) - i128::from(first) + 1) as f64;
    (span(last) / span(limit).max(1.0)).max(0.0)
}
