//! What the largest tables and indexes of the connected database take, and what they would take when new.

use super::TableName;
use crate::bloat::Estimate;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Footprints {
    /// Of 1 MiB and more, the largest 200, without their TOAST.
    pub tables: Vec<Footprint>,
    /// B-trees of 1 MiB and more, the largest 200.
    pub indexes: Vec<Footprint>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Footprint {
    pub table: TableName,
    /// None for the table itself.
    pub index: Option<String>,
    /// Bytes, as of the last vacuum or analyze.
    pub size: u64,
    /// As of the same; below zero where nobody has counted.
    pub rows: f64,
    /// Percent of a page that is filled when it is new.
    pub fillfactor: f64,
    /// By the statistics, or why there is none.
    pub estimate: Result<Estimate, NoEstimate>,
    /// A second one of another kind, where somebody asked for it.
    pub second: Option<Estimate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoEstimate {
    /// We may not select from the table, so that `pg_stats` does not show it.
    Hidden,
    /// Never analyzed, or a column has no statistics.
    NotAnalyzed,
    /// A fifth of its rows or more changed since the last analyze.
    Stale,
}

impl Footprint {
    pub fn name(&self) -> String {
        self.index.as_ref().map_or_else(|| self.table.to_string(), |index| format!("{}.{index}", self.table.schema))
    }
}

/// Those of the spaces that the statistics call bloated, the most wasteful first.
pub fn suspects(spaces: &[Footprint], ratio: f64, wasted: f64) -> Vec<(&Footprint, &Estimate)> {
    let mut found: Vec<_> =
        spaces.iter().filter_map(|space| space.estimate.as_ref().ok().map(|estimate| (space, estimate))).collect();
    found.retain(|(_, estimate)| estimate.is_past(ratio, wasted));
    found.sort_by_key(|(_, estimate)| std::cmp::Reverse(estimate.wasted()));
    found
}
