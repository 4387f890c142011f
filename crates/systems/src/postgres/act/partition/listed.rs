//! The partitions of a table by a rule's cut-off, as the server compares them, and what stands in the way of dropping one.

use super::super::{ActError, Aging, Work};
use groundskeeper_core::remedy::Detach;
use jiff::Timestamp;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// One partition.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) oid: u32,
    pub(super) bounds: String,
    /// It lies wholly before the cut-off.
    pub(super) is_due: bool,
    /// Some of it does.
    is_partly_due: bool,
    pub(super) bytes: u64,
    pub(super) detach: Detach,
    pub(super) hindrance: Option<String>,
}

impl Listed {
    /// Why rows of it stay that the rule does not keep, if there may be such.
    pub(super) fn note(&self) -> Option<String> {
        if self.bounds == "DEFAULT" {
            let why = "no bound tells how old its rows are, so they stay; give them partitions of their own";
            return Some(format!("the default partition {}: {why}", self.name));
        }
        self.is_partly_due.then(|| {
            let bounds = self.bounds.trim_start_matches("FOR VALUES ");
            format!("{} ({bounds}) is expired in part: its rows stay until all of it is", self.name)
        })
    }
}

/// A table that is partitioned by the rule's column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parent {
    pub(super) oid: u32,
    has_default: bool,
}

impl Work<'_> {
    /// None where the table is not partitioned, or not there.
    pub(super) async fn parent(&self, client: &Client, of: Aging<'_>) -> Result<Option<Parent>, ActError> {
        let values: [(&(dyn ToSql + Sync), Type); 5] = [
            (&of.schema, Type::TEXT),
            (&of.table, Type::TEXT),
            (&of.column, Type::TEXT),
            (&of.before, Type::TIMESTAMPTZ),
            (&of.keep, Type::FLOAT8),
        ];
        let rows = self.wait(client.query_typed(PARENT, &values)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let is = |column: usize| row.get::<_, bool>(column);
        let column = of.column;
        let why = match row.get::<_, Option<String>>(1).as_deref() {
            _ if is(5) => super::super::STANDBY.to_owned(),
            None => format!("it has no column {column}"),
            Some(other) if !super::super::expired::AGES.contains(&other) => {
                format!("{column} is of the type {other}, which is no date or time")
            }
            Some(_) if !is(2) => format!(
                "it is partitioned, and not by a RANGE of {column} alone: nothing tells which of its partitions are old"
            ),
            Some(_) if !is(6) => {
                "by the server's clock that is not yet as far back as the rule says; look at the clocks".to_owned()
            }
            Some(_) if !is(4) => {
                let (owner, role) = (row.get::<_, String>(7), self.endpoint.role());
                return Err(ActError::Denied {
                    what: self.what(),
                    message: "only its owner may detach partitions".to_owned(),
                    fix: format!("make {role} a member of {owner}"),
                });
            }
            Some(_) => return Ok(Some(Parent { oid: row.get(0), has_default: is(3) })),
        };
        Err(self.precondition(why))
    }

    pub(super) async fn listed(
        &self,
        client: &Client,
        version: i32,
        parent: Parent,
        before: Timestamp,
    ) -> Result<Vec<Listed>, ActError> {
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&parent.oid, Type::OID), (&before, Type::TIMESTAMPTZ)];
        let rows = self.wait(client.query_typed(&partitions(version), &values)).await?;
        // A concurrent detach of a table with a foreign key of its own leaves more behind than an attach puts right.
        let detach = |has_key: bool| {
            let alone = version >= 140_000 && !parent.has_default && !has_key;
            if alone { Detach::Concurrently } else { Detach::Plainly }
        };
        let listed = rows.iter().map(|row| Listed {
            schema: row.get(0),
            name: row.get(1),
            oid: row.get(2),
            bounds: row.get::<_, Option<String>>(3).unwrap_or_default(),
            is_due: row.get(5),
            is_partly_due: row.get(6),
            bytes: u64::try_from(row.get::<_, Option<i64>>(7).unwrap_or(0)).unwrap_or(0),
            detach: detach(row.get(4)),
            hindrance: row.get(8),
        });
        Ok(listed.collect())
    }
}

const PARENT: &str = "
SELECT t.oid, y.typname::text,
       o.partstrat = 'r' AND o.partnatts = 1 AND o.partattrs[0] = a.attnum IS TRUE,
       o.partdefid <> 0, pg_has_role(t.relowner, 'USAGE'), pg_is_in_recovery(),
       $4 <= clock_timestamp() - make_interval(secs => $5) + interval '10 minutes', pg_get_userbyid(t.relowner)::text
  FROM pg_class t
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_partitioned_table o ON o.partrelid = t.oid
  LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = $3 AND NOT a.attisdropped AND a.attnum > 0
  LEFT JOIN pg_type y ON y.oid = a.atttypid
 WHERE n.nspname = $1 AND t.relname = $2 AND n.nspname NOT IN ('pg_catalog', 'information_schema')";

