//! Compares sequences with the columns that they fill.
//!
//! Not a part of the reading that is taken twice a minute: it looks into users' tables. Each look is by an index that begins
//! with the column, takes the lock that a SELECT takes for a moment, and is given up after 200 ms of waiting for it. Position
//! and values are asked in one statement, whose snapshot is older than the position it reads: rows that were inserted by the
//! sequence in between are never ahead of it.

use super::observe::{count, gap, get};
use groundskeeper_core::observation::{Gap, NotCompared, SequenceBehind, Sequences, TableName};
use groundskeeper_core::remedy::{Advance, FilledColumn, quoted};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

const MOST: usize = 500;
/// So many partitions of one sequence are looked into.
const MOST_LEAVES: usize = 200;
/// Where a sequence goes in steps, what lies between is somebody else's: so many values are looked at to find its own.
const STEPS_LOOKED_AT: u32 = 100;
/// At so many places between the next value and the furthest it is counted what is taken,
const PLACES: i128 = 16;
/// over so many numbers,
const PLACE: i128 = 1_000;
/// one of so many of which at least has to be.
const ONE_OF: i128 = 10;

/// By the index or not at all.
pub(super) const BY_THE_INDEX: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off";
/// No row left out without a word. For this transaction only: a pooler may give the connection to somebody else afterwards.
const CAREFULLY: &str = "SET LOCAL row_security = off; SET LOCAL jit = off; SET LOCAL lock_timeout = '200ms'; \
                         SET LOCAL statement_timeout = '2s'";

/// A sequence and what it fills.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filling {
    pub(super) sequence: TableName,
    increment: i64,
    cache: i64,
    /// What sequence and columns both allow.
    low: i64,
    high: i64,
    is_shown: bool,
    is_subscribed: bool,
    /// A column owns it and has no default: the program asks for the number.
    is_by_program: bool,
    /// Of partitions and children, the table above them.
    pub(super) columns: Vec<FilledColumn>,
    leaves: Vec<Leaf>,
}

/// A table with rows of its own.
#[derive(Debug, Clone, PartialEq)]
struct Leaf {
    filled: FilledColumn,
    is_foreign: bool,
    is_shown: bool,
    /// A B-tree begins with the column.
    is_led: bool,
    is_unique: bool,
}

/// Where a sequence is, and what its columns hold ahead of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    pub(super) last: i64,
    pub(super) is_called: bool,
    /// None when it has come to its end.
    pub(super) next: Option<i64>,
    pub(super) limit: i64,
    pub(super) taken: Option<i64>,
    pub(super) first: Option<i64>,
    beyond: Option<i64>,
}

/// A column takes its values from a sequence when it is its identity, when its default is that sequence's `nextval` and
/// nothing else (1574; 480 and 714 make it an integer or a smallint), or when it owns the sequence and has no default: then the
/// program asks for the number. A table that inherits the column has rows of its own. What neither leads an index nor is a part
/// of a unique one cannot collide.
const FILLINGS: &str = "
WITH RECURSIVE uses AS (
  SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid::int4 AS number, d.deptype = 'a' AS by_program
    FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
     AND (d.deptype = 'i' OR (d.deptype = 'a' AND NOT EXISTS (
           SELECT 1 FROM pg_attrdef f WHERE f.adrelid = d.refobjid AND f.adnum = d.refobjsubid)))
  UNION
  SELECT d.refobjid, f.adrelid, f.adnum::int4, false
    FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid JOIN pg_sequence s ON s.seqrelid = d.refobjid
   WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
     AND f.adbin::text ~ '^\\{FUNCEXPR :funcid (1574 |(480|714) [^{]*:args \\(\\{FUNCEXPR :funcid 1574 )'),
