//! Paired bootstrap: whether one mode is better than another on the same queries, or only luckier.
//!
//! With some hundred queries the figure of one mode is uncertain by several points, but the queries are the same for
//! both, so that the difference is known much better than either (Sakai, SIGIR 2006; Efron and Tibshirani 1993, ch. 16).

use super::random::SplitMix;

/// Resamples: enough for two digits of a 95 % interval.
const RESAMPLES: usize = 10_000;

/// The mean difference of two modes over the same queries.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Difference {
    pub mean: f64,
    /// 95 % interval of the mean, by percentiles.
    pub low: f64,
    pub high: f64,
}

impl Difference {
    /// Whether the interval leaves out zero.
    pub fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// `ours` minus `theirs`, query by query. The same input gives the same output: the generator has a fixed seed.
///
/// `None` when there is nothing to compare or the lists are not of the same queries.
pub fn paired(ours: &[f64], theirs: &[f64]) -> Option<Difference> {
    if ours.is_empty() || ours.len() != theirs.len() {
        return None;
    }
    let differences: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    let count = differences.len();
    let mean = differences.iter().sum::<f64>() / count as f64;
    let mut random = SplitMix::new(0x5EED);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| differences[random.below(count)]).sum::<f64>() / count as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some(Difference { mean, low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_gain_is_clear_and_exact() {
        let theirs: Vec<f64> = (0..50).map(|n| f64::from(n) / 100.0).collect();
        let ours: Vec<f64> = theirs.iter().map(|value| value + 0.1).collect();
        let difference = paired(&ours, &theirs).unwrap();
        assert!((difference.mean - 0.1).abs() < 1e-9 && (difference.low - 0.1).abs() < 1e-9);
        assert!(difference.is_clear());
    }

    #[test]
    fn noise_around_zero_is_not_clear() {
        let ours: Vec<f64> = (0..100).map(|n| if n % 2 == 0 { 0.3 } else { 0.0 }).collect();
        let theirs: Vec<f64> = (0..100).map(|n| if n % 2 == 0 { 0.0 } else { 0.3 }).collect();
        let difference = paired(&ours, &theirs).unwrap();
        assert!(!difference.is_clear(), "{difference:?}");
        assert!(difference.low < 0.0 && difference.high > 0.0);
    }

    #[test]
    fn the_interval_is_about_that_of_the_normal_distribution() {
        // Differences of 0 and 1 in equal parts: standard error 0.5 / sqrt(400) = 0.025.
        let ours: Vec<f64> = (0..400).map(|n| f64::from(n % 2)).collect();
        let difference = paired(&ours, &[0.0; 400]).unwrap();
        assert!((difference.mean - 0.5).abs() < 1e-9);
        assert!((difference.high - difference.low - 2.0 * 1.96 * 0.025).abs() < 0.01, "{difference:?}");
    }

    #[test]
    fn lists_of_other_queries_are_not_compared() {
        assert!(paired(&[1.0], &[]).is_none());
        assert!(paired(&[], &[]).is_none());
    }
}
