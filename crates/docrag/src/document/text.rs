//! Plain text: paragraphs between blank lines, underlined headings, bulleted lists, and lines that are to stay lines.
//!
//! Nobody declares whether a text was wrapped at a width or has a meaning in every line (logs, addresses, tables). Lines
//! that are all about as long as the longest were wrapped; others stay as they are.

use super::blocks::{Blocks, Bounds};
use super::{BlockKind, ParseError, Parsed};
use std::mem;

/// Nobody wraps wider than this; longer lines are paragraphs.
const WIDEST_WRAP: usize = 120;

pub(super) fn parse(text: &str, bounds: Bounds) -> Result<Parsed, ParseError> {
    let mut blocks = Blocks::new(bounds);
    paragraphs(text, &mut blocks, Wrapping::Guess)?;
    let parsed = blocks.finish();
    if parsed.blocks.is_empty() { Err(ParseError::Empty) } else { Ok(parsed) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapping {
    /// By the lengths of the lines.
    Guess,
    /// All lines were wrapped, words with hyphens too: how PDFs are.
    Always,
}

pub(super) fn paragraphs(text: &str, blocks: &mut Blocks, wrapping: Wrapping) -> Result<(), ParseError> {
    let mut lines: Vec<&str> = Vec::new();
    // A form feed parts pages; a carriage return alone ends lines where there are no line feeds.
    let ends: &[char] = if text.contains('\n') { &['\n', '\u{c}'] } else { &['\r', '\u{c}'] };
    for line in text.split(ends).chain([""]) {
        if line.trim().is_empty() {
            paragraph(&mem::take(&mut lines), blocks, wrapping)?;
        } else {
            lines.push(line);
            // A paragraph without end is kept until it has one.
            blocks.bounds().check_text(lines.len() * size_of::<&str>())?;
        }
    }
    Ok(())
}

fn paragraph(lines: &[&str], blocks: &mut Blocks, wrapping: Wrapping) -> Result<(), ParseError> {
    match lines {
        [] => Ok(()),
        [title, line, rest @ ..] if underline(line).is_some() && wrapping == Wrapping::Guess => {
            blocks.push(BlockKind::Heading(underline(line).unwrap_or(1)), title)?;
            paragraph(rest, blocks, wrapping)
        }
        _ if bullet(lines[0]).is_some() => list(lines, blocks, wrapping),
        [line] => blocks.push(BlockKind::Paragraph, line),
        _ if wrapping == Wrapping::Always => blocks.push(BlockKind::Paragraph, &joined(lines)),
        _ => match shape(lines) {
            Shape::Wrapped => blocks.push(BlockKind::Paragraph, &lines.join(" ")),
            Shape::LongLines => lines.iter().try_for_each(|line| blocks.push(BlockKind::Paragraph, line)),
            Shape::Lines => blocks.push(BlockKind::Code, &lines.join("\n")),
        },
    }
}

enum Shape {
    Wrapped,
    LongLines,
    Lines,
}

fn shape(lines: &[&str]) -> Shape {
    let length = |line: &str| line.trim().chars().take(WIDEST_WRAP + 1).count();
    let longest = lines.iter().map(|line| length(line)).max().unwrap_or(0);
    if longest > WIDEST_WRAP {
        return Shape::LongLines;
    }
    let columns = lines.iter().filter(|line| line.trim().contains("   ") || line.trim().contains('\t')).count();
    let (_, full) = lines.split_last().unwrap_or((&"", &[]));
    // The next word did not fit: a wrapped line is rarely shorter than two thirds of the longest.
    let short = full.iter().filter(|line| length(line) * 3 < longest * 2).count();
    if longest >= 40 && short * 10 <= full.len() && columns * 2 < lines.len() { Shape::Wrapped } else { Shape::Lines }
}

/// Items begin with a bullet; what follows one without its own belongs to it.
fn list(lines: &[&str], blocks: &mut Blocks, wrapping: Wrapping) -> Result<(), ParseError> {
    let mut item: Vec<&str> = Vec::new();
    for line in lines {
        if let Some(text) = bullet(line) {
            push_item(&mem::take(&mut item), blocks, wrapping)?;
            item.push(text);
        } else {
            item.push(line);
        }
    }
    push_item(&item, blocks, wrapping)
}

fn push_item(item: &[&str], blocks: &mut Blocks, wrapping: Wrapping) -> Result<(), ParseError> {
    let text = if wrapping == Wrapping::Always { joined(item) } else { item.join(" ") };
    blocks.push(BlockKind::ListItem, &text)
}

/// What follows a bullet. Numbers stay: steps are referred to by them.
fn bullet(line: &str) -> Option<&str> {
    let line = line.trim_start();
    for mark in ["- ", "* ", "+ ", "• ", "– ", "◦ ", "▪ "] {
        if let Some(text) = line.strip_prefix(mark) {
            return Some(text.trim_start()).filter(|text| !text.is_empty());
        }
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let numbered = (1..=3).contains(&digits) && [". ", ") "].iter().any(|mark| line[digits..].starts_with(mark));
    numbered.then_some(line)
}

/// `=====` under a title is the first level, `-----` the second.
fn underline(line: &str) -> Option<u8> {
    let line = line.trim_end();
    if line.len() < 3 {
        None
    } else if line.bytes().all(|b| b == b'=') {
        Some(1)
    } else if line.bytes().all(|b| b == b'-') {
        Some(2)
    } else {
        None
    }
}

/// Joins lines, and the halves of a word that was parted at the end of a line.
fn joined(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let line = line.trim();
        let halves = text.ends_with('-')
            && text.chars().rev().nth(1).is_some_and(char::is_lowercase)
            && line.starts_with(char::is_lowercase);
        if halves {
            text.pop();
        } else if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Block, ParseLimits};
    use super::*;
    use std::time::Duration;

    fn read(text: &str, wrapping: Wrapping) -> Vec<(BlockKind, String)> {
        let limits = ParseLimits { text_bytes: 1 << 20, time: Duration::from_mins(1), memory_bytes: 0 };
        let mut blocks = Blocks::new(Bounds::start(&limits));
        paragraphs(text, &mut blocks, wrapping).unwrap();
        blocks.finish().blocks.into_iter().map(|Block { kind, text }| (kind, text)).collect()
    }

    fn of(kind: BlockKind, texts: &[&str]) -> Vec<(BlockKind, String)> {
        texts.iter().map(|text| (kind, (*text).to_owned())).collect()
    }

    #[test]
    fn wrapped_lines_are_joined_and_blank_lines_part_paragraphs() {
        let text = "The server writes its changes to a log before\r\nit writes them to the tables themselves, so\r\n\
                    that nothing is lost.\r\n \r\nSecond.";
        let joined = "The server writes its changes to a log before it writes them to the tables themselves, so that \
                      nothing is lost.";
        assert_eq!(read(text, Wrapping::Guess), of(BlockKind::Paragraph, &[joined, "Second."]));
    }

    #[test]
    fn lines_of_very_different_length_stay_lines() {
        let text = "host      port\nlocalhost  5432\nreplica-of-the-main-database-in-the-other-place  5433";
        assert_eq!(read(text, Wrapping::Guess), of(BlockKind::Code, &[text]));
    }

    #[test]
    fn each_long_line_is_a_paragraph() {
        let line = "word ".repeat(40);
        let line = line.trim();
        assert_eq!(read(&format!("{line}\n{line}"), Wrapping::Guess), of(BlockKind::Paragraph, &[line, line]));
    }

    #[test]
    fn bullets_begin_items_and_numbers_stay() {
        let text = "- one\n  goes on\n* two\n3. three";
        assert_eq!(read(text, Wrapping::Guess), of(BlockKind::ListItem, &["one goes on", "two", "3. three"]));
    }

    #[test]
    fn an_underlined_line_is_a_heading() {
        let blocks = read("Install\n=======\nRun it.\n\nSteps\n-----", Wrapping::Guess);
        let kinds: Vec<BlockKind> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [BlockKind::Heading(1), BlockKind::Paragraph, BlockKind::Heading(2)]);
    }

    #[test]
    fn words_parted_at_the_end_of_a_line_are_put_together_in_pdfs() {
        let text = "a transac-\ntion and a well-\nKnown one";
        assert_eq!(read(text, Wrapping::Always), of(BlockKind::Paragraph, &["a transaction and a well- Known one"]));
    }
}
