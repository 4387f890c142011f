//! Reads what the server runs with. What may hold a secret leaves the server as a hash only, which is sealed with a key before
//! anybody sees or keeps it.

use super::observe::{Asking, get};
use super::sql;
use groundskeeper_core::observation::{DIGEST, Part, Setting, Settings};
use groundskeeper_core::remedy::setting::Parameter;
use std::collections::BTreeMap;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

/// Besides those that are not at their default: what checks and the advice ask for.
const ASKED_FOR: &[&str] = &[
    "autovacuum_max_workers",
    "autovacuum_naptime",
    "autovacuum_vacuum_cost_delay",
    "autovacuum_vacuum_cost_limit",
    "autovacuum_vacuum_insert_scale_factor",
    "autovacuum_vacuum_scale_factor",
    "autovacuum_analyze_scale_factor",
    "autovacuum_work_mem",
    "checkpoint_completion_target",
    "checkpoint_timeout",
    "data_checksums",
    "effective_cache_size",
    "effective_io_concurrency",
    "fsync",
    "full_page_writes",
    "hash_mem_multiplier",
    "huge_pages",
    "idle_in_transaction_session_timeout",
    "listen_addresses",
    "log_autovacuum_min_duration",
    "log_lock_waits",
    "log_min_duration_statement",
    "log_temp_files",
    "maintenance_work_mem",
    "max_connections",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "max_slot_wal_keep_size",
    "max_wal_size",
    "max_worker_processes",
    "min_wal_size",
    "random_page_cost",
    "shared_buffers",
    "ssl",
    "synchronous_commit",
    "track_io_timing",
    "vacuum_cost_limit",
    "wal_buffers",
    "wal_compression",
    "wal_level",
    "work_mem",
];

/// Commands and connection strings may have a password in them, and so may every text of an extension: their names follow
/// no rule (`anon.salt`, `vectorize.openai_key`).
const SECRET: &str = "((vartype = 'string' AND name LIKE '%.%'
        OR name ~* '(conninfo|passphrase|passw|secret|token|credential|salt|private|api_?key|(^|[._])key$|_command$)')
       AND name <> 'password_encryption')";

pub(super) async fn read(asking: &Asking<'_>, version_num: u32) -> Part<Box<Settings>> {
    // Of both, so that a default that was written down is still known as one.
    let (value, boot) = (told("setting"), told("boot_val"));
    let sql = format!(
        "SELECT name, coalesce({value}, '') AS value, {boot} AS boot,
       unit, source, context, sourcefile AS file, sourceline::int8 AS line, pending_restart AS pending
  FROM pg_settings
 WHERE (source NOT IN ('default', 'client', 'session') OR pending_restart OR name = ANY ($1::text[]))
 ORDER BY name"
    );
    let asked: [(&(dyn ToSql + Sync), Type); 1] = [(&ASKED_FOR, Type::TEXT_ARRAY)];
    let hidden_files = Box::pin(hidden_files(asking, version_num));
    let (list, hidden_files) = tokio::join!(asking.many_with(&sql, &asked, setting), hidden_files);
    let list: Vec<Setting> = list?;
    let waits = |one: &Setting| one.pending_restart && Parameter::find(&one.name).is_ok();
    let written = if list.iter().any(waits) { Box::pin(written(asking)).await } else { BTreeMap::new() };
    Ok(Box::new(Settings { list, written, hidden_files, ..Settings::default() }))
}

/// What `postgresql.auto.conf` says of settings that we change; nothing where we may not see it. No secret is among them.
const WRITTEN: &str = "
SELECT lower(name) AS name, coalesce(setting, '') AS line
  FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf' AND lower(name) = ANY ($1) ORDER BY seqno";

const MAY_SEE_FILES: &str = "
SELECT has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')
       AND has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE') AS may_see";

async fn written(asking: &Asking<'_>) -> BTreeMap<String, String> {
    // A refusal would be a line in the server's log at each reading.
    if asking.one(MAY_SEE_FILES, |row| get::<bool>(row, "may_see")).await != Ok(true) {
        return BTreeMap::new();
    }
    let names = Parameter::ALL.map(Parameter::as_str);
    let names = names.as_slice();
    let named: [(&(dyn ToSql + Sync), Type); 1] = [(&names, Type::TEXT_ARRAY)];
    let lines: Part<Vec<(String, String)>> =
        asking.many_with(WRITTEN, &named, |row| Ok((get(row, "name")?, get(row, "line")?))).await;
    lines.unwrap_or_default().into_iter().collect()
}

/// What cannot be told is as good as hidden.
async fn hidden_files(asking: &Asking<'_>, version_num: u32) -> Vec<String> {
    let told: Part<Vec<(String, bool)>> =
        asking.many(sql::RELOADED_FILES, |row| Ok((get(row, "name")?, get(row, "may_see")?))).await;
    let told = told.unwrap_or_else(|_| vec![("hba_file".to_owned(), false)]);
    let mut hidden: Vec<String> = told.into_iter().filter(|(_, may_see)| !may_see).map(|(name, _)| name).collect();
    if version_num >= 160_000 && !sees_included_files(asking).await {
        hidden.push("what hba_file includes".to_owned());
    }
    hidden
}

async fn sees_included_files(asking: &Asking<'_>) -> bool {
    if !asking.one(sql::SEES_INCLUDED_FILES, |row| get(row, "sees")).await.unwrap_or(false) {
        return false;
    }
    for question in sql::included_files() {
        let told = asking.rows_unless(&question, sql::is_unreadable_file).await;
        if !told.is_ok_and(|rows| rows.iter().all(|row| get(row, "may_see") == Ok(true))) {
            return false;
        }
    }
    true
}

/// The column, or its hash where it may hold a secret. An empty one holds none.
fn told(column: &str) -> String {
    format!(
        "CASE WHEN {SECRET} AND {column} <> ''
              THEN '{DIGEST}' || encode(sha256(convert_to({column}, 'UTF8')), 'hex') ELSE {column} END"
    )
}

fn setting(row: &Row) -> Result<Setting, String> {
    Ok(Setting {
        name: get(row, "name")?,
        value: get(row, "value")?,
        unit: get(row, "unit")?,
        source: get(row, "source")?,
        context: get(row, "context")?,
        boot: get(row, "boot")?,
        file: get(row, "file")?,
        line: get::<Option<i64>>(row, "line")?.and_then(|line| u32::try_from(line).ok()),
        pending_restart: get(row, "pending")?,
    })
}
