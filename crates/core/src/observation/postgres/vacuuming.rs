//! What autovacuum does at this moment, and how much it may do.

use super::TableName;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Vacuuming {
    /// `autovacuum_max_workers`, for all databases together.
    pub max_workers: u32,
    /// Seconds that a worker sleeps each time its share of the limit is used up; 0 when it never does.
    pub cost_delay: f64,
    /// `autovacuum_vacuum_cost_limit` (or `vacuum_cost_limit`), which the workers share.
    pub cost_limit: u32,
    /// In every database, the longest at work first.
    pub workers: Vec<Worker>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub pid: i32,
    pub database: String,
    /// Known in the connected database only, and not before it has begun.
    pub table: Option<TableName>,
    /// Seconds at this table.
    pub running: f64,
    /// `scanning heap`, `vacuuming indexes` …; empty for an analyze.
    pub phase: String,
    /// 0 to 1: pages of the table that were read.
    pub scanned: Option<f64>,
    /// It must run, or transaction ids run out: nothing throttles or cancels it lightly.
    pub is_against_wraparound: bool,
    /// At this moment it sleeps because of the cost limit.
    pub is_sleeping: bool,
    /// Seconds slept so far (18 on, with `track_cost_delay_timing`).
    pub slept: Option<f64>,
}
