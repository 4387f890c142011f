//! What has to be known of a cluster to start a copy of it elsewhere.
//!
//! The data directory alone does not tell: where a package keeps the configuration outside of it (Debian), a base backup
//! has none.

use super::client::{APPLICATION_NAME, Endpoint, reading_settings};
use crate::deadline::timed_out;
use groundskeeper_core::observation::{Failure, FailureKind};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// What is known of a cluster. Values are as `pg_settings` has them, without units; what a version does not have is not
/// in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `server_version_num`: 150014. Another major version cannot read the files.
    pub version: u32,
    /// The name of the role that `initdb` made: a superuser that is always there.
    pub superuser: String,
    /// The tablespaces that lie outside of the data directory.
    pub tablespaces: BTreeSet<u32>,
    /// What the copy's configuration must repeat: [`REPEATED`].
    pub settings: BTreeMap<String, String>,
    /// What the other machine and its programs must be able to do; no configuration sets it there: [`GIVEN`].
    pub given: BTreeMap<String, String>,
    /// Those of both that our role may not see; `GRANT pg_monitor` shows them.
    pub hidden: Vec<String>,
}

/// Settings that a copy's configuration must repeat.
pub const REPEATED: [&str; 10] = [
    // A copy that answers while it replays pauses or ends when these are lower than they were.
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    // Slots and replication origins that do not fit in any more keep a copy from starting. The second one is Postgres
    // 18's; before, the first one stood for both.
    "max_replication_slots",
    "max_active_replication_origins",
    // Libraries that only work when preloaded, and may have WAL records of their own that nothing else can replay.
    "shared_preload_libraries",
    // A copy that writes less WAL than the original cannot take over from it (standbys, logical replication).
    "wal_level",
    // Off, the commit times that the original has kept are thrown away.
    "track_commit_timestamp",
];

/// What is fixed by `initdb`, by the build or by the machine.
pub const GIVEN: [&str; 16] = [
    // Programs with other sizes refuse the files.
    "block_size",
    "segment_size",
    "wal_block_size",
    "wal_segment_size",
    // Without them a copy can be checked for structure only, not for flipped bits.
    "data_checksums",
    // A build without the method (lz4, zstd) cannot read what was compressed with it.
    "wal_compression",
    "default_toast_compression",
    // The tables of an access method that an extension brought need its library.
    "default_table_access_method",
    // Locales of the operating system: without the first four a server that is configured for them does not start;
    // with another collation its indexes are wrong. The last two are settings up to version 15.
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lc_collate",
    "lc_ctype",
    // Outside of the data directory it is in no base backup.
    "config_file",
    // Where a copy must not go.
    "data_directory",
];

/// Those that are missing from `pg_settings` for a role without `pg_read_all_settings`.
const HIDDEN_FROM_MOST: [&str; 3] = ["shared_preload_libraries", "config_file", "data_directory"];

const CLUSTER: &str = "
SELECT current_setting('server_version_num')::int8 AS version,
       (SELECT rolname::text FROM pg_roles WHERE oid = 10) AS superuser";

const TABLESPACES: &str = "SELECT oid FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''";

const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[]) AND setting IS NOT NULL";

/// Reads them over an ordinary connection.
pub async fn cluster_facts(endpoint: &Endpoint, deadline: Duration) -> Result<Facts, Failure> {
    let until = Instant::now() + deadline;
    let session = endpoint.connect(APPLICATION_NAME, &reading_settings(deadline), deadline).await?;
    let outcome = match session.client() {
        Some(client) => timeout_at(until, Box::pin(read(client))).await,
        None => Ok(Ok(None)),
    };
    session.close(until.saturating_duration_since(Instant::now())).await;
    match outcome {
        Ok(Ok(Some(facts))) => Ok(facts),
        Ok(Ok(None)) => Err(Failure {
            kind: FailureKind::Protocol,
            message: "the server does not say what it is".to_owned(),
            address: endpoint.address().to_owned(),
        }),
        Ok(Err(error)) => Err(endpoint.failure(&error)),
        Err(_) => Err(timed_out(deadline, endpoint.address())),
    }
}

async fn read(client: &Client) -> Result<Option<Facts>, Error> {
    let cluster = client.query_typed_one(CLUSTER, &[]).await?;
    let (settings, given) = (chosen(client, &REPEATED).await?, chosen(client, &GIVEN).await?);
    let is_shown = |name: &&str| settings.contains_key(*name) || given.contains_key(*name);
    let hidden = HIDDEN_FROM_MOST.iter().filter(|name| !is_shown(name)).map(|name| (*name).to_owned()).collect();
    let version = u32::try_from(cluster.try_get::<_, i64>("version")?).unwrap_or(0);
    let superuser: Option<String> = cluster.try_get("superuser")?;
    let tablespaces = client.query_typed(TABLESPACES, &[]).await?;
    let tablespaces = tablespaces.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(superuser.map(|superuser| Facts { version, superuser, tablespaces, settings, given, hidden }))
}

async fn chosen(client: &Client, names: &[&str]) -> Result<BTreeMap<String, String>, Error> {
    let names: [(&(dyn ToSql + Sync), Type); 1] = [(&names, Type::TEXT_ARRAY)];
    let rows = client.query_typed(SETTINGS, &names).await?;
    rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("setting")?))).collect()
}
