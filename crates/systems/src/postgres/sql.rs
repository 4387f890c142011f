//! The questions that a reading asks.
//!
//! They read catalogues and statistics only and take no lock on a user's table, so that a reading never waits behind a
//! migration. Every column is cast to a type that the driver knows without asking the server.

use tokio_postgres::error::SqlState;

/// The server and our rights: the first question, whose answer decides how the others are put.
pub(super) const FACTS: &str = "
SELECT current_setting('server_version_num')::int8 AS version_num,
       current_setting('server_version') AS version,
       pg_postmaster_start_time() AS started,
       pg_is_in_recovery() AS in_recovery,
       current_database()::text AS database,
       current_setting('max_connections')::int8 AS max_connections,
       current_setting('superuser_reserved_connections')::int8
         + coalesce(nullif(current_setting('reserved_connections', true), '')::int8, 0) AS reserved_connections,
       current_setting('autovacuum')::bool AND current_setting('track_counts')::bool AS autovacuum,
       current_setting('autovacuum_freeze_max_age')::int8 AS freeze_max_age,
       s.checkpoint_timeout,
       current_user::text AS role,
       coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false) AS superuser,
       pg_has_role('pg_monitor', 'USAGE')
         OR (pg_has_role('pg_read_all_stats', 'USAGE') AND pg_has_role('pg_read_all_settings', 'USAGE')) AS monitor,
       pg_has_role('pg_signal_backend', 'USAGE') AS signal_backend,
       s.preloaded,
       (SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements') AS statements_version,
       (SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'pg_stat_statements') AS statements_schema,
       EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'vector') AS vectors,
       (SELECT count(*) FROM pg_class WHERE relkind = 'i')::int8 AS indexes
  FROM (SELECT max(setting) FILTER (WHERE name = 'checkpoint_timeout')::float8 AS checkpoint_timeout,
               max(setting) FILTER (WHERE name = 'shared_preload_libraries') AS preloaded
          FROM pg_settings WHERE name IN ('checkpoint_timeout', 'shared_preload_libraries')) s";

/// Without `pg_monitor` the server hides `backend_type` of other roles' backends; those with a database and a role are
/// clients, but for the odd parallel worker.
pub(super) const ACTIVITY: &str = "
SELECT count(*)::int8 AS total,
       count(*) FILTER (WHERE state = 'active')::int8 AS active,
       count(*) FILTER (WHERE state = 'idle')::int8 AS idle,
       count(*) FILTER (WHERE state LIKE 'idle in transaction%')::int8 AS idle_in_transaction,
       count(*) FILTER (WHERE backend_type IS NULL)::int8 AS hidden
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' OR (backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL)";

pub(super) const BY_APPLICATION: &str = "
SELECT coalesce(nullif(application_name, ''), usename::text, '?') AS name, count(*)::int8 AS count
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' OR (backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL)
 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10";

/// Whose sessions are never ours to end, over `pg_stat_activity a LEFT JOIN pg_roles r`. Both the reading and the act
/// use this very text, so that they cannot differ. The parameter holds the names that a person protects, in lower case.
///
/// What copies, repacks or migrates has to be left alone while it pauses: ended in the middle, it leaves half of its work.
pub(super) fn protected(parameter: u8) -> String {
    format!(
        "(coalesce(r.rolsuper OR r.rolreplication, true)
         OR a.backend_type IS DISTINCT FROM 'client backend'
         OR lower(coalesce(a.application_name, '')) LIKE ANY (ARRAY['groundskeeper%', 'pg\\_dump%', 'pg\\_restore%',
              'pg\\_basebackup%', 'pgbackrest%', 'barman%', 'wal-g%', 'wal\\_g%', 'pg\\_repack%', 'pg\\_squeeze%',
              'postgres\\_fdw%', 'pgcopydb%', 'pglogical%', 'debezium%', 'flyway%', 'liquibase%', 'alembic%'])
         OR lower(coalesce(a.application_name, '')) = ANY (${parameter}::text[])
         OR lower(coalesce(a.usename::text, '')) = ANY (${parameter}::text[]))"
    )
}

/// Whether a session of ours, of this process or an earlier one, still works on the table: it holds the lock of a vacuum
/// or analyze, or runs the very statement.
pub(super) const UNDER_WAY: &str = "
SELECT EXISTS (
  SELECT 1 FROM pg_stat_activity a
   WHERE a.pid <> pg_backend_pid() AND lower(a.application_name) LIKE 'groundskeeper%'
     AND a.datname = current_database()
     AND ((a.state = 'active' AND a.query = $3)
       OR EXISTS (SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.mode IN ('ShareUpdateExclusiveLock', 'RowExclusiveLock',
                                                                                  'ShareRowExclusiveLock')
                     AND l.granted
                     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                     AND n.nspname = $1 AND c.relname = $2)))";

