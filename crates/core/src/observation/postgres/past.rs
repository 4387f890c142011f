//! A statement beside its own past: the keeper's record has its rates by the hour, and a reading brings them along.

use serde::{Deserialize, Serialize};

/// Hours with fewer calls say little of a mean.
const CALLS_PER_HOUR: f64 = 10.0;

/// What a statement did in one hour, as rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Seconds of execution in each second.
    pub load: f64,
    /// Calls in each second.
    pub calls: f64,
    /// Rows in each second.
    pub rows: f64,
}

impl Pace {
    /// Seconds of one call.
    pub fn mean(&self) -> f64 {
        self.load / self.calls
    }

    pub fn rows_per_call(&self) -> f64 {
        self.rows / self.calls
    }

    fn tells(&self) -> bool {
        self.calls * 3600.0 >= CALLS_PER_HOUR
    }

    /// Of hours together: long hours with many calls weigh more.
    fn together(hours: &[Self]) -> Self {
        let sum = |part: fn(&Self) -> f64| hours.iter().map(part).sum::<f64>() / hours.len() as f64;
        Self { load: sum(|hour| hour.load), calls: sum(|hour| hour.calls), rows: sum(|hour| hour.rows) }
    }
}

/// A leading statement's latest time beside the time before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Past {
    pub query_id: i64,
    pub latest: Pace,
    /// How many hours with calls the time before has.
    pub hours: u32,
    /// Seconds of one call: the median of those hours.
    pub usual: f64,
    /// The 95th of a hundred of those hours: what is slow each night is no news in the night.
    pub high: f64,
    /// Medians of those hours.
    pub rows_per_call: f64,
    pub calls: f64,
}

impl Past {
    /// None unless both times have hours that tell something.
    pub fn of(query_id: i64, latest: &[Pace], before: &[Pace]) -> Option<Self> {
        let telling = |hours: &[Pace]| hours.iter().copied().filter(Pace::tells).collect::<Vec<_>>();
        let (latest, before) = (telling(latest), telling(before));
        if latest.is_empty() {
            return None;
        }
        let ranked = |part: fn(&Pace) -> f64, rank: f64| quantile(before.iter().map(part).collect(), rank);
        Some(Self {
            query_id,
            latest: Pace::together(&latest),
            hours: before.len() as u32,
            usual: ranked(Pace::mean, 0.5)?,
            high: ranked(Pace::mean, 0.95)?,
            rows_per_call: ranked(Pace::rows_per_call, 0.5)?,
            calls: ranked(|hour| hour.calls, 0.5)?,
        })
    }

    /// How many times as long a call takes as it used to.
    pub fn factor(&self) -> f64 {
        if self.usual > 0.0 { self.latest.mean() / self.usual } else { 1.0 }
    }

    /// Whether a call takes longer than it used to, by more than its own slow hours, and does not simply return more.
    /// `growth` is in seconds: a thousandth more is not felt.
    pub fn is_slower(&self, factor: f64, growth: f64) -> bool {
        let mean = self.latest.mean();
        let returns_more = self.latest.rows_per_call() > self.rows_per_call.max(1.0) * 1.5;
        self.factor() >= factor && mean - self.usual >= growth && mean > self.high && !returns_more
    }

    /// How many times as often it is called as it used to be.
    pub fn calls_factor(&self) -> f64 {
        if self.calls > 0.0 { self.latest.calls / self.calls } else { 1.0 }
    }
}

/// The value at that rank (0 to 1) of an ordered list, the nearest above.
fn quantile(mut values: Vec<f64>, rank: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * rank).ceil() as usize;
    values.get(place.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour with a call a second and one row a call.
    fn hour(mean: f64) -> Pace {
        Pace { load: mean, calls: 1.0, rows: 1.0 }
    }

    fn past(latest: Pace, before: &[Pace]) -> Past {
        Past::of(1, &[latest], before).unwrap()
    }

    #[test]
    fn a_jump_of_the_mean_is_told_and_a_slow_night_is_not() {
        let steady = vec![hour(0.010); 100];
        assert!(past(hour(0.020), &steady).is_slower(2.0, 0.005));
        assert!(!past(hour(0.019), &steady).is_slower(2.0, 0.005));
        assert!(!past(hour(0.010), &[hour(0.001); 50]).is_slower(2.0, 0.010), "it grew by 9 ms only");
        let nights: Vec<Pace> = (0..96).map(|at| hour(if at % 24 < 3 { 0.050 } else { 0.010 })).collect();
        assert!(!past(hour(0.045), &nights).is_slower(2.0, 0.005));
        assert!(past(hour(0.060), &nights).is_slower(2.0, 0.005));
    }

    #[test]
    fn whoever_returns_more_rows_may_take_longer() {
        let steady = vec![hour(0.010); 100];
        assert!(!past(Pace { rows: 3.0, ..hour(0.030) }, &steady).is_slower(2.0, 0.005));
        assert!(past(Pace { rows: 1.4, ..hour(0.030) }, &steady).is_slower(2.0, 0.005));
    }

    #[test]
    fn calls_weigh_and_hours_without_calls_do_not_count() {
        let busy = Pace { load: 9.0, calls: 90.0, rows: 90.0 };
        let seen = Past::of(1, &[busy, hour(1.0), Pace::default()], &[hour(0.1), Pace::default()]).unwrap();
        assert!((seen.latest.mean() - 10.0 / 91.0).abs() < 1e-9);
        assert_eq!(seen.hours, 1);
        assert_eq!(Past::of(1, &[], &[hour(0.1)]), None);
        assert_eq!(Past::of(1, &[hour(0.1)], &[]), None);
        assert!((seen.calls_factor() - 45.5).abs() < 1e-9);
    }
}
