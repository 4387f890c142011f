//! Deleting the rows that a rule does not keep: small batches by an index, each committed, with pauses that follow what the
//! server and its standbys can take.

use super::export::{Exporting, Sink};
use super::{ActError, Work};
use groundskeeper_core::remedy::{LARGEST_BATCH, StepState, quoted};
use jiff::Timestamp;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

const FIRST_BATCH: u32 = 500;
const SMALLEST_BATCH: u32 = 50;
/// A batch that takes longer is made smaller, one that takes less than a quarter of it larger: whoever waits for one of its
/// rows waits no longer than this.
const BATCH_WITHIN: Duration = Duration::from_millis(100);
/// For each second of deleting, so many are left to everybody else.
const REST: u32 = 2;
const SHORTEST_REST: Duration = Duration::from_millis(10);
/// How often in a row a batch may meet somebody else's lock.
const REFUSALS: u32 = 5;
/// How often standbys, slots and the WAL are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A standby further behind than this is waited for.
const STANDBY_BEHIND_BYTES: i64 = 64 << 20;
const STANDBY_BEHIND_SECONDS: f64 = 10.0;
/// What slots may keep where `max_slot_wal_keep_size` does not bound it.
const SLOTS_KEEP_BYTES: i64 = 16 << 30;
/// Beyond this many rows nobody counts on.
const COUNTED: i64 = 2_000_000;
/// What is deleted along with one row, by the tables' estimated sizes, at most: more is a deletion of another table.
const FAN_OUT: f64 = 100.0;

/// Times without a zone are UTC, whatever the role's default is. Row security would hide rows without a word.
const PLAIN: &str = "SET TimeZone = 'UTC'; SET row_security = off";
/// No batch holds its locks for longer, whatever goes along.
const BATCH_GIVEN_UP_MS: u32 = 5_000;
const AGES: [&str; 3] = ["date", "timestamp", "timestamptz"];

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
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fit {
    /// The very table that was looked at. The name may be another one's a moment later.
    oid: u32,
    /// How many rows of other tables go along with one.
    along: f64,
}

