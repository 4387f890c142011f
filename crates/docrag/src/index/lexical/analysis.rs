//! Text in, words out: lower-cased, without accents, without English stop words, reduced to their English stems.
//!
//! Whatever is not a letter or a digit parts words, so a query has no syntax: `pg_stat_activity` is three words, and so is
//! `a:b OR (c`.

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
};

/// Bytes of the longest word that is kept: a SHA-512 in hexadecimal digits is; what is longer nobody types.
const LONGEST_WORD: usize = 130;

/// What a question has beyond the stop words of texts: in a corpus of short texts, "what" and "how" are rare words, and
/// weigh as much as what is asked for. This is the list of NLTK, after Snowball's first one.
const QUESTION_WORDS: &str = "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself \
    she her hers herself it its itself they them their theirs themselves what which who whom this that these those am is \
    are was were be been being have has had having do does did doing a an the and but if or because as until while of at \
    by for with about against between into through during before after above below to from up down in out on off over \
    under again further then once here there when where why how all any both each few more most other some such no nor \
    not only own same so than too very s t can will just don should now";
/// With fewer words left, a query is no question with words around it: in "having clause", both are meant.
const LEFT_OF_A_QUESTION: usize = 3;

#[derive(Clone)]
pub(super) struct Analyzer {
    texts: TextAnalyzer,
    questions: TextAnalyzer,
}

impl Analyzer {
    pub(super) fn new() -> Self {
        let texts = StopWordFilter::new(Language::English).expect("there is an English list of stop words");
        let questions = StopWordFilter::remove(QUESTION_WORDS.split_whitespace().map(str::to_owned));
        let words = || {
            TextAnalyzer::builder(SimpleTokenizer::default())
                .filter(RemoveLongFilter::limit(LONGEST_WORD))
                .filter(LowerCaser)
                .filter(AsciiFoldingFilter)
        };
        let stems = Stemmer::new(Language::English);
        Self {
            texts: words().filter(texts.clone()).filter(stems.clone()).build(),
            questions: words().filter(texts).filter(questions).filter(stems).build(),
        }
    }

    pub(super) fn each_word(&mut self, text: &str, mut take: impl FnMut(&str)) {
        self.texts.token_stream(text).process(&mut |token| take(&token.text));
    }

    /// The words that a query asks for, in its order and as often as it has them.
    pub(super) fn query(&mut self, query: &str) -> Vec<String> {
        let mut words = Vec::new();
        self.questions.token_stream(query).process(&mut |token| words.push(token.text.clone()));
        if words.len() < LEFT_OF_A_QUESTION {
            words.clear();
            self.each_word(query, |word| words.push(word.to_owned()));
        }
        words
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

    #[test]
    fn a_question_is_what_it_asks_for_and_a_few_words_are_all_meant() {
        let query = |text: &str| Analyzer::new().query(text);
        assert_eq!(
            query("What articles exist which deal with time sharing?"),
            ["articl", "exist", "deal", "time", "share"]
        );
        assert_eq!(query("HAVING clause"), ["have", "claus"]);
        assert_eq!(query("who are you"), ["who", "you"]);
        assert_eq!(query("the"), [""; 0]);
    }
}
