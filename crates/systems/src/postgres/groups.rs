//! Reads who keeps how many connections open, and since when they were not used.

use super::observe::{Asking, count, get};
use groundskeeper_core::observation::{Opened, Part, SessionGroup};
use jiff::Timestamp;
use tokio_postgres::Row;

/// The largest 20 groups. Ages are taken by the server's clock, which need not be ours.
const GROUPS: &str = "
SELECT coalesce(application_name, '') AS application, coalesce(usename::text, '') AS role,
       coalesce(datname::text, '') AS database, coalesce(host(client_addr), '') AS client, count(*)::int8 AS total,
       count(*) FILTER (WHERE state = 'idle')::int8 AS idle,
       (array_agg(backend_start ORDER BY backend_start DESC))[:2000] AS starts,
       (array_agg(extract(epoch FROM clock_timestamp() - backend_start)::float8 ORDER BY backend_start DESC))[:2000] AS ages,
       (array_agg(CASE WHEN state = 'idle' THEN extract(epoch FROM clock_timestamp() - state_change)::float8 END
                  ORDER BY backend_start DESC))[:2000] AS unused
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND backend_start IS NOT NULL
 GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4 LIMIT 20";

pub(super) async fn read(asking: &Asking<'_>) -> Part<Vec<SessionGroup>> {
    asking.many(GROUPS, group).await
}

fn group(row: &Row) -> Result<SessionGroup, String> {
    let starts: Vec<Timestamp> = get(row, "starts")?;
    let ages: Vec<f64> = get(row, "ages")?;
    let unused: Vec<Option<f64>> = get(row, "unused")?;
    let sessions = starts.into_iter().zip(ages).zip(unused);
    Ok(SessionGroup {
        application: get(row, "application")?,
        user: get(row, "role")?,
        database: get(row, "database")?,
        client: get(row, "client")?,
        total: count(row, "total")? as u32,
        idle: count(row, "idle")? as u32,
        sessions: sessions
            .map(|((start, age), unused)| Opened { start, age: age.max(0.0), unused: unused.map(|age| age.max(0.0)) })
            .collect(),
    })
}