filled AS MATERIALIZED (
  SELECT u.sequence, u.relation, a.attname, u.by_program
    FROM uses u
    JOIN pg_attribute a ON a.attrelid = u.relation AND a.attnum = u.number AND NOT a.attisdropped
         AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
    JOIN pg_class t ON t.oid = u.relation AND t.relkind IN ('r', 'p', 'f') AND t.relpersistence <> 't'),
tree AS (
  SELECT sequence, relation, attname FROM filled
  UNION
  SELECT t.sequence, h.inhrelid, t.attname FROM tree t JOIN pg_inherits h ON h.inhparent = t.relation),
leaves AS MATERIALIZED (
  SELECT t.sequence, t.relation, n.nspname::text AS schema, c.relname::text AS name, a.attname::text AS attname,
         c.relkind = 'f' AS is_foreign,
         coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
                  AND NOT row_security_active(c.oid), false) AS shown,
         EXISTS (SELECT 1 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
                  WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
                    AND i.indkey[0] = a.attnum) AS is_led,
         EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                    AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS is_unique,
         EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique
                    AND a.attnum = ANY (i.indkey::int2[])) AS in_unique,
         CASE a.atttypid WHEN 'int2'::regtype THEN 32767 WHEN 'int4'::regtype THEN 2147483647
                         ELSE 9223372036854775807 END AS highest,
         EXISTS (SELECT 1 FROM pg_subscription_rel r WHERE r.srrelid = c.oid) AS subscribed
    FROM tree t
    JOIN pg_class c ON c.oid = t.relation AND c.relkind IN ('r', 'f') AND c.relpersistence <> 't'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = t.attname AND NOT a.attisdropped),
roots AS (
  SELECT f.sequence, bool_or(f.by_program) AS by_program, array_agg(n.nspname::text ORDER BY c.oid, f.attname) AS schemas,
         array_agg(c.relname::text ORDER BY c.oid, f.attname) AS names,
         array_agg(f.attname::text ORDER BY c.oid, f.attname) AS columns
    FROM filled f JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE NOT EXISTS (SELECT 1 FROM pg_inherits h JOIN filled p ON p.relation = h.inhparent
                      WHERE h.inhrelid = f.relation AND p.sequence = f.sequence AND p.attname = f.attname)
   GROUP BY 1),
counted AS (
  SELECT sequence, count(*)::int8 AS count, min(highest)::int8 AS highest, bool_or(subscribed) AS subscribed,
         array_agg(schema ORDER BY relation, attname) AS schemas, array_agg(name ORDER BY relation, attname) AS names,
         array_agg(attname ORDER BY relation, attname) AS columns,
         array_agg(is_foreign ORDER BY relation, attname) AS foreigns, array_agg(shown ORDER BY relation, attname) AS showns,
         array_agg(is_led ORDER BY relation, attname) AS leds, array_agg(is_unique ORDER BY relation, attname) AS uniques
    FROM leaves WHERE is_led OR in_unique OR is_foreign GROUP BY 1)
SELECT n.nspname::text AS schema, c.relname::text AS name, s.seqincrement AS increment, s.seqcache AS cache,
       greatest(s.seqmin, -l.highest - 1)::int8 AS low, least(s.seqmax, l.highest)::int8 AS high,
       has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(s.seqrelid, 'SELECT') AS shown,
       l.subscribed, r.by_program, r.schemas AS root_schemas, r.names AS root_names, r.columns AS root_columns,
       l.schemas, l.names, l.columns, l.foreigns, l.showns, l.leds, l.uniques, count(*) OVER () AS all_of_them
  FROM pg_sequence s
  JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN roots r ON r.sequence = s.seqrelid
  JOIN counted l ON l.sequence = s.seqrelid
 WHERE c.relpersistence <> 't' AND NOT s.seqcycle AND ($1::text IS NULL OR (n.nspname = $1 AND c.relname = $2))
 ORDER BY l.count, s.seqrelid LIMIT $3";

