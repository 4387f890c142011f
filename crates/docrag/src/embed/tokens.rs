//! Counting tokens: as the local model's tokenizer does, or about so when the model is remote.

use super::EmbedError;
use super::wordpiece::WordPiece;
use std::path::Path;
use std::sync::Arc;

/// Counts tokens as the model does, or about so when the model is remote and its tokenizer is not known. Cheap to clone.
#[derive(Clone)]
pub struct TokenCounter(Kind);

#[derive(Clone)]
enum Kind {
    Exact(Arc<WordPiece>),
    Approximate,
}

impl TokenCounter {
    /// The tokenizer of the local model: `tokenizer.json` in `folder`.
    pub fn load(folder: &Path) -> Result<Self, EmbedError> {
        let path = folder.join("tokenizer.json");
        let wrong = |cause: String| EmbedError::Model(format!("{}: {cause}", path.display()));
        let json = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        Ok(Self::exact(Arc::new(WordPiece::from_json(&json).map_err(wrong)?)))
    }

    pub(super) fn exact(tokenizer: Arc<WordPiece>) -> Self {
        Self(Kind::Exact(tokenizer))
    }

    /// For remote models and for tests: about what `WordPiece` and byte-pair tokenizers make of a text. A run of letters
    /// and digits counts one token for every five characters or part of them, an ideograph one, and everything else that
    /// is not space one.
    pub fn approximate() -> Self {
        Self(Kind::Approximate)
    }

    /// Without special tokens.
    pub fn count(&self, text: &str) -> usize {
        match &self.0 {
            Kind::Exact(tokenizer) => tokenizer.count(text),
            Kind::Approximate => approximate(text),
        }
    }
}

fn approximate(text: &str) -> usize {
    const PIECE: usize = 5;
    let (mut tokens, mut run) = (0, 0_usize);
    for character in text.chars() {
        if character.is_alphanumeric() && !is_written_without_spaces(character) {
            run += 1;
            continue;
        }
        tokens += run.div_ceil(PIECE) + usize::from(!character.is_whitespace());
        run = 0;
    }
    tokens + run.div_ceil(PIECE)
}

/// Tokenizers take about every character of these scripts for itself.
fn is_written_without_spaces(character: char) -> bool {
    matches!(u32::from(character),
        0x0E00..=0x0EFF | 0x3040..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7AF | 0xF900..=0xFAFF
        | 0x20000..=0x2FA1F)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_approximation_counts_words_pieces_signs_and_ideographs() {
        let counter = TokenCounter::approximate();
        let counts = [("", 0), ("a b", 2), ("max_connections = 100", 7), ("connection", 2), ("日本語", 3), (" \n ", 0)];
        for (text, expected) in counts {
            assert_eq!(counter.count(text), expected, "{text}");
        }
    }
}
