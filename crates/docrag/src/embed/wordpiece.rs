//! `WordPiece` as BERT has it (Wu et al. 2016, arXiv:1609.08144; Devlin et al. 2018, arXiv:1810.04805), from a
//! `tokenizer.json` of Hugging Face: uncased, accents stripped, ideographs for themselves.
//!
//! Own code because `rten-text` 0.27 panics on words whose pieces it cannot map back into the text, does not set
//! ideographs apart and keeps the first pieces of an unknown word; the reference does neither. Unlike the reference,
//! `[SEP]` and its like in a text are text: a document cannot put control tokens before the model.

use serde::Deserialize;
use std::collections::HashMap;
use unicode_categories::UnicodeCategories;
use unicode_normalization::UnicodeNormalization;

pub(super) struct WordPiece {
    /// Words and beginnings of words.
    beginnings: HashMap<Box<str>, u32>,
    /// Later pieces, without their prefix.
    continuations: HashMap<Box<str>, u32>,
    /// Of the longest piece, in bytes: longer candidates are not looked up.
    longest: usize,
    /// Words of more characters are unknown.
    longest_word: usize,
    start: u32,
    end: u32,
    unknown: u32,
}

#[derive(Deserialize)]
struct File {
    model: Model,
    normalizer: Normalizer,
    pre_tokenizer: Kind,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    vocab: HashMap<Box<str>, u32>,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    unk_token: String,
}

#[derive(Deserialize)]
struct Normalizer {
    #[serde(rename = "type")]
    kind: String,
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

impl WordPiece {
    pub(super) fn from_json(json: &[u8]) -> Result<Self, String> {
        let File { model, normalizer, pre_tokenizer } =
            serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let uncased = normalizer.clean_text && normalizer.handle_chinese_chars && normalizer.lowercase;
        let kinds = [model.kind.as_str(), normalizer.kind.as_str(), pre_tokenizer.kind.as_str()];
        if kinds != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]
            || !uncased
            || normalizer.strip_accents == Some(false)
        {
            return Err(format!("not the tokenizer of an uncased BERT but {kinds:?}"));
        }
        let id =
            |token: &str| model.vocab.get(token).copied().ok_or_else(|| format!("{token} is not in its vocabulary"));
        let (start, end, unknown) = (id("[CLS]")?, id("[SEP]")?, id(&model.unk_token)?);
        let (mut beginnings, mut continuations) = (HashMap::new(), HashMap::new());
        for (piece, id) in model.vocab {
            match piece.strip_prefix(&model.continuing_subword_prefix) {
                Some(rest) => continuations.insert(rest.into(), id),
                None => beginnings.insert(piece, id),
            };
        }
        let longest = beginnings.keys().chain(continuations.keys()).map(|piece| piece.len()).max().unwrap_or_default();
        let longest_word = model.max_input_chars_per_word;
        Ok(Self { beginnings, continuations, longest, longest_word, start, end, unknown })
    }

    /// Tokens of a text, without special ones.
    pub(super) fn count(&self, text: &str) -> usize {
        let mut count = 0;
        self.tokens(text, |pieces| {
            count += pieces.len();
            true
        });
        count
    }

    /// What the model reads: `[CLS]`, the text, `[SEP]`; at most `limit` tokens, the rest of the text is not looked at.
    pub(super) fn encode(&self, text: &str, limit: usize) -> Vec<u32> {
        let room = limit.saturating_sub(1);
        let mut ids = vec![self.start];
        self.tokens(text, |pieces| {
            ids.extend_from_slice(&pieces[..pieces.len().min(room - ids.len())]);
            ids.len() < room
        });
        ids.push(self.end);
        ids
    }

    /// Calls `take` with each word's pieces until it returns false.
    fn tokens(&self, text: &str, take: impl FnMut(&[u32]) -> bool) {
        let clean = text.chars().filter(|&c| c != '\0' && c != '\u{fffd}' && (is_blank(c) || !c.is_other()));
        if text.is_ascii() {
            self.words(clean.map(|c| c.to_ascii_lowercase()), take);
        } else {
            let bare = clean.nfd().filter(|c| !c.is_mark_nonspacing());
            self.words(bare.flat_map(char::to_lowercase), take);
        }
    }

