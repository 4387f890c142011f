//! Times as the page shows them: how long ago, and exactly in the configured zone.

use groundskeeper_core::quantity::seconds_between;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// The present and the zone of one page.
#[derive(Debug, Clone)]
pub(super) struct Present {
    now: Timestamp,
    zone: TimeZone,
}

/// One time, ready to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    /// `3 min ago`, `in 2 h`.
    pub(super) relative: String,
    /// `2026-11-21 03:12:05 CET`.
    pub(super) exact: String,
    /// For machines: RFC 3339 in UTC.
    pub(super) iso: String,
}

impl Present {
    /// A zone that this machine does not know becomes UTC; the exact time names its zone, so that nobody is misled.
    pub(super) fn new(now: Timestamp, zone: &str) -> Self {
        Self { now, zone: TimeZone::get(zone).unwrap_or(TimeZone::UTC) }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// When the day began that is so many days back, and what it is called: `9 Nov`. None at the ends of time.
    pub(super) fn day(&self, back: i64) -> Option<(Timestamp, String)> {
        let date = self.now.to_zoned(self.zone.clone()).date().checked_sub(back.days()).ok()?;
        let midnight = date.to_zoned(self.zone.clone()).ok()?.timestamp();
        Some((midnight, date.strftime("%-d %b").to_string()))
    }

    pub(super) fn moment(&self, at: Timestamp) -> Moment {
        let exact = at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string();
        Moment { relative: relative(seconds_between(at, self.now)), exact, iso: at.to_string() }
    }
}

/// One unit is enough: the exact time is there too.
fn relative(ago: f64) -> String {
    if ago.abs() < 1.0 {
        return "now".to_owned();
    }
    let amount = match ago.abs() {
        seconds if seconds < 60.0 => format!("{seconds:.0} s"),
        seconds if seconds < 3600.0 => format!("{} min", whole(seconds / 60.0)),
        seconds if seconds < 48.0 * 3600.0 => format!("{} h", whole(seconds / 3600.0)),
        seconds => format!("{} days", whole(seconds / 86_400.0)),
    };
    if ago > 0.0 { format!("{amount} ago") } else { format!("in {amount}") }
}

fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_relative_and_exact() {
        let now: Timestamp = "2026-11-21T02:12:05Z".parse().unwrap();
        let present = Present::new(now, "Europe/Berlin");
        let moment = present.moment("2026-11-21T02:09:00Z".parse().unwrap());
        assert_eq!(moment.relative, "3 min ago");
        assert_eq!(moment.exact, "2026-11-21 03:09:00 CET");
        assert_eq!(present.moment("2026-11-21T05:12:06Z".parse().unwrap()).relative, "in 3 h");
        assert_eq!(present.moment(now).relative, "now");
        assert_eq!(present.moment("2026-11-11T02:12:05Z".parse().unwrap()).relative, "10 days ago");
    }

    #[test]
    fn days_begin_at_midnight_of_the_zone() {
        let present = Present::new("2026-11-21T02:12:05Z".parse().unwrap(), "Europe/Berlin");
        let (midnight, name) = present.day(0).unwrap();
        assert_eq!((midnight.to_string().as_str(), name.as_str()), ("2026-11-20T23:00:00Z", "21 Nov"));
        let (summer, name) = present.day(30).unwrap();
        assert_eq!((summer.to_string().as_str(), name.as_str()), ("2026-10-21T22:00:00Z", "22 Oct"));
        assert_eq!(present.day(12).unwrap().1, "9 Nov");
        assert_eq!(Present::new(Timestamp::MIN, "UTC").day(1), None);
    }

    #[test]
    fn an_unknown_zone_is_shown_as_utc_and_says_so() {
        let present = Present::new(Timestamp::UNIX_EPOCH, "Middle-earth/Shire");
        assert_eq!(present.moment(Timestamp::UNIX_EPOCH).exact, "1970-01-01 00:00:00 UTC");
    }
}
