//! A document as the packer sees it: atoms that are never parted, each counted once, and the headings above them.

use super::sentences::sentences;
use super::{DENSE_BYTES, begins_with};
use crate::document::{Block, BlockKind};
use std::ops::Range;

/// What stands between an atom and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Glue {
    /// A word was parted.
    Nothing,
    /// A sentence was parted between words.
    Word,
    Sentence,
    /// Lines of code.
    Line,
    /// Items of a list, rows of a table, and code after a blank line.
    Item,
    Block,
}

/// A sentence, a row, a line of code; or a part of one that is too long.
#[derive(Debug)]
pub(super) struct Atom<'a> {
    pub(super) text: &'a str,
    pub(super) glue: Glue,
    /// Begins an item of a list.
    pub(super) bullet: bool,
    /// In tokens, with the bullet.
    pub(super) tokens: usize,
    /// Headings between the atom before and this one.
    pub(super) lead: Range<usize>,
    pub(super) section: usize,
}

#[derive(Debug)]
pub(super) struct Heading<'a> {
    pub(super) text: &'a str,
    pub(super) tokens: usize,
    level: u8,
}

#[derive(Debug)]
pub(super) struct Section {
    /// Its first atom.
    pub(super) start: usize,
    /// Headings above it, outermost first: indices into `headings`.
    pub(super) path: Vec<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Outline<'a> {
    pub(super) atoms: Vec<Atom<'a>>,
    pub(super) headings: Vec<Heading<'a>>,
    pub(super) sections: Vec<Section>,
}

/// The largest pieces, so that one atom with its headings always fits into a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    pub(super) atom: usize,
    /// Of all headings above an atom, and of all between two atoms.
    pub(super) headings: usize,
}

pub(super) struct Outliner<'a, 'c> {
    outline: Outline<'a>,
    count: &'c dyn Fn(&str) -> usize,
    caps: Caps,
    /// Open headings, outermost first.
    path: Vec<usize>,
    /// Headings that no text has followed yet.
    lead: Range<usize>,
    last: Option<BlockKind>,
}

/// What an atom takes of a chunk. Its tokens; but text without words (a long string of base64 is one unknown token to
/// some models) has to end somewhere, too.
pub(super) fn weight(text: &str, tokens: usize) -> usize {
    tokens.max(text.len() / DENSE_BYTES)
}

impl<'a, 'c> Outliner<'a, 'c> {
    pub(super) fn new(count: &'c dyn Fn(&str) -> usize, caps: Caps) -> Self {
        Self { outline: Outline::default(), count, caps, path: Vec::new(), lead: 0..0, last: None }
    }