/// What fills what; with a name, of that sequence alone. And how many there are in all.
pub(super) async fn fillings(client: &Client, of: Option<(&str, &str)>) -> Result<(Vec<Filling>, u64), Error> {
    let (schema, name) = (of.map(|(schema, _)| schema), of.map(|(_, name)| name));
    let most = MOST as i64;
    let values: [(&(dyn ToSql + Sync), Type); 3] = [(&schema, Type::TEXT), (&name, Type::TEXT), (&most, Type::INT8)];
    let rows = client.query_typed(FILLINGS, &values).await?;
    let all = rows.first().and_then(|row| count(row, "all_of_them").ok()).unwrap_or(0);
    // A row that cannot be read would be a column of another type than the question says.
    Ok((rows.iter().filter_map(|row| filling(row).ok()).collect(), all))
}

fn filling(row: &Row) -> Result<Filling, String> {
    let columns = |schemas: &str, names: &str, columns: &str| -> Result<Vec<FilledColumn>, String> {
        let (schemas, names): (Vec<String>, Vec<String>) = (get(row, schemas)?, get(row, names)?);
        let columns: Vec<String> = get(row, columns)?;
        let all = schemas.into_iter().zip(names).zip(columns);
        Ok(all.map(|((schema, table), column)| FilledColumn { schema, table, column }).collect())
    };
    let (foreign, shown): (Vec<bool>, Vec<bool>) = (get(row, "foreigns")?, get(row, "showns")?);
    let (led, unique): (Vec<bool>, Vec<bool>) = (get(row, "leds")?, get(row, "uniques")?);
    let facts = foreign.into_iter().zip(shown).zip(led).zip(unique);
    let leaves = columns("schemas", "names", "columns")?.into_iter().zip(facts);
    Ok(Filling {
        sequence: TableName { schema: get(row, "schema")?, name: get(row, "name")? },
        increment: get(row, "increment")?,
        cache: get(row, "cache")?,
        low: get(row, "low")?,
        high: get(row, "high")?,
        is_shown: get(row, "shown")?,
        is_subscribed: get(row, "subscribed")?,
        is_by_program: get(row, "by_program")?,
        columns: columns("root_schemas", "root_names", "root_columns")?,
        leaves: leaves
            .map(|(filled, (((is_foreign, is_shown), is_led), is_unique))| Leaf {
                filled,
                is_foreign,
                is_shown,
                is_led,
                is_unique,
            })
            .collect(),
    })
}

impl Filling {
    /// Why its columns cannot be looked into, if they cannot.
    pub(super) fn obstacle(&self) -> Option<NotCompared> {
        let name = |leaf: &Leaf| TableName { schema: leaf.filled.schema.clone(), name: leaf.filled.table.clone() };
        if !self.is_shown {
            return Some(NotCompared::HiddenSequence);
        }
        if self.leaves.len() > MOST_LEAVES {
            return Some(NotCompared::ManyTables(self.leaves.len() as u64));
        }
        self.leaves.iter().find_map(|leaf| match leaf {
            leaf if leaf.is_foreign => Some(NotCompared::Foreign(name(leaf))),
            leaf if !leaf.is_shown => Some(NotCompared::HiddenTable(name(leaf))),
            leaf if !leaf.is_led => Some(NotCompared::WithoutIndex(leaf.filled.clone())),
            _ => None,
        })
    }

    /// A step of it is a block of numbers, and all of them are its own.
    fn is_in_blocks(&self) -> bool {
        self.is_by_program && self.increment.unsigned_abs() > 1
    }