/// Files besides those of the settings that a reload takes up: of access, and of certificates where they are used. With where
/// each is, and whether we may ask when it was changed: within the data directory that is a right of its own, elsewhere one
/// must be able to read all files. A name that is hidden from us has no row of its own in `pg_settings`, and no path.
pub(super) const RELOADED_FILES: &str = "
WITH known AS MATERIALIZED (
  SELECT name, setting FROM pg_settings WHERE name = 'data_directory' OR name LIKE 'ssl\\_%\\_file'
      OR name IN ('hba_file', 'ident_file'))
SELECT n.name, f.path,
       coalesce(has_function_privilege('pg_catalog.pg_stat_file(text, boolean)', 'EXECUTE')
                AND (pg_has_role('pg_read_server_files', 'USAGE')
                     OR (starts_with(f.path, d.setting || '/') AND f.path NOT LIKE '%..%')), false) AS may_see
  FROM unnest(ARRAY['hba_file', 'ident_file', 'ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file',
                    'ssl_dh_params_file']) n(name)
  LEFT JOIN known s ON s.name = n.name
  LEFT JOIN known d ON d.name = 'data_directory',
  LATERAL (SELECT CASE WHEN s.setting LIKE '/%' THEN s.setting ELSE d.setting || '/' || s.setting END AS path) f
 WHERE n.name IN ('hba_file', 'ident_file')
    OR (current_setting('ssl') = 'on' AND coalesce(s.setting, 'hidden') <> '')";

/// The views by which the server tells which files those of access include, from 16 on: those that have a rule.
const INCLUDING: [&str; 2] = ["pg_hba_file_rules", "pg_ident_file_mappings"];

/// Files that those of access include, likewise: a question for each of them. It fails where the file itself cannot be read.
pub(super) fn included_files() -> [String; 2] {
    INCLUDING.map(|view| {
        format!(
            "SELECT DISTINCT v.file_name AS path,
       coalesce(has_function_privilege('pg_catalog.pg_stat_file(text, boolean)', 'EXECUTE')
                AND (pg_has_role('pg_read_server_files', 'USAGE')
                     OR (starts_with(v.file_name, d.setting || '/') AND v.file_name NOT LIKE '%..%')), false) AS may_see
  FROM {view} v LEFT JOIN pg_settings d ON d.name = 'data_directory'
 WHERE v.file_name NOT IN (SELECT setting FROM pg_settings WHERE name IN ('hba_file', 'ident_file'))"
        )
    })
}

/// Whether it failed for that reason: the server cannot read its own file (class 58, or what the operating system does not
/// permit it), so that a reload takes nothing of it up.
pub(super) fn is_unreadable_file(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("58") || *code == SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Whether they can be asked for: before 16 the server does not tell, and the rules are hidden from most roles.
pub(super) const SEES_INCLUDED_FILES: &str = "
SELECT current_setting('server_version_num')::int4 >= 160000
       AND bool_and(coalesce(has_table_privilege(to_regclass('pg_catalog.' || name), 'SELECT')
                             AND has_function_privilege(to_regprocedure('pg_catalog.' || name || '()'), 'EXECUTE'), false))
         AS sees
  FROM unnest(ARRAY['pg_hba_file_rules', 'pg_ident_file_mappings']) name";

/// The invalid indexes of a table with names that only `REINDEX CONCURRENTLY` gives, and whether an index is being built on
/// it, which makes such an index too. A builder that is hidden from us may be at work on any table. One row without a name
/// where nothing is left. The table is the one with that number, where it is there, and otherwise the one with that name.
pub(super) const LEFTOVERS: &str = "
SELECT x.relname::text AS name,
       EXISTS (SELECT 1 FROM pg_stat_progress_create_index p
                WHERE p.datname = current_database() AND (p.relid = t.oid OR p.relid IS NULL)) AS being_built,
       n.nspname::text AS schema
  FROM pg_class t
  JOIN pg_namespace n ON n.oid = t.relnamespace
  LEFT JOIN pg_index i ON i.indrelid = t.oid AND NOT i.indisvalid
  LEFT JOIN pg_class x ON x.oid = i.indexrelid AND x.relkind = 'i' AND x.relname ~ '_cc(new|old)[0-9]*$'
 WHERE t.oid = coalesce(
         (SELECT o.oid FROM pg_class o WHERE o.oid = $3 AND o.relkind IN ('r', 'm', 'p')),
         (SELECT o.oid FROM pg_class o JOIN pg_namespace m ON m.oid = o.relnamespace WHERE m.nspname = $1 AND o.relname = $2))
 ORDER BY 1";

/// Signals a session that somebody has waited for, if it is the one that is meant and not protected: pid, start, seconds and
/// protected names are the parameters. One statement: who is chosen and who is signalled cannot differ. From 14 on.
///
/// An advisory lock is waited for on purpose (the others of an elected leader do), and a build that waits for old transactions
/// harms nobody; to end a build would leave an invalid index.
pub(super) fn end_blocker(signal: &str) -> String {
    let protected = protected(4);
    format!(
        "WITH target AS MATERIALIZED (
  SELECT a.pid, a.state FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
   WHERE a.pid = $1 AND a.backend_start = $2 AND a.pid <> pg_backend_pid() AND NOT {protected}
     AND NOT EXISTS (SELECT 1 FROM pg_stat_progress_create_index p WHERE p.pid = a.pid)
     AND EXISTS (SELECT 1 FROM pg_stat_activity w
                  WHERE w.wait_event_type = 'Lock' AND w.wait_event NOT IN ('advisory', 'virtualxid')
                    AND a.pid = ANY (pg_blocking_pids(w.pid))
                    AND (SELECT min(l.waitstart) FROM pg_locks l WHERE l.pid = w.pid AND NOT l.granted)
                        <= clock_timestamp() - make_interval(secs => $3)))
SELECT {signal} FROM target"
    )
}

