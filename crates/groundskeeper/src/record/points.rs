//! Single series over months, for charts.
//!
//! Read over a connection of its own: also a command beside a keeper that runs may look, and nobody waits for it.

use super::{FILE, Resolution, Result};
use groundskeeper_core::SystemId;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const DAY_SECONDS: i64 = 86_400;

/// A value of a series, and the hour in which it was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub at: Timestamp,
    pub value: f64,
}

/// The hourly points of a store.
#[derive(Debug)]
pub struct Points {
    connection: Connection,
}

impl Points {
    /// None where nothing was recorded yet.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(FILE);
        if !file.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(Duration::from_secs(1))?;
        Ok(Some(Self { connection }))
    }

    /// The highest of each day (of UTC) since `from`, by subject, the oldest first.
    pub fn peaks(&self, system: &SystemId, metric: &str, from: Timestamp) -> Result<BTreeMap<String, Vec<Point>>> {
        // SQLite takes a bare column from the row that has the maximum.
        let mut statement = self.connection.prepare(
            "SELECT subject, at, max(highest) FROM sample JOIN series ON series.id = sample.series
             WHERE resolution = ?1 AND system = ?2 AND metric = ?3 AND at >= ?4
             GROUP BY subject, at / ?5 ORDER BY subject, at",
        )?;
        let hour = Resolution::Hour.seconds();
        let mut rows = statement.query(params![hour, system.to_string(), metric, from.as_second(), DAY_SECONDS])?;
        let mut peaks: BTreeMap<String, Vec<Point>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            peaks.entry(row.get(0)?).or_default().extend(point(row.get(1)?, row.get(2)?));
        }
        Ok(peaks)
    }

    /// Each value that the series ever had, and when it was first seen, the oldest first.
    pub fn values(&self, system: &SystemId, metric: &str) -> Result<Vec<Point>> {
        let mut statement = self.connection.prepare(
            "SELECT min(at), latest FROM sample JOIN series ON series.id = sample.series
             WHERE resolution = ?1 AND system = ?2 AND metric = ?3 GROUP BY latest ORDER BY min(at)",
        )?;
        let mut rows = statement.query(params![Resolution::Hour.seconds(), system.to_string(), metric])?;
        let mut values = Vec::new();
        while let Some(row) = rows.next()? {
            values.extend(point(row.get(0)?, row.get(1)?));
        }
        Ok(values)
    }
}

fn point(second: i64, value: f64) -> Option<Point> {
    Some(Point { at: Timestamp::from_second(second).ok()?, value })
}
