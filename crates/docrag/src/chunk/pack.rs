//! Which atoms go together.
//!
//! A chunk ends at a heading when it has some size; before that, small sections go together. A section that is too long
//! is cut at the best place between half full and full: between blocks rather than items, items rather than sentences,
//! sentences rather than words; and among equally good places at the one whose following text has the smallest hash.
//!
//! After an edit the cuts must soon fall where they fell before, or the rest of the document gets new ids and is embedded
//! again. Hence anchors: places that are better, by the same measure, than all others within the length of a chunk. That
//! depends on the text around a place alone, and every chunk ends at an anchor that it reaches.

use super::outline::{Atom, Glue, Outline, weight};
use std::collections::VecDeque;
use std::ops::Range;

/// Sizes in tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// For headings and content, without title and special tokens.
    pub(super) chunk: usize,
    pub(super) overlap: usize,
}

/// The end of the chunk before, said again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Overlap {
    /// Whole atoms before the chunk.
    pub(super) atoms: usize,
    /// When not even one has room: so many bytes at the end of the last one.
    pub(super) bytes: usize,
    pub(super) tokens: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) atoms: Range<usize>,
    pub(super) overlap: Overlap,
}

pub(super) struct Packer<'o, 'a> {
    outline: &'o Outline<'a>,
    count: &'o dyn Fn(&str) -> usize,
    room: Room,
    /// Weight of all atoms before each, with the headings that lead them.
    sums: Vec<usize>,
    /// Atoms that begin chunks wherever the chunk before began, ascending.
    anchors: Vec<usize>,
}

impl<'o, 'a> Packer<'o, 'a> {
    pub(super) fn new(outline: &'o Outline<'a>, count: &'o dyn Fn(&str) -> usize, room: Room) -> Self {
        let mut sums = vec![0];
        let mut sum = 0;
        for atom in &outline.atoms {
            sum += atom_weight(atom) + headings(outline, atom.lead.clone());
            sums.push(sum);
        }
        let anchors = anchors(outline, &sums, room.chunk);
        Self { outline, count, room, sums, anchors }
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut start = 0;
        while start < self.outline.atoms.len() {
            let (overlap, overlap_weight) = self.overlap(start);
            let end = self.end(start, overlap_weight);
            parts.push(Part { atoms: start..end, overlap });
            start = end;
        }
        parts
    }

    /// What the atoms take, with the headings above the first.
    fn weight(&self, start: usize, end: usize) -> usize {
        let first = &self.outline.atoms[start];
        let above = self.outline.sections[first.section].path.iter().copied();
        self.sums[end] - self.sums[start] + headings(self.outline, above.filter(|index| !first.lead.contains(index)))
    }

    fn section_end(&self, section: usize) -> usize {
        self.outline.sections.get(section + 1).map_or(self.outline.atoms.len(), |next| next.start)
    }

    fn end(&self, start: usize, overlap: usize) -> usize {
        let full = self.room.chunk;
        let fits = |end: usize| self.weight(start, end) + overlap <= full;
        let offset = self.sums[start];
        // The headings above the first atom are the same for every end.
        let above = self.weight(start, start + 1) - (self.sums[start + 1] - offset) + overlap;
        let furthest = self.sums.partition_point(|sum| sum.saturating_sub(offset) + above <= full) - 1;
        let furthest = furthest.max(start + 1);
        debug_assert!(furthest == start + 1 || fits(furthest));
        if start == 0 && furthest == self.outline.atoms.len() {
            return furthest;
        }
        let anchor = self.anchors.get(self.anchors.partition_point(|anchor| *anchor <= start)).copied();
        let mut section = self.outline.atoms[start].section + 1;
        while let Some(boundary) =
            self.outline.sections.get(section).map(|next| next.start).filter(|at| *at <= furthest)
        {
            if anchor.is_some_and(|anchor| anchor < boundary) {
                break;
            }
            let so_far = self.weight(start, boundary);
            let next = self.sums[self.section_end(section)] - self.sums[boundary];
            let small = so_far < full / 3 || so_far < full / 2 && next < full / 8;
            // "See also" at the end is no passage of its own.
            let remainder = self.sums[self.outline.atoms.len()] - self.sums[boundary];
            if remainder < full / 8 && so_far + remainder + overlap <= full {
                return self.outline.atoms.len();
            }
            let together = so_far + next + overlap <= full;
            if !(together && small || so_far < full / 8) {
                return boundary;
            }
            section += 1;
        }
        match anchor {
            Some(anchor) if anchor <= furthest => anchor,
            _ if furthest == self.outline.atoms.len() => furthest,
            _ => self.cut(start, furthest, anchor),
        }
    }