/// The sessions that do something or hold something, oldest transaction first. The view of locks is asked only while
/// somebody waits for one: to read it, the server stops the lock manager for a moment.
pub(super) fn sessions(version_num: u32) -> String {
    let protected = protected(1);
    // The start is set a moment after the wait began.
    let (since, wait_start) = if version_num >= 140_000 {
        ("min(waitstart)", "coalesce(w.since, clock_timestamp())")
    } else {
        ("NULL::timestamptz", "a.query_start")
    };
    format!(
        "WITH waits AS (
  SELECT pid, {since} AS since, min(mode) FILTER (WHERE locktype = 'relation') AS mode FROM pg_locks
   WHERE NOT granted AND EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock')
   GROUP BY pid)
SELECT a.pid, a.backend_start, coalesce(a.datname::text, '') AS database, coalesce(a.usename::text, '') AS role,
       coalesce(a.application_name, '') AS application, coalesce(host(a.client_addr), '') AS client,
       coalesce(a.state, '') AS state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS transaction_age,
       extract(epoch FROM clock_timestamp() - a.query_start)::float8 AS query_age,
       extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS state_age,
       coalesce(a.wait_event_type || ': ' || a.wait_event, '') AS wait,
       CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) ELSE '{{}}'::int4[] END AS blocked_by,
       CASE WHEN a.wait_event_type = 'Lock'
            THEN extract(epoch FROM clock_timestamp() - {wait_start})::float8 END AS lock_wait,
       CASE WHEN a.wait_event_type = 'Lock' THEN w.mode END AS lock_mode,
       left(coalesce(a.query, ''), 4000) AS query,
       {protected} AS protected
  FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid LEFT JOIN waits w ON w.pid = a.pid
 WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
   AND (a.state <> 'idle' OR a.xact_start IS NOT NULL)
 ORDER BY a.xact_start NULLS LAST, a.pid LIMIT 200"
    )
}

pub(super) const DATABASES: &str = "
SELECT d.datname::text AS name,
       CASE WHEN has_database_privilege(d.oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_database_size(d.oid) END AS size,
       age(d.datfrozenxid)::int8 AS xid_age, mxid_age(d.datminmxid)::int8 AS multixact_age,
       coalesce(s.blks_hit, 0)::int8 AS blocks_hit, coalesce(s.blks_read, 0)::int8 AS blocks_read,
       coalesce(s.xact_commit, 0)::int8 AS commits, coalesce(s.xact_rollback, 0)::int8 AS rollbacks,
       coalesce(s.deadlocks, 0)::int8 AS deadlocks, coalesce(s.temp_bytes, 0)::int8 AS temporary_bytes
  FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid
 ORDER BY 1";

/// Whether VACUUM and ANALYZE of `c` would be let through: owner of the table or of the database, and from 17 on
/// whoever has MAINTAIN.
pub(super) fn maintainable(version_num: u32) -> &'static str {
    if version_num >= 170_000 {
        "(has_table_privilege(c.oid, 'MAINTAIN')
          OR pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE'))"
    } else {
        "(pg_has_role(c.relowner, 'USAGE')
          OR pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE'))"
    }
}

