//! Reads who keeps the server from cleaning up. Cluster-wide, from views in memory.

use super::observe::{Asking, age, count, get, unsigned};
use groundskeeper_core::observation::{HeldBy, Holder, Horizon, Part, Prepared, Slot};
use tokio_postgres::Row;

/// The view of a vacuum, and of the readings themselves, holds nothing back, nor does a slot that has lost its WAL. A slot's
/// `catalog_xmin` is for the system catalogues only.
const HOLDERS: &str = "
SELECT 'session' AS kind, a.pid, a.backend_start,
       concat_ws(', ', nullif(a.usename::text, ''), nullif(a.application_name, ''), a.state) AS name,
       greatest(age(a.backend_xmin), age(a.backend_xid))::int8 AS age, true AS active, false AS only_catalogues
  FROM pg_stat_activity a
 WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
   AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
   AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
UNION ALL
SELECT 'standby', NULL, NULL, coalesce(nullif(application_name, ''), host(client_addr), 'without a name'),
       age(backend_xmin)::int8, true, false
  FROM pg_stat_replication WHERE backend_xmin IS NOT NULL
UNION ALL
SELECT 'slot', NULL, NULL, slot_name::text, coalesce(age(xmin), age(catalog_xmin))::int8, active, xmin IS NULL
  FROM pg_replication_slots
 WHERE (xmin IS NOT NULL OR catalog_xmin IS NOT NULL) AND wal_status IS DISTINCT FROM 'lost'
UNION ALL
SELECT 'prepared', NULL, NULL, gid, age(transaction)::int8, false, false FROM pg_prepared_xacts
 ORDER BY age DESC LIMIT 50";

const PREPARED: &str = "
SELECT gid, owner::text AS owner, database::text AS database,
       extract(epoch FROM clock_timestamp() - prepared)::float8 AS age
  FROM pg_prepared_xacts ORDER BY prepared LIMIT 100";

/// From 17 on a standby has copies of its primary's slots, which nobody reads from.
fn slots(version_num: u32) -> String {
    let own = if version_num >= 170_000 { "AND NOT synced" } else { "" };
    format!(
        "SELECT slot_name::text AS name, slot_type = 'logical' AS logical, active,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                       restart_lsn)::int8 AS retained,
       coalesce(wal_status = 'lost', false) AS lost
  FROM pg_replication_slots WHERE NOT temporary {own} ORDER BY 1 LIMIT 200"
    )
}

pub(super) async fn read(asking: &Asking<'_>, version_num: u32) -> Part<Box<Horizon>> {
    let of_slots = slots(version_num);
    let (holders, prepared, slots) =
        tokio::join!(asking.many(HOLDERS, holder), asking.many(PREPARED, prepared), asking.many(&of_slots, slot));
    Ok(Box::new(Horizon { holders: holders?, prepared: prepared?, slots: slots? }))
}

fn holder(row: &Row) -> Result<Holder, String> {
    let (kind, name): (String, String) = (get(row, "kind")?, get(row, "name")?);
    let by = match kind.as_str() {
        "session" => HeldBy::Session { pid: get(row, "pid")?, backend_start: get(row, "backend_start")?, who: name },
        "standby" => HeldBy::Standby { name },
        "slot" => HeldBy::Slot { name, is_active: get(row, "active")?, only_catalogues: get(row, "only_catalogues")? },
        _ => HeldBy::Prepared { gid: name },
    };
    Ok(Holder { by, age: count(row, "age")? })
}

fn prepared(row: &Row) -> Result<Prepared, String> {
    Ok(Prepared {
        gid: get(row, "gid")?,
        owner: get(row, "owner")?,
        database: get(row, "database")?,
        age: age(row, "age")?.unwrap_or(0.0),
    })
}

fn slot(row: &Row) -> Result<Slot, String> {
    Ok(Slot {
        name: get(row, "name")?,
        is_logical: get(row, "logical")?,
        is_active: get(row, "active")?,
        retained: get::<Option<i64>>(row, "retained")?.map(unsigned),
        is_lost: get(row, "lost")?,
    })
}
