//! A trend that one bulk load, one vacuum or one bad reading does not make.
//!
//! The slope is the median of the slopes between all pairs of points (Theil 1950; Sen 1968, Journal of the American
//! Statistical Association 63): up to 29 % of the points may be anything. One step in the middle is in half of the pairs,
//! and so is taken out first where what it has beyond the usual pace is more than half of all that moved.

use crate::quantity::{after, seconds_between};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Fewer are not a trend: of four, one in the middle decides.
const FEWEST_POINTS: usize = 5;
/// Kendall's tau of at least a half: three of four pairs go the same way. What only swings has about none.
const SAME_WAY: f64 = 0.75;

/// A value of a series and its time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub at: Timestamp,
    pub value: f64,
}

/// What the series grows by in a second, as long as it steadily grows; zero where it does not. None where the points, the
/// oldest first, are too few or span less than `history` seconds.
pub fn steady_growth(points: &[Point], history: f64) -> Option<f64> {
    if points.len() < FEWEST_POINTS || span(points) < history {
        return None;
    }
    let points = without_step(points);
    let mut slopes: Vec<f64> = points
        .iter()
        .enumerate()
        .flat_map(|(place, from)| points[place + 1..].iter().map(move |to| (from, to)))
        .map(|(from, to)| (to.value - from.value) / seconds_between(from.at, to.at))
        .filter(|slope| slope.is_finite())
        .collect();
    let rising = slopes.iter().filter(|slope| **slope > 0.0).count() as f64 / slopes.len() as f64;
    Some(if rising >= SAME_WAY { median(&mut slopes)? } else { 0.0 })
}

/// The same for all points or, where that is more, for those of the last `lately` seconds: what ran away some days ago is flat
/// in most of the points. What only takes again what it had before (a vacuum a week) has not run away.
pub fn present_growth(points: &[Point], history: f64, lately: f64) -> Option<f64> {
    let (all, last) = (steady_growth(points, history)?, *points.last()?);
    let begin = points.partition_point(|point| seconds_between(point.at, last.at) >= lately);
    let (before, latest) = points.split_at(begin);
    let most = before.iter().map(|point| point.value).fold(f64::NEG_INFINITY, f64::max);
    let beyond = last.value - most;
    let is_new = beyond > 0.0 && beyond * 2.0 >= difference(latest);
    Some(steady_growth(latest, history).filter(|_| is_new).unwrap_or(0.0).max(all))
}

/// Seconds from the first point to the last.
pub fn span(points: &[Point]) -> f64 {
    points.first().zip(points.last()).map_or(0.0, |(first, last)| seconds_between(first.at, last.at))
}

/// The difference between the last point and the first.
pub fn difference(points: &[Point]) -> f64 {
    points.first().zip(points.last()).map_or(0.0, |(first, last)| last.value - first.value)
}

/// The sums of several series at the times that any of them has.
pub fn sum<'p>(series: impl IntoIterator<Item = &'p [Point]>) -> Vec<Point> {
    let mut sums = std::collections::BTreeMap::<Timestamp, f64>::new();
    for point in series.into_iter().flatten() {
        *sums.entry(point.at).or_default() += point.value;
    }
    sums.into_iter().map(|(at, value)| Point { at, value }).collect()
}

/// The same without what its largest step has beyond the usual pace, if that is more than half of all that moved. Over days
/// without a point much comes together, and is no step.
fn without_step(points: &[Point]) -> Vec<Point> {
    let steps: Vec<(f64, f64)> = points
        .windows(2)
        .map(|pair| (pair[1].value - pair[0].value, seconds_between(pair[0].at, pair[1].at)))
        .collect();
    let mut paces: Vec<f64> = steps.iter().map(|(step, time)| step / time).filter(|pace| pace.is_finite()).collect();
    let usual = median(&mut paces).unwrap_or(0.0);
    let moved: f64 = steps.iter().map(|(step, _)| step.abs()).sum();
    let beyond = steps.iter().map(|(step, time)| step - usual * time).enumerate();
    let largest = beyond.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    let Some((place, jump)) = largest.filter(|(_, jump)| jump.abs() * 2.0 > moved) else { return points.to_vec() };
    let is_after = |number: usize| number > place;
    let lowered = |(number, point): (usize, &Point)| Point {
        at: point.at,
        value: if is_after(number) { point.value - jump } else { point.value },
    };
    points.iter().enumerate().map(lowered).collect()
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], upper) } else { upper })
}

