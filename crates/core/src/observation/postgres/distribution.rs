//! What the planner knows of how often the values of a column come, and what its sample missed.

use super::TableName;
use serde::{Deserialize, Serialize};

/// Columns of the largest tables that an index or a statement's condition uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Distributions {
    /// How many columns have a list of most common values that we could see.
    pub seen: u64,
    /// Those whose list is full.
    pub full: Vec<ColumnDistribution>,
    /// Tables with a column whose statistics are hidden from us.
    pub hidden: Vec<TableName>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ColumnDistribution {
    pub table: TableName,
    pub column: String,
    pub figures: Distribution,
}

/// The figures of one column, as `pg_stats` has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The column's own target; none where it follows `default_statistics_target`.
    pub target: Option<u32>,
    /// The one in force: so many values the list may hold.
    pub in_force: u32,
    /// So many it holds.
    pub common: u32,
    /// The share of the rows that have the least common value of the list, 0 to 1.
    pub least: f64,
    /// The share of the rows whose value is not in the list, 0 to 1.
    pub others_share: f64,
    /// How many values those rows have, by the estimate of the last analyze.
    pub others: f64,
}

impl Distribution {
    /// Whether there may be more values that belong into the list.
    pub fn is_full(&self) -> bool {
        self.common >= self.in_force
    }

    /// What the planner takes for the share of each value that is not in the list (`var_eq_const` of
    /// `src/backend/utils/adt/selfuncs.c`).
    pub fn average(&self) -> f64 {
        self.others_share / self.others.max(1.0)
    }

    /// How far it may be wrong with a value that the list has just missed: such a value may be almost as frequent as the
    /// least common one of the list, and is taken for the average of the rest.
    pub fn error(&self) -> f64 {
        let average = self.average();
        if average > 0.0 { self.least / average } else { 1.0 }
    }
}
