//! Whether anything was found that could answer. If not, no model is asked: it would make something up.

use super::words::{content_words, coverage};
use crate::search::Passage;

/// Share of the question's words of which one passage must have more to count as relevant by its words.
const HALF: f64 = 0.5;

/// Why to abstain; nothing when there is something to answer from.
///
/// A passage is relevant when its cosine is at least `min_cosine`, or when it was found by its words and has most of the
/// question's words. The second is for names and numbers, which embeddings know little about, and is all there is when
/// the search was by keywords only. BM25 itself says nothing here: it grows with the length of the question.
///
/// The default of .3 for all-MiniLM-L6-v2: of the judged queries of Cranfield and CACM none has a lower best cosine, of 30
/// questions about other matters 29 have. Another model needs another figure.
pub(super) fn abstain(question: &str, passages: &[Passage], min_cosine: f32) -> Option<String> {
    if passages.is_empty() {
        return Some("nothing was found".to_owned());
    }
    if passages.iter().any(|passage| passage.cosine.is_some_and(|cosine| cosine >= min_cosine)) {
        return None;
    }
    let question = content_words(question);
    let has_its_words = |passage: &Passage| {
        let title = passage.title.as_deref().unwrap_or_default();
        let text = content_words(&format!("{title} {} {}", passage.heading, passage.content));
        passage.bm25.is_some() && coverage(&question, &text) > HALF
    };
    if passages.iter().any(has_its_words) {
        return None;
    }
    let best = passages.iter().filter_map(|passage| passage.cosine).max_by(f32::total_cmp);
    Some(match best {
        Some(best) => {
            format!("nothing that was found is about the question (best cosine {best:.2}, {min_cosine:.2} is wanted)")
        }
        None => "nothing that was found has enough of the question's words".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::passage;
    use super::*;

    const QUESTION: &str = "How large is a page of the heap?";

    #[test]
    fn a_near_passage_is_answered_from_and_a_far_one_is_not() {
        let far = Passage { cosine: Some(0.2), ..passage("Cats sleep.") };
        assert!(abstain(QUESTION, std::slice::from_ref(&far), 0.3).unwrap().contains("0.20"));
        let near = Passage { cosine: Some(0.3), ..passage("A block has 8192 bytes.") };
        assert_eq!(abstain(QUESTION, &[far, near], 0.3), None);
    }

    #[test]
    fn without_vectors_the_words_decide() {
        let found = |content| [Passage { bm25: Some(9.0), ..passage(content) }];
        assert_eq!(abstain(QUESTION, &found("The heap's pages have 8 kB."), 0.3), None);
        assert!(abstain(QUESTION, &found("A large elephant."), 0.3).is_some());
    }

    #[test]
    fn nothing_found_is_nothing_answered() {
        assert_eq!(abstain(QUESTION, &[], 0.0), Some("nothing was found".to_owned()));
    }
}
