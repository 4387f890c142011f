//! Reads how often each index was used, and of which cluster this server is a part.

use super::observe::{Asking, count, get, unsigned};
use groundskeeper_core::observation::{Gap, IndexUsage, IndexUse, Part, TableName};
use tokio_postgres::Row;

const MOST: usize = 5_000;

/// After a crash all counters begin again, and with them those of the background writer. A receiver of WAL replays
/// nothing, and a logical subscriber is no copy of this server. A slot that nobody streams from waits for its standby, which
/// may be away for a moment only; our own receiver of WAL is none.
const CLUSTER: &str = "
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS cluster,
       (SELECT greatest(d.stats_reset, b.stats_reset) FROM pg_stat_database d, pg_stat_bgwriter b
         WHERE d.datname = current_database()) AS since,
       ((SELECT count(*) FROM pg_stat_replication r
         WHERE r.replay_lsn IS NOT NULL AND r.state <> 'backup'
           AND NOT EXISTS (SELECT 1 FROM pg_replication_slots s
                            WHERE s.active_pid = r.pid AND s.slot_type = 'logical'))
        + (SELECT count(*) FROM pg_replication_slots
            WHERE slot_type = 'physical' AND NOT active AND NOT temporary AND slot_name <> 'groundskeeper_wal'))::int8 AS attached,
       EXISTS (SELECT 1 FROM pg_stat_replication r WHERE r.state IS NULL) AS hidden";

const INDEXES: &str = "
SELECT n.nspname::text AS schema, t.relname::text AS table_name, x.relname::text AS name,
       current_setting('block_size')::int8 * x.relpages AS size,
       coalesce(pg_stat_get_numscans(x.oid), 0)::int8 AS scans, age(i.xmin)::int8 AS age,
       i.indisvalid AND NOT i.indisunique AND NOT i.indisexclusion AND NOT i.indisreplident AND NOT x.relispartition
         AND x.oid NOT IN (SELECT conindid FROM pg_constraint)
         AND x.oid NOT IN (
           SELECT k.indexrelid FROM pg_constraint c JOIN pg_index k ON k.indrelid = c.conrelid
            WHERE c.contype = 'f' AND cardinality(c.conkey) <= k.indnkeyatts
              AND (k.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey) AS spare
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE x.relkind = 'i' AND t.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND n.nspname NOT LIKE 'pg\\_toast%'
 ORDER BY x.relpages DESC, 1, 3 LIMIT 5001";

pub(super) async fn read(asking: &Asking<'_>) -> Part<Box<IndexUsage>> {
    let (cluster, indexes) =
        tokio::join!(asking.one(CLUSTER, |row| Ok((cluster(row)?, get(row, "hidden")?))), asking.many(INDEXES, index),);
    let (cluster, is_hidden): (IndexUsage, bool) = cluster?;
    if is_hidden {
        return Err(Gap::permission("the standbys are hidden from us; grant pg_monitor"));
    }
    let mut indexes = indexes?;
    let is_cut_off = indexes.len() > MOST;
    indexes.truncate(MOST);
    Ok(Box::new(IndexUsage { indexes, is_cut_off, ..cluster }))
}

fn cluster(row: &Row) -> Result<IndexUsage, String> {
    Ok(IndexUsage {
        cluster: get::<Option<String>>(row, "cluster")?.unwrap_or_default(),
        since: get(row, "since")?,
        attached: count(row, "attached")? as u32,
        ..IndexUsage::default()
    })
}

fn index(row: &Row) -> Result<IndexUse, String> {
    Ok(IndexUse {
        table: TableName { schema: get(row, "schema")?, name: get(row, "table_name")? },
        name: get(row, "name")?,
        size: count(row, "size")?,
        scans: count(row, "scans")?,
        age: unsigned(get(row, "age")?),
        is_spare: get(row, "spare")?,
    })
}
