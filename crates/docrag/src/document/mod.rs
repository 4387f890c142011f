//! Bytes in, blocks of text out.
//!
//! Nothing in a document is trusted: not its declared format, not its encoding, not its size once unpacked, not the depth
//! of its nesting. Whatever it holds ends as blocks or as a [`ParseError`] that says what to do. What the text *says* is
//! nobody's business here: instructions to a language model are text like any other.

mod blocks;
pub mod child;
mod decode;
mod detect;
mod html;
mod markdown;
mod pdf;
mod text;

use blocks::Bounds;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;

/// The document formats that can be ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MediaType {
    Text,
    Markdown,
    Html,
    Pdf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Level 1 to 6.
    Heading(u8),
    Paragraph,
    ListItem,
    /// Whitespace is kept.
    Code,
    /// One row of a table, cells joined by ` | `.
    TableRow,
}

/// A piece of a document in reading order. The text is never empty and, but for code, has no line breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub kind: BlockKind,
    pub text: String,
}

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parsed {
    /// The document's own title, when it has one.
    pub title: Option<String>,
    pub blocks: Vec<Block>,
}

/// How far parsing may go. Every format is held to all of them.
#[derive(Debug, Clone, Copy)]
pub struct ParseLimits {
    /// Extracted text, in bytes: a small file may unpack to a huge one. Every block counts 64 more, and every line and
    /// sentence of it a few: what they take in memory.
    pub text_bytes: usize,
    pub time: Duration,
    /// Address space of the process that opens PDFs, in bytes.
    pub memory_bytes: u64,
}

/// Why a document gave no text. None of these gets better by trying again, except `Interrupted`.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("the document is empty")]
    Empty,
    #[error("the document has no text that could be searched{hint}")]
    NoText { hint: &'static str },
    #[error("{0} is not a format that can be ingested; send text/plain, text/markdown, text/html or application/pdf")]
    UnknownFormat(String),
    #[error("this is binary data, not {expected}; send it with its right media type")]
    Binary { expected: &'static str },
    #[error("the {format} cannot be read: {cause}")]
    Broken { format: &'static str, cause: String },
    #[error(
        "the document unpacks to more than {limit} bytes of text, where every paragraph, list item and row of a table \
         counts some for itself; send it in parts, or raise parsing.max_text_bytes"
    )]
    TooMuchText { limit: usize },
    #[error("reading the document took longer than {0:?}")]
    TooSlow(Duration),
    #[error("the parser was interrupted: {0}")]
    Interrupted(String),
}

impl MediaType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text/plain",
            Self::Markdown => "text/markdown",
            Self::Html => "text/html",
            Self::Pdf => "application/pdf",
        }
    }

    /// The format of `bytes`, by what the sender declared, else by the name's ending, else by how they begin.
    pub fn detect(declared: Option<&str>, name: &str, bytes: &[u8]) -> Result<Self, ParseError> {
        detect::detect(declared, name, bytes)
    }

    /// For messages: this is … , not `expected`.
    fn expected(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Markdown => "Markdown",
            Self::Html => "HTML",
            Self::Pdf => "a PDF",
        }
    }
}

/// Reads a document. PDFs are opened in a process of their own, with its memory and time limited.
pub async fn parse(media: MediaType, bytes: Vec<u8>, limits: &ParseLimits) -> Result<Parsed, ParseError> {
    if media == MediaType::Pdf {
        let program = child::program().map_err(|error| ParseError::Interrupted(error.to_string()))?;
        return parse_pdf(&program, bytes, limits).await;
    }
    let limits = *limits;
    match tokio::task::spawn_blocking(move || parse_text(media, &bytes, &limits)).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            Err(ParseError::Broken { format: media.as_str(), cause: "the reader gave up".to_owned() })
        }
        Err(error) => Err(ParseError::Interrupted(error.to_string())),
    }
}

/// Reads a PDF with `docrag` at a place of the caller's choice.
pub async fn parse_pdf(program: &Path, bytes: Vec<u8>, limits: &ParseLimits) -> Result<Parsed, ParseError> {
    if bytes.is_empty() {
        return Err(ParseError::Empty);
    }
    child::parse(program, bytes, limits).await
}

/// Every format but PDF. CPU-bound: call it on a blocking thread.
fn parse_text(media: MediaType, bytes: &[u8], limits: &ParseLimits) -> Result<Parsed, ParseError> {
    let bounds = Bounds::start(limits);
    if bytes.is_empty() {
        return Err(ParseError::Empty);
    }
    let text = decode::decode(bytes, media == MediaType::Html, media.expected())?;
    match media {
        MediaType::Text => text::parse(&text, bounds),
        MediaType::Markdown => markdown::parse(&text, bounds),
        MediaType::Html => html::parse(&text, bounds),
        MediaType::Pdf => Err(ParseError::Binary { expected: "text" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: ParseLimits = ParseLimits { text_bytes: 1 << 20, time: Duration::from_mins(1), memory_bytes: 0 };

    /// What every block of every document has to be.
    fn check(result: Result<Parsed, ParseError>) -> Result<(), TestCaseError> {
        let Ok(parsed) = result else { return Ok(()) };
        prop_assert!(!parsed.blocks.is_empty());
        for Block { kind, text } in parsed.blocks {
            let code = kind == BlockKind::Code;
            prop_assert!(!text.trim().is_empty());
            prop_assert!(text.chars().all(|c| !c.is_control() || code && matches!(c, '\n' | '\t')), "{text:?}");
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_are_blocks_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            for media in [MediaType::Text, MediaType::Markdown, MediaType::Html, MediaType::Pdf] {
                check(parse_text(media, &bytes, &LIMITS))?;
            }
            let _ = MediaType::detect(None, "name", &bytes);
        }

        #[test]
        fn arbitrary_tags_are_blocks_or_an_error(
            pieces in proptest::collection::vec("</?(p|div|h1|ul|li|dl|dt|dd|table|tr|td|th|pre|nav|b|title|script|svg)( hidden| class=(note|toc))?/?>|[a-z &;\0\n]{0,9}", 0..80),
        ) {
            let page = pieces.concat();
            check(parse_text(MediaType::Html, page.as_bytes(), &LIMITS))?;
            check(parse_text(MediaType::Markdown, page.as_bytes(), &LIMITS))?;
        }

        #[test]
        fn arbitrary_text_is_blocks_or_an_error(text in "([#>*`|=\\-]{0,4} ?[a-zé。 ]{0,30}\n{0,2}){0,30}") {
            check(parse_text(MediaType::Text, text.as_bytes(), &LIMITS))?;
            check(parse_text(MediaType::Markdown, text.as_bytes(), &LIMITS))?;
        }
    }
}
