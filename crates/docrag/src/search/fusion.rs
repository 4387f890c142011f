//! Reciprocal rank fusion: Cormack, Clarke and Büttcher, SIGIR 2009.
//!
//! A passage's score is the sum, over the lists that it is in, of 1 / (k + rank), with ranks from 1. Only ranks count, so
//! that cosines and BM25 need not be comparable. Equal scores are ordered by id: the same lists always give the same
//! order.

use crate::index::Hit;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// A chunk with where it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fused {
    pub id: Uuid,
    /// What it is sorted by.
    pub score: f64,
    pub cosine: Option<f32>,
    pub bm25: Option<f32>,
}

/// Brings hits into the order that ranks are counted in: the highest score first, equal ones by id. An index may return
/// equal scores in any order.
pub fn ranked(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    hits
}

/// Fuses two ranked lists. The first passage of each document, by its own score, speaks for the document: it gets the
/// score of the document's best ranks, since words and meaning often find different passages of the same document, and
/// what both found would lose to what only one did.
pub fn fuse(dense: &[Hit], lexical: &[Hit], k: f64) -> Vec<Fused> {
    let mut by_id: HashMap<Uuid, (Uuid, Fused)> = HashMap::with_capacity(dense.len() + lexical.len());
    let mut by_document: HashMap<Uuid, f64> = HashMap::new();
    for (list, is_dense) in [(dense, true), (lexical, false)] {
        let mut seen: HashSet<Uuid> = HashSet::with_capacity(list.len());
        for (rank, hit) in (1_u32..).zip(list) {
            let share = 1.0 / (k + f64::from(rank));
            let (_, fused) = by_id.entry(hit.id).or_insert_with(|| (hit.doc_id, nothing(hit.id)));
            fused.score += share;
            *(if is_dense { &mut fused.cosine } else { &mut fused.bm25 }) = Some(hit.score);
            if seen.insert(hit.doc_id) {
                *by_document.entry(hit.doc_id).or_default() += share;
            }
        }
    }
    let mut fused: Vec<(Uuid, Fused)> = by_id.into_values().collect();
    fused.sort_unstable_by(|(_, a), (_, b)| order(a, b));
    for (document, passage) in &mut fused {
        if let Some(score) = by_document.remove(document) {
            passage.score = score;
        }
    }
    let mut fused: Vec<Fused> = fused.into_iter().map(|(_, fused)| fused).collect();
    fused.sort_unstable_by(order);
    fused
}

/// The best first; among equals, which are common, the one that has more of the words.
fn order(a: &Fused, b: &Fused) -> Ordering {
    let bm25 = |found: &Fused| found.bm25.unwrap_or(f32::NEG_INFINITY);
    b.score.total_cmp(&a.score).then(bm25(b).total_cmp(&bm25(a))).then(a.id.cmp(&b.id))
}

/// A ranked list on its own, scored by cosine.
pub fn by_cosine(dense: &[Hit]) -> Vec<Fused> {
    let alone = |hit: &Hit| Fused { score: f64::from(hit.score), cosine: Some(hit.score), ..nothing(hit.id) };
    dense.iter().map(alone).collect()
}

/// A ranked list on its own, scored by BM25.
pub fn by_bm25(lexical: &[Hit]) -> Vec<Fused> {
    let alone = |hit: &Hit| Fused { score: f64::from(hit.score), bm25: Some(hit.score), ..nothing(hit.id) };
    lexical.iter().map(alone).collect()
}

fn nothing(id: Uuid) -> Fused {
    Fused { id, score: 0.0, cosine: None, bm25: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hits(ids: &[u128]) -> Vec<Hit> {
        let hit = |(rank, id): (usize, &u128)| Hit {
            id: Uuid::from_u128(*id),
            doc_id: Uuid::from_u128(*id),
            score: 1.0 - rank as f32 / 100.0,
        };
        ids.iter().enumerate().map(hit).collect()
    }

    fn ids(fused: &[Fused]) -> Vec<u128> {
        fused.iter().map(|found| found.id.as_u128()).collect()
    }

    #[test]
    fn found_by_both_beats_found_first_by_one() {
        let fused = fuse(&hits(&[1, 2, 3]), &hits(&[4, 2, 5]), 60.0);
        assert_eq!(ids(&fused), [2, 4, 1, 5, 3], "of equal scores, the one found by its words is first");
        assert!((fused[0].score - 2.0 / 62.0).abs() < 1e-12);
        assert_eq!((fused[0].cosine.is_some(), fused[0].bm25.is_some()), (true, true));
        assert_eq!((fused[1].cosine, fused[1].bm25), (None, Some(1.0)));
    }

    #[test]
    fn the_first_passage_of_a_document_has_the_credit_of_all_its_passages_and_the_others_their_own() {
        let hit = |id: u128, doc: u128| Hit { id: Uuid::from_u128(id), doc_id: Uuid::from_u128(doc), score: 1.0 };
        // Document 7 is second in both lists, with different passages; documents 1 and 2 are first in one list each.
        let dense = [hit(1, 1), hit(71, 7), hit(72, 7)];
        let lexical = [hit(2, 2), hit(73, 7), hit(1, 1)];
        let fused = fuse(&dense, &lexical, 60.0);
        assert_eq!(ids(&fused), [1, 73, 2, 71, 72]);
        let scores: Vec<f64> = fused.iter().map(|found| found.score).collect();
        let share = |rank: f64| 1.0 / (60.0 + rank);
        let wanted = [share(1.0) + share(3.0), 2.0 * share(2.0), share(1.0), share(2.0), share(3.0)];
        assert!(scores.iter().zip(wanted).all(|(score, wanted)| (score - wanted).abs() < 1e-12), "{scores:?}");
    }

    #[test]
    fn equal_scores_are_ranked_by_id_whatever_order_the_index_gave_them_in() {
        let same = |id| Hit { id: Uuid::from_u128(id), doc_id: Uuid::nil(), score: 0.5 };
        assert_eq!(ranked(vec![same(3), same(1), same(2)]), ranked(vec![same(2), same(3), same(1)]));
    }

    proptest! {
        #[test]
        fn fusing_keeps_every_hit_once_and_respects_both_lists(
            dense in prop::collection::hash_set(0_u128..60, 0..40),
            lexical in prop::collection::hash_set(0_u128..60, 0..40),
            k in 1.0_f64..200.0,
        ) {
            let dense: Vec<u128> = dense.into_iter().collect();
            let lexical: Vec<u128> = lexical.into_iter().collect();
            let fused = ids(&fuse(&hits(&dense), &hits(&lexical), k));
            prop_assert_eq!(&fused, &ids(&fuse(&hits(&dense), &hits(&lexical), k)), "the same twice");
            let mut all: Vec<u128> = dense.iter().chain(&lexical).copied().collect();
            all.sort_unstable();
            all.dedup();
            let mut kept = fused.clone();
            kept.sort_unstable();
            prop_assert_eq!(kept, all);
            // Before another in one list and not behind it in the other: before it in the end.
            let rank = |list: &[u128], id| list.iter().position(|other| *other == id).unwrap_or(usize::MAX);
            for (first, second) in fused.iter().zip(fused.iter().skip(1)) {
                let worse = rank(&dense, *first) > rank(&dense, *second) && rank(&lexical, *first) > rank(&lexical, *second);
                prop_assert!(!worse, "{} before {}", first, second);
            }
        }
    }
}