    /// Where it is and what lies ahead. One row. What is out of the sequence's or the column's range is not on its way, and
    /// no further than half of what is left of it is looked for what is to be passed by.
    fn question(&self) -> String {
        let (increment, low, high) = (self.increment, self.low, self.high);
        let whole = format!("{}.{}", quoted(&self.sequence.schema), quoted(&self.sequence.name));
        let is_ascending = increment > 0;
        let end = if is_ascending { high } else { low };
        let (furthest, nearest) = if is_ascending { ("max", "min") } else { ("min", "max") };
        let steps = if self.is_in_blocks() { increment.signum() } else { increment };
        let leaves: Vec<String> = self.leaves.iter().map(|leaf| leaf.question(steps, end)).collect();
        format!(
            "WITH s AS MATERIALIZED (
  SELECT last_value AS last, is_called, last_value::numeric + CASE WHEN is_called THEN {increment} ELSE 0 END AS next,
         trunc(last_value + (({end})::numeric - last_value) / 2) AS bound
    FROM {whole}),
q AS MATERIALIZED (
  SELECT last, is_called, CASE WHEN next BETWEEN {low} AND {high} THEN next::int8 END AS next,
         least(greatest(bound, {low}), {high})::int8 AS bound FROM s)
SELECT q.last, q.is_called, q.next, q.bound, {furthest}(l.taken)::int8 AS taken, {nearest}(l.first)::int8 AS first,
       {nearest}(l.beyond)::int8 AS beyond
  FROM q CROSS JOIN LATERAL (
{}) l
 GROUP BY 1, 2, 3, 4",
            leaves.join("\nUNION ALL\n")
        )
    }

    /// As it is at this moment.
    pub(super) async fn position(&self, client: &Client) -> Result<Option<Position>, Error> {
        let rows = client.query_typed(&self.question(), &[]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Position {
            last: row.try_get("last")?,
            is_called: row.try_get("is_called")?,
            next: row.try_get("next")?,
            limit: row.try_get("bound")?,
            taken: row.try_get("taken")?,
            first: row.try_get("first")?,
            beyond: row.try_get("beyond")?,
        }))
    }

    /// None when it is not behind.
    pub(super) fn behind(&self, at: Position) -> Option<SequenceBehind> {
        // Among those of others one of its own may be found from one side only.
        let (next, taken, first) = (at.next?, at.taken.or(at.first)?, at.first.or(at.taken)?);
        Some(SequenceBehind {
            sequence: self.sequence.clone(),
            advance: Advance { columns: self.columns.clone(), next, increment: self.increment, limit: at.limit },
            last: at.last,
            first,
            taken,
            beyond: at.beyond,
            is_unique: self.leaves.iter().any(|leaf| leaf.is_unique),
            is_subscribed: self.is_subscribed,
            cache: self.cache,
            in_blocks: self.is_in_blocks(),
            is_dense: false,
        })
    }

    /// Whether at least a tenth of the numbers is taken wherever one looks, from the next to the furthest. Some places are
    /// looked at: what was written by hand has hardly a hundred neighbours at each of them.
    pub(super) async fn is_dense(&self, client: &Client, behind: &SequenceBehind) -> Result<bool, Error> {
        let (next, taken) = (i128::from(behind.advance.next), i128::from(behind.taken));
        let (low, high, step) = (next.min(taken), next.max(taken), i128::from(self.increment).abs());
        let width = (PLACE * step).min(high - low + 1);
        let most = (width / step / ONE_OF).max(1);
        let places: Vec<String> = (0..PLACES)
            .map(|place| low + (high - low + 1 - width) * place / (PLACES - 1))
            .map(|from| format!("({from}::int8, {}::int8)", from + width - 1))
            .collect();
        let leaves: Vec<String> = self
            .leaves
            .iter()
            .map(|Leaf { filled, .. }| {
                let (schema, table, column) = (quoted(&filled.schema), quoted(&filled.table), quoted(&filled.column));
                format!(
                    "SELECT count(*) AS count FROM (SELECT FROM ONLY {schema}.{table} AS held \
                     WHERE held.{column} BETWEEN place.low AND place.high LIMIT {most}) v"
                )
            })
            .collect();
        let question = format!(
            "SELECT bool_and((SELECT sum(count) FROM ({}) c) >= {most}) FROM (VALUES {}) AS place (low, high)",
            leaves.join(" UNION ALL "),
            places.join(", ")
        );
        client.query_typed_one(&question, &[]).await?.try_get(0)
    }
}

