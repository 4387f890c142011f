//! Detaching a partition that a rule does not keep, dropping it, and attaching it again.
//!
//! A drop cannot be undone, so its rows are compared with what the proven backup set holds twice: before anything is changed,
//! and once more under a lock that keeps writers out, in the transaction that drops it.
//!
//! Where it is detached under a lock against everybody anyway, one transaction does it all and nothing can be left half done.
//! A detach that lets others go on cannot be a part of one. Names may be another table's a moment later, so both tables are
//! known by their numbers from the first look on: what somebody else detached or swapped is left alone.

mod contained;
mod listed;

use self::listed::Listed;
use super::reindex::{PAUSES, is_passing};
use super::{ActError, Aging, Work};
use groundskeeper_core::expiry::{Contained, ExpiredPartition, is_range};
use groundskeeper_core::remedy::{Detach, Step, StepState, quoted};
use jiff::Timestamp;
use std::future::pending;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// Waiting for those who still use the table holds up nobody: a detach has no strong lock before they are gone.
const DETACH_LOCK: &str = "SET lock_timeout = '2s'";
/// Everybody queues behind a strong lock that waits.
const STRONG_LOCK: &str = "SET lock_timeout = '200ms'";
/// A default partition is read under a lock when another one is attached. Nobody waits longer for that.
const ATTACH_BESIDE_DEFAULT: &str = "SET statement_timeout = '5s'";
/// We are gone, if between two statements of a transaction so much time goes by.
const IDLE: &str = "SET idle_in_transaction_session_timeout = '10s'";
/// Bounds are read, and given back, in one way.
const PLAIN: &str =
    "SET search_path = pg_catalog; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET row_security = off";

/// Where a partition is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family<'n> {
    pub(super) schema: &'n str,
    pub(super) table: &'n str,
    pub(super) partition_schema: &'n str,
    pub(super) partition: &'n str,
}

impl Family<'_> {
    fn relation(self) -> String {
        format!("{}.{}", quoted(self.partition_schema), quoted(self.partition))
    }
}

/// What a drop relies on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parting<'n> {
    pub(super) at: Family<'n>,
    pub(super) column: &'n str,
    pub(super) before: Timestamp,
    /// Seconds.
    pub(super) keep: f64,
    pub(super) detach: Detach,
    pub(super) contained: &'n Contained,
}

impl<'n> Parting<'n> {
    fn aging(self) -> Aging<'n> {
        let Family { schema, table, .. } = self.at;
        Aging { schema, table, column: self.column, before: self.before, keep: self.keep, export: false }
    }
}

/// How a table stands to the one that it is, or was, a partition of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing {
    oid: u32,
    /// The table that it is a partition, or an heir, of.
    parent: Option<u32>,
    /// None when it is no partition.
    bounds: Option<String>,
    is_pending: bool,
    bytes: u64,
    /// Whose name that of the step's table is at this moment.
    named: Option<u32>,
    /// That one has a default partition.
    beside_default: bool,
}

impl Standing {
    fn is_attached(&self) -> bool {
        self.bounds.is_some() && !self.is_pending
    }

    fn is_free(&self) -> bool {
        self.bounds.is_none() && self.parent.is_none()
    }

    fn is_of(&self, parent: u32) -> bool {
        self.parent == Some(parent) && self.named == Some(parent)
    }
}

/// The very tables that were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    oid: u32,
    parent: u32,
}

