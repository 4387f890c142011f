//! Figures of retrieval quality, as `trec_eval` computes them.

use std::collections::{BTreeMap, HashSet};

/// Grades of the judged documents of one query; a grade of 0 is judged and not relevant.
pub type Judgments = BTreeMap<String, u32>;

/// Normalised discounted cumulative gain at `depth`, from 0 to 1: gain is the grade, discount is log2(rank + 1), and
/// the ideal order is that of all judged documents (Järvelin and Kekäläinen, TOIS 2002; `trec_eval`'s `ndcg_cut`).
pub fn ndcg(ranked: &[String], judgments: &Judgments, depth: usize) -> f64 {
    let gained = unique(ranked).take(depth).map(|id| judgments.get(id).copied().unwrap_or(0));
    let mut ideal: Vec<u32> = judgments.values().copied().filter(|grade| *grade > 0).collect();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let best = discounted(ideal.into_iter().take(depth));
    if best == 0.0 { 0.0 } else { discounted(gained) / best }
}

/// Share of the relevant documents among the first `depth`, from 0 to 1.
pub fn recall(ranked: &[String], judgments: &Judgments, depth: usize) -> f64 {
    let relevant = judgments.values().filter(|grade| **grade > 0).count();
    if relevant == 0 {
        return 0.0;
    }
    let found = unique(ranked).take(depth).filter(|id| is_relevant(judgments, id)).count();
    found as f64 / relevant as f64
}

/// One over the rank of the first relevant document; 0 when none was found.
pub fn reciprocal_rank(ranked: &[String], judgments: &Judgments) -> f64 {
    let first = unique(ranked).position(|id| is_relevant(judgments, id));
    first.map_or(0.0, |rank| 1.0 / (rank + 1) as f64)
}

fn discounted(gains: impl Iterator<Item = u32>) -> f64 {
    gains.enumerate().map(|(rank, gain)| f64::from(gain) / ((rank + 2) as f64).log2()).sum()
}

fn is_relevant(judgments: &Judgments, id: &str) -> bool {
    judgments.get(id).is_some_and(|grade| *grade > 0)
}

/// A document that is named twice counts once, at its better rank.
fn unique(ranked: &[String]) -> impl Iterator<Item = &String> {
    let mut seen = HashSet::new();
    ranked.iter().filter(move |id| seen.insert(id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(ToString::to_string).collect()
    }

    fn judged(of: &[(&str, u32)]) -> Judgments {
        of.iter().map(|(id, grade)| ((*id).to_owned(), *grade)).collect()
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn ndcg_is_that_of_the_textbook() {
        // DCG = 3/1 + 2/log2(3) + 3/2 + 0 + 1/log2(6); ideal: 3, 3, 2, 1.
        let judgments = judged(&[("a", 3), ("b", 2), ("c", 3), ("d", 0), ("e", 1)]);
        let dcg = 3.0 + 2.0 / 3f64.log2() + 1.5 + 1.0 / 6f64.log2();
        let ideal = 3.0 + 3.0 / 3f64.log2() + 1.0 + 1.0 / 5f64.log2();
        close(ndcg(&names(&["a", "b", "c", "d", "e"]), &judgments, 10), dcg / ideal);
    }

    #[test]
    fn the_ideal_order_has_one() {
        close(ndcg(&names(&["b", "a"]), &judged(&[("a", 1), ("b", 2)]), 10), 1.0);
    }

    #[test]
    fn what_is_below_the_depth_does_not_count() {
        let judgments = judged(&[("a", 1)]);
        close(ndcg(&names(&["x", "a"]), &judgments, 1), 0.0);
        close(recall(&names(&["x", "a"]), &judgments, 1), 0.0);
        close(recall(&names(&["x", "a"]), &judgments, 2), 1.0);
    }

    #[test]
    fn a_document_named_twice_counts_once() {
        let judgments = judged(&[("a", 1), ("b", 1)]);
        close(recall(&names(&["a", "a"]), &judgments, 10), 0.5);
        // Two chunks of `x` take one rank: `a` is second.
        close(reciprocal_rank(&names(&["x", "x", "a"]), &judgments), 0.5);
        assert!(ndcg(&names(&["a", "a", "b"]), &judgments, 10) <= 1.0);
    }

    #[test]
    fn nothing_relevant_gives_zero_and_no_nan() {
        for judgments in [judged(&[]), judged(&[("a", 0)])] {
            close(ndcg(&names(&["a"]), &judgments, 10), 0.0);
            close(recall(&names(&["a"]), &judgments, 10), 0.0);
            close(reciprocal_rank(&names(&["a"]), &judgments), 0.0);
        }
    }
}
