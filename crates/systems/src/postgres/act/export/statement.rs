//! What is sent to the server to read a piece and to delete it, and what comes back in front of each row.

use super::{Column, Exporting, Row};
use crate::postgres::act::expired::Aging;
use groundskeeper_core::remedy::quoted;
use std::fmt::Write as _;

/// So long a snapshot is held, at most. Reading that takes longer is tried again with fewer rows.
const READ_WITHIN_MS: u32 = 30_000;

/// With these a value has a text that means the same to every server.
pub(super) const SETTINGS: [(&str, &str); 8] = [
    ("search_path", "pg_catalog"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("row_security", "off"),
];

/// `0:1 735 2026-01-01 00:00:00+00`: the version of a row, and its value of the rule's column.
pub(super) fn version(head: &[u8]) -> Option<(Row, &str)> {
    let (place, rest) = std::str::from_utf8(head).ok()?.split_once(' ')?;
    let (writer, value) = rest.split_once(' ')?;
    let (block, line) = place.split_once(':')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let row = Row { place: format!("({block},{line})"), writer: writer.to_owned() };
    [block, line, writer].into_iter().all(is_number).then_some((row, value))
}

pub(super) fn begin(of: Aging<'_>) -> String {
    let mut out = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = '{READ_WITHIN_MS}'");
    for (name, value) in SETTINGS {
        // Writing to a String cannot fail.
        let _ = write!(out, "; SET LOCAL {name} = '{value}'");
    }
    let _ = write!(out, "; LOCK TABLE ONLY {} IN ACCESS SHARE MODE", of.relation());
    out
}

/// One field in front of each row says which version of which row it is. It has no comma.
pub(super) fn copy(of: Aging<'_>, columns: &[Column], exporting: &Exporting<'_>) -> String {
    let Exporting { unless, limit, after, .. } = exporting;
    let (relation, column) = (of.relation(), quoted(of.column));
    let named: Vec<String> = columns.iter().map(|column| format!("ours.{}", quoted(&column.name))).collect();
    let from = after.as_ref().map_or_else(String::new, |after| {
        let than = if after.beyond { ">" } else { ">=" };
        format!(" AND ours.{column} {than} timestamptz '{}'", after.value.replace('\'', "''"))
    });
    format!(
        "COPY (SELECT replace(btrim(ours.ctid::text, '()'), ',', ':') || ' ' || ours.xmin::text || ' ' || ours.{column}::timestamptz::text \
         AS version, {} FROM ONLY {relation} AS ours WHERE ours.{column} < timestamptz '{}'{from}{unless} ORDER BY ours.{column} LIMIT {limit}) \
         TO STDOUT (FORMAT csv, HEADER, ENCODING 'UTF8')",
        named.join(", "),
        of.before
    )
}

/// The rows are locked before they are deleted: none is waited for, and one that somebody has changed meanwhile has another
/// writer. `IS TRUE` keeps the planner from going through all that is due by the index, where it knows each place.
pub(super) fn delete_kept(of: Aging<'_>, unless: &str) -> String {
    let (relation, column) = (of.relation(), quoted(of.column));
    let same = "tableoid = $3 AND pg_relation_filenode($3::oid::regclass) = $4";
    let along = "EXISTS (SELECT 1 FROM pg_constraint WHERE confrelid = $3 AND contype = 'f' AND confdeltype = 'c')";
    format!(
        "WITH gone AS (
  DELETE FROM ONLY {relation} WHERE {same} AND NOT {along} AND ({column} < $5) IS TRUE AND ctid = ANY (ARRAY(
    SELECT ours.ctid FROM ONLY {relation} AS ours
      JOIN unnest($1::text[]::tid[], $2::text[]::xid[]) AS kept (place, writer)
        ON ours.ctid = kept.place AND ours.xmin = kept.writer
     WHERE ours.{same} AND NOT {along} AND (ours.{column} < $5) IS TRUE{unless} FOR UPDATE OF ours SKIP LOCKED))
  RETURNING 1)
SELECT (SELECT count(*) FROM gone)::int8, coalesce(pg_relation_filenode($3::oid::regclass) = $4, false), {along}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_in_front_says_which_version_of_which_row_it_is() {
        let (row, value) = version(b"12:7 735 0044-03-15 00:00:00+00 BC").unwrap();
        assert_eq!((row.place.as_str(), row.writer.as_str(), value), ("(12,7)", "735", "0044-03-15 00:00:00+00 BC"));
        for other in ["", "0:1", "0:1 7", "0 7 infinity", "0:1 x infinity", "a:1 7 infinity"] {
            assert_eq!(version(other.as_bytes()), None, "{other}");
        }
    }
}
