//! The room that the server has, what takes it, and how both used to be.

use crate::observation::{Gap, Part};
use crate::trend::Point;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// None where nobody can see it from here, and nobody says how large it is.
    pub disk: Part<Option<Disk>>,
    /// Bytes of `pg_wal`.
    pub wal: Part<u64>,
    pub written: Part<WalWritten>,
    /// From the keeper's record; empty where there is none.
    #[serde(default)]
    pub past: Vec<Sizes>,
}

/// Nothing is known.
impl Default for Room {
    fn default() -> Self {
        let gap = || Gap::new("the WAL was not asked for");
        Self { disk: Ok(None), wal: Err(gap()), written: Err(gap()), past: Vec::new() }
    }
}

/// The disk that the data directory is on. Tablespaces and a `pg_wal` elsewhere have disks of their own; where the size is told
/// they count as if they were on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes.
    pub total: u64,
    /// Bytes that the server may still write.
    pub free: u64,
    /// The configuration says how large it is, and what the databases and the WAL do not take counts as free.
    pub is_told: bool,
    /// Tablespaces besides the server's own two, where they count: nobody can see which disk they are on.
    #[serde(default)]
    pub tablespaces: u32,
}

/// `pg_stat_wal`, which came with 14; before, nothing counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WalWritten {
    /// Since the statistics were reset.
    pub bytes: Option<u64>,
    /// How long that is ago.
    pub seconds: Option<f64>,
}

impl WalWritten {
    /// Bytes in a second.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.seconds.filter(|seconds| *seconds > 0.0)?;
        Some(self.bytes? as f64 / seconds)
    }
}

/// The least that something took on each day, the oldest first: what is gone again by the evening is no growth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    pub of: SizeOf,
    /// The database; schema and table with a dot between; empty for the WAL and the disk.
    pub name: String,
    pub days: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeOf {
    Database,
    /// Of the connected database, with its indexes.
    Table,
    Wal,
    /// All that is taken on the disk of the data directory, by whomever.
    Disk,
}

impl Room {
    pub fn past_of(&self, of: SizeOf, name: &str) -> Option<&[Point]> {
        self.past.iter().find(|sizes| sizes.of == of && sizes.name == name).map(|sizes| sizes.days.as_slice())
    }

    /// Those of one kind.
    pub fn all_past(&self, of: SizeOf) -> impl Iterator<Item = &Sizes> {
        self.past.iter().filter(move |sizes| sizes.of == of)
    }
}
