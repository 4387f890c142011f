//! Which indexes are used. A scan is counted where it runs: those of a standby are counted there and nowhere else.

use super::{Postgres, TableName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexUsage {
    /// `system_identifier`: the same for a primary and all of its standbys.
    pub cluster: String,
    /// Since when scans are counted.
    pub since: Option<Timestamp>,
    /// Standbys of this very server, whether we look after them or not: those that stream, and physical replication slots
    /// that wait for one.
    pub attached: u32,
    /// Of user tables, the largest 5,000.
    pub indexes: Vec<IndexUse>,
    /// There are more.
    pub is_cut_off: bool,
    /// What the standbys that we look after have counted; [`Postgres::count_in`] adds one.
    pub standbys: Vec<StandbyUsage>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexUse {
    pub table: TableName,
    pub name: String,
    /// Bytes, from `relpages`.
    pub size: u64,
    pub scans: u64,
    /// Transactions that have written since it was made or last changed.
    pub age: u64,
    /// Nothing would break without it: valid, not unique, under no constraint, and no foreign key is looked up by it.
    pub is_spare: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StandbyUsage {
    /// The name under which it is configured.
    pub name: String,
    pub since: Option<Timestamp>,
    pub attached: u32,
    pub indexes: Vec<IndexUse>,
}

impl Postgres {
    /// Adds what a standby of this primary has counted. Anything else (another cluster, another database, one whose usage
    /// was not read) changes nothing.
    pub fn count_in(&mut self, name: &str, other: &Self) {
        let is_pair =
            !self.server.in_recovery && other.server.in_recovery && self.server.database == other.server.database;
        let (Ok(ours), Ok(theirs)) = (&mut self.usage, &other.usage) else { return };
        if is_pair && !ours.cluster.is_empty() && ours.cluster == theirs.cluster {
            ours.standbys.push(StandbyUsage {
                name: name.to_owned(),
                since: theirs.since,
                attached: theirs.attached,
                indexes: theirs.indexes.clone(),
            });
        }
    }
}
