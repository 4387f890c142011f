//! Building an index anew beside the old one, and sweeping up what such a build left behind.
//!
//! Nobody is to wait for us: a build that somebody queues behind is ended and tried again later, and what it left is dropped
//! in between. The old index works until the new one takes its name.

use super::super::{bloat, sql};
use super::preflight::IndexName;
use super::{ActError, POLL, Work};
use groundskeeper_core::quantity::format_bytes;
use groundskeeper_core::remedy::{Reindexing, StepState, quoted};
use jiff::Timestamp;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// How long after an attempt that did not get its locks the next one begins.
pub(super) const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];
/// How long a build waits for a lock or for an old transaction. Nobody queues behind that wait but those who change the
/// table, and they end it.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";
/// The lock by which keepers of one database keep out of each other's way: `GRKI` in ASCII.
const ONE_AT_A_TIME: i64 = 0x4752_4b49;
/// Who has waited for us for so long, waits because of us.
const IN_THE_WAY_SECONDS: f64 = 0.3;

/// The table that a build may have left something on. Its number goes before its name, which may be another table's by now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving<'n> {
    pub(super) schema: &'n str,
    pub(super) table: &'n str,
    pub(super) relation: Option<u32>,
}

impl Work<'_> {
    pub(super) async fn reindex(
        &self,
        at: IndexName<'_>,
        because: Reindexing,
        halt: impl Future<Output = ()>,
    ) -> Result<(), ActError> {
        let client = self.client()?;
        self.settled("the build could not be held to its time").await?;
        let row = self
            .wait(client.query_typed_one(
                "SELECT current_setting('server_version_num')::int4, pg_backend_pid(), clock_timestamp()",
                &[],
            ))
            .await?;
        let (version, pid, began): (i32, i32, Timestamp) = (row.get(0), row.get(1), row.get(2));
        let alone = [(&ONE_AT_A_TIME as _, Type::INT8)];
        let row = self.wait(client.query_typed_one("SELECT pg_try_advisory_lock($1)", &alone)).await?;
        if !row.get::<_, bool>(0) {
            return Err(self.precondition("another keeper builds an index in this database"));
        }
        // Workers of a parallel build would take the other cores from users.
        self.wait(client.batch_execute(&format!("{LOCK_TIMEOUT}; SET max_parallel_maintenance_workers = 0"))).await?;
        self.notice_when_we_are_gone(client, version).await?;
        self.preflight(client, version, at, because).await?;
        let mut halt = pin!(halt);
        if let Reindexing::Bloated { percent, wasted } = because {
            let analyze = format!("ANALYZE (SKIP_LOCKED) {}.{}", quoted(at.schema), quoted(at.table));
            self.yielding(client, pid, &analyze, halt.as_mut()).await?;
            self.until_counted((at.schema, at.table), began).await?;
            self.still_bloated(client, at, f64::from(percent) / 100.0, wasted as f64).await?;
        }
        let old = self.index_state(at).await?;
        let relation = if let StepState::Index { relation, .. } = old { relation } else { None };
        let on = Leaving { schema: at.schema, table: at.table, relation };
        let mut pauses = PAUSES.into_iter();
        loop {
            let trouble = match self.yielding(client, pid, &self.step.statement(), halt.as_mut()).await {
                Ok(()) => return Ok(()),
                Err(trouble) => self.begun(trouble),
            };
            if client.is_closed() {
                return Err(trouble);
            }
            if is_built(&old, &self.index_state(at).await?) {
                // All was done but to drop the old one, which somebody still looked into.
                return self.drop_leftovers(client, on).await.map_err(|error| self.begun(error));
            }
            // Whoever undoes it journals that; only what stands in the way of the next attempt is swept up here.
            let Some(pause) = pauses.next().filter(|_| is_passing(&trouble)) else { return Err(trouble) };
            self.drop_leftovers(client, on).await.map_err(|error| self.begun(error))?;
            tokio::select! {
                biased;
                () = halt.as_mut() => return Err(trouble),
                () = tokio::time::sleep(pause) => {}
            }
            self.preflight(client, version, at, because).await.map_err(|error| self.begun(error))?;
        }
    }

    /// The finding may be of another hour: its table is analyzed, and the index estimated once more.
    async fn still_bloated(&self, client: &Client, at: IndexName<'_>, ratio: f64, wasted: f64) -> Result<(), ActError> {
        let now = self.wait(bloat::index_now(client, at.schema, at.index)).await?;
        let reason = match now.map(|now| now.estimate) {
            None => "it is no large B-tree (any more)".to_owned(),
            Some(Ok(estimate)) if estimate.is_past(ratio, wasted) => return Ok(()),
            Some(Ok(estimate)) => format!(
                "it is not bloated (any more): {}, of which its rows need {}",
                format_bytes(estimate.size as f64),
                format_bytes(estimate.expected as f64)
            ),
            Some(Err(_)) => "its table has no statistics that are of today".to_owned(),
        };
        Err(self.precondition(reason))
    }

    /// A statement that ends when somebody waits for it.
    async fn yielding(
        &self,
        client: &Client,
        pid: i32,
        statement: &str,
        halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ActError> {
        let in_the_way = AtomicBool::new(false);
        let stop = async {
            tokio::select! {
                () = halt => {}
                () = self.until_in_the_way(pid) => in_the_way.store(true, Ordering::Relaxed),
            }
        };
        let built = self.run(client, statement, stop).await;
        if built.is_err() && in_the_way.load(Ordering::Relaxed) {
            return Err(self.failed("another session waited for its lock, so it was ended".to_owned(), true));
        }
        built
    }

    /// Completes when somebody waits for the backend with that pid. A connection of its own asks; the other one is busy.
    async fn until_in_the_way(&self, pid: i32) {
        const WAITING: &str = "
SELECT EXISTS (SELECT 1 FROM pg_stat_activity a
                WHERE a.wait_event_type = 'Lock' AND a.state_change < clock_timestamp() - make_interval(secs => $2)
                  AND $1 = ANY (pg_blocking_pids(a.pid)))";
        let watch = Work::begin(self.endpoint, self.step, Vec::new(), self.deadline).await;
        let Ok(watch) = watch else {
            // Without eyes it goes on as any REINDEX CONCURRENTLY does: the lock timeout still bounds what it waits for.
            tracing::warn!("nobody can watch whether a build is in somebody's way: no second connection");
            return std::future::pending().await;
        };
        loop {
            let Ok(client) = watch.client() else { return std::future::pending().await };
            let values = [(&pid as _, Type::INT4), (&IN_THE_WAY_SECONDS as _, Type::FLOAT8)];
            match client.query_typed_one(WAITING, &values).await {
                Ok(row) if row.get::<_, bool>(0) => return watch.finish().await,
                Ok(_) => tokio::time::sleep(POLL * 4).await,
                Err(error) => {
                    tracing::warn!(%error, "nobody can watch any more whether a build is in somebody's way");
                    return std::future::pending().await;
                }
            }
        }
    }

    pub(super) async fn sweep_up(&self, on: Leaving<'_>) -> Result<(), ActError> {
        self.not_on_a_standby().await?;
        let client = self.client()?;
        self.settled("the drop could not be held to its time").await?;
        self.wait(client.batch_execute(LOCK_TIMEOUT)).await?;
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.drop_leftovers(client, on).await {
                Err(trouble) if is_passing(&trouble) => match pauses.next() {
                    Some(pause) if Instant::now() + pause < self.until => tokio::time::sleep(pause).await,
                    _ => return Err(trouble),
                },
                other => return other,
            }
        }
    }

    async fn drop_leftovers(&self, client: &Client, on: Leaving<'_>) -> Result<(), ActError> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.leftovers(client, on).await?;
            let Some(being_built) = left.being_built else { return Err(self.precondition("the table is gone")) };
            if !being_built {
                // Each is looked at right before: somebody may have built it anew meanwhile.
                let Some(name) = left.names.first() else { return Ok(()) };
                let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}.{}", quoted(&left.schema), quoted(name));
                self.wait(client.batch_execute(&drop)).await?;
                continue;
            }
            // The server may still be about to notice that whoever built it is gone.
            if Instant::now() >= until.min(self.until) {
                return Err(self.precondition("somebody builds an index on the table at the moment"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn leftovers(&self, client: &Client, on: Leaving<'_>) -> Result<Leftovers, ActError> {
        let values = [(&on.schema as _, Type::TEXT), (&on.table as _, Type::TEXT), (&on.relation as _, Type::OID)];
        let rows = self.wait(client.query_typed(sql::LEFTOVERS, &values)).await?;
        let being_built = rows.first().map(|row| row.get::<_, bool>(1));
        let schema = rows.first().map_or_else(String::new, |row| row.get(2));
        Ok(Leftovers { schema, names: rows.iter().filter_map(|row| row.get(0)).collect(), being_built })
    }

    pub(super) async fn leftovers_state(&self, on: Leaving<'_>) -> Result<StepState, ActError> {
        let left = self.leftovers(self.client()?, on).await?;
        Ok(if left.names.is_empty() { StepState::Gone } else { StepState::Leftovers { names: left.names } })
    }

    pub(super) async fn index_state(&self, at: IndexName<'_>) -> Result<StepState, ActError> {
        const STATE: &str = "
SELECT x.oid, pg_relation_size(x.oid), i.indisvalid, t.oid
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = x.relnamespace
 WHERE n.nspname = $1 AND x.relname = $2 AND t.relname = $3";
        let names = [(&at.schema as _, Type::TEXT), (&at.index as _, Type::TEXT), (&at.table as _, Type::TEXT)];
        let rows = self.wait(self.client()?.query_typed(STATE, &names)).await?;
        let Some(row) = rows.first() else { return Ok(StepState::Gone) };
        let size = u64::try_from(row.get::<_, Option<i64>>(1).unwrap_or(0)).unwrap_or(0);
        Ok(StepState::Index { oid: row.get(0), size, is_valid: row.get(2), relation: Some(row.get(3)) })
    }
}

struct Leftovers {
    /// Where the table, and with it the indexes, are by now.
    schema: String,
    names: Vec<String>,
    /// None where the table is not there.
    being_built: Option<bool>,
}

/// Whether the name belongs to a new index by now, which works.
fn is_built(old: &StepState, now: &StepState) -> bool {
    match (old, now) {
        (StepState::Index { oid: old, .. }, StepState::Index { oid, is_valid, .. }) => old != oid && *is_valid,
        _ => false,
    }
}

/// Whether the same may work in a moment.
pub(super) fn is_passing(trouble: &ActError) -> bool {
    matches!(trouble, ActError::Failed { retryable: true, .. })
}
