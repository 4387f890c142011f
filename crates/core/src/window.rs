//! Maintenance windows: `Sun 02:00-05:00`, `Mon-Fri 22:00-02:00`, `daily 01:00-04:00`, each in a time zone.
//!
//! A window that crosses midnight belongs to the day on which it starts. Times are wall-clock times: on the night when
//! the clocks change, a window may be an hour shorter or longer, as the people who live there expect.

use crate::quantity::after;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Days, start and end (exclusive). `00:00-24:00` is written as an end equal to the start: the whole day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    text: String,
    /// Monday first.
    days: [bool; 7],
    from: Time,
    to: Time,
}

/// How far ahead the next opening is looked for: a weekly window that the clocks skip opens a week later.
const DAYS_AHEAD: i64 = 15;

const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// `Sun`, `sunday`, `TUES`: three letters of the English name or more.
fn day_index(text: &str) -> Option<usize> {
    let lower = text.trim().to_lowercase();
    DAYS.iter().position(|day| lower.len() >= 3 && day.starts_with(&lower))
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "`{text}` is no maintenance window ({what}); write for example `Sun 02:00-05:00`, `Mon-Fri 22:00-02:00` or `daily 01:00-04:00`"
            )
        };
        let (days_text, times) = text.trim().rsplit_once(' ').ok_or_else(|| wrong("days and times are missing"))?;
        let mut days = [false; 7];
        if days_text.trim().eq_ignore_ascii_case("daily") {
            days = [true; 7];
        } else {
            for part in days_text.split(',') {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let mut index = day_index(first).ok_or_else(|| wrong("the day is not known"))?;
                let last = day_index(last).ok_or_else(|| wrong("the day is not known"))?;
                loop {
                    days[index] = true;
                    if index == last {
                        break;
                    }
                    index = (index + 1) % 7;
                }
            }
        }
        let (from, to) = times.split_once('-').ok_or_else(|| wrong("the times need a `-` between them"))?;
        let time = |part: &str| -> Result<Time, String> {
            let part = if part == "24:00" { "00:00" } else { part };
            Time::strptime("%H:%M", part).map_err(|_| wrong("a time is written HH:MM"))
        };
        Ok(Self { text: text.trim().to_owned(), days, from: time(from)?, to: time(to)? })
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.text
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Window {
    /// Whether `now` lies in the window, by the clock on the wall in `zone`.
    pub fn contains(&self, now: Timestamp, zone: &TimeZone) -> bool {
        let local = now.to_zoned(zone.clone());
        let time = local.time();
        let today = self.on(local.weekday());
        let yesterday = self.on(local.weekday().previous());
        if self.from < self.to {
            today && time >= self.from && time < self.to
        } else {
            (today && time >= self.from) || (yesterday && time < self.to)
        }
    }

    /// The next moment at or after `now` at which the window is open, to the minute; none when it never opens.
    pub fn next_open(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.contains(now, zone) {
            return Some(now);
        }
        Self::moments(self.from, now, zone).filter(|at| self.contains(*at, zone)).min()
    }

    /// The first moment after `now` at which the window is not open any more; none when it is not open, or never closes.
    pub fn closes_at(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if !self.contains(now, zone) {
            return None;
        }
        Self::moments(self.to, now, zone).filter(|at| !self.contains(*at, zone)).min()
    }

    /// The moments after `now` at which the window may open or close: when the wall clock reaches that time (twice, when
    /// the clock is put back over it), and when the clock is put forward or back.
    fn moments(time: Time, now: Timestamp, zone: &TimeZone) -> impl Iterator<Item = Timestamp> {
        let today = now.to_zoned(zone.clone()).date();
        let days = (0..=DAYS_AHEAD).filter_map(move |offset| today.checked_add(Span::new().days(offset)).ok());
        let reached = days.flat_map(move |date| {
            let reached = zone.to_ambiguous_timestamp(date.to_datetime(time));
            [reached.earlier(), reached.later()]
        });
        let last = after(now, DAYS_AHEAD as f64 * 86_400.0);
        let changes = zone.following(now).map(|change| change.timestamp()).take_while(move |at| *at <= last);
        reached.flatten().chain(changes).filter(move |at| *at > now)
    }

    fn on(&self, day: Weekday) -> bool {
        self.days[usize::try_from(day.to_monday_zero_offset()).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests;
