//! An answer without a model: the sentences that fit the question best, quoted with their passages.

use super::words::{content_words, coverage, sentences};
use crate::search::Passage;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

const MOST_QUOTES: usize = 3;
/// Sentences are taken from that many passages: the later ones fit less.
const MOST_PASSAGES: usize = 5;
const LONGEST_QUOTE: usize = 400;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Quote {
    /// Of the passage, from 1.
    pub(super) n: usize,
    pub(super) text: String,
}

/// In the order of the passages. Never empty when there is a passage with text.
pub(super) fn quotes(question: &str, passages: &[Passage]) -> Vec<Quote> {
    let question = content_words(question);
    let mut candidates: Vec<(usize, &str, HashSet<String>)> = Vec::new();
    for (n, passage) in (1..).zip(passages.iter().take(MOST_PASSAGES)) {
        candidates.extend(sentences(&passage.content).into_iter().map(|text| (n, text, content_words(text))));
    }
    let weights = rarity(&question, &candidates);
    let fit = |n: usize, words: &HashSet<String>| {
        let weight: f64 = question.intersection(words).filter_map(|word| weights.get(word)).sum();
        // What search put first counts for something, too; a sentence of a word or two says nothing.
        let brevity = if words.len() < 3 { 0.3 } else { 1.0 };
        brevity * (weight + 0.2 * coverage(&question, words)) / (1.0 + 0.1 * (n - 1) as f64)
    };
    let mut scored: Vec<(f64, usize, usize, &str)> =
        candidates.iter().enumerate().map(|(order, (n, text, words))| (fit(*n, words), order, *n, *text)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let best = scored.first().map_or(0.0, |first| first.0);
    // Half as good as the best is not worth reading.
    scored.retain(|candidate| candidate.0 >= best / 2.0);
    let mut seen = HashSet::new();
    scored.retain(|candidate| seen.insert(candidate.3));
    scored.truncate(if best > 0.0 { MOST_QUOTES } else { 1 });
    scored.sort_by_key(|candidate| candidate.1);
    scored.into_iter().map(|(_, _, n, text)| Quote { n, text: shortened(text) }).collect()
}

/// For people: why there are only quotes, and the quotes.
pub(super) fn rendered(reason: &str, quotes: &[Quote]) -> String {
    let mut text = format!("{reason} These passages fit best:");
    for quote in quotes {
        let _ = write!(text, "\n\n“{}” [{}]", quote.text, quote.n);
    }
    text
}

/// A word that few sentences have tells more.
fn rarity(question: &HashSet<String>, sentences: &[(usize, &str, HashSet<String>)]) -> HashMap<String, f64> {
    let weight = |word: &String| {
        let having = sentences.iter().filter(|(_, _, words)| words.contains(word)).count();
        (1.0 + sentences.len() as f64 / (1.0 + having as f64)).ln()
    };
    question.iter().map(|word| (word.clone(), weight(word))).collect()
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST_QUOTE {
        return line;
    }
    let kept: String = line.chars().take(LONGEST_QUOTE).collect();
    let at_word = kept.rsplit_once(' ').map_or(kept.as_str(), |(words, _)| words);
    format!("{at_word} …")
}

#[cfg(test)]
mod tests {
    use super::super::fixture::passage;
    use super::*;

    #[test]
    fn the_sentence_that_fits_is_quoted_with_its_passage() {
        let passages = [
            passage("The heap is a file. Vacuum removes dead rows."),
            passage("Every page of the heap is 8192 bytes large. It begins with a header."),
        ];
        let quotes = quotes("How large is a page of the heap?", &passages);
        assert_eq!(quotes[0], Quote { n: 2, text: "Every page of the heap is 8192 bytes large.".to_owned() });
        let text = rendered("No model is configured.", &quotes);
        assert!(text.starts_with("No model is configured. ") && text.ends_with("8192 bytes large.” [2]"), "{text}");
    }

    #[test]
    fn a_question_whose_words_are_nowhere_gets_the_first_sentence() {
        assert_eq!(quotes("??", &[passage("One. Two.")]), [Quote { n: 1, text: "One.".to_owned() }]);
        assert_eq!(quotes("x", &[]), []);
    }

    #[test]
    fn the_same_sentence_is_quoted_once_and_a_long_one_is_cut_at_a_word() {
        let long = format!("Pages {}", "are ölig ".repeat(200));
        let quotes = quotes("pages", &[passage(&long), passage(&long)]);
        assert_eq!(quotes.len(), 1);
        assert!(quotes[0].text.chars().count() <= LONGEST_QUOTE + 2 && quotes[0].text.ends_with(" …"));
    }
}