    fn words(&self, characters: impl Iterator<Item = char>, mut take: impl FnMut(&[u32]) -> bool) {
        let (mut word, mut pieces) = (String::new(), Vec::new());
        let mut wanted = |word: &str| {
            pieces.clear();
            self.pieces(word, &mut pieces);
            take(&pieces)
        };
        for character in characters {
            let alone = is_punctuation(character) || is_ideograph(character);
            if !alone && !character.is_whitespace() {
                word.push(character);
                continue;
            }
            if !word.is_empty() && !wanted(&word) {
                return;
            }
            word.clear();
            if alone && !wanted(character.encode_utf8(&mut [0; 4])) {
                return;
            }
        }
        if !word.is_empty() {
            wanted(&word);
        }
    }

    /// Always the longest piece that fits; a word of which some part is unknown is unknown as a whole.
    fn pieces(&self, word: &str, pieces: &mut Vec<u32>) {
        let mut rest = word;
        // Bytes are counted first because that is cheaper.
        if word.len() > self.longest_word && word.chars().count() > self.longest_word {
            rest = "";
            pieces.push(self.unknown);
        }
        while !rest.is_empty() {
            let vocabulary = if rest.len() == word.len() { &self.beginnings } else { &self.continuations };
            let ends = (1..=rest.len().min(self.longest)).rev().filter(|&end| rest.is_char_boundary(end));
            let found = ends.into_iter().find_map(|end| Some((end, *vocabulary.get(&rest[..end])?)));
            let Some((end, id)) = found else {
                pieces.clear();
                pieces.push(self.unknown);
                return;
            };
            pieces.push(id);
            rest = &rest[end..];
        }
    }
}

fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r')
}

fn is_punctuation(character: char) -> bool {
    character.is_ascii_punctuation() || (!character.is_ascii() && character.is_punctuation())
}

/// BERT's "Chinese characters"; the odd bounds are the reference's.
fn is_ideograph(character: char) -> bool {
    matches!(u32::from(character),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0xF900..=0xFAFF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B920..=0x2CEAF | 0x2F800..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Ids are the positions in this list.
    const VOCABULARY: [&str; 14] =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "un", "##aff", "##able", ",", "中", "x", "##x", "cafe", "["];

    fn tokenizer() -> WordPiece {
        let vocab: HashMap<_, _> = VOCABULARY.iter().zip(0_u32..).collect();
        let json = json!({
            "model": {"type": "WordPiece", "vocab": vocab, "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "unk_token": "[UNK]"},
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                           "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
        });
        WordPiece::from_json(json.to_string().as_bytes()).unwrap()
    }

    fn pieces(text: &str) -> Vec<&'static str> {
        let ids = tokenizer().encode(text, 1_000);
        ids[1..ids.len() - 1].iter().map(|&id| VOCABULARY[id as usize]).collect()
    }

    #[test]
    fn words_are_cut_into_the_longest_known_pieces() {
        assert_eq!(pieces("Hello,UNAFFABLE"), ["hello", ",", "un", "##aff", "##able"]);
        assert_eq!(pieces(" \t\nhello\u{a0}hello\u{0}"), ["hello", "hello"]);
        assert_eq!(pieces("CAFÉ cafe\u{301} 中hello"), ["cafe", "cafe", "中", "hello"]);
        assert_eq!(pieces(""), Vec::<&str>::new());
    }

    #[test]
    fn a_word_with_an_unknown_part_is_one_unknown() {
        assert_eq!(pieces("unaffq hello"), ["[UNK]", "hello"]);
        assert_eq!(pieces(&"x".repeat(100)).len(), 100);
        assert_eq!(pieces(&"x".repeat(101)), ["[UNK]"]);
        assert_eq!(pieces("🙂"), ["[UNK]"]);
    }

    #[test]
    fn a_text_cannot_hold_control_tokens() {
        assert_eq!(pieces("[SEP]"), ["[", "[UNK]", "[UNK]"]);
    }

    #[test]
    fn what_is_too_long_is_cut_with_its_end_token_kept() {
        let tokenizer = tokenizer();
        let text = "unaffable ".repeat(100);
        assert_eq!(tokenizer.count(&text), 300);
        let ids = tokenizer.encode(&text, 10);
        assert_eq!((ids.len(), ids[0], ids[9]), (10, 2, 3));
        assert_eq!(tokenizer.encode("hello", 10), [2, 4, 3]);
    }

    #[test]
    fn another_kind_of_tokenizer_is_refused() {
        let error = WordPiece::from_json(br#"{"model":{"type":"BPE"}}"#).err().unwrap();
        assert!(!error.is_empty());
    }
}
