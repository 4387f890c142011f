//! Durations as people write them: `30s`, `5m`, `1h30m`, `7d`. A day is 24 hours.

use jiff::{SignedDuration, Span, SpanRelativeTo};
use std::time::Duration;

/// Any amount from zero up.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        |why: &str| format!("`{text}` is no duration ({why}); write for example \"30s\", \"5m\", \"1h30m\" or \"7d\"");
    let span: Span = text.trim().parse().map_err(|_| wrong("a number and a unit are needed"))?;
    let amount: SignedDuration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong("months and years differ in length"))?;
    Duration::try_from(amount).map_err(|_| wrong("it is negative"))
}

/// An amount above zero.
pub fn parse_positive(text: &str) -> Result<Duration, String> {
    let amount = parse(text)?;
    if amount.is_zero() { Err(format!("`{text}` is too short: it must be above zero")) } else { Ok(amount) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("1h30m", 5_400), ("7d", 604_800), ("1d 12h", 129_600), ("0s", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "10", "soon", "5 parsecs", "-5m", "1 month"] {
            assert!(parse(text).unwrap_err().contains("for example"), "{text}");
        }
        assert!(parse_positive("0s").unwrap_err().contains("above zero"));
    }
}
