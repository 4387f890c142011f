//! Where every format's reader puts what it finds: cleans the text, and holds it to the limits.
//!
//! The cleaning is here and not in the decoder because HTML and Markdown can write any character as an entity.

use super::{Block, BlockKind, ParseError, ParseLimits, Parsed};
use std::time::{Duration, Instant};

/// What a block takes in memory beside its text. Without it, a text of very short paragraphs would take thirty times
/// its size.
pub(super) const BLOCK_BYTES: usize = 64;
/// What each line and sentence of a block takes on its way into chunks, about; short ones would else do the same.
const PIECE_BYTES: usize = 8;
/// Longer titles are cut: a title stands before every chunk.
const TITLE_CHARS: usize = 300;

pub(super) struct Blocks {
    read: Vec<Block>,
    title: Option<String>,
    bytes: usize,
    bounds: Bounds,
}

/// The limits, from the moment when reading began.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    text_bytes: usize,
    time: Duration,
    started: Instant,
}

impl Bounds {
    pub(super) fn start(limits: &ParseLimits) -> Self {
        Self { text_bytes: limits.text_bytes, time: limits.time, started: Instant::now() }
    }

    pub(super) fn check_time(&self) -> Result<(), ParseError> {
        if self.started.elapsed() > self.time { Err(ParseError::TooSlow(self.time)) } else { Ok(()) }
    }

    pub(super) fn text_room(&self) -> usize {
        self.text_bytes
    }

    pub(super) fn check_text(&self, bytes: usize) -> Result<(), ParseError> {
        if bytes > self.text_bytes { Err(ParseError::TooMuchText { limit: self.text_bytes }) } else { Ok(()) }
    }
}

impl Blocks {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { read: Vec::new(), title: None, bytes: 0, bounds }
    }

    /// Adds a block, unless there is nothing in it.
    pub(super) fn push(&mut self, kind: BlockKind, raw: &str) -> Result<(), ParseError> {
        let text = if kind == BlockKind::Code { clean_lines(raw) } else { clean_prose(raw) };
        if text.is_empty() {
            return Ok(());
        }
        self.bytes += text.len() + BLOCK_BYTES + pieces(&text) * PIECE_BYTES;
        self.bounds.check_text(self.bytes)?;
        if self.read.len().is_multiple_of(256) {
            self.bounds.check_time()?;
        }
        self.read.push(Block { kind, text });
        Ok(())
    }

    /// The first title that is not empty stays.
    pub(super) fn set_title(&mut self, raw: &str) {
        if self.title.is_none() {
            self.title = clean_title(raw);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.read.len()
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(super) fn append(&mut self, other: Self) -> Result<(), ParseError> {
        self.bytes += other.bytes;
        self.bounds.check_text(self.bytes)?;
        self.read.extend(other.read);
        Ok(())
    }

    pub(super) fn finish(self) -> Parsed {
        Parsed { title: self.title, blocks: self.read }
    }
}

/// How many lines or sentences a block has after the first, about.
fn pieces(text: &str) -> usize {
    let mut before = ' ';
    let ends = |c: char| {
        let last = std::mem::replace(&mut before, c);
        matches!(c, '\n' | '。' | '！' | '？') || c == ' ' && matches!(last, '.' | '!' | '?' | '…')
    };
    text.chars().map(ends).filter(|ends| *ends).count()
}

pub(super) fn clean_title(raw: &str) -> Option<String> {
    let text: String = clean_prose(raw).chars().take(TITLE_CHARS).collect();
    let text = text.trim_end();
    (!text.is_empty()).then(|| text.to_owned())
}

/// One line, single spaces, nothing invisible.
pub(super) fn clean_prose(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len().min(1 << 16));
    let mut gap = false;
    for c in raw.chars() {
        if c.is_whitespace() {
            gap = true;
        } else if !is_invisible(c) {
            if gap && !text.is_empty() {
                text.push(' ');
            }
            gap = false;
            text.push(c);
        }
    }
    text
}

/// Lines and their indentation as they are; no blank lines around them, no spaces after them.
fn clean_lines(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len().min(1 << 16));
    let mut blank_lines = 0;
    for line in raw.lines() {
        let line = line.trim_end();
        if line.chars().all(|c| c.is_whitespace() || is_invisible(c)) {
            blank_lines += 1;
            continue;
        }
        if !text.is_empty() {
            // A thousand blank lines say no more than one.
            text.push_str(if blank_lines > 0 { "\n\n" } else { "\n" });
        }
        blank_lines = 0;
        text.extend(line.chars().filter(|c| *c == '\t' || !is_invisible(*c)));
    }
    text
}

/// Control characters (Postgres cannot store NUL at all), and those that only break words apart for a search: soft
/// hyphen, zero-width space, byte order mark.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text_bytes: usize) -> Blocks {
        let limits = ParseLimits { text_bytes, time: Duration::from_mins(1), memory_bytes: 0 };
        Blocks::new(Bounds::start(&limits))
    }

    #[test]
    fn prose_becomes_one_line_without_invisible_characters() {
        assert_eq!(clean_prose(" a\0b \u{1}\n\t c\u{ad}d\u{a0}\u{a0}e "), "ab cd e");
    }

    #[test]
    fn code_keeps_its_lines_and_indentation() {
        assert_eq!(clean_lines("\n\n  if a {\n\tb\u{0}  \n\n\n\n  }\n\n"), "  if a {\n\tb\n\n  }");
    }

    #[test]
    fn the_text_limit_holds_over_all_blocks_together() {
        let mut blocks = blocks(10 + 2 * BLOCK_BYTES);
        blocks.push(BlockKind::Paragraph, "12345").unwrap();
        blocks.push(BlockKind::Paragraph, "   ").unwrap();
        blocks.push(BlockKind::Code, "12345").unwrap();
        let error = blocks.push(BlockKind::Paragraph, "1").unwrap_err();
        assert!(matches!(error, ParseError::TooMuchText { limit: 138 }), "{error}");
        assert_eq!(blocks.len(), 2);
    }

    #[test]
    fn many_small_blocks_lines_and_sentences_count_for_what_they_take() {
        let mut many = blocks(1 << 20);
        let pushed = (0..1 << 20).take_while(|_| many.push(BlockKind::Paragraph, "a").is_ok()).count();
        assert_eq!(pushed, (1 << 20) / (1 + BLOCK_BYTES));
        for (kind, text) in [(BlockKind::Code, "a\n".repeat(1 << 18)), (BlockKind::Paragraph, "A. ".repeat(1 << 18))] {
            let error = blocks(1 << 20).push(kind, &text).unwrap_err().to_string();
            assert!(error.contains("paragraph") && error.contains("max_text_bytes"), "{error}");
            blocks(4 << 20).push(kind, &text).unwrap();
        }
    }
}
