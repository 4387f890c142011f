//! Who refers to a table whose rows are deleted: whose rows go along, and for whose rows ours stay.

use super::expired::Aging;
use super::{ActError, Work};
use groundskeeper_core::remedy::quoted;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// What is deleted along with one row, by the tables' estimated sizes, at most: more is a deletion of another table.
const FAN_OUT: f64 = 100.0;

/// What the foreign keys to a table mean for deleting its rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Referrers {
    /// How many rows of other tables go along with one.
    pub(super) along: f64,
    /// Keys that forbid to delete what they refer to.
    held_by: Vec<Holder>,
}

#[derive(Debug, Clone, PartialEq)]
struct Holder {
    /// Quoted, with its schema.
    relation: String,
    /// `theirs."session" = ours."id"`
    on: String,
}

impl Referrers {
    /// Whether rows may stay because others refer to them.
    pub(super) fn may_hold(&self) -> bool {
        !self.held_by.is_empty()
    }

    /// Whether some row refers to that of `ours`. Asked for each row by the referrer's index: `OFFSET 0` keeps the planner
    /// from reading all of the referrer for each batch.
    pub(super) fn holds(&self) -> String {
        let holds = self
            .held_by
            .iter()
            .map(|Holder { relation, on }| format!("EXISTS (SELECT 1 FROM {relation} AS theirs WHERE {on} OFFSET 0)"));
        let holds: Vec<String> = holds.collect();
        if holds.is_empty() { "false".to_owned() } else { format!("({})", holds.join(" OR ")) }
    }

    /// The end of a condition on rows of `ours`; empty where every row may go.
    pub(super) fn unless_held(&self) -> String {
        if self.may_hold() { format!(" AND NOT {}", self.holds()) } else { String::new() }
    }
}

impl Work<'_> {
    pub(super) async fn referrers(&self, client: &Client, of: Aging<'_>) -> Result<Referrers, ActError> {
        let names: [(&(dyn ToSql + Sync), Type); 2] = [(&of.schema, Type::TEXT), (&of.table, Type::TEXT)];
        let mut found = Referrers::default();
        for row in self.wait(client.query_typed(REFERRERS, &names)).await? {
            let (name, is_indexed, spreads): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
            let (goes_on, fan_out): (bool, f64) = (row.get(3), row.get(4));
            let (schema, table): (String, String) = (row.get(5), row.get(6));
            let (columns, on, is_readable): (String, String, bool) = (row.get(7), row.get(8), row.get(9));
            let relation = format!("{}.{}", quoted(&schema), quoted(&table));
            let why = if !is_indexed {
                format!(
                    "the foreign key {name} has no index: for each row that is deleted its whole table would be read; CREATE \
                     INDEX CONCURRENTLY ON {relation} ({columns})"
                )
            } else if !spreads && !is_readable {
                return Err(ActError::Denied {
                    what: self.what(),
                    message: format!(
                        "the foreign key {name} keeps what is referred to, and we may not read what refers"
                    ),
                    fix: format!("grant SELECT ({columns}) on {relation} to {}", self.endpoint.role()),
                });
            } else if !spreads {
                found.held_by.push(Holder { relation, on });
                continue;
            } else if goes_on {
                format!("the foreign key {name} deletes or changes rows that are referred to in turn, or have triggers")
            } else if !fan_out.is_finite() {
                format!("the table of the foreign key {name} was never analyzed: nobody knows how many rows go along")
            } else if fan_out > FAN_OUT {
                format!("the foreign key {name} has some {fan_out:.0} rows for each of this table")
            } else {
                found.along += fan_out;
                continue;
            };
            return Err(self.precondition(why));
        }
        Ok(found)
    }
}

/// Who refers to the table: the key, whether it has an index, whether it deletes or changes rows, whether that goes on from
/// there, and how many rows there are for each of ours. A table that refers to itself goes on for ever. The keys of the
/// partitions of a table are one with its own.
const REFERRERS: &str = "
SELECT c.conname || ' of ' || r.relname,
       EXISTS (SELECT 1 FROM pg_index i
                WHERE i.indrelid = c.conrelid AND i.indisvalid AND i.indpred IS NULL
                  AND i.indnkeyatts >= cardinality(c.conkey)
                  AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey),
       c.confdeltype IN ('c', 'n', 'd'),
       r.oid = t.oid OR r.relkind = 'p'
         OR EXISTS (SELECT 1 FROM pg_constraint o WHERE o.contype = 'f' AND o.confrelid = r.oid)
         OR EXISTS (SELECT 1 FROM pg_trigger g WHERE g.tgrelid = r.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
                      AND g.tgtype & (CASE WHEN c.confdeltype = 'c' THEN 8 ELSE 16 END) > 0),
       CASE WHEN r.reltuples < 0 OR (r.reltuples = 0 AND r.relpages = 0 AND pg_relation_size(r.oid) > 0)
            THEN 'Infinity' ELSE r.reltuples / greatest(t.reltuples, 1) END::float8,
       m.nspname::text, r.relname::text, k.columns, k.pairs, k.are_readable
  FROM pg_constraint c
  JOIN pg_class t ON t.oid = c.confrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_class r ON r.oid = c.conrelid
  JOIN pg_namespace m ON m.oid = r.relnamespace
  CROSS JOIN LATERAL (
    SELECT string_agg(format('%I', x.attname), ', ' ORDER BY both_ends.nr) AS columns,
           string_agg(format('theirs.%I = ours.%I', x.attname, y.attname), ' AND ' ORDER BY both_ends.nr) AS pairs,
           bool_and(has_column_privilege(r.oid, x.attnum, 'SELECT')) AS are_readable
      FROM unnest(c.conkey, c.confkey) WITH ORDINALITY AS both_ends(theirs, ours, nr)
      JOIN pg_attribute x ON x.attrelid = c.conrelid AND x.attnum = both_ends.theirs
      JOIN pg_attribute y ON y.attrelid = c.confrelid AND y.attnum = both_ends.ours) k
 WHERE c.contype = 'f' AND n.nspname = $1 AND t.relname = $2
   AND NOT EXISTS (SELECT 1 FROM pg_constraint whole WHERE whole.oid = c.conparentid AND whole.confrelid = c.confrelid)
 ORDER BY 1";