/// What came of one batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Batch {
    /// How young the youngest is that was deleted.
    pub(super) last: Option<Timestamp>,
    pub(super) took: Duration,
    /// Nothing is left for another one.
    pub(super) is_last: bool,
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
        let mut exporting = self.begin_export(client, of, sink).await?;
        let fit = self.fit_to_delete(client, of).await?;
        self.wait(client.batch_execute(&format!("{PLAIN}; SET statement_timeout = '{BATCH_GIVEN_UP_MS}'"))).await?;
        let mut halt = pin!(halt);
        // What somebody had locked at the first pass is looked at once more.
        for _ in 0..2 {
            if !self.pass(client, of, fit, exporting.as_mut(), halt.as_mut()).await? {
                return Err(ActError::Interrupted(self.what()));
            }
        }
        Ok(())
    }

    /// Goes through the expired rows once, oldest first. False when it was told to end.
    async fn pass(
        &self,
        client: &Client,
        of: Aging<'_>,
        fit: Fit,
        mut exporting: Option<&mut Exporting<'_>>,
        mut halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, ActError> {
        let statement = delete_batch(of);
        if let Some(exporting) = exporting.as_deref_mut() {
            exporting.begin_pass();
        }
        let most = (f64::from(LARGEST_BATCH) / (1.0 + fit.along)).max(f64::from(SMALLEST_BATCH)) as u32;
        let mut size = FIRST_BATCH.min(most);
        // Each batch begins where the last one ended: what is dead before that would have to be stepped over each time.
        let mut from: Option<Timestamp> = None;
        let mut looked = Instant::now();
        let mut refused = 0;
        loop {
            let began = Instant::now();
            let limit = i64::from(size);
            let values: [(&(dyn ToSql + Sync), Type); 4] = [
                (&from, Type::TIMESTAMPTZ),
                (&of.before, Type::TIMESTAMPTZ),
                (&limit, Type::INT8),
                (&fit.oid, Type::OID),
            ];
            let tried = match exporting.as_deref_mut() {
                Some(exporting) => self.delete_exported(client, of, fit.oid, exporting, size, halt.as_mut()).await,
                None => self.wait(client.query_typed_one(&statement, &values)).await.map(|row| {
                    let deleted: i64 = row.get(0);
                    Batch { last: row.get(1), took: began.elapsed(), is_last: deleted == 0 }
                }),
            };
            let batch = match tried {
                // A row that goes along is locked by somebody. They go first.
                // Or more goes along than the statistics know of: a batch that takes so long is too large.
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
            if batch.is_last {
                return Ok(true);
            }
            from = batch.last.or(from);
            size = next_size(size, batch.took, most);
            if timeout((batch.took * REST).max(SHORTEST_REST), halt.as_mut()).await.is_ok() {
                return Ok(false);
            }
            if looked.elapsed() < LOOK_EVERY {
                continue;
            }
            if self.fit_to_delete(client, of).await?.oid != fit.oid {
                return Err(self.failed("the table has become another one meanwhile".to_owned(), false));
            }
            while let Some(pressure) = self.pressure(client).await? {
                tracing::debug!(pressure, "deleting old rows pauses");
                if timeout(LOOK_EVERY, halt.as_mut()).await.is_ok() {
                    return Ok(false);
                }
                if Instant::now() + LOOK_EVERY >= self.until {
                    return Err(self.failed(format!("it paused until its time was over: {pressure}"), true));
                }
            }
            looked = Instant::now();
        }
    }

    /// What asks for a pause, if anything does.
    async fn pressure(&self, client: &Client) -> Result<Option<String>, ActError> {
        const PRESSURE: &str = "
SELECT (SELECT format('the standby %s is behind', coalesce(nullif(application_name, ''), host(client_addr)))
          FROM pg_stat_replication
         WHERE state IS NULL OR (state IN ('streaming', 'catchup')
           AND (pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > $1 OR extract(epoch FROM replay_lag) > $2)) LIMIT 1),
       (SELECT slot_name::text FROM pg_replication_slots
         WHERE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > coalesce(
           (SELECT nullif(setting::int8, -1) * 1048576 / 2 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), $3)
         LIMIT 1),
       pg_wal_lsn_diff(pg_current_wal_lsn(), (SELECT redo_lsn FROM pg_control_checkpoint()))::int8
         > (SELECT setting::int8 * 1048576 FROM pg_settings WHERE name = 'max_wal_size') / 2,
       EXISTS (SELECT 1 FROM pg_stat_replication WHERE state IS NULL)";
        let values: [(&(dyn ToSql + Sync), Type); 3] = [
            (&STANDBY_BEHIND_BYTES, Type::INT8),
            (&STANDBY_BEHIND_SECONDS, Type::FLOAT8),
            (&SLOTS_KEEP_BYTES, Type::INT8),
        ];
        let row = self.wait(client.query_typed_one(PRESSURE, &values)).await?;
        if row.get::<_, bool>(3) {
            let why =
                format!("how far the standbys are behind is hidden; grant pg_monitor to {}", self.endpoint.role());
            return Err(self.failed(why, false));
        }
        if let Some(slot) = row.get::<_, Option<String>>(1) {
            // Nobody knows when its consumer comes back: to wait for it would be to wait for ever.
            return Err(
                self.failed(format!("the slot {slot} keeps as much WAL as it may; it goes on another time"), false)
            );
        }
        let is_much_wal = row.get::<_, Option<bool>>(2).unwrap_or(false);
        let wal = is_much_wal.then(|| "half of max_wal_size was written since the last checkpoint".to_owned());
        Ok(row.get::<_, Option<String>>(0).or(wal))
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
            _ if is(6) => "the server is a standby".to_owned(),
            None => format!("it has no column {}", of.column),
            Some(other) if !AGES.contains(&other) => {
                format!("{} is of the type {other}, which is no date or time", of.column)
            }
            _ if is(1) => {
                "it is partitioned; whole partitions would have to be dropped, which this version does not do"
                    .to_owned()
            }
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
            _ => return Ok(Fit { oid: row.get(8), along: self.rows_along(client, of).await? }),
        };
        Err(self.precondition(why))
    }

    /// How many rows of other tables go along with one, as far as that can be bounded.
    async fn rows_along(&self, client: &Client, of: Aging<'_>) -> Result<f64, ActError> {
        let names: [(&(dyn ToSql + Sync), Type); 2] = [(&of.schema, Type::TEXT), (&of.table, Type::TEXT)];
        let mut along = 0.0;
        for row in self.wait(client.query_typed(REFERRERS, &names)).await? {
            let (name, is_indexed, spreads): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
            let (goes_on, fan_out): (bool, f64) = (row.get(3), row.get(4));
            let why = if !spreads {
                format!(
                    "the foreign key {name} forbids to delete what is referred to; its ON DELETE has to say what becomes of that"
                )
            } else if !is_indexed {
                format!("the foreign key {name} has no index: each row that is deleted would read its whole table")
            } else if goes_on {
                format!("the foreign key {name} deletes or changes rows that are referred to in turn, or have triggers")
            } else if !fan_out.is_finite() {
                format!("the table of the foreign key {name} was never analyzed: nobody knows how many rows go along")
            } else if fan_out > FAN_OUT {
                format!("the foreign key {name} has some {fan_out:.0} rows for each of this table")
            } else {
                along += fan_out;
                continue;
            };
            return Err(self.precondition(why));
        }
        Ok(along)
    }

    pub(super) async fn expired_state(&self, of: Aging<'_>) -> Result<StepState, ActError> {
        let client = self.client()?;
        if of.export {
            self.fit_to_export(client, of).await?;
        }
        // Without the index even to look would read the whole table.
        match self.fit_to_delete(client, of).await {
            Ok(_) => {}
            Err(ActError::Precondition { reason, .. }) if reason == "the table is gone" => return Ok(StepState::Gone),
            Err(other) => return Err(other),
        }
        self.wait(client.batch_execute(PLAIN)).await?;
        let (relation, column) = (of.relation(), quoted(of.column));
        let question = format!(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM ONLY {relation} WHERE {column} < $1 LIMIT $2) AS expired)::int8,
                    (SELECT min({column}) FROM ONLY {relation} WHERE isfinite({column}))::timestamptz"
        );
        let most = COUNTED + 1;
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&of.before, Type::TIMESTAMPTZ), (&most, Type::INT8)];
        let row = self.wait(client.query_typed_one(&question, &values)).await?;
        let count: i64 = row.get(0);
        let rows = u64::try_from(count.min(COUNTED)).unwrap_or(0);
        let oldest = row.get::<_, Option<Timestamp>>(1).filter(|_| rows > 0);
        Ok(StepState::Expired { rows, is_more: count > COUNTED, oldest })
    }
}

