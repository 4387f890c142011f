//! BM25 (Robertson and Zaragoza 2009, in Lucene's form) with k1 0.9 and b 0.4, the parameters that Anserini takes for
//! passages: all chunks are at most some hundred tokens long, so that length says little about them. tantivy's own are fixed
//! at 1.2 and 0.75, which are for whole documents.
//!
//! Every chunk that has one of the words is scored. Skipping those that cannot be among the best (block-max WAND) took
//! longer at a hundred hits, from two words on.

use super::holdings::Totals;
use super::{DOCUMENT, Fields};
use crate::index::ordinals::Chosen;
use tantivy::postings::Postings;
use tantivy::schema::IndexRecordOption;
use tantivy::{DocAddress, DocSet, Searcher, SegmentReader, TERMINATED, Term};

const K1: f32 = 0.9;
const B: f32 = 0.4;

/// A word of the query with what it is worth.
struct Weighed {
    term: Term,
    weight: f32,
}

/// The best `limit` chunks, the best first. Each word counts as often as the query has it.
pub(super) fn best(
    searcher: &Searcher,
    fields: Fields,
    terms: Vec<(Term, u32)>,
    totals: Totals,
    chosen: Option<&Chosen>,
    limit: usize,
) -> tantivy::Result<Vec<(f32, DocAddress)>> {
    let mut words = Vec::with_capacity(terms.len());
    for (term, times) in terms {
        // tantivy counts deleted chunks until their segment is merged.
        let found = searcher.doc_freq(&term)?.min(totals.chunks);
        if found > 0 {
            words.push(Weighed { term, weight: times as f32 * rarity(found, totals.chunks) * (K1 + 1.0) });
        }
    }
    let mean_length = totals.words as f32 / totals.chunks.max(1) as f32;
    let mut found = Vec::new();
    for (ordinal, segment) in (0_u32..).zip(searcher.segment_readers()) {
        score_segment(segment, ordinal, fields, &words, mean_length, chosen, &mut found)?;
        keep_best(&mut found, limit);
    }
    found.sort_unstable_by(order);
    Ok(found)
}

/// Inverse document frequency: never negative, also for a word that all chunks have.
fn rarity(found: u64, all: u64) -> f32 {
    let (found, all) = (found as f32, all as f32);
    (1.0 + (all - found + 0.5) / (found + 0.5)).ln()
}

fn score_segment(
    segment: &SegmentReader,
    ordinal: u32,
    fields: Fields,
    words: &[Weighed],
    mean_length: f32,
    chosen: Option<&Chosen>,
    found: &mut Vec<(f32, DocAddress)>,
) -> tantivy::Result<()> {
    let inverted = segment.inverted_index(fields.words)?;
    let lengths = segment.get_fieldnorms_reader(fields.words)?;
    let mut scores = vec![0.0_f32; segment.max_doc() as usize];
    let mut touched = Vec::new();
    for word in words {
        let Some(mut postings) = inverted.read_postings(&word.term, IndexRecordOption::WithFreqs)? else { continue };
        let mut chunk = postings.doc();
        while chunk != TERMINATED {
            let (often, length) = (postings.term_freq() as f32, lengths.fieldnorm(chunk) as f32);
            let score = &mut scores[chunk as usize];
            if *score == 0.0 {
                touched.push(chunk);
            }
            *score += word.weight * often / (often + K1 * (1.0 - B + B * length / mean_length));
            chunk = postings.advance();
        }
    }
    let documents = segment.fast_fields().u64(DOCUMENT)?;
    let wanted = |chunk: u32| {
        !segment.is_deleted(chunk)
            && chosen.is_none_or(|chosen| documents.first(chunk).is_some_and(|number| chosen.contains(number as u32)))
    };
    let hits = touched.into_iter().filter(|chunk| wanted(*chunk));
    found.extend(hits.map(|chunk| (scores[chunk as usize], DocAddress::new(ordinal, chunk))));
    Ok(())
}

fn keep_best(found: &mut Vec<(f32, DocAddress)>, limit: usize) {
    if found.len() > limit {
        found.select_nth_unstable_by(limit, order);
        found.truncate(limit);
    }
}

fn order(a: &(f32, DocAddress), b: &(f32, DocAddress)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_worth_more_the_fewer_chunks_have_it_and_never_nothing() {
        let worth: Vec<f32> = [1, 10, 50, 100].iter().map(|found| rarity(*found, 100)).collect();
        assert!(worth.is_sorted_by(|a, b| a > b) && worth[3] > 0.0, "{worth:?}");
        // ln(1 + 99.5 / 1.5)
        assert!((worth[0] - 4.209_66).abs() < 1e-4, "{worth:?}");
    }

    #[test]
    fn the_best_are_kept_in_order() {
        let hit = |score: f32, chunk| (score, DocAddress::new(0, chunk));
        let mut found = vec![hit(1.0, 4), hit(3.0, 2), hit(2.0, 3), hit(3.0, 1)];
        keep_best(&mut found, 3);
        found.sort_unstable_by(order);
        assert_eq!(found, [hit(3.0, 1), hit(3.0, 2), hit(2.0, 3)]);
    }
}
