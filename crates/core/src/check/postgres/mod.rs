//! The checks of Postgres 13 to 18, by topic.
//!
//! One cause gives one finding: a session that waits for a lock is reported as blocked and not as slow, and a session
//! that is idle in a transaction is not reported a second time as a long transaction. Where the sessions of other roles
//! are hidden from us, finding nothing is *unknown*, not *ok*.

#![allow(clippy::unnecessary_wraps, reason = "every judging function has the one signature that `Judge` asks for")]

pub mod access;
pub mod activity;
pub mod availability;
pub mod bloat;
pub mod cache;
pub mod configuration;
pub mod connections;
pub mod disk;
pub mod drift;
pub mod estimates;
pub mod horizon;
pub mod indexes;
pub mod keys;
pub mod leak;
pub mod locks;
pub mod plans;
pub mod pools;
pub mod queries;
pub mod regressions;
pub mod replication;
pub mod scans;
pub mod schema;
pub mod security;
pub mod sequences;
pub mod settings;
pub mod suitability;
pub mod temporary;
pub mod transactions;
pub mod usage;
pub mod vacuum;
pub mod vacuuming;
pub mod vectors;
pub mod versions;
pub mod wal;
pub mod wraparound;

#[cfg(test)]
pub(crate) mod fixtures;
