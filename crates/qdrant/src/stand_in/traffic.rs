//! How REST requests went, for telemetry and metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::engine::clock;

/// Upper bounds of the duration histogram, in seconds.
pub(crate) const BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0];

/// Method, path with its parameters named, status.
pub(crate) type Endpoint = (String, String, u16);

#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) total: Duration,
    pub(crate) min: Duration,
    pub(crate) max: Duration,
    /// How many were within each bound of [`BUCKETS`]; not cumulative.
    pub(crate) buckets: [u64; BUCKETS.len()],
    pub(crate) last: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Traffic {
    tallies: Mutex<BTreeMap<Endpoint, Tally>>,
}

impl Traffic {
    pub(crate) fn record(&self, endpoint: Endpoint, took: Duration) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tallies.entry(endpoint).or_insert_with(|| Tally {
            count: 0,
            total: Duration::ZERO,
            min: Duration::MAX,
            max: Duration::ZERO,
            buckets: [0; BUCKETS.len()],
            last: clock::now(),
        });
        tally.count += 1;
        tally.total += took;
        (tally.min, tally.max) = (tally.min.min(took), tally.max.max(took));
        tally.last = clock::now();
        if let Some(bucket) = BUCKETS.iter().position(|bound| took.as_secs_f64() <= *bound) {
            tally.buckets[bucket] += 1;
        }
    }

    pub(crate) fn tallies(&self) -> BTreeMap<Endpoint, Tally> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
