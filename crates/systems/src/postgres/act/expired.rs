//! Deleting the rows that a rule does not keep: small batches by an index, each committed, with pauses that follow what the
//! server and its standbys can take.

use super::export::{Exporting, Sink};
use super::pressure::{Deleted, LOOK_EVERY};
use super::referrers::Referrers;
use super::{ActError, STANDBY, Work};
use groundskeeper_core::remedy::{LARGEST_BATCH, StepState, quoted};
use jiff::{SignedDuration, Timestamp};
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

const FIRST_BATCH: u32 = 200;
const SMALLEST_BATCH: u32 = 50;
/// A batch that takes longer is made smaller, one that takes less than a quarter of it larger: whoever waits for one of its
/// rows waits no longer than this.
const BATCH_WITHIN: Duration = Duration::from_millis(20);
/// For each second of deleting, so many are left to everybody else.
const REST: u32 = 7;
const SHORTEST_REST: Duration = Duration::from_millis(10);
/// How often in a row a batch may meet somebody else's lock.
const REFUSALS: u32 = 5;
/// Beyond this many rows nobody counts on.
const COUNTED: i64 = 2_000_000;
/// The same where an index is asked for each.
const COUNTED_BY_KEYS: i64 = 200_000;

/// Rows of one age that stay and are stepped over by each batch, at most: some 20 ms.
const STEPPED_OVER: i64 = 100_000;
/// Postgres' times are whole microseconds.
const SMALLEST_STEP: SignedDuration = SignedDuration::from_micros(1);

/// Times without a zone are UTC, whatever the role's default is. Row security would hide rows without a word.
const PLAIN: &str = "SET TimeZone = 'UTC'; SET row_security = off";
/// No batch holds its locks for longer, whatever goes along.
const BATCH_GIVEN_UP_MS: u32 = 5_000;
pub(super) const AGES: [&str; 3] = ["date", "timestamp", "timestamptz"];

/// A table and the column that its rows age by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aging<'n> {
    pub(super) schema: &'n str,
    pub(super) table: &'n str,
    pub(super) column: &'n str,
    pub(super) before: Timestamp,
    /// Seconds: so far back `before` is at least, by the server's clock.
    pub(super) keep: f64,
    /// Whether rows are kept elsewhere first.
    pub(super) export: bool,
}

/// What a table allows.
#[derive(Debug, Clone, PartialEq)]
struct Fit {
    /// The very table that was looked at. The name may be another one's a moment later.
    oid: u32,
    referrers: Referrers,
}

/// Where the next batch begins: among those of one age, what stays is stepped over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// None is before everything.
    from: Option<Timestamp>,
    skip: i64,
}

impl Place {
    /// Behind a batch that reached `last`, where `stay` rows of that age were not deleted.
    fn behind(self, last: Option<Timestamp>, stay: i64) -> Self {
        let skip = if last == self.from { self.skip + stay } else { stay };
        match last {
            // To step over so many for each batch would take longer than to delete. Those behind them go once fewer stay.
            Some(last) if skip > STEPPED_OVER => Self { from: Some(last + SMALLEST_STEP), skip: 0 },
            _ => Self { from: last, skip },
        }
    }
}

/// What came of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Batch {
    /// Where the next one begins. None where whoever chose the rows keeps that.
    pub(super) next: Option<Place>,
    pub(super) deleted: u64,
    pub(super) took: Duration,
    /// Nothing is left for another one.
    pub(super) is_last: bool,
}

impl Batch {
    /// The answer of a batch that began at `place`.
    fn read(row: &Row, place: Place, took: Duration) -> Self {
        let (chosen, last, stay, deleted): (i64, _, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
        let (next, deleted) = (Some(place.behind(last, stay)), u64::try_from(deleted).unwrap_or(0));
        Self { next, deleted, took, is_last: chosen == 0 }
    }
}

impl Aging<'_> {
    pub(super) fn relation(self) -> String {
        format!("{}.{}", quoted(self.schema), quoted(self.table))
    }
}

