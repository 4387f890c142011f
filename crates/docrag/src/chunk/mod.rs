//! Blocks in, chunks out: by structure, counted in the model's own tokens, with ids that survive edits elsewhere in the
//! document.
//!
//! A document that fits is one chunk. Otherwise `outline` counts every sentence once, `pack` decides what goes together,
//! and `render` writes it. A chunk's id is made of its text and not of its place, so an edit re-embeds only what it
//! changes. Nothing is left out of a document for what it says.

mod outline;
mod pack;
mod render;
mod sentences;

use crate::document::Parsed;
use crate::embed::TokenCounter;
use outline::{Caps, Outliner};
use pack::{Packer, Room};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;
use uuid::Uuid;

/// What the model puts around every text: `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;
/// Longer titles are cut in what is embedded: there has to be room for the text.
const TITLE_CHARS: usize = 200;
/// Bytes that count as one token even when the model sees none.
const DENSE_BYTES: usize = 16;

/// A passage of a document: what is embedded, searched and cited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// `UUIDv5` of document, hash and the ordinal among equal chunks of that document.
    pub id: Uuid,
    /// SHA-256 of `embedded_text`.
    pub hash: [u8; 32],
    /// Reading order, from 0.
    pub position: i32,
    /// Headings above all of it, outermost first, joined by ` > `.
    pub heading: String,
    pub content: String,
    /// Of `embedded_text`, in the model's tokens.
    pub token_count: i32,
}

/// Sizes in tokens of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Of the embedded text, special tokens included; what is longer the model would not see.
    pub max_tokens: usize,
    /// Of the end of a chunk that is said again at the beginning of the next.
    pub overlap_tokens: usize,
}

#[derive(Clone)]
pub struct Chunker {
    counter: TokenCounter,
    limits: ChunkLimits,
}

impl Chunker {
    pub fn new(counter: TokenCounter, limits: ChunkLimits) -> Self {
        Self { counter, limits }
    }

    /// The chunks of a document. CPU-bound: call it on a blocking thread.
    pub fn chunks(&self, doc_id: Uuid, title: Option<&str>, parsed: &Parsed) -> Vec<Chunk> {
        let count = |text: &str| self.counter.count(text);
        let title = short_title(title);
        let title_tokens = count(&title);
        let room = Room {
            // A title that leaves no room costs the end of the text in the embedding, not an endless number of chunks.
            chunk: self
                .limits
                .max_tokens
                .saturating_sub(SPECIAL_TOKENS + title_tokens)
                .max(self.limits.max_tokens / 4)
                .max(8),
            overlap: self.limits.overlap_tokens,
        };
        let caps = Caps { atom: (room.chunk * 3 / 5).max(1), headings: room.chunk / 5 };
        let outline = Outliner::new(&count, caps).read(&title, &parsed.blocks);
        let mut ordinals = HashMap::new();
        let parts = Packer::new(&outline, &count, room).parts();
        let chunk = |(position, part)| {
            let text = render::render(&outline, &part);
            let embedded = embedded_text(Some(&title), &text.heading, &text.content);
            let hash: [u8; 32] = Sha256::digest(&embedded).into();
            let ordinal: &mut u32 = ordinals.entry(hash).or_default();
            let id = Uuid::new_v5(&doc_id, &[hash.as_slice(), &ordinal.to_be_bytes()].concat());
            *ordinal += 1;
            let titled = if begins_with(&text.content, &title) { 0 } else { title_tokens };
            let tokens = text.tokens.map_or_else(|| count(&embedded), |tokens| tokens + titled) + SPECIAL_TOKENS;
            Chunk {
                id,
                hash,
                position: position as i32,
                heading: text.heading,
                content: text.content,
                token_count: tokens as i32,
            }
        };
        (0_usize..).zip(parts).map(chunk).collect()
    }
}

/// What the model sees of a chunk: title and headings give a passage its context. A text that begins with its title
/// does not get it twice.
pub fn embedded_text(title: Option<&str>, heading: &str, content: &str) -> String {
    let title = short_title(title);
    let title = if begins_with(content, &title) { "" } else { &title };
    let parts: Vec<&str> = [title, heading, content].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

/// In one line, and not too long.
fn short_title(title: Option<&str>) -> Cow<'_, str> {
    let title = title.unwrap_or_default().trim();
    let plain =
        title.len() <= TITLE_CHARS && !title.contains("  ") && !title.contains(|c: char| c != ' ' && c.is_whitespace());
    if plain {
        return Cow::Borrowed(title);
    }
    let line = title.split_whitespace().collect::<Vec<_>>().join(" ");
    Cow::Owned(line.chars().take(TITLE_CHARS).collect::<String>().trim_end().to_owned())
}

/// Whether `text` begins with `title`, whatever the case of its letters.
fn begins_with(text: &str, title: &str) -> bool {
    let mut rest = text.chars().flat_map(char::to_lowercase);
    title.chars().flat_map(char::to_lowercase).all(|c| rest.next() == Some(c))
}

#[cfg(test)]
mod tests;
