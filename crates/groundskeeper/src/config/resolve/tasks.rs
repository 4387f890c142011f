//! `[tasks.NAME]`: when a task of the calendar runs, or that it does not.

use super::zone;
use crate::clock::Clock;
use crate::config::TaskSettings;
use crate::config::nearest::did_you_mean;
use crate::config::raw::Section;
use crate::scheduler::Schedule;
use crate::tasks::calendar::NAMES;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::time::Duration;

/// A shorter interval is a slip: no system should be asked more often.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) fn all(top: &Section<'_>) -> BTreeMap<String, TaskSettings> {
    let mut found = BTreeMap::new();
    let Some(parent) = top.section("tasks") else { return found };
    for (name, value) in parent.entries() {
        if !NAMES.contains(&name.value) {
            let hint = did_you_mean(name.value, NAMES.iter().copied());
            let hint = if hint.is_empty() { "; `groundskeeper calendar` lists them".to_owned() } else { hint };
            parent.problem(name.at, format!("there is no task `{}`{hint}", name.value));
        } else if let Some(section) = parent.opened(name.value, name.at, value) {
            found.insert(name.value.to_owned(), one(section));
        }
    }
    found
}

fn one(section: Section<'_>) -> TaskSettings {
    let settings = TaskSettings {
        enabled: section.flag("enabled"),
        every: section.parsed("every", "a duration in quotes, such as \"30s\"", |text| {
            let every = crate::config::duration::parse_positive(text)?;
            if every < SHORTEST { Err(format!("`{text}` is too short; the shortest is \"1s\"")) } else { Ok(every) }
        }),
        cron: section.parsed("cron", "a cron line in quotes, such as \"0 9 * * *\"", cron),
        zone: zone(&section, "timezone").map(|(zone, _)| zone),
    };
    if section.has("every") && section.has("cron") {
        section.problem(section.at, format!("[{}] has both `every` and `cron`; keep one", section.name));
    }
    section.finish();
    settings
}

/// A line that parses *and* comes round: the 30th of February does not.
fn cron(text: &str) -> Result<String, String> {
    let example = "write for example \"0 9 * * *\" (daily at nine) or \"0 2 * * SUN\"";
    let schedule =
        Schedule::cron(text, TimeZone::UTC).map_err(|why| format!("{}; {example}", why.trim_end_matches('.')))?;
    let now = Clock::wall().now();
    let horizon = now.checked_add(SignedDuration::from_hours(24 * 366 * 5)).unwrap_or(jiff::Timestamp::MAX);
    match schedule.next_after(now) {
        Some(next) if next <= horizon => Ok(text.to_owned()),
        _ => Err(format!("`{text}` does not come round within the next five years; {example}")),
    }
}