/// The array is made once, by the index, and its rows are locked: nobody can have changed them when they are deleted. A place
/// (`ctid`) is one in a single table: what was attached or inherits from it meanwhile has the same places.
fn delete_batch(of: Aging<'_>) -> String {
    let (relation, column) = (of.relation(), quoted(of.column));
    format!(
        "WITH gone AS (
  DELETE FROM ONLY {relation} WHERE tableoid = $4 AND {column} < $2 AND ctid = ANY (ARRAY(
    SELECT ctid FROM ONLY {relation}
     WHERE tableoid = $4 AND {column} < $2 AND {column} >= coalesce($1, '-infinity'::timestamptz)
     ORDER BY {column} LIMIT $3 FOR UPDATE SKIP LOCKED))
  RETURNING {column})
SELECT count(*)::int8, (SELECT max({column}) FROM gone WHERE isfinite({column}))::timestamptz FROM gone"
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

/// Who refers to the table: the key, whether it has an index, whether it deletes or changes rows, whether that goes on from
/// there, and how many rows there are for each of ours. A table that refers to itself goes on for ever.
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
       CASE WHEN r.reltuples < 0 OR (r.reltuples = 0 AND r.relpages = 0 AND pg_stat_get_live_tuples(r.oid) > 0)
            THEN 'Infinity' ELSE r.reltuples / greatest(t.reltuples, 1) END::float8
  FROM pg_constraint c
  JOIN pg_class t ON t.oid = c.confrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN pg_class r ON r.oid = c.conrelid
 WHERE c.contype = 'f' AND n.nspname = $1 AND t.relname = $2
 ORDER BY 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_follow_the_time_that_they_take_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(next_size(1_000, ms(50), 5_000), 1_000);
        assert_eq!(next_size(1_000, ms(10), 5_000), 1_500);
        assert_eq!(next_size(4_000, ms(10), 5_000), 5_000);
        assert_eq!(next_size(1_000, ms(101), 5_000), 500);
        assert_eq!(next_size(60, ms(900), 5_000), SMALLEST_BATCH);
    }
}
