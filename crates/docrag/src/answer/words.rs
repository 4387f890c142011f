//! Words of questions and passages, for two coarse purposes: whether a passage is about the question at all, and which of
//! its sentences to quote. Search has its own, better analysis.

use std::collections::HashSet;

/// English words that say nothing about what a question is about. Other languages go without: their questions keep a few
/// words more.
const EMPTY_WORDS: &[&str] = &[
    "a", "about", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do",
    "does", "explain", "for", "from", "give", "had", "has", "have", "how", "i", "if", "in", "into", "is", "it", "its",
    "many", "may", "me", "mean", "much", "my", "no", "not", "of", "on", "one", "or", "our", "please", "shall",
    "should", "so", "some", "such", "tell", "than", "that", "the", "their", "them", "then", "there", "these", "they",
    "this", "those", "to", "us", "use", "used", "using", "was", "we", "were", "what", "when", "where", "which", "who",
    "whom", "whose", "why", "will", "with", "would", "you", "your",
];

/// The distinct words that carry meaning, stemmed a little.
pub(super) fn content_words(text: &str) -> HashSet<String> {
    let mut words = HashSet::new();
    let lower = text.to_lowercase();
    for run in lower.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty()) {
        if run.chars().any(is_ideograph) {
            // No blanks between words there: single characters do.
            words.extend(run.chars().map(String::from));
        } else if !EMPTY_WORDS.contains(&run) {
            words.insert(stem(run).to_owned());
        }
    }
    words
}

/// Share of the question's words that the text has; 0 for a question without words.
pub(super) fn coverage(question: &HashSet<String>, text: &HashSet<String>) -> f64 {
    if question.is_empty() {
        return 0.0;
    }
    question.intersection(text).count() as f64 / question.len() as f64
}

/// Plurals and the commonest endings of verbs, in words that are long enough to keep a stem.
fn stem(word: &str) -> &str {
    for ending in ["ations", "ation", "ings", "ing", "ies", "ed", "es", "s", "e", "y"] {
        if let Some(stem) = word.strip_suffix(ending)
            && stem.chars().count() >= 3
            && !stem.ends_with('s')
        {
            return stem;
        }
    }
    word
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ac00}'..='\u{d7af}')
}

/// Sentences of a passage, trimmed. A line that does not go on (a heading, a list item, code) is one, too.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let end = at + c.len_utf8();
        let next = characters.peek().map(|(_, next)| *next);
        let ends = match c {
            '。' | '！' | '？' | '\n' => true,
            '.' | '!' | '?' => next.is_none_or(char::is_whitespace) && begins_sentence(&text[end..]),
            _ => false,
        };
        if ends {
            found.push(text[start..end].trim());
            start = end;
        }
    }
    found.push(text[start..].trim());
    found.retain(|sentence| !sentence.is_empty());
    found
}

/// After an abbreviation a small letter or a number follows.
fn begins_sentence(rest: &str) -> bool {
    rest.trim_start().chars().next().is_none_or(|c| !c.is_lowercase() && !c.is_numeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_meet_in_their_other_forms_and_empty_ones_are_left_out() {
        let question = content_words("How do I configure the indexes for vacuuming?");
        let text = content_words("Vacuum is configured by these settings; an index is cleaned.");
        assert!((coverage(&question, &text) - 1.0).abs() < f64::EPSILON, "{question:?} {text:?}");
        assert!(coverage(&content_words("capital of France"), &text) < f64::EPSILON);
        assert!(coverage(&content_words("what is it?"), &text) < f64::EPSILON, "a question without words");
        assert!(coverage(&content_words("数据库"), &content_words("这个数据库很快")) > 0.9);
    }

    #[test]
    fn sentences_end_where_the_next_begins() {
        assert_eq!(
            sentences("Pages have 8 kB, e.g. on Linux. Others, v. 16.2 too!\nTitle\n\n日本語です。次です。"),
            ["Pages have 8 kB, e.g. on Linux.", "Others, v. 16.2 too!", "Title", "日本語です。", "次です。"]
        );
        assert!(sentences(" \n ").is_empty());
    }
}
