//! Checks of Redis and Valkey: can it be reached, does its memory suffice, does it answer and keep what it is given.
//!
//! One cause gives one finding. Where two checks could see the same cause, one of them leaves it to the other: refused
//! writes at `maxmemory` belong to `redis.memory_near_limit`, not to `redis.command_errors`; a replica that is loading
//! its copy belongs to `redis.loading`, not to `redis.replica_link_down`.

pub mod durability;
#[cfg(test)]
mod fixtures;
pub mod memory;
pub mod reach;
pub mod traffic;

use super::{Sight, Unknown, UnknownKind};
use crate::observation::{Redis, RedisStats};

/// The counters of two readings and the seconds between them.
struct Interval<'a> {
    now: &'a RedisStats,
    then: &'a RedisStats,
    seconds: f64,
}

impl Interval<'_> {
    /// How far a counter grew. A counter that went backwards was reset (`CONFIG RESETSTAT`): no rate can be made of it.
    fn grown(&self, counter: fn(&RedisStats) -> u64) -> Result<u64, Unknown> {
        counter(self.now).checked_sub(counter(self.then)).ok_or_else(started_over)
    }

    /// How many more replies with that error code there are.
    fn errors_grown(&self, code: &str) -> Result<u64, Unknown> {
        let count = |stats: &RedisStats| {
            stats.errors.iter().filter(|(name, _)| name == code).fold(0_u64, |sum, (_, n)| sum.saturating_add(*n))
        };
        count(self.now).checked_sub(count(self.then)).ok_or_else(started_over)
    }
}

/// Unknown on the first reading and after a restart: counters of two lives must not be subtracted.
fn interval<'a>(sight: &Sight<'a, Redis>, what: &str) -> Result<Interval<'a>, Unknown> {
    let now = sight.seen.stats.as_ref()?;
    let (before, seconds) = sight.since(what)?;
    let then = before.stats.as_ref()?;
    if sight.seen.run_id != before.run_id || sight.seen.uptime < before.uptime {
        return Err(started_over());
    }
    Ok(Interval { now, then, seconds })
}

fn started_over() -> Unknown {
    Unknown {
        kind: UnknownKind::NeedsHistory,
        reason: "the counters started over since the last reading (a restart or CONFIG RESETSTAT)".into(),
    }
}

/// Whether Redis makes room by itself when it is full. A `volatile-…` policy can only evict keys that expire: without
/// any it behaves like `noeviction`.
fn evicts(policy: &str, expiring_keys: Option<u64>) -> bool {
    policy.starts_with("allkeys-") || (policy.starts_with("volatile-") && expiring_keys != Some(0))
}
