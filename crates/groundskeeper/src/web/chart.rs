//! Small charts of one measure over time, drawn here: an SVG in the page needs no script, and has the colours of the page.
//!
//! The drawing has its own units, which the page scales. Below each chart the same figures stand in a table.

use super::moment::Moment;
use crate::app::api::Measurement;
use groundskeeper_core::quantity::{after, format_seconds, seconds_between};
use jiff::Timestamp;

/// Left of it are the numbers, below the days.
const LEFT: f64 = 62.0;
/// Half of a date has room beside it.
const RIGHT: f64 = 340.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 142.0;
/// Lines above zero, at most.
const LEVELS: f64 = 4.0;
const DAY_SECONDS: f64 = 86_400.0;
/// Less would make two days look like a trend.
const LEAST_SECONDS: f64 = 7.0 * DAY_SECONDS;
/// Days from one date below the chart to the next.
const DATES: [i64; 4] = [1, 2, 7, 14];
/// Dates that have room.
const DATES_SHOWN: i64 = 7;

pub(super) struct Chart {
    pub(super) id: String,
    pub(super) title: String,
    /// What one point is.
    pub(super) what: &'static str,
    /// All in one sentence, for whoever does not see it.
    pub(super) sentence: String,
    pub(super) plot: Plot,
    /// The same figures, the newest first.
    pub(super) rows: Vec<(Moment, String)>,
}

/// Everything with its place, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    /// Points that are joined: `62,142 340,14`.
    pub(super) lines: Vec<String>,
    pub(super) dots: Vec<Dot>,
    pub(super) levels: Vec<Tick>,
    pub(super) dates: Vec<Tick>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dot {
    pub(super) x: String,
    pub(super) y: String,
    /// `2026-11-20 22:00:00 CET: 2.1 s`
    pub(super) words: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub(super) at: String,
    pub(super) label: String,
}

/// From when to when. All charts of a page have the same, so that one can look from one to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    from: Timestamp,
    to: Timestamp,
}

impl Span {
    /// Until now, and back to the first measurement.
    pub(super) fn of(measured: impl Iterator<Item = Measurement>, now: Timestamp) -> Self {
        let latest = after(now, -LEAST_SECONDS);
        Self { from: measured.map(|one| one.at).min().unwrap_or(latest).min(latest), to: now }
    }