impl Work<'_> {
    pub(super) async fn delete_expired(
        &self,
        of: Aging<'_>,
        sink: Option<&dyn Sink>,
        halt: impl Future<Output = ()>,
    ) -> Result<(), ActError> {
        let client = self.client()?;
        self.settled("the batches could not be held to their time").await?;
        let version = self
            .wait(client.query_typed_one("SELECT current_setting('server_version_num')::int4", &[]))
            .await?
            .get::<_, i32>(0);
        self.notice_when_we_are_gone(client, version).await?;
        if of.export {
            self.fit_to_export(client, of).await?;
        }
        let fit = self.fit_to_delete(client, of).await?;
        let mut exporting = self.begin_export(of, sink, &fit.referrers)?;
        self.wait(client.batch_execute(&format!("{PLAIN}; SET statement_timeout = '{BATCH_GIVEN_UP_MS}'"))).await?;
        let (mut halt, mut deleted) = (pin!(halt), Deleted::default());
        // What somebody had locked at the first pass is looked at once more.
        for _ in 0..2 {
            let passed = self.pass(client, of, &fit, exporting.as_mut(), &mut deleted, halt.as_mut()).await;
            let has_exported = exporting.as_ref().is_some_and(Exporting::has_exported);
            match (passed, deleted.told(has_exported)) {
                (Ok(true), _) => {}
                (Ok(false), _) => return Err(ActError::Interrupted(self.what())),
                (Err(error), Some(done)) => return Err(self.after(error, &done)),
                (Err(error), None) => return Err(error),
            }
        }
        Ok(())
    }

    /// Goes through the expired rows once, oldest first. False when it was told to end.
    async fn pass(
        &self,
        client: &Client,
        of: Aging<'_>,
        fit: &Fit,
        mut exporting: Option<&mut Exporting<'_>>,
        deleted: &mut Deleted,
        mut halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, ActError> {
        let statement = delete_batch(of, &fit.referrers);
        if let Some(exporting) = exporting.as_deref_mut() {
            exporting.begin_pass();
        }
        let most = (f64::from(LARGEST_BATCH) / (1.0 + fit.referrers.along)).max(f64::from(SMALLEST_BATCH)) as u32;
        let mut size = FIRST_BATCH.min(most);
        // Each batch begins where the last one ended: what is dead before that would have to be stepped over each time, and
        // what others refer to be looked for each time.
        let mut place = Place::default();
        // Whoever is behind already is waited for first.
        if !self.without_pressure(client, fit.oid, deleted, halt.as_mut()).await? {
            return Ok(false);
        }
        let mut looked = Instant::now();
        let mut refused = 0;
        loop {
            let began = Instant::now();
            let limit = i64::from(size);
            let values: [(&(dyn ToSql + Sync), Type); 5] = [
                (&place.from, Type::TIMESTAMPTZ),
                (&of.before, Type::TIMESTAMPTZ),
                (&limit, Type::INT8),
                (&fit.oid, Type::OID),
                (&place.skip, Type::INT8),
            ];
            let tried = if let Some(exporting) = exporting.as_deref_mut() {
                self.delete_exported(client, of, fit.oid, exporting, size, halt.as_mut()).await
            } else {
                let deleted = self.wait(client.query_typed_one(&statement, &values)).await;
                deleted.map(|row| Batch::read(&row, place, began.elapsed()))
            };
            let batch = match tried {
                // A row that goes along is locked by somebody, who goes first. Or more goes along than is known: it is too large.
                // Or somebody has referred to one of its rows since they were chosen: the next choice leaves that out.
                Err(ActError::Failed { retryable: true, .. } | ActError::Timeout { .. })
                    if refused < REFUSALS && Instant::now() < self.until =>
                {
                    refused += 1;
                    size = (size / 2).max(SMALLEST_BATCH);
                    if timeout(LOOK_EVERY, halt.as_mut()).await.is_ok() {
                        return Ok(false);
                    }
                    continue;
                }
                other => other?,
            };
            refused = 0;
            deleted.add(batch.deleted);
            if batch.is_last {
                return self.is_still(client, of, fit).await.map(|()| true);
            }
            place = batch.next.unwrap_or(place);
            size = next_size(size, batch.took, most);
            if timeout(rest_after(batch.took), halt.as_mut()).await.is_ok() {
                return Ok(false);
            }
            if looked.elapsed() < LOOK_EVERY && !deleted.are_many() {
                continue;
            }
            if !self.without_pressure(client, fit.oid, deleted, halt.as_mut()).await? {
                return Ok(false);
            }
            self.is_still(client, of, fit).await?;
            let now = self.fit_to_delete(client, of).await?;
            if now.referrers.holds() != fit.referrers.holds() {
                return Err(self.failed("other tables refer to it than before; the next run goes on".to_owned(), true));
            }
            looked = Instant::now();
        }
    }

    /// Of another table of that name no row is chosen, which looks like the end.
    async fn is_still(&self, client: &Client, of: Aging<'_>, fit: &Fit) -> Result<(), ActError> {
        let relation = of.relation();
        let named: [(&(dyn ToSql + Sync), Type); 1] = [(&relation, Type::TEXT)];
        let row = self.wait(client.query_typed_one("SELECT to_regclass($1)::oid", &named)).await?;
        match row.get::<_, Option<u32>>(0) {
            Some(oid) if oid == fit.oid => Ok(()),
            Some(_) => Err(self.failed("the table has become another one meanwhile".to_owned(), false)),
            None => Err(self.precondition("the table is gone")),
        }
    }

    /// Looks whether the rows of that table may be deleted by that column.
    async fn fit_to_delete(&self, client: &Client, of: Aging<'_>) -> Result<Fit, ActError> {
        let names: [(&(dyn ToSql + Sync), Type); 5] = [
            (&of.schema, Type::TEXT),
            (&of.table, Type::TEXT),
            (&of.column, Type::TEXT),
            (&of.before, Type::TIMESTAMPTZ),
            (&of.keep, Type::FLOAT8),
        ];
        let rows = self.wait(client.query_typed(TABLE, &names)).await?;
        let Some(row) = rows.first() else { return Err(self.precondition("the table is gone")) };
        let is = |column: usize| row.get::<_, bool>(column);
        let column_type: Option<String> = row.get(0);
        let why = match column_type.as_deref() {
            _ if is(6) => STANDBY.to_owned(),
            None => format!("it has no column {}", of.column),
            Some(other) if !AGES.contains(&other) => {
                format!("{} is of the type {other}, which is no date or time", of.column)
            }
            _ if is(1) => "it is partitioned: its rows are not deleted one by one, whole partitions go".to_owned(),
            _ if !is(2) => "it is no ordinary table".to_owned(),
            _ if !is(3) => {
                return Err(ActError::Denied {
                    what: self.what(),
                    message: "we may not select, lock and delete its rows".to_owned(),
                    fix: self.missing_grant(),
                });
            }
            _ if !is(4) => format!("no index begins with {}: each batch would read the whole table", of.column),
            _ if is(5) => "it has triggers or rules on delete, and what they do cannot be bounded".to_owned(),
            _ if !is(7) => {
                "by the server's clock that is not yet as far back as the rule says; look at the clocks".to_owned()
            }
            _ => return Ok(Fit { oid: row.get(8), referrers: self.referrers(client, of).await? }),
        };
        Err(self.precondition(why))
    }

    pub(super) async fn expired_state(&self, of: Aging<'_>) -> Result<StepState, ActError> {
        let client = self.client()?;
        if of.export {
            self.fit_to_export(client, of).await?;
        }
        if let Some(state) = self.partitions_state(of).await? {
            return Ok(state);
        }
        // Without the index even to look would read the whole table.
        let fit = match self.fit_to_delete(client, of).await {
            Ok(fit) => fit,
            Err(ActError::Precondition { reason, .. }) if reason == "the table is gone" => return Ok(StepState::Gone),
            Err(other) => return Err(other),
        };
        self.wait(client.batch_execute(PLAIN)).await?;
        let (relation, column) = (of.relation(), quoted(of.column));
        let holds = fit.referrers.holds();
        let question = format!(
            "SELECT count(*) FILTER (WHERE NOT is_held)::int8, count(*) FILTER (WHERE is_held)::int8,
                    (SELECT min({column}) FROM ONLY {relation} WHERE isfinite({column}))::timestamptz
               FROM (SELECT {holds} AS is_held FROM ONLY {relation} AS ours WHERE ours.{column} < $1 LIMIT $2) AS expired"
        );
        let most = if fit.referrers.may_hold() { COUNTED_BY_KEYS } else { COUNTED };
        let one_more = most + 1;
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&of.before, Type::TIMESTAMPTZ), (&one_more, Type::INT8)];
        let row = self.wait(client.query_typed_one(&question, &values)).await?;
        let (count, held): (i64, i64) = (row.get(0), row.get(1));
        let rows = u64::try_from(count.min(most)).unwrap_or(0);
        let oldest = row.get::<_, Option<Timestamp>>(2).filter(|_| rows > 0);
        Ok(StepState::Expired {
            rows,
            is_more: count + held > most,
            oldest,
            referred: u64::try_from(held).unwrap_or(0),
        })
    }
}

