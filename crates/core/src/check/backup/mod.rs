//! Checks of the backups: is the repository there, is there a set that is young and whole, is it shown to restore, is
//! there room for the next one.
//!
//! One cause gives one finding. Without a set only `backup.set_missing` speaks, not the proof that cannot be there
//! either; and while the sets cannot be listed nobody guesses at their age.

#[cfg(test)]
mod fixtures;
pub mod proof;
pub mod reach;
pub mod sets;
pub mod space;
pub mod wal;

use crate::receipt::{Missing, Receipt};

/// `postgres.main (no answer), postgres.reports (permission denied)`
fn named(missing: &[Missing]) -> String {
    missing.iter().map(|missing| format!("{} ({})", missing.system, missing.why)).collect::<Vec<_>>().join(", ")
}

/// Where to see a set with other eyes.
fn source(receipt: &Receipt) -> String {
    format!("receipt of {}", receipt.set)
}
