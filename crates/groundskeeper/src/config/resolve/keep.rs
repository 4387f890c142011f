//! `[backup.keep]`: which sets stay.

use crate::config::KeepSettings;
use crate::config::raw::Section;
use groundskeeper_backup::Retention;
use groundskeeper_core::retention::Keep;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

/// Whose days and weeks are counted is the whole configuration's `timezone`.
pub(super) fn settings(top: &Section<'_>, zone: &TimeZone) -> KeepSettings {
    let defaults = KeepSettings { retention: Retention { zone: zone.clone(), ..Retention::default() }, apply: false };
    // A [backup] that is no table was already reported.
    if !top.has("backup") {
        return defaults;
    }
    let Some(section) = top.section("backup").and_then(|backup| backup.section("keep")) else { return defaults };
    let usual = Keep::default();
    let count = |key: &str, usual: u32| section.count_or_zero(key).unwrap_or(usual);
    let keep = Keep {
        last: count("last", usual.last),
        hourly: count("hourly", usual.hourly),
        daily: count("daily", usual.daily),
        weekly: count("weekly", usual.weekly),
        monthly: count("monthly", usual.monthly),
        yearly: count("yearly", usual.yearly),
        within: section
            .duration_or_zero("within")
            .and_then(|span| SignedDuration::try_from(span).ok())
            .unwrap_or(usual.within),
    };
    let apply = section.flag("apply").unwrap_or_default();
    if keep == Keep::NOTHING {
        let message = format!("[{}] keeps nothing but the newest set; write for example daily = 7", section.name);
        section.problem(section.at, message);
    }
    section.finish();
    KeepSettings { retention: Retention { keep, ..defaults.retention }, apply }
}