/// A window of rows is chosen by the index, whoever refers to them, so that a batch is never larger than that; those of it that
/// nobody refers to are locked and deleted. The arrays are made once, and locked rows cannot have changed when they are deleted.
/// A place (`ctid`) is one in a single table: what was attached or inherits from it meanwhile has the same places.
/// `IS TRUE` keeps the planner from going through all that is due by the index, where it knows each place.
/// Gives how many were chosen, the age of the youngest of them, how many of that age stay, and how many are gone.
fn delete_batch(of: Aging<'_>, referrers: &Referrers) -> String {
    let (relation, column) = (of.relation(), quoted(of.column));
    let unless = referrers.unless_held();
    format!(
        "WITH chosen AS MATERIALIZED (
  SELECT ours.ctid AS place, ours.{column} AS age FROM ONLY {relation} AS ours
   WHERE ours.tableoid = $4 AND ours.{column} < $2 AND ours.{column} >= coalesce($1, '-infinity'::timestamptz)
   ORDER BY ours.{column} OFFSET $5 LIMIT $3),
gone AS (
  DELETE FROM ONLY {relation} WHERE tableoid = $4 AND ({column} < $2) IS TRUE AND ctid = ANY (ARRAY(
    SELECT ours.ctid FROM ONLY {relation} AS ours
     WHERE ours.tableoid = $4 AND (ours.{column} < $2) IS TRUE AND ours.ctid = ANY (ARRAY(SELECT place FROM chosen)){unless}
       FOR UPDATE OF ours SKIP LOCKED))
  RETURNING {column} AS age),
youngest AS (SELECT max(age) AS age FROM chosen)
SELECT (SELECT count(*) FROM chosen)::int8, nullif(youngest.age::timestamptz, '-infinity'),
       ((SELECT count(*) FROM chosen WHERE chosen.age = youngest.age)
         - (SELECT count(*) FROM gone WHERE gone.age = youngest.age))::int8,
       (SELECT count(*) FROM gone)::int8
  FROM youngest"
    )
}