/// Oldest first. A bound that is no plain date (`MINVALUE`, a year beyond 9999) has no end that could be before anything.
fn partitions(version: i32) -> String {
    // From 15 on a publication may be of all tables of a schema.
    let of_schemas = if version >= 150_000 {
        "OR EXISTS (SELECT 1 FROM pg_publication_namespace s JOIN family f ON f.relnamespace = s.pnnspid WHERE s.pnpubid = b.oid)"
    } else {
        ""
    };
    format!(
        r"
WITH parts AS (
  SELECT p.oid, p.relname, p.relnamespace, p.relkind, p.relpersistence, p.relowner, h.inhparent AS parent,
         coalesce((to_jsonb(h) ->> 'inhdetachpending')::bool, false) AS is_pending,
         pg_get_expr(p.relpartbound, p.oid) AS bounds
    FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhrelid
   WHERE h.inhparent = $1),
edges AS (
  SELECT parts.*,
         CASE WHEN bounds ~ 'TO \(''(\d\d\d\d-|-?infinity)[^'']*''\)$'
              THEN substring(bounds FROM 'TO \(''([^'']+)''\)$')::timestamptz END AS upper,
         CASE WHEN bounds ~ '^FOR VALUES FROM \(MINVALUE\)' THEN '-infinity'
              WHEN bounds ~ '^FOR VALUES FROM \(''(\d\d\d\d-|-?infinity)[^'']*''\)'
              THEN substring(bounds FROM '^FOR VALUES FROM \(''([^'']+)''\)')::timestamptz END AS lower
    FROM parts),
judged AS (
  SELECT edges.*, coalesce(upper <= $2, false) AS is_due,
         coalesce(lower < $2, false) AND NOT coalesce(upper <= $2, false) AS is_partly_due
    FROM edges)
SELECT m.nspname::text, p.relname::text, p.oid, p.bounds,
       EXISTS (SELECT 1 FROM pg_constraint c WHERE c.contype = 'f' AND c.conrelid = p.oid), p.is_due, p.is_partly_due,
       CASE WHEN p.is_due AND p.relkind = 'r' THEN pg_total_relation_size(p.oid) END,
       CASE WHEN NOT p.is_due THEN NULL
            WHEN p.is_pending THEN 'a detach of it was begun and is not finished; finish it (DETACH PARTITION … FINALIZE), and drop '
              || 'it or attach it again'
            WHEN p.relkind = 'p' THEN 'it is partitioned in turn, and such a one is not dropped'
            WHEN p.relkind <> 'r' THEN 'it is no ordinary table'
            WHEN p.relpersistence <> 'p' THEN 'it is not logged, so no backup set has its rows'
            WHEN NOT pg_has_role(p.relowner, 'USAGE')
            THEN format('only its owner may drop it; make %s a member of %s', current_user, pg_get_userbyid(p.relowner))
            ELSE coalesce(
              (SELECT format('the foreign key %s of %s refers to it', c.conname, c.conrelid::regclass)
                 FROM pg_constraint c WHERE c.contype = 'f' AND c.confrelid IN (p.oid, p.parent) LIMIT 1),
              (WITH family AS (
                 SELECT f.oid, f.relnamespace FROM pg_class f
                  WHERE f.oid = p.oid OR f.oid IN (SELECT relid FROM pg_partition_ancestors(p.parent)))
               SELECT format('the publication %s tells others of each row that is deleted, and nothing would tell them of a drop',
                             b.pubname)
                 FROM pg_publication b
                WHERE b.pubdelete
                  AND (b.puballtables
                    OR EXISTS (SELECT 1 FROM pg_publication_rel r JOIN family f ON f.oid = r.prrelid WHERE r.prpubid = b.oid)
                    {of_schemas}) LIMIT 1),
              (SELECT format('the trigger %s acts on each row that is deleted, and a drop sets none off', g.tgname)
                 FROM pg_trigger g
                WHERE g.tgrelid IN (p.oid, p.parent) AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 8 > 0 LIMIT 1),
              (SELECT format('%s depends on it', pg_describe_object(d.classid, d.objid, d.objsubid))
                 FROM pg_depend d
                WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = p.oid AND d.deptype = 'n'
                  -- What is a part of the table goes with it.
                  AND NOT EXISTS (SELECT 1 FROM pg_depend own
                                   WHERE own.classid = d.classid AND own.objid = d.objid AND own.refclassid = d.refclassid
                                     AND own.refobjid = p.oid AND own.deptype <> 'n') LIMIT 1),
              (SELECT format('the detach of %s was begun and is not finished', o.relname)
                 FROM parts o WHERE o.is_pending AND o.oid <> p.oid LIMIT 1))
       END
  FROM judged p JOIN pg_namespace m ON m.oid = p.relnamespace
 ORDER BY p.is_pending DESC, p.upper NULLS LAST, 2"
    )
}
