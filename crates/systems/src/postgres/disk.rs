//! Reads the room on the server's disk: with `statvfs` where the server runs on this very host, and otherwise from the size
//! that the configuration tells, less what the server says that it takes.

use super::observe::{Asking, age, count, get};
use crate::deadline::aside;
use groundskeeper_core::observation::{Disk, Gap, Part, Room, WalWritten};
use groundskeeper_core::quantity::format_bytes;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What the server's files take as far as it says: databases and WAL, wherever they lie, and how many tablespaces are in it.
pub(super) const USED: &str = "
SELECT (SELECT sum(pg_database_size(oid)) FROM pg_database)::int8
       + (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir())::int8 AS used,
       (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global'))::int8 AS tablespaces";

/// A folder of a file server that is gone keeps nobody waiting for long.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

const PLACE: &str = "
SELECT pg_backend_pid() AS pid, inet_client_port() AS port,
       CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('data_directory') END AS folder";

const WAL: &str = "SELECT coalesce(sum(size), 0)::int8 AS size FROM pg_ls_waldir()";

/// A folder of the server's, and the connection that told it: the server's process that serves us, and our own port.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) pid: i32,
    /// None for a Unix socket.
    pub(super) port: Option<i32>,
    /// None where it is hidden from us.
    pub(super) folder: Option<String>,
}

impl Place {
    /// The disk under it, if the server runs on this very host and its folder can be seen.
    pub(super) async fn look(self, until: Instant) -> Option<Disk> {
        let is_here = self.is_here();
        let folder = self.folder.filter(|_| is_here)?;
        let answer = aside("statvfs", move || rustix::fs::statvfs(folder.as_str())).ok()?;
        let until = until.min(Instant::now() + LOOK_WITHIN);
        let disk = timeout_at(until, answer).await.ok()?.ok()?.ok()?;
        Some(Disk {
            total: disk.f_blocks * disk.f_frsize,
            free: disk.f_bavail * disk.f_frsize,
            is_told: false,
            tablespaces: 0,
        })
    }

    /// Whether the server's process that serves us is one of this host: its title has our own port in it. The same path on a
    /// server behind a tunnel would be another disk.
    fn is_here(&self) -> bool {
        let Ok(title) = std::fs::read(format!("/proc/{}/cmdline", self.pid)) else { return false };
        let title = String::from_utf8_lossy(&title);
        let from = self.port.map_or_else(|| "[local]".to_owned(), |port| format!("({port})"));
        title.starts_with("postgres: ") && title.contains(&from)
    }
}

/// A disk that cannot be looked at, by what the configuration says of it and the server of what it takes.
pub(super) fn told(total: u64, used: u64) -> Disk {
    Disk { total, free: total.saturating_sub(used), is_told: true, tablespaces: 0 }
}

/// A server that takes more than its disk has says that the configuration is wrong, not that the disk is full.
fn reckoned(total: u64, used: u64, tablespaces: u32) -> Part<Disk> {
    if used <= total {
        return Ok(Disk { tablespaces, ..told(total, used) });
    }
    let (used, total) = (format_bytes(used as f64), format_bytes(total as f64));
    let with = if tablespaces > 0 { ", tablespaces among them" } else { "" };
    Err(Gap::new(format!(
        "`disk` in the configuration is too small: it says {total}, and databases and pg_wal take {used}{with}"
    )))
}

/// What it counts began with its last reset.
const WRITTEN: &str = "
SELECT wal_bytes::int8 AS bytes, extract(epoch FROM clock_timestamp() - stats_reset)::float8 AS seconds FROM pg_stat_wal";

pub(super) async fn read(asking: &Asking<'_>, total: Option<u64>, version_num: u32) -> Box<Room> {
    let used = async {
        match total {
            Some(total) => {
                let used = asking.one(USED, |row| Ok((count(row, "used")?, count(row, "tablespaces")?))).await;
                let few = |many: u64| u32::try_from(many).unwrap_or(u32::MAX);
                Some(used.and_then(|(used, tablespaces)| reckoned(total, used, few(tablespaces))))
            }
            None => None,
        }
    };
    let (seen, wal, written, told) =
        tokio::join!(seen(asking), asking.one(WAL, |row| count(row, "size")), written(asking, version_num), used);
    let disk = match (seen, told) {
        (Ok(Some(disk)), _) => Ok(Some(disk)),
        (_, Some(told)) => told.map(Some),
        (seen, None) => seen,
    };
    Box::new(Room { disk, wal, written, past: Vec::new() })
}

async fn written(asking: &Asking<'_>, version_num: u32) -> Part<WalWritten> {
    if version_num < 140_000 {
        return Ok(WalWritten::default());
    }
    asking.one(WRITTEN, |row| Ok(WalWritten { bytes: Some(count(row, "bytes")?), seconds: age(row, "seconds")? })).await
}

async fn seen(asking: &Asking<'_>) -> Part<Option<Disk>> {
    let place = asking
        .one(PLACE, |row| Ok((get(row, "pid")?, get(row, "port")?, get(row, "folder")?)))
        .await
        .map(|(pid, port, folder)| Place { pid, port, folder })?;
    if place.folder.is_none() && place.is_here() {
        return Err(Gap::permission("where the server's files are is hidden from us; grant pg_monitor"));
    }
    Ok(place.look(asking.until()).await)
}
