//! What a scratch server is told. Nothing of the cluster's own configuration is read but the settings named here.

use super::DataFolder;
use crate::error::{Error, Result};
use crate::programs::Programs;
use crate::wal::replay::recovery;
use groundskeeper_core::receipt::Cluster;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Part of the socket's name; nothing listens on it.
pub(super) const PORT: u16 = 5432;
/// What the files of a server are called in its folder.
pub(super) const CONFIG: &str = "postgresql.conf";
pub(super) const HBA: &str = "pg_hba.conf";
pub(super) const IDENT: &str = "pg_ident.conf";
/// Segments are as large as `initdb` was told, 16 MiB otherwise.
const SEGMENT: u64 = 16 << 20;
const MEBIBYTE: u64 = 1 << 20;

/// Said on the command line as well, where no file can say otherwise.
const BOLTS: [(&str, &str); 11] = [
    ("listen_addresses", ""),
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("restore_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    // Subscriptions, job schedulers and whatever else libraries start: a drill must not act.
    ("max_worker_processes", "0"),
    ("max_logical_replication_workers", "0"),
    ("logging_collector", "off"),
    ("ssl", "off"),
];

/// The rest. What is written here is thrown away, so nothing waits for the disk.
const PLAIN: [(&str, &str); 17] = [
    ("unix_socket_permissions", "0700"),
    ("cluster_name", "groundskeeper-drill"),
    ("hot_standby", "off"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("autovacuum", "off"),
    ("jit", "off"),
    // For sessions that are not ours. Those of ours say it themselves: a role or a database may have it otherwise.
    ("session_replication_role", "replica"),
    ("huge_pages", "off"),
    ("shared_buffers", "64MB"),
    ("dynamic_shared_memory_type", "mmap"),
    ("restart_after_crash", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", ""),
    ("lc_messages", "C"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// What prepared transactions, replication origins and their like need as large as it was, or Postgres does not start.
const TAKEN_OVER: [&str; 6] = [
    "max_connections",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_wal_senders",
    "max_replication_slots",
    "max_active_replication_origins",
];

pub(crate) const PRELOADED: &str = "shared_preload_libraries";

/// The libraries of the cluster that are installed here, and those that are not.
pub(super) fn libraries(programs: &Programs, cluster: &Cluster) -> (Vec<String>, Vec<String>) {
    let named = cluster.settings.get(PRELOADED).map_or("", String::as_str);
    let names = named.split(',').map(|name| name.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty());
    names.partition(|name| programs.has_library(name))
}

/// Writes the three files of a server into `folder`.
pub(super) fn write(
    folder: &Path,
    socket: &Path,
    data: &DataFolder<'_>,
    cluster: &Cluster,
    libraries: &[String],
) -> io::Result<()> {
    let mut lines: Vec<(&str, String)> =
        bolts(data).chain(PLAIN).map(|(name, value)| (name, value.to_owned())).collect();
    // At least two segments, or Postgres does not start.
    let segment = segment_size(data.path());
    lines.push(("min_wal_size", format!("{}MB", 2 * segment / MEBIBYTE)));
    lines.push(("max_wal_size", format!("{}MB", (4 * segment / MEBIBYTE).max(256))));
    lines.push(("port", PORT.to_string()));
    lines.push(("unix_socket_directories", socket.display().to_string()));
    let quoted: Vec<String> = libraries.iter().map(|name| format!("\"{name}\"")).collect();
    lines.push((PRELOADED, quoted.join(", ")));
    if let Some(replay) = data.replay() {
        lines.extend(recovery(replay.timeline, replay.until));
    }
    if cluster.major() >= 15 {
        lines.push(("allow_in_place_tablespaces", "on".to_owned()));
    }
    if cluster.major() >= 17 {
        lines.push(("event_triggers", "off".to_owned()));
    }
    let number = |name: &&'static str| Some((*name, cluster.settings.get(*name)?.parse::<u64>().ok()?.to_string()));
    lines.extend(TAKEN_OVER.iter().filter_map(number));
    let text = lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
        text
    });
    fs::write(folder.join(CONFIG), text)?;
    // Only the user that the server runs as, and root, can enter the socket's folder.
    fs::write(folder.join(HBA), "local all all trust\n")?;
    fs::write(folder.join(IDENT), "")
}

/// Bytes of one WAL file of this cluster.
pub(super) fn segment_size(data: &Path) -> u64 {
    let segments = fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        let is_segment = name.len() == 24 && name.to_string_lossy().bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_segment { Some(entry.metadata().ok()?.len()) } else { None }
    });
    segments.max().unwrap_or_default().max(SEGMENT)
}

/// Asks for a recovery that goes on with what lies in `pg_wal`. After [`strip`].
pub(super) fn ask_for_replay(data: &DataFolder<'_>) -> Result<()> {
    let signal = data.path().join("recovery.signal");
    fs::write(&signal, "").map_err(|error| Error::Scratch(format!("{}: {error}", signal.display())))?;
    data.place().user().map_or(Ok(()), |user| user.give(&signal))
}

/// The settings of the command line. Recovery does not begin without a `restore_command`; this one never has anything,
/// and so Postgres looks into `pg_wal`.
pub(super) fn bolts(data: &DataFolder<'_>) -> impl Iterator<Item = (&'static str, &'static str)> {
    let replays = data.replay().is_some();
    BOLTS
        .into_iter()
        .map(move |(name, value)| (name, if replays && name == "restore_command" { "false" } else { value }))
}

/// Takes out of a data directory what would have a say in how it starts. Removed: what belongs to a running server, and
/// what asks for a standby. Moved into `aside`, for whoever wants to look: settings made by `ALTER SYSTEM`, which are
/// read after every file of ours; and the `tablespace_map`, by which recovery would link to the live tablespaces again.
/// The links that are there lead to the restored ones, as after a `pg_basebackup` in plain format, which has no map.
pub(super) fn strip(data: &Path, aside: &Path) -> io::Result<()> {
    let absent_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    for name in ["postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal", "recovery.conf"] {
        absent_is_fine(fs::remove_file(data.join(name)))?;
    }
    for name in ["postgresql.auto.conf", "tablespace_map"] {
        absent_is_fine(fs::rename(data.join(name), aside.join(format!("{name}.restored"))))?;
    }
    Ok(())
}

/// Every tablespace of the cluster is linked, or lies in place. Where its link leads was looked at already.
pub(super) fn has_tablespaces(data: &Path, cluster: &Cluster) -> Result<()> {
    let link = |oid: u32| -> PathBuf { data.join("pg_tblspc").join(oid.to_string()) };
    match cluster.tablespaces.iter().find(|tablespace| !link(tablespace.oid).is_dir()) {
        None => Ok(()),
        Some(tablespace) => Err(Error::Scratch(format!(
            "the tablespace {} (from {}) was not restored into the scratch place: {} leads to no folder",
            tablespace.oid,
            tablespace.location,
            link(tablespace.oid).display()
        ))),
    }
}