/// The settings from which a table's triggers follow where it has none of its own. The last one came with 18.
pub(super) const TRIGGERS: &str = "
SELECT current_setting('autovacuum_vacuum_threshold')::float8 AS vacuum_base,
       current_setting('autovacuum_vacuum_scale_factor')::float8 AS vacuum_scale,
       coalesce(nullif(current_setting('autovacuum_vacuum_max_threshold', true), '')::float8, -1) AS vacuum_most,
       current_setting('autovacuum_analyze_threshold')::float8 AS analyze_base,
       current_setting('autovacuum_analyze_scale_factor')::float8 AS analyze_scale";

/// Tables, materialized views and leaf partitions, the largest 2,000. Sizes are `relpages`, as of the last vacuum or
/// analyze: the exact size functions would take a lock.
pub(super) fn tables(version_num: u32) -> String {
    let maintainable = maintainable(version_num);
    // Before 14 a table that was never analyzed shows zero rows in zero pages instead of -1.
    let estimated = if version_num >= 140_000 { "c.reltuples >= 0" } else { "c.reltuples > 0 OR c.relpages > 0" };
    format!(
        "WITH indexes AS (
  SELECT i.indrelid, sum(x.relpages)::int8 AS pages FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid GROUP BY 1)
SELECT n.nspname::text AS schema, c.relname::text AS name,
       CASE WHEN {estimated} THEN c.reltuples::float8 END AS rows_estimated,
       current_setting('block_size')::int8
         * (c.relpages + coalesce(x.pages, 0) + coalesce(t.relpages, 0) + coalesce(tx.pages, 0)) AS size,
       pg_stat_get_live_tuples(c.oid) AS live_rows, pg_stat_get_dead_tuples(c.oid) AS dead_rows,
       pg_stat_get_mod_since_analyze(c.oid) AS modified,
       pg_stat_get_numscans(c.oid) AS whole_scans, pg_stat_get_tuples_returned(c.oid) AS rows_scanned,
       greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) AS last_vacuum,
       greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) AS last_analyze,
       coalesce(c.reloptions, '{{}}') AS options,
       {maintainable} AS maintainable
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN indexes x ON x.indrelid = c.oid
  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
  LEFT JOIN indexes tx ON tx.indrelid = t.oid
 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'
 ORDER BY size DESC, 1, 2 LIMIT 2000"
    )
}

pub(super) fn checkpoints(version_num: u32) -> &'static str {
    if version_num >= 170_000 {
        "SELECT num_timed::int8 AS timed, num_requested::int8 AS requested, stats_reset FROM pg_stat_checkpointer"
    } else {
        "SELECT checkpoints_timed::int8 AS timed, checkpoints_req::int8 AS requested, stats_reset FROM pg_stat_bgwriter"
    }
}

pub(super) const ARCHIVER: &str = "
SELECT current_setting('archive_mode') <> 'off' AS enabled, archived_count::int8 AS archived,
       failed_count::int8 AS failed, last_archived_time AS last_archived, last_failed_time AS last_failed,
       last_failed_wal AS last_failed_segment
  FROM pg_stat_archiver";

/// `state` is null where we may not see it.
pub(super) const STANDBYS: &str = "
SELECT coalesce(application_name, '') AS name, coalesce(host(client_addr), '') AS client, state,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                            ELSE pg_current_wal_lsn() END, replay_lsn)::int8 AS lag_bytes,
       extract(epoch FROM replay_lag)::float8 AS lag_seconds,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                            ELSE pg_current_wal_lsn() END, sent_lsn)::int8 AS unsent,
       pg_wal_lsn_diff(sent_lsn, flush_lsn)::int8 AS unflushed,
       pg_wal_lsn_diff(flush_lsn, replay_lsn)::int8 AS unreplayed,
       extract(epoch FROM flush_lag)::float8 AS flush_seconds
  FROM pg_stat_replication ORDER BY 1, 2";

/// Nulls on a primary. A standby that only replays an archive has no `primary_conninfo`, and so nothing to receive.
pub(super) const REPLAY: &str = "
SELECT extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS delay,
       pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::int8 AS backlog,
       EXISTS (SELECT 1 FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receiving,
       (SELECT setting FROM pg_settings WHERE name = 'primary_conninfo') AS source
 WHERE pg_is_in_recovery()";
