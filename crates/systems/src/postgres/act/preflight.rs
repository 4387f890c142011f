//! What has to hold before an index is built anew, asked right before. What cannot be seen holds it back.
//!
//! A `REINDEX CONCURRENTLY` waits for every older transaction of its database, holds vacuum back there while it builds,
//! writes the whole index into the WAL and needs the room of a second one.

use super::super::disk;
use super::{ActError, STANDBY, Work};
use groundskeeper_core::observation::Disk;
use groundskeeper_core::quantity::{format_bytes, format_seconds};
use groundskeeper_core::remedy::Reindexing;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

/// Short transactions pass while it waits; whoever is older than this may stay for hours.
const OLD_SNAPSHOT_SECONDS: f64 = 30.0;
/// A lock of the table that is held for longer than this may be held for hours.
const LOCK_HELD_SECONDS: f64 = 5.0;
/// A standby that is further behind than this is not given a whole index on top: four segments of WAL.
const STANDBY_BEHIND_BYTES: i64 = 64 << 20;
/// What slots may keep in all, the WAL of the new index included, where `max_slot_wal_keep_size` sets no bound.
const SLOTS_KEEP_BYTES: i64 = 16 << 30;
/// The new index beside the old one, and as much again of WAL.
const ROOM_FACTOR: u64 = 2;

/// Where an index is.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexName<'n> {
    pub(super) schema: &'n str,
    pub(super) table: &'n str,
    pub(super) index: &'n str,
}

impl Work<'_> {
    /// Gives the reason not to begin. The version is the server's, as in `server_version_num`.
    pub(super) async fn preflight(
        &self,
        client: &Client,
        version: i32,
        at: IndexName<'_>,
        because: Reindexing,
    ) -> Result<(), ActError> {
        if let Some(why) = version_refusal(version) {
            return Err(self.precondition(why));
        }
        let size = self.fit_to_build(client, at, because).await?;
        for question in [BUILDS.to_owned(), standbys(), snapshots()] {
            let rows = self.wait(client.query_typed(&question, &[])).await?;
            if let Some(reason) = rows.first().map(reason) {
                return Err(self.precondition(reason));
            }
        }
        let names = [(&at.schema as _, Type::TEXT), (&at.table as _, Type::TEXT)];
        let rows = self.wait(client.query_typed(&lockers(), &names)).await?;
        if let Some(reason) = rows.first().map(reason) {
            return Err(self.precondition(reason));
        }
        self.slots_have_room(client, size).await?;
        self.disk_has_room(client, at, size).await
    }

    /// The index's size in bytes, when it is one that can be built anew for that reason.
    async fn fit_to_build(&self, client: &Client, at: IndexName<'_>, because: Reindexing) -> Result<u64, ActError> {
        const INDEX: &str = "
SELECT i.indisvalid, i.indisexclusion, x.relkind = 'i', pg_has_role(t.relowner, 'USAGE'),
       CASE WHEN i.indisvalid THEN pg_relation_size(x.oid)
            -- What was left unfinished says nothing of what it will take.
            ELSE greatest(pg_relation_size(x.oid), pg_table_size(t.oid)) END,
       pg_is_in_recovery(), t.relpersistence = 't'
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = x.relnamespace
 WHERE n.nspname = $1 AND x.relname = $2 AND t.relname = $3 AND n.nspname <> 'pg_catalog'";
        let names = [(&at.schema as _, Type::TEXT), (&at.index as _, Type::TEXT), (&at.table as _, Type::TEXT)];
        let rows = self.wait(client.query_typed(INDEX, &names)).await?;
        let Some(row) = rows.first() else { return Err(self.precondition("the index is gone")) };
        let is = |column: usize| row.get::<_, bool>(column);
        let why = match because {
            _ if is(5) => STANDBY,
            _ if !is(3) => {
                return Err(ActError::Denied {
                    what: self.what(),
                    message: "we do not own its table, and could not drop what a failed build leaves".to_owned(),
                    fix: self.missing_grant(),
                });
            }
            _ if is(1) => "it belongs to an exclusion constraint, which Postgres cannot build anew concurrently",
            _ if !is(2) => "it is that of a partitioned table; those of its partitions are built one by one",
            _ if is(6) => "its table is temporary",
            Reindexing::Invalid if is(0) => "it is valid by now",
            Reindexing::Bloated { .. } if !is(0) => "it is invalid by now",
            _ => return Ok(u64::try_from(row.get::<_, i64>(4)).unwrap_or(0)),
        };
        Err(self.precondition(why))
    }

    async fn slots_have_room(&self, client: &Client, size: u64) -> Result<(), ActError> {
        const SLOTS: &str = "
SELECT slot_name::text, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8,
       (SELECT setting::int8 * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
  FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 2 DESC LIMIT 1";
        let rows = self.wait(client.query_typed(SLOTS, &[])).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (name, kept, most): (String, i64, Option<i64>) = (row.get(0), row.get(1), row.get(2));
        let most = most.filter(|most| *most >= 0).unwrap_or(SLOTS_KEEP_BYTES);
        let would = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(kept);
        if would <= most {
            return Ok(());
        }
        Err(self.precondition(format!(
            "the slot {name} keeps {} of WAL, and the new index adds {}: more than the {} that slots may keep",
            format_bytes(kept as f64),
            format_bytes(size as f64),
            format_bytes(most as f64)
        )))
    }

    async fn disk_has_room(&self, client: &Client, at: IndexName<'_>, size: u64) -> Result<(), ActError> {
        let free = match (self.disk_here(client, at).await?, self.endpoint.disk()) {
            (Some(disk), _) => disk.free,
            (None, Some(total)) => {
                let row = self.wait(client.query_typed_one(disk::USED, &[])).await?;
                disk::told(total, u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)).free
            }
            (None, None) => {
                return Err(self.precondition(
                    "the server's free disk cannot be seen from here; say how large that disk is with `disk = \"100 GiB\"` \
                     in its table of the configuration",
                ));
            }
        };
        if free >= size.saturating_mul(ROOM_FACTOR) {
            return Ok(());
        }
        let (free, size) = (format_bytes(free as f64), format_bytes(size as f64));
        Err(self.precondition(format!("the disk has {free} free, and an index of {size} wants twice its size")))
    }

    /// The disk that the index is on, if the server runs on this very host.
    async fn disk_here(&self, client: &Client, at: IndexName<'_>) -> Result<Option<Disk>, ActError> {
        const PLACE: &str = "
SELECT pg_backend_pid(), inet_client_port(),
       coalesce(nullif(pg_tablespace_location(x.reltablespace), ''),
                nullif(pg_tablespace_location((SELECT dattablespace FROM pg_database WHERE datname = current_database())), ''),
                (SELECT setting FROM pg_settings WHERE name = 'data_directory'))
  FROM pg_class x JOIN pg_namespace n ON n.oid = x.relnamespace WHERE n.nspname = $1 AND x.relname = $2";
        let names = [(&at.schema as _, Type::TEXT), (&at.index as _, Type::TEXT)];
        let rows = self.wait(client.query_typed(PLACE, &names)).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(disk::Place { pid: row.get(0), port: row.get(1), folder: row.get(2) }.look(self.until).await)
    }
}