    /// The best place to end a chunk that began at `start` and can go up to `furthest`.
    fn cut(&self, start: usize, furthest: usize, anchor: Option<usize>) -> usize {
        let full = self.room.chunk;
        let section_end = self.section_end(self.outline.atoms[furthest].section);
        let next_end = anchor.map_or(section_end, |anchor| anchor.min(section_end));
        let mut best = (u32::MAX, u64::MAX);
        let mut end = furthest;
        for at in (start + 1..=furthest).rev() {
            let size = self.weight(start, at);
            if size < full / 4 {
                break;
            }
            let rest = self.sums[next_end] - self.sums[at];
            let (cost, hash) = score(&self.outline.atoms[at]);
            let cost = cost + if size < full / 2 { 3 } else { 0 } + if rest > 0 && rest < full / 4 { 3 } else { 0 };
            if (cost, hash) < best {
                (best, end) = ((cost, hash), at);
            }
        }
        end
    }

    /// The last sentences before `start`, of the same section; and their weight.
    fn overlap(&self, start: usize) -> (Overlap, usize) {
        let atoms = &self.outline.atoms;
        let first = &atoms[start];
        if start == 0 || !first.lead.is_empty() {
            return (Overlap::default(), 0);
        }
        let section_start = self.outline.sections[first.section].start;
        let mut overlap = Overlap::default();
        let mut taken = 0;
        for atom in atoms[section_start..start].iter().rev() {
            if taken + atom_weight(atom) > self.room.overlap {
                break;
            }
            taken += atom_weight(atom);
            overlap.tokens += atom.tokens;
            overlap.atoms += 1;
        }
        if overlap.atoms == 0 && start > section_start {
            (overlap, taken) = self.last_words(&atoms[start - 1]);
        }
        // Never at the price of what comes next.
        if self.weight(start, start + 1) + taken > self.room.chunk { (Overlap::default(), 0) } else { (overlap, taken) }
    }

    fn last_words(&self, atom: &Atom<'_>) -> (Overlap, usize) {
        let (mut from, mut tokens) = (atom.text.len(), 0);
        for word in atom.text.split_inclusive(char::is_whitespace).rev() {
            let more = tokens + (self.count)(word);
            if weight(&atom.text[from - word.len()..], more) > self.room.overlap {
                break;
            }
            (from, tokens) = (from - word.len(), more);
        }
        let words = &atom.text[from..];
        (Overlap { atoms: 0, bytes: words.len(), tokens }, weight(words, tokens))
    }
}

fn atom_weight(atom: &Atom<'_>) -> usize {
    weight(atom.text, atom.tokens)
}

fn headings(outline: &Outline<'_>, indices: impl Iterator<Item = usize>) -> usize {
    // One more each for what stands between them.
    indices.map(|index| &outline.headings[index]).map(|heading| weight(heading.text, heading.tokens) + 1).sum()
}

/// The atoms whose score is smaller than that of every other one within `reach` tokens of the same section, and that
/// are so far from both its ends.
fn anchors(outline: &Outline<'_>, sums: &[usize], reach: usize) -> Vec<usize> {
    let mut anchors = Vec::new();
    for (index, section) in outline.sections.iter().enumerate() {
        let end = outline.sections.get(index + 1).map_or(outline.atoms.len(), |next| next.start);
        if sums[end] - sums[section.start] < 2 * reach {
            continue;
        }
        // Candidates for the smallest of the window, ascending in place and score.
        let mut window: VecDeque<(usize, (u32, u64))> = VecDeque::new();
        let mut ahead = section.start + 1;
        for at in section.start + 1..end {
            while ahead < end && sums[ahead] <= sums[at] + reach {
                let next = score(&outline.atoms[ahead]);
                // Of equal ones neither is smaller than the other; the later one stays to show it.
                while window.back().is_some_and(|(_, score)| *score > next) {
                    window.pop_back();
                }
                window.push_back((ahead, next));
                ahead += 1;
            }
            while window.front().is_some_and(|(place, _)| sums[*place] + reach < sums[at]) {
                window.pop_front();
            }
            let far = sums[at] - sums[section.start] >= reach && sums[end] - sums[at] >= reach;
            let smallest = window.front().is_some_and(|(place, _)| *place == at);
            let alone = window.get(1).is_none_or(|(_, second)| window[0].1 < *second);
            if far && smallest && alone {
                anchors.push(at);
            }
        }
    }
    anchors
}

/// How much is lost by a cut before this atom; and a number that only its text decides.
fn score(atom: &Atom<'_>) -> (u32, u64) {
    let cost = match atom.glue {
        _ if !atom.lead.is_empty() => 0,
        Glue::Block => 2,
        Glue::Item => 4,
        Glue::Sentence | Glue::Line => 6,
        Glue::Word => 8,
        Glue::Nothing => 10,
    };
    (cost, hash(atom.text))
}

/// FNV-1a with a last mixing step: chunk boundaries must not change with the compiler.
fn hash(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