impl Work<'_> {
    /// What the step asks for.
    pub(super) async fn part(&self, halt: impl Future<Output = ()>) -> Result<(), ActError> {
        match self.step {
            Step::DropPartition {
                schema,
                table,
                column,
                partition_schema,
                partition,
                before,
                keep_seconds,
                detach,
                contained_in,
                ..
            } => {
                let at = Family { schema, table, partition_schema, partition };
                let keep = *keep_seconds as f64;
                let of = Parting { at, column, before: *before, keep, detach: *detach, contained: contained_in };
                Box::pin(self.drop_partition(of, halt)).await
            }
            Step::AttachPartition { schema, table, partition_schema, partition, oid, parent, bounds, .. } => {
                let at = Family { schema, table, partition_schema, partition };
                let known = Known { oid: *oid, parent: *parent };
                Box::pin(self.attach_partition(at, known, bounds)).await
            }
            other => Err(super::foreign(other)),
        }
    }

    async fn drop_partition(&self, of: Parting<'_>, halt: impl Future<Output = ()>) -> Result<(), ActError> {
        let client = self.client()?;
        let version = self.ready(client).await?;
        let mut halt = pin!(halt);
        let known = self.fit_to_drop(client, version, of).await?;
        self.same_server(client, of.contained).await?;
        self.wait(client.batch_execute("BEGIN READ ONLY")).await?;
        self.still_contained(client, of, halt.as_mut()).await?;
        self.wait(client.batch_execute("ROLLBACK")).await?;
        if of.detach == Detach::Concurrently {
            self.detach(client, version, of, known, halt.as_mut()).await?;
            return self.persist(client, version, of, known, halt).await.map_err(|error| self.begun(error));
        }
        self.persist(client, version, of, known, halt).await
    }

    /// Settings of a session that works on partitions. Gives the server's version.
    async fn ready(&self, client: &Client) -> Result<i32, ActError> {
        self.settled("detaching could not be held to its time").await?;
        self.not_on_a_standby().await?;
        let version = self.version(client).await?;
        self.notice_when_we_are_gone(client, version).await?;
        self.wait(super::super::contents::settle(client)).await?;
        let milliseconds = self.deadline.as_millis().max(1);
        let settings = format!("{PLAIN}; {IDLE}; {STRONG_LOCK}; SET statement_timeout = '{milliseconds}'");
        self.wait(client.batch_execute(&settings)).await?;
        Ok(version)
    }

    async fn version(&self, client: &Client) -> Result<i32, ActError> {
        let asked = client.query_typed_one("SELECT current_setting('server_version_num')::int4", &[]);
        Ok(self.wait(asked).await?.get(0))
    }

    /// Asks everything that the server knows against it.
    async fn fit_to_drop(&self, client: &Client, version: i32, of: Parting<'_>) -> Result<Known, ActError> {
        let parent = self.parent(client, of.aging()).await?;
        let Some(parent) = parent else { return Err(self.precondition("its table is not partitioned (any more)")) };
        let listed = self.listed(client, version, parent, of.before).await?;
        let ours = |listed: &Listed| {
            (listed.schema.as_str(), listed.name.as_str()) == (of.at.partition_schema, of.at.partition)
        };
        let Some(found) = listed.into_iter().find(ours) else {
            return Err(self.precondition("it is no partition of that table (any more)"));
        };
        let why = match (&found.hindrance, of.detach) {
            _ if !found.is_due => "by the server it does not lie wholly before the cut-off".to_owned(),
            (Some(hindrance), _) => hindrance.clone(),
            (None, Detach::Concurrently) if found.detach != Detach::Concurrently => {
                "a default partition, or a foreign key of its own, is there by now, so it cannot be detached concurrently; plan \
                 again"
                    .to_owned()
            }
            (None, Detach::Finalize) => "only the one who began a detach finishes it; plan again".to_owned(),
            _ => return Ok(Known { oid: found.oid, parent: parent.oid }),
        };
        Err(self.precondition(why))
    }

    /// Only what must hold before our own first statement is a precondition; from then on something is begun.
    async fn detach(
        &self,
        client: &Client,
        version: i32,
        of: Parting<'_>,
        known: Known,
        mut halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ActError> {
        let (mut pauses, mut is_begun) = (PAUSES.into_iter(), false);
        self.wait(client.batch_execute(DETACH_LOCK)).await?;
        loop {
            let told = |error: ActError| if is_begun { self.begun(error) } else { error };
            let how = self.next_of_detach(client, version, of, known, is_begun).await.map_err(told)?;
            let Err(trouble) = self.run(client, &self.step.detach_statement(how), halt.as_mut()).await else {
                return Ok(());
            };
            if !client.is_closed() {
                let now = self.standing(client, of.at).await.map_err(|error| self.begun(error))?;
                is_begun = now.is_some_and(|now| now.oid == known.oid && now.is_pending);
            }
            self.pause_after(client, trouble, &mut pauses, halt.as_mut()).await?;
        }
    }

    /// What somebody else has begun or done is not ours to go on with: it may be that they want to keep it.
    async fn next_of_detach(
        &self,
        client: &Client,
        version: i32,
        of: Parting<'_>,
        known: Known,
        is_begun: bool,
    ) -> Result<Detach, ActError> {
        let now = self.standing(client, of.at).await?.filter(|now| now.oid == known.oid && now.is_of(known.parent));
        match now {
            None => {
                Err(self.precondition("somebody else has detached, renamed or swapped it, or its table, meanwhile"))
            }
            Some(now) if now.is_pending && is_begun => Ok(Detach::Finalize),
            Some(now) if !now.is_attached() => Err(self.precondition("somebody else has begun to detach it")),
            Some(_) if self.fit_to_drop(client, version, of).await? == known => Ok(Detach::Concurrently),
            Some(_) => Err(self.precondition("it has become another table meanwhile")),
        }
    }

    /// What may pass by itself is waited for; anything else is given back.
    async fn pause_after(
        &self,
        client: &Client,
        trouble: ActError,
        pauses: &mut impl Iterator<Item = Duration>,
        halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ActError> {
        if client.is_closed() || !is_passing(&trouble) {
            return Err(trouble);
        }
        let Some(pause) = pauses.next() else { return Err(trouble) };
        tokio::select! {
            biased;
            () = halt => Err(ActError::Interrupted(self.what())),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Tries the transaction that drops it again as long as what stands in its way may pass.
    async fn persist(
        &self,
        client: &Client,
        version: i32,
        of: Parting<'_>,
        known: Known,
        mut halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ActError> {
        let mut pauses = PAUSES.into_iter();
        self.wait(client.batch_execute(STRONG_LOCK)).await?;
        loop {
            let tried = match of.detach {
                Detach::Concurrently => self.drop_once(client, of, known, halt.as_mut()).await,
                _ => self.part_at_once(client, version, of, known, halt.as_mut()).await,
            };
            let Err(trouble) = tried else { return Ok(()) };
            // Its locks go with it, whatever it was.
            let _ = self.wait(client.batch_execute("ROLLBACK")).await;
            self.pause_after(client, trouble, &mut pauses, halt.as_mut()).await?;
        }
    }

    /// Compares, detaches and drops, or does nothing.
    async fn part_at_once(
        &self,
        client: &Client,
        version: i32,
        of: Parting<'_>,
        known: Known,
        mut halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ActError> {
        let relation = of.at.relation();
        self.wait(client.batch_execute(&format!("BEGIN; LOCK TABLE ONLY {relation} IN SHARE MODE"))).await?;
        if self.fit_to_drop(client, version, of).await? != known {
            return Err(self.precondition("it, or its table, has become another one meanwhile"));
        }
        self.still_contained(client, of, halt.as_mut()).await?;
        self.run(client, &self.step.detach_statement(Detach::Plainly), halt).await?;
        self.wait(client.batch_execute(&format!("DROP TABLE {relation}"))).await?;
        self.wait(client.batch_execute("COMMIT")).await
    }

    /// Nobody can write from the first lock on, so what is compared is what is dropped.
    async fn drop_once(
        &self,
        client: &Client,
        of: Parting<'_>,
        known: Known,
        halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ActError> {
        let relation = of.at.relation();
        self.wait(client.batch_execute(&format!("BEGIN; LOCK TABLE ONLY {relation} IN SHARE MODE"))).await?;
        match self.standing(client, of.at).await? {
            Some(now) if now.oid == known.oid && now.is_free() => {}
            _ => return Err(self.precondition("it is attached again, or another table")),
        }
        self.still_contained(client, of, halt).await?;
        self.wait(client.batch_execute(&format!("DROP TABLE {relation}"))).await?;
        self.wait(client.batch_execute("COMMIT")).await
    }

    /// Puts back what was detached and not dropped. Whoever stops waits for it: nobody would come back to it.
    async fn attach_partition(&self, at: Family<'_>, known: Known, bounds: &str) -> Result<(), ActError> {
        if !is_range(bounds) {
            return Err(self.precondition(format!("`{bounds}` are no bounds of one key")));
        }
        let client = self.client()?;
        self.ready(client).await?;
        let (mut pauses, mut never) = (PAUSES.into_iter(), pin!(pending()));
        loop {
            let now = self.still_known(client, at, known).await?;
            if now.is_attached() {
                return Ok(());
            }
            let tried = if now.is_pending {
                self.wait(client.batch_execute(DETACH_LOCK)).await?;
                self.run(client, &self.step.detach_statement(Detach::Finalize), never.as_mut()).await
            } else {
                let patience = if now.beside_default { ATTACH_BESIDE_DEFAULT } else { "" };
                self.wait(client.batch_execute(&format!("{STRONG_LOCK}; {patience}"))).await?;
                self.attach_once(client, at, known).await
            };
            if let Err(trouble) = tried {
                let _ = self.wait(client.batch_execute("ROLLBACK")).await;
                self.pause_after(client, trouble, &mut pauses, never.as_mut()).await?;
            }
        }
    }

    /// The locks keep the names where they are.
    async fn attach_once(&self, client: &Client, at: Family<'_>, known: Known) -> Result<(), ActError> {
        let (parent, relation) = (format!("{}.{}", quoted(at.schema), quoted(at.table)), at.relation());
        let locks = format!(
            "BEGIN; LOCK TABLE ONLY {parent} IN SHARE UPDATE EXCLUSIVE MODE; LOCK TABLE ONLY {relation} IN ACCESS EXCLUSIVE MODE"
        );
        self.wait(client.batch_execute(&locks)).await?;
        if self.still_known(client, at, known).await?.is_free() {
            self.wait(client.batch_execute(&self.step.statement())).await?;
        }
        self.wait(client.batch_execute("COMMIT")).await
    }

    async fn still_known(&self, client: &Client, at: Family<'_>, known: Known) -> Result<Standing, ActError> {
        let Some(now) = self.standing(client, at).await?.filter(|now| now.oid == known.oid) else {
            return Err(self.precondition("the table that was detached is gone"));
        };
        match now.named {
            Some(named) if named == known.parent && (now.is_free() || now.parent == Some(named)) => Ok(now),
            Some(named) if named == known.parent => Err(self.precondition("it was attached elsewhere meanwhile")),
            _ => Err(self.precondition("the table that it was a partition of is gone, or another one has its name")),
        }
    }

    async fn standing(&self, client: &Client, at: Family<'_>) -> Result<Option<Standing>, ActError> {
        const STANDING: &str = "
SELECT p.oid, h.inhparent, CASE WHEN p.relispartition THEN pg_get_expr(p.relpartbound, p.oid) END,
       coalesce((to_jsonb(h) ->> 'inhdetachpending')::bool, false), pg_total_relation_size(p.oid), t.oid,
       EXISTS (SELECT 1 FROM pg_partitioned_table o WHERE o.partrelid = t.oid AND o.partdefid <> 0)
  FROM pg_class p
  JOIN pg_namespace m ON m.oid = p.relnamespace
  LEFT JOIN pg_class t ON t.relname = $2 AND t.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
  LEFT JOIN pg_inherits h ON h.inhrelid = p.oid
 WHERE m.nspname = $3 AND p.relname = $4 AND p.relkind = 'r'
 LIMIT 1";
        let names: [(&(dyn ToSql + Sync), Type); 4] = [
            (&at.schema, Type::TEXT),
            (&at.table, Type::TEXT),
            (&at.partition_schema, Type::TEXT),
            (&at.partition, Type::TEXT),
        ];
        let rows = self.wait(client.query_typed(STANDING, &names)).await?;
        Ok(rows.first().map(|row| Standing {
            oid: row.get(0),
            parent: row.get(1),
            bounds: row.get(2),
            is_pending: row.get(3),
            bytes: u64::try_from(row.get::<_, Option<i64>>(4).unwrap_or(0)).unwrap_or(0),
            named: row.get(5),
            beside_default: row.get(6),
        }))
    }

    pub(super) async fn partition_state(&self, at: Family<'_>) -> Result<StepState, ActError> {
        let client = self.client()?;
        self.wait(client.batch_execute(PLAIN)).await?;
        let Some(now) = self.standing(client, at).await? else { return Ok(StepState::Gone) };
        // What is attached again, or was taken elsewhere, is not to be put back.
        if let Step::AttachPartition { oid, parent, .. } = self.step
            && (now.oid != *oid || !(now.is_free() || (now.is_pending && now.parent == Some(*parent))))
        {
            return Ok(StepState::Gone);
        }
        let Standing { oid, parent, bounds, is_pending, bytes, .. } = now;
        Ok(StepState::Partition { oid, parent, bounds, is_pending, bytes })
    }

    /// What a rule means for a partitioned table; none for any other one.
    pub(super) async fn partitions_state(&self, of: Aging<'_>) -> Result<Option<StepState>, ActError> {
        let client = self.client()?;
        self.wait(client.batch_execute(PLAIN)).await?;
        let Some(parent) = self.parent(client, of).await? else { return Ok(None) };
        let version = self.version(client).await?;
        let (due, others): (Vec<Listed>, Vec<Listed>) =
            self.listed(client, version, parent, of.before).await?.into_iter().partition(|listed| listed.is_due);
        let notes = others.into_iter().filter_map(|listed| listed.note()).collect();
        let due = due.into_iter().map(|listed| ExpiredPartition {
            schema: listed.schema,
            name: listed.name,
            bounds: listed.bounds,
            bytes: listed.bytes,
            detach: listed.detach,
            hindrance: listed.hindrance,
        });
        Ok(Some(StepState::Partitions { due: due.collect(), notes }))
    }

    /// Whether a backend of a keeper is still at it.
    pub(super) async fn is_parting(&self, at: Family<'_>) -> Result<bool, ActError> {
        const AT_WORK: &str = "
SELECT EXISTS (
  SELECT 1 FROM pg_stat_activity a
   WHERE a.pid <> pg_backend_pid() AND lower(a.application_name) LIKE 'groundskeeper%' AND a.datname = current_database()
     AND ((a.state <> 'idle' AND strpos(a.query, $3) > 0)
       OR EXISTS (SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE l.pid = a.pid AND l.locktype = 'relation'
                     AND l.mode IN ('ShareLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock')
                     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                     AND n.nspname = $1 AND c.relname = $2)))";
        let relation = at.relation();
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&at.partition_schema, Type::TEXT), (&at.partition, Type::TEXT), (&relation, Type::TEXT)];
        Ok(self.wait(self.client()?.query_typed_one(AT_WORK, &values)).await?.get(0))
    }
}