    pub(super) fn read(mut self, title: &str, blocks: &'a [Block]) -> Outline<'a> {
        for block in blocks {
            match block.kind {
                BlockKind::Heading(level) => self.heading(level, &block.text, title),
                kind => self.body(kind, &block.text),
            }
        }
        self.headings_as_text();
        self.outline
    }

    fn heading(&mut self, level: u8, text: &'a str, title: &str) {
        self.path.retain(|open| self.outline.headings[*open].level < level);
        // The title stands before every chunk anyway.
        if text.len() == title.len() && begins_with(text, title) {
            self.last = None;
            return;
        }
        let tokens = (self.count)(text);
        let room = self.caps.headings;
        if weight(text, tokens) + 1 > room {
            return self.body(BlockKind::Paragraph, text);
        }
        if self.headings_weight(self.lead.clone()) + weight(text, tokens) + 1 > room {
            self.headings_as_text();
        }
        let index = self.outline.headings.len();
        self.outline.headings.push(Heading { text, tokens, level });
        if self.lead.is_empty() {
            self.lead = index..index;
        }
        self.lead.end = index + 1;
        self.path.push(index);
    }

    /// One more each for what stands between them.
    fn headings_weight(&self, indices: impl Iterator<Item = usize>) -> usize {
        indices.map(|index| &self.outline.headings[index]).map(|h| weight(h.text, h.tokens) + 1).sum()
    }

    /// Headings that are followed by nothing, or by too many others, are all the text there is.
    fn headings_as_text(&mut self) {
        let lead = std::mem::replace(&mut self.lead, 0..0);
        for index in lead {
            let heading = &self.outline.headings[index];
            let (text, tokens) = (heading.text, heading.tokens);
            self.atom(text, Glue::Block, false, tokens);
        }
    }

    fn body(&mut self, kind: BlockKind, text: &'a str) {
        let same = self.last == Some(kind) && matches!(kind, BlockKind::ListItem | BlockKind::TableRow);
        let mut glue = if same && self.lead.is_empty() { Glue::Item } else { Glue::Block };
        let mut bullet = kind == BlockKind::ListItem;
        match kind {
            BlockKind::Code => {
                for line in text.lines() {
                    if line.trim().is_empty() {
                        glue = if glue == Glue::Block { glue } else { Glue::Item };
                        continue;
                    }
                    self.pieces(line, glue, false);
                    glue = Glue::Line;
                }
            }
            BlockKind::TableRow => self.pieces(text, glue, false),
            _ => {
                for sentence in sentences(text) {
                    self.pieces(sentence, glue, bullet);
                    (glue, bullet) = (Glue::Sentence, false);
                }
            }
        }
        self.last = Some(kind);
    }

    /// One atom, or several when it is too long for one.
    fn pieces(&mut self, text: &'a str, glue: Glue, bullet: bool) {
        let tokens = (self.count)(text) + usize::from(bullet);
        if weight(text, tokens) <= self.caps.atom {
            return self.atom(text, glue, bullet, tokens);
        }
        let mut piece = Piece { start: 0, end: 0, tokens: usize::from(bullet), glue, bullet };
        for word in text.split_inclusive(char::is_whitespace) {
            let tokens = (self.count)(word);
            let end = piece.end + word.len();
            if weight(&text[piece.start..end], piece.tokens + tokens) > self.caps.atom {
                self.finish(text, &mut piece, Glue::Word);
            }
            if weight(word, tokens) > self.caps.atom {
                self.parts_of_word(text, &mut piece, end);
            } else {
                (piece.end, piece.tokens) = (end, piece.tokens + tokens);
            }
        }
        self.finish(text, &mut piece, Glue::Word);
    }

    /// A word that is longer than a chunk is parted anywhere. A character rarely makes more than three tokens.
    fn parts_of_word(&mut self, text: &'a str, piece: &mut Piece, end: usize) {
        while piece.end < end {
            let part = text[piece.end..end].char_indices().nth((self.caps.atom / 3).max(1));
            let stop = part.map_or(end, |(offset, _)| piece.end + offset);
            piece.tokens += (self.count)(&text[piece.end..stop]);
            piece.end = stop;
            self.finish(text, piece, if stop < end { Glue::Nothing } else { Glue::Word });
        }
    }

    fn finish(&mut self, text: &'a str, piece: &mut Piece, next: Glue) {
        let words = text[piece.start..piece.end].trim_end();
        if !words.trim_start().is_empty() {
            self.atom(words, piece.glue, piece.bullet, piece.tokens);
            (piece.glue, piece.bullet) = (next, false);
        }
        (piece.start, piece.tokens) = (piece.end, usize::from(piece.bullet));
    }

    fn atom(&mut self, text: &'a str, glue: Glue, bullet: bool, tokens: usize) {
        let lead = std::mem::replace(&mut self.lead, 0..0);
        if !lead.is_empty() || self.outline.sections.is_empty() {
            let path = self.shown_path();
            self.outline.sections.push(Section { start: self.outline.atoms.len(), path });
        }
        let section = self.outline.sections.len() - 1;
        self.outline.atoms.push(Atom { text, glue, bullet, tokens, lead, section });
    }

    /// The innermost headings that have room.
    fn shown_path(&self) -> Vec<usize> {
        let mut first = self.path.len();
        while first > 0 && self.headings_weight(self.path[first - 1..].iter().copied()) <= self.caps.headings {
            first -= 1;
        }
        self.path[first..].to_vec()
    }
}

/// A part of an atom that is too long, while it grows.
struct Piece {
    start: usize,
    end: usize,
    tokens: usize,
    glue: Glue,
    bullet: bool,
}