fn next_size(size: u32, took: Duration, most: u32) -> u32 {
    if took > BATCH_WITHIN {
        (size / 2).max(SMALLEST_BATCH)
    } else if took < BATCH_WITHIN / 4 {
        (size + size / 2).min(most)
    } else {
        size
    }
}

/// What is left to everybody else after a batch that took so long.
fn rest_after(took: Duration) -> Duration {
    (took * REST).max(SHORTEST_REST)
}

const TABLE: &str = "
SELECT (SELECT y.typname::text FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
         WHERE a.attrelid = t.oid AND a.attname = $3 AND NOT a.attisdropped AND a.attnum > 0),
       t.relkind = 'p', t.relkind = 'r' AND t.relpersistence <> 't' AND NOT EXISTS (
         SELECT 1 FROM pg_inherits h WHERE h.inhparent = t.oid),
       has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'DELETE')
         AND has_any_column_privilege(t.oid, 'UPDATE'),
       EXISTS (SELECT 1 FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
                WHERE i.indrelid = t.oid AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
                  AND i.indkey[0] = (SELECT a.attnum FROM pg_attribute a
                                      WHERE a.attrelid = t.oid AND a.attname = $3 AND NOT a.attisdropped)),
       EXISTS (SELECT 1 FROM pg_trigger g
                WHERE g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 8 > 0)
         OR EXISTS (SELECT 1 FROM pg_rewrite w WHERE w.ev_class = t.oid AND w.ev_type = '4'),
       pg_is_in_recovery(), $4 <= clock_timestamp() - make_interval(secs => $5) + interval '10 minutes', t.oid
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE n.nspname = $1 AND t.relname = $2 AND n.nspname NOT IN ('pg_catalog', 'information_schema')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_stepped_over_within_bounds() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let first = Place::default().behind(None, 3);
        assert_eq!(first, Place { from: None, skip: 3 });
        assert_eq!(first.behind(None, 2).skip, 5);
        let next = first.behind(at(7), 4);
        assert_eq!(next, Place { from: at(7), skip: 4 });
        assert_eq!(next.behind(at(7), 0), next);
        let beyond = next.behind(at(7), STEPPED_OVER);
        assert_eq!((beyond.from > at(7), beyond.from < at(8), beyond.skip), (true, true, 0));
    }

    #[test]
    fn batches_follow_the_time_that_they_take_within_bounds() {
        assert_eq!(next_size(1_000, BATCH_WITHIN / 2, 5_000), 1_000);
        assert_eq!(next_size(1_000, BATCH_WITHIN / 5, 5_000), 1_500);
        assert_eq!(next_size(4_000, BATCH_WITHIN / 5, 5_000), 5_000);
        assert_eq!(next_size(1_000, BATCH_WITHIN + SHORTEST_REST, 5_000), 500);
        assert_eq!(next_size(60, BATCH_WITHIN * 9, 5_000), SMALLEST_BATCH);
    }

    #[test]
    fn the_rest_after_a_batch_follows_its_time_and_is_never_left_out() {
        let ms = Duration::from_millis;
        for (took, rest) in [(0, 10), (1, 10), (2, 14), (100, 700), (5_000, 35_000)] {
            assert_eq!(rest_after(ms(took)), ms(rest), "{took} ms");
        }
    }
}
