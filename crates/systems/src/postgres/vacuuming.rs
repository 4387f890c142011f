//! Reads what autovacuum's workers do.

use super::observe::{Asking, age, count, get};
use groundskeeper_core::observation::{Gap, Part, TableName, Vacuuming, Worker};
use tokio_postgres::Row;

/// -1 stands for the setting without `autovacuum_`.
const LIMITS: &str = "
SELECT current_setting('autovacuum_max_workers')::int8 AS workers,
       coalesce(nullif(max(setting::float8) FILTER (WHERE name = 'autovacuum_vacuum_cost_delay'), -1),
                max(setting::float8) FILTER (WHERE name = 'vacuum_cost_delay')) / 1000 AS delay,
       coalesce(nullif(max(setting::float8) FILTER (WHERE name = 'autovacuum_vacuum_cost_limit'), -1),
                max(setting::float8) FILTER (WHERE name = 'vacuum_cost_limit'))::int8 AS most
  FROM pg_settings
 WHERE name IN ('autovacuum_vacuum_cost_delay', 'autovacuum_vacuum_cost_limit', 'vacuum_cost_delay', 'vacuum_cost_limit')";

/// A worker begins a transaction for each table.
fn workers(version_num: u32) -> String {
    let slept = if version_num >= 180_000 {
        "CASE WHEN current_setting('track_cost_delay_timing')::bool THEN p.delay_time / 1000 END"
    } else {
        "NULL::float8"
    };
    format!(
        "SELECT a.pid, coalesce(a.datname::text, '') AS database, n.nspname::text AS schema, c.relname::text AS table_name,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.backend_start))::float8 AS running,
       coalesce(p.phase, '') AS phase, p.heap_blks_scanned::float8 / nullif(p.heap_blks_total, 0) AS scanned,
       coalesce(a.query LIKE '%(to prevent wraparound)%', false) AS wraparound,
       coalesce(a.wait_event = 'VacuumDelay', false) AS sleeping, {slept}::float8 AS slept
  FROM pg_stat_activity a
  LEFT JOIN pg_stat_progress_vacuum p ON p.pid = a.pid
  LEFT JOIN pg_stat_progress_analyze z ON z.pid = a.pid
  LEFT JOIN pg_class c ON c.oid = coalesce(p.relid, z.relid) AND a.datname = current_database()
  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE a.backend_type = 'autovacuum worker'
 ORDER BY running DESC NULLS LAST, 1"
    )
}

pub(super) async fn read(asking: &Asking<'_>, version_num: u32, may_see: bool) -> Part<Box<Vacuuming>> {
    let sql = workers(version_num);
    let (limits, workers) = tokio::join!(asking.one(LIMITS, limits), asking.many(&sql, worker));
    if !may_see {
        return Err(Gap::permission("the workers of autovacuum are hidden from us; grant pg_monitor"));
    }
    Ok(Box::new(Vacuuming { workers: workers?, ..limits? }))
}

fn limits(row: &Row) -> Result<Vacuuming, String> {
    Ok(Vacuuming {
        max_workers: count(row, "workers")? as u32,
        cost_delay: get::<Option<f64>>(row, "delay")?.unwrap_or(0.0),
        cost_limit: get::<Option<i64>>(row, "most")?.unwrap_or(0).try_into().unwrap_or(0),
        workers: Vec::new(),
    })
}

fn worker(row: &Row) -> Result<Worker, String> {
    let (schema, name): (Option<String>, Option<String>) = (get(row, "schema")?, get(row, "table_name")?);
    Ok(Worker {
        pid: get(row, "pid")?,
        database: get(row, "database")?,
        table: schema.zip(name).map(|(schema, name)| TableName { schema, name }),
        running: age(row, "running")?.unwrap_or(0.0),
        phase: get(row, "phase")?,
        scanned: get(row, "scanned")?,
        is_against_wraparound: get(row, "wraparound")?,
        is_sleeping: get(row, "sleeping")?,
        slept: age(row, "slept")?,
    })
}
