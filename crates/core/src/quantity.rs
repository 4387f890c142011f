//! Numbers with their units, and how a person reads them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A plain number of things.
    Count,
    /// 0 to 100.
    Percent,
    Bytes,
    Seconds,
    PerSecond,
    /// A quotient without a unit, such as fragmentation 1.5.
    Ratio,
    Days,
}

impl Unit {
    /// The suffix of a Prometheus metric in this unit (its naming rules ask for base units).
    pub fn metric_suffix(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Percent => "_percent",
            Self::Bytes => "_bytes",
            Self::Seconds => "_seconds",
            Self::PerSecond => "_per_second",
            Self::Ratio => "_ratio",
            Self::Days => "_days",
        }
    }
}

/// A value as evidence: a number in a unit, a moment, or words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Value {
    Number { value: f64, unit: Unit },
    Text { text: String },
    Time { at: Timestamp },
}

impl Value {
    pub fn number(value: f64, unit: Unit) -> Self {
        Self::Number { value, unit }
    }
    pub fn count(value: impl Into<f64>) -> Self {
        Self::number(value.into(), Unit::Count)
    }
    pub fn percent(value: f64) -> Self {
        Self::number(value, Unit::Percent)
    }
    pub fn bytes(value: u64) -> Self {
        Self::number(value as f64, Unit::Bytes)
    }
    pub fn seconds(value: f64) -> Self {
        Self::number(value, Unit::Seconds)
    }
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Number { value, unit } => format_number(*value, *unit),
            Self::Text { text } => text.clone(),
            Self::Time { at } => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        };
        f.pad(&text)
    }
}

/// `1.4 GiB`, `93 %`, `12 min 5 s`, `1.52`.
pub fn format_number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => format_count(value),
        Unit::Percent => format!("{} %", trimmed(value, 1)),
        Unit::Bytes => format_bytes(value),
        Unit::Seconds => format_seconds(value),
        Unit::PerSecond => format!("{}/s", trimmed(value, 2)),
        Unit::Ratio => trimmed(value, 2),
        Unit::Days => format!("{} days", trimmed(value, 1)),
    }
}

fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Thousands are separated by commas: `1,234,567`.
pub fn format_count(value: f64) -> String {
    if value.fract() != 0.0 || value.abs() >= 1e15 {
        return trimmed(value, 2);
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}

/// Binary units, one decimal below 100: `512 B`, `1.5 KiB`, `120 MiB`.
pub fn format_bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(scaled.abs() < 100.0 && unit > 0);
    format!("{} {}", trimmed(scaled, decimals), UNITS[unit])
}

/// The two largest units that matter: `250 ms`, `4.2 s`, `12 min 5 s`, `3 h 20 min`, `9 d 4 h`.
pub fn format_seconds(value: f64) -> String {
    if value < 0.0 {
        return format!("-{}", format_seconds(-value));
    }
    if value < 0.000_001 {
        return "0 s".to_owned();
    }
    if value < 1.0 {
        return format!("{} ms", trimmed(value * 1000.0, usize::from(value < 0.1)));
    }
    if value < 60.0 {
        return format!("{} s", trimmed(value, 1));
    }
    let whole = value.round() as u64;
    let (larger, larger_name, smaller, smaller_name) = if whole < 3_600 {
        (whole / 60, "min", whole % 60, "s")
    } else if whole < 86_400 {
        (whole / 3_600, "h", whole % 3_600 / 60, "min")
    } else {
        (whole / 86_400, "d", whole % 86_400 / 3_600, "h")
    };
    if smaller == 0 {
        format!("{larger} {larger_name}")
    } else {
        format!("{larger} {larger_name} {smaller} {smaller_name}")
    }
}

/// Seconds from `earlier` to `later`; negative when they are the other way round.
pub fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64()
}

/// `amount` seconds after `at`, held at the ends of time instead of overflowing.
pub fn after(at: Timestamp, amount_seconds: f64) -> Timestamp {
    let end = if amount_seconds < 0.0 { Timestamp::MIN } else { Timestamp::MAX };
    let amount = jiff::SignedDuration::try_from_secs_f64(amount_seconds);
    amount.and_then(|amount| at.checked_add(amount)).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_a_person_would_say_them() {
        assert_eq!(format_number(1_234_567.0, Unit::Count), "1,234,567");
        assert_eq!(format_number(93.04, Unit::Percent), "93 %");
        assert_eq!(format_number(1.5 * 1024.0 * 1024.0 * 1024.0, Unit::Bytes), "1.5 GiB");
        assert_eq!(format_number(0.25, Unit::Seconds), "250 ms");
        assert_eq!(format_number(725.0, Unit::Seconds), "12 min 5 s");
        assert_eq!(format_number(86_400.0 * 9.0 + 4.0 * 3600.0, Unit::Seconds), "9 d 4 h");
        assert_eq!(format_number(3600.0, Unit::Seconds), "1 h");
        assert_eq!(format_number(100.0, Unit::Percent), "100 %");
        assert_eq!(format_number(0.0, Unit::Seconds), "0 s");
    }

    #[test]
    fn adding_seconds_stops_at_the_ends_of_time() {
        let at: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        assert_eq!(after(at, -1.5).to_string(), "2026-11-21T11:59:58.5Z");
        assert_eq!(after(Timestamp::MAX, 1.0), Timestamp::MAX);
        assert_eq!(after(Timestamp::MIN, -1.0), Timestamp::MIN);
        assert_eq!(after(at, f64::MAX), Timestamp::MAX);
        assert_eq!(after(at, f64::NEG_INFINITY), Timestamp::MIN);
        assert_eq!(after(at, f64::NAN), Timestamp::MAX, "a rest of unknown length does not end");
    }
}