impl Leaf {
    fn question(&self, increment: i64, end: i64) -> String {
        let table = format!("{}.{}", quoted(&self.filled.schema), quoted(&self.filled.table));
        // An alias, so that no table's name can be taken for the outer one's.
        let column = format!("held.{}", quoted(&self.filled.column));
        let is_ascending = increment > 0;
        let (on_the_way, further, onward, back) = if is_ascending {
            ("BETWEEN q.next AND q.bound", format!("{column} > q.bound AND {column} <= {end}"), "ASC", "DESC")
        } else {
            ("BETWEEN q.bound AND q.next", format!("{column} < q.bound AND {column} >= {end}"), "DESC", "ASC")
        };
        let (looked_at, own) = match increment.unsigned_abs() {
            1 => (1, String::new()),
            _ => (STEPS_LOOKED_AT, format!(" WHERE (v.value::numeric - q.next) % ({increment}) = 0")),
        };
        let one = |condition: &str, order: &str| {
            format!(
                "(SELECT value FROM (SELECT {column} AS value FROM ONLY {table} AS held WHERE {condition} ORDER BY {column} {order} \
                 LIMIT {looked_at}) v{own} ORDER BY value {order} LIMIT 1)"
            )
        };
        let on_the_way = format!("{column} {on_the_way}");
        format!(
            "SELECT {} AS taken, {} AS first, {} AS beyond",
            one(&on_the_way, back),
            one(&on_the_way, onward),
            one(&further, onward)
        )
    }
}

/// Compares each with its columns, those with the fewest tables first, until the time is over.
pub(super) async fn read(client: &Client, until: Instant) -> Result<Sequences, Gap> {
    let (fillings, all) = match timeout_at(until, fillings(client, None)).await {
        Ok(answer) => answer.map_err(|error| gap(&error))?,
        Err(_) => return Err(Gap::new("which columns the sequences fill was not answered in the time given")),
    };
    let mut seen = Sequences::default();
    let unread = all.saturating_sub(fillings.len() as u64);
    for filling in &fillings {
        let compared = match filling.obstacle() {
            Some(obstacle) => Err(obstacle),
            None if Instant::now() >= until => Err(NotCompared::Late),
            None => match timeout_at(until, compare(client, filling)).await {
                Ok(Ok(behind)) => Ok(behind),
                Ok(Err(error)) => Err(NotCompared::Failed(gap(&error).reason)),
                Err(_) => Err(NotCompared::Late),
            },
        };
        match compared {
            Ok(behind) => {
                seen.compared += 1;
                seen.behind.extend(behind);
            }
            Err(why) => seen.not_compared.push((filling.sequence.clone(), why)),
        }
    }
    if let (1.., Some(last)) = (unread, fillings.last()) {
        let why = format!("{unread} more sequences than the {MOST} that are looked at");
        seen.not_compared.push((last.sequence.clone(), NotCompared::Failed(why)));
    }
    Ok(seen)
}

async fn compare(client: &Client, filling: &Filling) -> Result<Option<SequenceBehind>, Error> {
    let mut behind = carefully(client, filling.position(client)).await?.and_then(|position| filling.behind(position));
    if let Some(one) = behind.as_mut().filter(|one| one.asks_for_density()) {
        one.is_dense = carefully(client, filling.is_dense(client, one)).await?;
    }
    Ok(behind)
}

/// In a transaction of its own, sent in one go: a failure in the middle ends it as well.
pub(super) async fn carefully<T>(
    client: &Client,
    question: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let begin = format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {BY_THE_INDEX}; {CAREFULLY}");
    let (begun, answer, ended) = tokio::join!(client.batch_execute(&begin), question, client.batch_execute("COMMIT"));
    begun?;
    let answer = answer?;
    ended?;
    Ok(answer)
}