    fn x(self, at: Timestamp) -> f64 {
        let share = seconds_between(self.from, at) / seconds_between(self.from, self.to);
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// How many days back there is a date below the chart.
    fn dates(self) -> impl Iterator<Item = i64> {
        let days = (seconds_between(self.from, self.to) / DAY_SECONDS) as i64;
        let step = DATES.into_iter().find(|step| days / step < DATES_SHOWN).unwrap_or(30);
        (0..=days).step_by(usize::try_from(step).unwrap_or(1))
    }
}

impl Plot {
    /// `measured`, the oldest first, has its words. Those further apart than `joined` seconds are not joined: nobody knows
    /// what was in between. `day` says when the day so many days back began, and what it is called.
    pub(super) fn new(
        measured: &[(Measurement, String)],
        span: Span,
        joined: f64,
        day: impl Fn(i64) -> Option<(Timestamp, String)>,
    ) -> Self {
        let highest = measured.iter().map(|(one, _)| one.seconds).fold(0.0, f64::max);
        let step = step(highest);
        let number = (highest / step - 1e-9).ceil().max(1.0);
        let y = |seconds: f64| BOTTOM - (seconds / (step * number)).clamp(0.0, 1.0) * (BOTTOM - TOP);
        let levels = (0..=number as u32).map(|level| f64::from(level) * step);
        let dates = span.dates().filter_map(day).filter(|(midnight, _)| *midnight >= span.from);
        let place = |one: &Measurement| (unit(span.x(one.at)), unit(y(one.seconds)));
        let lines = measured.chunk_by(|(one, _), (next, _)| seconds_between(one.at, next.at) <= joined);
        let drawn = |line: &[(Measurement, String)]| {
            let points: Vec<String> = line.iter().map(|(one, _)| place(one)).map(|(x, y)| format!("{x},{y}")).collect();
            points.join(" ")
        };
        Self {
            lines: lines.filter(|line| line.len() > 1).map(drawn).collect(),
            dots: measured
                .iter()
                .map(|(one, words)| {
                    let (x, y) = place(one);
                    Dot { x, y, words: words.clone() }
                })
                .collect(),
            levels: levels.map(|seconds| Tick { at: unit(y(seconds)), label: format_seconds(seconds) }).collect(),
            dates: dates.map(|(midnight, label)| Tick { at: unit(span.x(midnight)), label }).collect(),
        }
    }
}

/// A tenth of a unit is finer than the eye.
fn unit(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// From one level to the next, in seconds: a round number as people count time, so that few of them reach `highest`.
fn step(highest: f64) -> f64 {
    const ROUND: [f64; 15] = [
        2.0,
        5.0,
        10.0,
        15.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        1_800.0,
        3_600.0,
        10_800.0,
        21_600.0,
        43_200.0,
        DAY_SECONDS,
    ];
    let least = highest / LEVELS;
    // Less than a millisecond is nothing.
    if least < 0.000_25 {
        return 1.0;
    }
    if least > 1.0
        && let Some(step) = ROUND.into_iter().find(|step| *step >= least)
    {
        return step;
    }
    let counted_in = if least > 1.0 { DAY_SECONDS } else { 1.0 };
    let tens = counted_in * 10_f64.powf((least / counted_in).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * tens).into_iter().find(|step| *step >= least).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn ago(days: f64, seconds: f64) -> (Measurement, String) {
        (Measurement { at: after(now(), -days * DAY_SECONDS), seconds }, format!("{days}"))
    }

    fn plot(measured: &[(Measurement, String)], joined_days: f64) -> Plot {
        let span = Span::of(measured.iter().map(|(one, _)| *one), now());
        let day = |back: i64| Some((after(now(), (-0.5 - back as f64) * DAY_SECONDS), format!("-{back}")));
        Plot::new(measured, span, joined_days * DAY_SECONDS, day)
    }

    fn labels(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    fn places(plot: &Plot) -> Vec<(&str, &str)> {
        plot.dots.iter().map(|dot| (dot.x.as_str(), dot.y.as_str())).collect()
    }

    #[test]
    fn one_point_is_a_dot_without_a_line() {
        let plot = plot(&[ago(3.5, 2.1)], 100.0);
        assert_eq!((places(&plot), plot.lines.len()), (vec![("201", "52.4")], 0), "in the middle of a week");
        assert_eq!(labels(&plot.levels), ["0 s", "1 s", "2 s", "3 s"]);
        assert_eq!((plot.levels[0].at.as_str(), plot.levels[3].at.as_str()), ("142", "14"));
        assert_eq!(labels(&plot.dates), ["-0", "-2", "-4", "-6"]);
        assert_eq!(plot.dots[0].words, "3.5");
    }

    #[test]
    fn equal_values_are_a_level_line_above_zero() {
        let plot = plot(&[ago(7.0, 40.0), ago(0.0, 40.0)], 100.0);
        assert_eq!(plot.lines, ["62,14 340,14"]);
        assert_eq!(labels(&plot.levels), ["0 s", "10 s", "20 s", "30 s", "40 s"]);
    }

    #[test]
    fn zero_lies_on_the_ground() {
        let plot = plot(&[ago(7.0, 0.0), ago(0.0, 0.0)], 100.0);
        assert_eq!(plot.lines, ["62,142 340,142"]);
        assert_eq!(labels(&plot.levels), ["0 s", "1 s"]);
    }

    #[test]
    fn a_huge_range_keeps_everything_inside_and_few_levels() {
        for highest in [0.002, 0.03, 0.9, 3.9, 4.1, 59.0, 61.0, 7_000.0, 86_399.0, 93_600.0, 2e6, 3e9] {
            let plot = plot(&[ago(90.0, 0.000_5), ago(20.0, highest / 2.0), ago(0.0, highest)], 100.0);
            let levels = labels(&plot.levels);
            assert!((2..=5).contains(&levels.len()) && levels[0] == "0 s", "{highest}: {levels:?}");
            let unique: std::collections::BTreeSet<&str> = levels.iter().copied().collect();
            assert_eq!(unique.len(), levels.len(), "{highest}: {levels:?}");
            for (x, y) in places(&plot) {
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=RIGHT).contains(&x) && (TOP..=BOTTOM).contains(&y), "{highest}: {x}, {y}");
            }
            let top: f64 = places(&plot)[2].1.parse().unwrap();
            assert!(top < TOP + (BOTTOM - TOP) * 0.6, "the highest is in the upper part: {highest}: {top}");
            assert!((2..=7).contains(&plot.dates.len()), "{:?}", plot.dates);
        }
    }

    #[test]
    fn levels_are_round_as_people_count_time() {
        for (highest, levels) in [
            (0.09, vec!["0 s", "50 ms", "100 ms"]),
            (2.4, vec!["0 s", "1 s", "2 s", "3 s"]),
            (70.0, vec!["0 s", "30 s", "1 min", "1 min 30 s"]),
            (3_700.0, vec!["0 s", "30 min", "1 h", "1 h 30 min"]),
            (93_600.0, vec!["0 s", "12 h", "1 d", "1 d 12 h"]),
            (700_000.0, vec!["0 s", "5 d", "10 d"]),
        ] {
            assert_eq!(labels(&plot(&[ago(0.0, highest)], 1.0).levels), levels);
        }
    }

    #[test]
    fn days_that_nobody_measured_are_no_line() {
        let days = [ago(9.0, 2.0), ago(8.0, 2.0), ago(4.0, 2.0), ago(1.0, 2.0), ago(0.0, 2.0)];
        let plot = plot(&days, 2.0);
        assert_eq!((plot.dots.len(), plot.lines.len()), (5, 2), "{:?}", plot.lines);
        assert!(plot.lines[0].starts_with("62,") && plot.lines[1].ends_with("340,14"), "{:?}", plot.lines);
    }

    #[test]
    fn what_lies_in_the_future_after_a_clock_was_set_back_stays_inside() {
        assert_eq!(places(&plot(&[ago(-3.0, 1.0)], 1.0)), [("340", "14")]);
    }
}
