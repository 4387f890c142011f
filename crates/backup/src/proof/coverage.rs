//! What `pg_amcheck` cannot speak for in a database, and where this machine differs from the one of the backup.

use groundskeeper_core::quantity::format_count;
use tokio_postgres::{Client, Error};

#[derive(Debug, Default)]
pub(super) struct Coverage {
    pub(super) not_covered: Vec<String>,
    /// Those of them that could make `pg_amcheck` find fault with good data.
    pub(super) doubts: Vec<String>,
}

impl Coverage {
    pub(super) fn doubt(&mut self, what: String) {
        self.doubts.push(what.clone());
        self.not_covered.push(what);
    }
}

/// Looks around in one database. False when there is no amcheck to check it with.
pub(super) async fn visit(client: &Client, database: &str, major: u32, coverage: &mut Coverage) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')";
    if !client.query_one(sql, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    // An old version of it stays through upgrades, and cannot check tables.
    if client.query_opt("SELECT FROM pg_extension WHERE extname = 'amcheck'", &[]).await?.is_some() {
        client.batch_execute("ALTER EXTENSION amcheck UPDATE").await?;
    }
    for row in client.query(UNCHECKED, &[]).await? {
        let (kind, count, names): (String, i64, Vec<String>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        coverage.not_covered.push(format!("database {database}: {}", unchecked(&kind, count, &names)));
    }
    for row in client.query(EXTENSIONS, &[]).await? {
        let name: String = row.try_get(0)?;
        coverage.doubt(format!("database {database}: the extension {name} is not installed here"));
    }
    // Of the database itself it is known from Postgres 15 on.
    let sql = if major >= 15 { format!("{COLLATIONS} UNION {OF_DATABASE}") } else { COLLATIONS.to_owned() };
    for row in client.query(&sql, &[]).await? {
        let (then, now): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        coverage.doubt(format!(
            "database {database}: texts were sorted by version {then} of a collation, which is {now} here"
        ));
    }
    Ok(true)
}

/// `2 gin indexes (docs_tags, docs_words)`.
fn unchecked(kind: &str, count: i64, names: &[String]) -> String {
    let plural = match kind.strip_suffix("index") {
        Some(before) if count != 1 => format!("{before}indexes"),
        None if count != 1 => format!("{kind}s"),
        _ => kind.to_owned(),
    };
    let more = count - names.len() as i64;
    let more = if more > 0 { format!(" and {} more", format_count(more as f64)) } else { String::new() };
    let note = if kind.starts_with("unlogged") { ", empty after a recovery" } else { "" };
    format!("{} {plural} ({}{more}){note}", format_count(count as f64), names.join(", "))
}

/// What the conditions of `pg_amcheck` leave out: it takes heap tables and valid btree indexes. Three of each are
/// named.
const UNCHECKED: &str = "
    SELECT kind, count(*), (array_agg(name ORDER BY name))[1:3]
    FROM (
        SELECT c.relname::text AS name,
            CASE
                WHEN c.relkind = 'i' AND a.amname <> 'btree' THEN a.amname || ' index'
                WHEN c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready AND i.indislive) THEN 'invalid index'
                WHEN c.relkind IN ('r', 'm') AND a.amname <> 'heap' THEN a.amname || ' table'
                WHEN c.relkind = 'r' AND c.relpersistence = 'u' THEN 'unlogged table'
                WHEN c.relkind = 'S' AND a.amname IS DISTINCT FROM 'heap' THEN 'sequence'
                WHEN c.relkind = 'f' THEN 'foreign table'
            END AS kind
        FROM pg_class c
        LEFT JOIN pg_am a ON a.oid = c.relam
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
    ) AS relation
    WHERE kind IS NOT NULL GROUP BY kind ORDER BY kind";

/// Their functions may stand behind an index.
const EXTENSIONS: &str = "
    SELECT e.extname::text FROM pg_extension e
    WHERE NOT EXISTS (SELECT FROM pg_available_extensions a WHERE a.name = e.extname) ORDER BY 1";

const COLLATIONS: &str = "
    SELECT collversion, pg_collation_actual_version(oid) FROM pg_collation
    WHERE collversion <> pg_collation_actual_version(oid)";

const OF_DATABASE: &str = "
    SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database
    WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_checked_is_named_and_counted() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(unchecked("gin index", 1, &names(&["words"])), "1 gin index (words)");
        let many = unchecked("hnsw index", 1200, &names(&["a", "b", "c"]));
        assert_eq!(many, "1,200 hnsw indexes (a, b, c and 1,197 more)");
        assert_eq!(
            unchecked("unlogged table", 2, &names(&["a", "b"])),
            "2 unlogged tables (a, b), empty after a recovery"
        );
    }
}
