//! Text in, words out: lower-cased, without accents, without English stop words, reduced to their English stems.
//!
//! Whatever is not a letter or a digit parts words, so a query has no syntax: `pg_stat_activity` is three words, and so is
//! `a:b OR (c`.

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
};

/// Bytes of the longest word that is kept: a SHA-512 in hexadecimal digits is; what is longer nobody types.
const LONGEST_WORD: usize = 130;

#[derive(Clone)]
pub(super) struct Analyzer(TextAnalyzer);

impl Analyzer {
    pub(super) fn new() -> Self {
        let words = TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(RemoveLongFilter::limit(LONGEST_WORD))
            .filter(LowerCaser)
            .filter(AsciiFoldingFilter)
            .filter(StopWordFilter::new(Language::English).expect("there is an English list of stop words"))
            .filter(Stemmer::new(Language::English));
        Self(words.build())
    }

    pub(super) fn each_word(&mut self, text: &str, mut take: impl FnMut(&str)) {
        self.0.token_stream(text).process(&mut |token| take(&token.text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_stems_without_case_accents_stop_words_and_punctuation() {
        let mut words = Vec::new();
        let text = "The Vacuuming of pg_stat_activity: Café\u{0}'s naïveté? id:x^2 OR \"unbalanced AND (*) -- ; DROP";
        Analyzer::new().each_word(text, |word| words.push(word.to_owned()));
        assert_eq!(words, ["vacuum", "pg", "stat", "activ", "cafe", "s", "naivet", "id", "x", "2", "unbalanc", "drop"]);
    }
}