/// Why no index is built concurrently on a server of that version: it may come out damaged, see
/// <https://www.postgresql.org/docs/release/14.4/>.
fn version_refusal(version: i32) -> Option<&'static str> {
    (140_000..140_004).contains(&version).then_some(
        "14.0 to 14.3 may damage an index that is built concurrently; update the server to the last 14 first",
    )
}

/// Names, a duration or a size make a reason; a row without them is one whose state is hidden.
fn reason(row: &Row) -> String {
    let (kind, name, amount): (String, Option<String>, Option<f64>) = (row.get(0), row.get(1), row.get(2));
    let name = name.unwrap_or_default();
    match (kind.as_str(), amount) {
        ("build", _) => "somebody builds an index in this database at the moment".to_owned(),
        ("standby", Some(bytes)) => format!("the standby {name} is {} behind", format_bytes(bytes)),
        ("standby", None) => "how far the standbys are behind is hidden from us; grant pg_monitor".to_owned(),
        ("prepared", _) => format!("the prepared transaction {name} is open, and a build waits for it"),
        ("untracked", _) => format!("{name} does not tell what it does (track_activities is off there)"),
        (_, Some(age)) => format!(
            "{name} has had a transaction open for {}, and a build waits for everybody who is older than it",
            format_seconds(age)
        ),
        (_, None) => "the transactions of other roles are hidden from us; grant pg_monitor".to_owned(),
    }
}

const BUILDS: &str = "SELECT 'build', NULL::text, NULL::float8 FROM pg_stat_progress_create_index
 WHERE datname = current_database() LIMIT 1";

/// With `track_activities = off` nobody knows since when.
const SEEN_AS: &str = "CASE WHEN a.state = 'disabled' THEN 'untracked' ELSE 'session' END";

/// Who holds a lock on the table for longer than a moment: an idle reader has no snapshot, and the old index cannot be
/// dropped before it is gone. Who has ended its transaction since the locks were read holds none any more.
fn lockers() -> String {
    format!(
        "SELECT {SEEN_AS}, format('session %s (%s)', a.pid, concat_ws(', ', a.usename, nullif(a.application_name, ''))),
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8
  FROM pg_locks l
  JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.relation = (SELECT t.oid FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
                      WHERE n.nspname = $1 AND t.relname = $2)
   AND ((a.state IS NULL AND a.backend_type IS NULL) OR a.state = 'disabled' OR a.xact_start < clock_timestamp() - make_interval(secs => {LOCK_HELD_SECONDS}))
 ORDER BY 3 DESC NULLS FIRST LIMIT 1"
    )
}

fn standbys() -> String {
    format!(
        "SELECT 'standby', application_name, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::float8 AS behind
  FROM pg_stat_replication
 WHERE state IS NULL OR (state IN ('streaming', 'catchup')
       AND pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > {STANDBY_BEHIND_BYTES})
 ORDER BY 3 DESC NULLS FIRST LIMIT 1"
    )
}

/// Vacuums are not waited for.
fn snapshots() -> String {
    format!(
        "SELECT 'prepared', gid, extract(epoch FROM clock_timestamp() - prepared)::float8 AS age
  FROM pg_prepared_xacts WHERE database = current_database()
UNION ALL
SELECT {SEEN_AS}, format('session %s (%s)', a.pid, concat_ws(', ', a.usename, nullif(a.application_name, ''))),
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8
  FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
   AND ((a.state IS NULL AND a.backend_type IS NULL)
     OR ((a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
         AND (a.state = 'disabled' OR a.xact_start < clock_timestamp() - make_interval(secs => {OLD_SNAPSHOT_SECONDS}))
         AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)))
 ORDER BY 3 DESC NULLS FIRST LIMIT 1"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_14_0_to_14_3_may_damage_what_they_build() {
        let refused: Vec<i32> =
            [130_023, 139_999, 140_000, 140_001, 140_002, 140_003, 140_004, 140_018, 150_000, 180_001]
                .into_iter()
                .filter(|version| version_refusal(*version).is_some())
                .collect();
        assert_eq!(refused, [140_000, 140_001, 140_002, 140_003]);
        assert!(version_refusal(140_003).unwrap().contains("update the server"));
    }
}