/// When what is left is used up at that pace; none when it is not used at all.
pub fn used_up(now: Timestamp, left: f64, per_second: f64) -> Option<Timestamp> {
    (per_second > 0.0).then(|| after(now, left / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: f64 = 86_400.0;

    fn days(values: &[f64]) -> Vec<Point> {
        let start = Timestamp::from_second(1_795_000_000).unwrap();
        let at = |day: usize| after(start, day as f64 * DAY);
        values.iter().enumerate().map(|(day, value)| Point { at: at(day), value: *value }).collect()
    }

    /// In a day.
    fn growth(values: &[f64]) -> f64 {
        steady_growth(&days(values), 0.0).unwrap() * DAY
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-6
    }

    #[test]
    fn what_grows_each_day_grows_by_so_much() {
        assert!(close(growth(&[1.0, 3.0, 5.0, 7.0, 9.0]), 2.0));
        let with_weekends: Vec<f64> =
            (0..14).map(|day| f64::from(day - 2 * (day / 7) - i32::from(day % 7 == 6))).collect();
        assert!((0.5..1.0).contains(&growth(&with_weekends)), "{with_weekends:?}");
    }

    #[test]
    fn one_load_one_vacuum_and_one_wild_reading_are_no_trend() {
        for place in 1..14 {
            let step: Vec<f64> = (0..14).map(|day| if day < place { 10.0 } else { 90.0 }).collect();
            assert!(close(growth(&step), 0.0), "loaded on day {place}");
            let fall: Vec<f64> = (0..14).map(|day| if day < place { 90.0 } else { 10.0 }).collect();
            assert!(close(growth(&fall), 0.0), "emptied on day {place}");
            let wild: Vec<f64> = (0..14).map(|day| if day == place { 900.0 } else { 10.0 }).collect();
            assert!(close(growth(&wild), 0.0), "wild on day {place}");
        }
    }

    #[test]
    fn a_load_hides_no_growth_and_a_vacuum_neither() {
        for jump in [80.0, -80.0] {
            let values: Vec<f64> =
                (0..14).map(|day| 100.0 + f64::from(day) + if day < 7 { 0.0 } else { jump }).collect();
            assert!(close(growth(&values), 1.0), "{jump}");
        }
    }

    #[test]
    fn days_without_a_point_are_no_load() {
        let with_gap = |first: f64| {
            let mut points = days(&(0..14).map(|day| first + f64::from(day)).collect::<Vec<_>>());
            points.drain(3..10);
            points
        };
        let growth = |points: &[Point]| steady_growth(points, 0.0).unwrap() * DAY;
        assert!(close(growth(&with_gap(0.0)), 1.0));
        let mut loaded = with_gap(0.0);
        for point in &mut loaded[3..] {
            point.value += 80.0;
        }
        assert!(close(growth(&loaded), 1.0), "and a load in them is taken out by itself");
    }

    #[test]
    fn what_ran_away_days_ago_grows_as_it_does_now() {
        let growth = |values: &[f64]| present_growth(&days(values), 5.0 * DAY, 6.0 * DAY).unwrap() * DAY;
        for grown in 4..=13_u32 {
            let values: Vec<f64> = (0..8 + grown).map(|day| 60.0 * f64::from(day.saturating_sub(7))).collect();
            assert!((45.0..=60.1).contains(&growth(&values)), "for {grown} days: {}", growth(&values));
        }
        for until in 10..30 {
            let weekly: Vec<f64> = (0..until).map(|day| f64::from(day % 7) * 5.0 + f64::from(day) / 10.0).collect();
            // And not the 5 a day since the last one.
            assert!(growth(&weekly) < 2.5, "a vacuum a week, {until} days: {}", growth(&weekly));
        }
        assert!(close(growth(&[9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]), 0.0));
        assert_eq!(present_growth(&days(&[1.0, 2.0, 3.0, 4.0, 5.0]), 5.0 * DAY, 6.0 * DAY), None);
    }

    #[test]
    fn what_swings_does_not_grow() {
        let saw: Vec<f64> = (0..14).map(|day| f64::from(day % 4) * 10.0 + f64::from(day) / 10.0).collect();
        assert!(close(growth(&saw), 0.0));
        assert!(close(growth(&[9.0, 8.0, 7.0, 6.0, 5.0]), 0.0), "what shrinks is never full");
    }

    #[test]
    fn too_little_says_nothing() {
        assert_eq!(steady_growth(&days(&[1.0, 2.0, 3.0, 4.0]), 0.0), None);
        assert_eq!(steady_growth(&days(&[1.0, 2.0, 3.0, 4.0, 5.0]), 5.0 * DAY), None);
        assert!(steady_growth(&days(&[1.0, 2.0, 3.0, 4.0, 5.0]), 4.0 * DAY).is_some());
        let same = vec![days(&[1.0])[0]; 9];
        assert_eq!(steady_growth(&same, 0.0), Some(0.0), "all at one time");
    }

    #[test]
    fn several_series_are_added_up_where_they_meet() {
        let (long, late) = (days(&[1.0, 2.0, 3.0]), days(&[0.0, 10.0, 20.0])[1..].to_vec());
        let values: Vec<f64> = sum([&long[..], &late[..]]).iter().map(|point| point.value).collect();
        assert_eq!(values, [1.0, 12.0, 23.0]);
        assert!(close(difference(&long), 2.0) && close(span(&long), 2.0 * DAY));
    }
}
