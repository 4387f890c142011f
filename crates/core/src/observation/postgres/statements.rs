//! What `pg_stat_statements` knows of the connected database.
//!
//! Its counters run since its last reset, which is never ours. Rows of the same statement by several roles are one here.

use super::Past;
use crate::observation::Part;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Whether `pg_stat_statements` can be used, and what it says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statements {
    /// Its library is in `shared_preload_libraries`; none when that setting is hidden from us.
    pub preloaded: Option<bool>,
    /// The version of the extension in the connected database.
    pub extension: Option<String>,
    /// `pg_available_extensions` has it.
    pub available: bool,
    /// None where the extension or its library is not there.
    pub leaders: Option<Part<Box<Leaders>>>,
    /// The latest hour or two of the leading statements beside the days before, from the keeper's record; empty where
    /// there is no record.
    #[serde(default)]
    pub past: Vec<Past>,
}

/// The statements that take the most, and what all of them take together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Leaders {
    /// The first 15 each by time in all, by mean (those with 100 calls first), by temporary bytes written and by blocks read
    /// from outside the cache; the most time first.
    pub statements: Vec<Statement>,
    pub all: Totals,
    /// When somebody last reset everything; none before version 1.9 of the extension.
    pub stats_reset: Option<Timestamp>,
    /// How often statements were forgotten to make room for others (`dealloc`); none before version 1.9.
    pub evictions: Option<u64>,
    /// Statements whose text and id are hidden from us.
    pub hidden: u64,
}

/// Over all statements of the database that a client sent itself: what runs inside of functions is in their time already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// How many different statements are kept.
    pub statements: u64,
    pub calls: u64,
    /// Seconds.
    pub time: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    pub query_id: i64,
    /// The first 200 characters, literals replaced by `?`.
    pub query: String,
    pub calls: u64,
    pub rows: u64,
    /// Seconds of execution, of all calls together.
    pub time: f64,
    /// Seconds, of one call.
    pub deviation: f64,
    pub fastest: f64,
    pub slowest: f64,
    pub blocks_hit: u64,
    /// Blocks that were not in shared buffers.
    pub blocks_read: u64,
    /// Seconds spent reading them; zero unless `track_io_timing` is on.
    pub read_time: f64,
    pub temporary_bytes: u64,
    /// Since when it is counted; none before version 1.11 of the extension.
    pub since: Option<Timestamp>,
}

impl Statement {
    /// Seconds of one call.
    pub fn mean(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.time / self.calls as f64 }
    }

    /// Rows that one call returned or changed.
    pub fn rows_per_call(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.rows as f64 / self.calls as f64 }
    }

    /// What happened since an earlier reading. None when its counters went back or began anew: it was reset, or
    /// forgotten and came back, and nobody knows what was lost.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        if self.since != earlier.since || self.time < earlier.time {
            return None;
        }
        Some(Self {
            calls: self.calls.checked_sub(earlier.calls)?,
            rows: self.rows.checked_sub(earlier.rows)?,
            time: self.time - earlier.time,
            blocks_hit: self.blocks_hit.checked_sub(earlier.blocks_hit)?,
            blocks_read: self.blocks_read.checked_sub(earlier.blocks_read)?,
            read_time: (self.read_time - earlier.read_time).max(0.0),
            temporary_bytes: self.temporary_bytes.checked_sub(earlier.temporary_bytes)?,
            ..self.clone()
        })
    }
}

impl Leaders {
    /// What the statements of both readings did between them, those without a call left out. A statement that has only
    /// now come among the leaders has no earlier figures to compare with. None when everything was reset in between.
    pub fn since(&self, earlier: &Self) -> Option<Vec<Statement>> {
        if self.were_reset_since(earlier) {
            return None;
        }
        let pairs = self.statements.iter().filter_map(|statement| {
            let before = earlier.statements.iter().find(|before| before.query_id == statement.query_id)?;
            statement.since(before)
        });
        Some(pairs.filter(|statement| statement.calls > 0).collect())
    }

    /// Seconds that all statements took since an earlier reading; too little by what was forgotten in between, which are the
    /// least used ones. None when something was reset.
    pub fn time_since(&self, earlier: &Self) -> Option<f64> {
        let went_on = !self.were_reset_since(earlier) && self.went_on_since(earlier);
        went_on.then_some(self.all.time - earlier.all.time)
    }

    /// Before 1.9 the extension does not tell when it was reset: totals that went back show it, or that much was forgotten.
    pub(crate) fn were_reset_since(&self, earlier: &Self) -> bool {
        self.stats_reset != earlier.stats_reset || (self.stats_reset.is_none() && !self.went_on_since(earlier))
    }

    fn went_on_since(&self, earlier: &Self) -> bool {
        self.all.time >= earlier.all.time && self.all.calls >= earlier.all.calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(query_id: i64, calls: u64, time: f64) -> Statement {
        Statement {
            query_id,
            query: "SELECT".into(),
            calls,
            rows: calls,
            time,
            deviation: 0.0,
            fastest: 0.0,
            slowest: 0.0,
            blocks_hit: 0,
            blocks_read: 0,
            read_time: 0.0,
            temporary_bytes: 0,
            since: None,
        }
    }

    fn leaders(statements: Vec<Statement>) -> Leaders {
        let calls = statements.iter().map(|statement| statement.calls).sum();
        let time = statements.iter().map(|statement| statement.time).sum();
        let all = Totals { statements: statements.len() as u64, calls, time };
        Leaders { statements, all, evictions: Some(0), ..Leaders::default() }
    }

    #[test]
    fn what_happened_between_two_readings_is_the_difference() {
        let earlier = leaders(vec![statement(1, 10, 1.0), statement(2, 5, 5.0)]);
        let now = leaders(vec![statement(1, 30, 3.0), statement(2, 5, 5.0), statement(3, 1, 9.0)]);
        let between = now.since(&earlier).unwrap();
        assert_eq!(between.len(), 1, "{between:?}");
        assert_eq!((between[0].query_id, between[0].calls), (1, 20));
        assert!((between[0].mean() - 0.1).abs() < 1e-9);
        assert_eq!(now.time_since(&earlier), Some(11.0));
    }

    #[test]
    fn what_was_reset_or_forgotten_has_no_answer() {
        let earlier = leaders(vec![statement(1, 10, 1.0)]);
        let one_went_back = leaders(vec![statement(1, 9, 3.0), statement(2, 5, 5.0)]);
        assert_eq!(one_went_back.since(&earlier), Some(vec![]), "its counter went back");
        assert_eq!(
            leaders(vec![statement(1, 9, 3.0)]).since(&earlier),
            None,
            "all went back, and no time of a reset is told"
        );
        let since = |second| Timestamp::from_second(second).ok();
        let anew = Statement { since: since(50), ..statement(1, 20, 2.0) };
        let old = Statement { since: since(10), ..statement(1, 10, 1.0) };
        assert_eq!(anew.since(&old), None, "it was forgotten and has already passed its old figures");
        let mut reset = leaders(vec![statement(1, 20, 2.0)]);
        reset.stats_reset = since(50);
        assert_eq!((reset.since(&earlier), reset.time_since(&earlier)), (None, None));
    }
}
