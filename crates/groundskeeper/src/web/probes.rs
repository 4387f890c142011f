//! Readiness, and the keeper's own memory.

use crate::app::api::StatusView;
use axum::http::StatusCode;
use groundskeeper_core::quantity::{format_seconds, seconds_between};
use std::fs;

/// The oldest last look that is still fresh, when the interval is short or not known.
const FRESH_SECONDS: f64 = 120.0;

/// A last look may lie ahead by so much: time servers correct clocks by fractions of a second.
const AHEAD_SECONDS: f64 = 5.0;

/// After how many seconds without a finished watch what is shown may be wrong: three of its intervals.
pub(super) fn stale_after(status: &StatusView) -> f64 {
    let watch = status.calendar.iter().find(|entry| entry.task == "watch");
    watch.and_then(|entry| interval(&entry.schedule)).map_or(FRESH_SECONDS, |every| (every * 3.0).max(FRESH_SECONDS))
}

/// The seconds of `every 30 s`, `every 5 min`, `every 1 h 30 min`.
fn interval(schedule: &str) -> Option<f64> {
    let mut words = schedule.strip_prefix("every ")?.split_whitespace();
    let mut seconds = 0.0;
    while let Some(number) = words.next() {
        let unit = match words.next()? {
            "ms" => 0.001,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
    }
    Some(seconds)
}

/// The seconds since the last look when it is too old to trust; negative when it lies ahead, because the clock was set
/// back since: nobody knows how old it is then.
pub(super) fn stale(status: &StatusView) -> Option<f64> {
    let age = seconds_between(status.watched?, status.now);
    (age > stale_after(status) || age < -AHEAD_SECONDS).then_some(age)
}

pub(super) fn ready(status: &StatusView) -> (StatusCode, String) {
    let Some(watched) = status.watched else {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: the first watch has not finished yet".to_owned());
    };
    if let Some(age) = stale(status) {
        if age < 0.0 {
            let ahead = format_seconds((-age).round());
            let sentence = format!("not ready: the last watch finished {ahead} in the future; the clock was set back");
            return (StatusCode::SERVICE_UNAVAILABLE, sentence);
        }
        let (age, limit) = (format_seconds(age.round()), format_seconds(stale_after(status)));
        let sentence = format!("not ready: the last watch finished {age} ago, and more than {limit} is too long");
        return (StatusCode::SERVICE_UNAVAILABLE, sentence);
    }
    let age = format_seconds(seconds_between(watched, status.now).max(0.0).round());
    (StatusCode::OK, format!("ready: the last watch finished {age} ago"))
}

/// None where there is no `/proc`.
pub(super) fn resident_bytes() -> Option<f64> {
    // `status` and not `statm`: it counts in KiB, so that the size of a page does not matter.
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_read_from_the_schedule() {
        assert_eq!(interval("every 30 s"), Some(30.0));
        assert_eq!(interval("every 1 h 30 min"), Some(5400.0));
        assert_eq!(interval("0 9 * * *"), None);
        assert_eq!(interval("every now and then"), None);
    }

    #[test]
    fn the_memory_of_this_process_is_known() {
        assert!(resident_bytes().unwrap() > 100_000.0);
    }
}
