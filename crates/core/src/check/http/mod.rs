//! Checks of HTTP endpoints: is it there, is the answer right, is it quick, does its certificate hold.
//!
//! One cause gives one finding: an answer with the wrong status is judged by its status alone, not by its body or its
//! time as well; an expired certificate is expired, and not untrusted as well.

#![allow(clippy::unnecessary_wraps, reason = "every judging function has one type, also those that always know")]

pub mod answer;
pub mod certificate;
#[cfg(test)]
mod fixtures;
pub mod reach;

use crate::observation::Http;

/// Whether the status is one that the configuration calls good.
fn status_is_good(seen: &Http) -> bool {
    if seen.expected.statuses.is_empty() {
        (200..400).contains(&seen.status)
    } else {
        seen.expected.statuses.contains(&seen.status)
    }
}
