//! When something is due: a fixed rhythm, or a cron line in a time zone.

use croner::Cron;
use croner::parser::CronParser;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt;
use std::time::Duration;

#[derive(Debug, Clone)]
pub enum Schedule {
    /// On a grid of this width that begins at the epoch, so that a restart does not shift it.
    Every(Duration),
    /// By the wall clock of the zone. On the night when the clocks go forward a time that does not exist fires at the
    /// next one that does; when they go back it fires once.
    Cron { cron: Box<Cron>, zone: TimeZone },
}

impl Schedule {
    /// Parses a cron line of five fields. The error says what is wrong with it, for a person.
    pub fn cron(line: &str, zone: TimeZone) -> Result<Self, String> {
        let cron = CronParser::new().parse(line).map_err(|cause| format!("`{line}` is no cron line: {cause}"))?;
        Ok(Self::Cron { cron: Box::new(cron), zone })
    }

    /// The first moment after `at`; none when the cron line never fires again.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let period = millis(*period);
                Timestamp::from_millisecond((at.as_millisecond().div_euclid(period) + 1) * period).ok()
            }
            Self::Cron { cron, zone } => {
                let next = cron.find_next_occurrence(&at.to_zoned(zone.clone()), false).ok()?;
                Some(next.timestamp())
            }
        }
    }

    /// The last moment at or before `at`.
    pub fn latest_by(&self, at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let period = millis(*period);
                Timestamp::from_millisecond(at.as_millisecond().div_euclid(period) * period).ok()
            }
            Self::Cron { cron, zone } => {
                let previous = cron.find_previous_occurrence(&at.to_zoned(zone.clone()), true).ok()?;
                Some(previous.timestamp()).filter(|due| *due <= at)
            }
        }
    }

    /// Whether a moment that passed unseen is worth making up for. A rhythm simply goes on.
    pub(super) fn catches_up(&self) -> bool {
        matches!(self, Self::Cron { .. })
    }
}

fn millis(period: Duration) -> i64 {
    i64::try_from(period.as_millis()).unwrap_or(i64::MAX).max(1)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(period) => {
                write!(f, "every {}", groundskeeper_core::quantity::format_seconds(period.as_secs_f64()))
            }
            Self::Cron { cron, .. } => f.write_str(cron.as_str()),
        }
    }
}
