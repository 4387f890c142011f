//! Citations in a text that arrives in pieces.
//!
//! `[2]` and `[1, 3]` are citations, outside of code. What names a passage that exists stays; what does not is taken out,
//! with the blanks before it, and counted. A bracket may be cut anywhere by the stream, so text is held back from a blank
//! or a bracket on until it is clear what it is: never more than `LONGEST` bytes.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Of something in brackets that may still become a citation.
const LONGEST: usize = 64;

#[derive(Debug)]
pub(super) struct Scanner {
    passages: usize,
    held: String,
    /// Length of the run of backticks that opened the code we are in; 0 outside of code.
    code: usize,
    ticks: usize,
    cited: BTreeSet<usize>,
    invented: usize,
}

/// What may be shown now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) text: String,
    /// Passages cited for the first time.
    pub(super) cited: Vec<usize>,
}

impl Scanner {
    /// Passages are numbered from 1 to `passages`.
    pub(super) fn new(passages: usize) -> Self {
        Self { passages, held: String::new(), code: 0, ticks: 0, cited: BTreeSet::new(), invented: 0 }
    }

    pub(super) fn push(&mut self, piece: &str) -> Scanned {
        let mut out = Scanned::default();
        piece.chars().for_each(|c| self.take(c, &mut out));
        out
    }

    /// What was held back: the text ends here.
    pub(super) fn finish(&mut self) -> Scanned {
        Scanned { text: std::mem::take(&mut self.held), cited: Vec::new() }
    }

    pub(super) fn cited_any(&self) -> bool {
        !self.cited.is_empty()
    }

    pub(super) fn invented(&self) -> usize {
        self.invented
    }

    fn take(&mut self, c: char, out: &mut Scanned) {
        self.follow_code(c);
        if self.code > 0 || c == '`' {
            self.release(out);
            out.text.push(c);
            return;
        }
        let in_bracket = self.held.contains('[');
        match c {
            ']' if in_bracket => self.resolve(out),
            '0'..='9' | ',' | ';' | ' ' if in_bracket && self.held.len() < LONGEST => self.held.push(c),
            ' ' | '[' => {
                // A blank after blanks waits with them; anything else that was held was no citation.
                if in_bracket || self.held.len() >= LONGEST {
                    self.release(out);
                }
                self.held.push(c);
            }
            _ => {
                self.release(out);
                out.text.push(c);
            }
        }
    }

    /// Code is between two runs of as many backticks. A single line's code that is left open ends with the line.
    fn follow_code(&mut self, c: char) {
        if c == '`' {
            self.ticks += 1;
            return;
        }
        match std::mem::take(&mut self.ticks) {
            0 => {}
            run if self.code == 0 => self.code = run,
            run if run == self.code => self.code = 0,
            _ => {}
        }
        if c == '\n' && self.code < 3 {
            self.code = 0;
        }
    }

    fn release(&mut self, out: &mut Scanned) {
        out.text.push_str(&self.held);
        self.held.clear();
    }

    fn resolve(&mut self, out: &mut Scanned) {
        let held = std::mem::take(&mut self.held);
        let (blanks, inner) = held.split_once('[').unwrap_or((&held, ""));
        let numbers: Vec<&str> = inner.split([',', ';', ' ']).filter(|number| !number.is_empty()).collect();
        if numbers.is_empty() {
            let _ = write!(out.text, "{held}]");
            return;
        }
        let mut kept = Vec::new();
        for number in numbers {
            match number.parse::<usize>() {
                Ok(n) if (1..=self.passages).contains(&n) => kept.push(n),
                _ => self.invented += 1,
            }
        }
        if kept.is_empty() {
            return;
        }
        out.text.push_str(blanks);
        for n in kept {
            let _ = write!(out.text, "[{n}]");
            if self.cited.insert(n) {
                out.cited.push(n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn scan(pieces: &[&str], passages: usize) -> (String, Vec<usize>, usize) {
        let mut scanner = Scanner::new(passages);
        let (mut text, mut cited) = (String::new(), Vec::new());
        for piece in pieces {
            let out = scanner.push(piece);
            text.push_str(&out.text);
            cited.extend(out.cited);
        }
        text.push_str(&scanner.finish().text);
        (text, cited, scanner.invented())
    }

    #[rstest]
    #[case("Pages have 8 kB [1].", "Pages have 8 kB [1].", &[1], 0)]
    #[case("So [2][1], and again [2].", "So [2][1], and again [2].", &[2, 1], 0)]
    #[case("Both [1, 2] and[2].", "Both [1][2] and[2].", &[1, 2], 0)]
    #[case("Made up [7]. Zero [0] too.", "Made up. Zero too.", &[], 2)]
    #[case("Half true [1, 9].", "Half true [1].", &[1], 1)]
    #[case("[99999999999999999999]", "", &[], 1)]
    #[case("Not [a], [], [ ], [1a] nor [1", "Not [a], [], [ ], [1a] nor [1", &[], 0)]
    #[case("[[1]]", "[[1]]", &[1], 0)]
    #[case("`a[9]` and `x` [1]", "`a[9]` and `x` [1]", &[1], 0)]
    #[case("```\nSELECT a[3];\n```\nas in [2]", "```\nSELECT a[3];\n```\nas in [2]", &[2], 0)]
    #[case("an open ` tick\nand [1]", "an open ` tick\nand [1]", &[1], 0)]
    #[case("ends in blanks   ", "ends in blanks   ", &[], 0)]
    fn only_passages_that_exist_are_cited(
        #[case] text: &str,
        #[case] shown: &str,
        #[case] cited: &[usize],
        #[case] invented: usize,
    ) {
        assert_eq!(scan(&[text], 2), (shown.to_owned(), cited.to_vec(), invented));
    }

    #[test]
    fn what_is_held_back_is_short_however_long_the_bracket() {
        let mut scanner = Scanner::new(3);
        let shown =
            scanner.push(&format!("[{}", "1".repeat(500))).text.len() + scanner.push(&" ".repeat(500)).text.len();
        assert!(shown >= 1_000 - LONGEST, "{shown}");
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_stream_is_cut(
            text in "[a `\\[\\]0-3,\nü]{0,60}",
            cuts in prop::collection::vec(0_usize..61, 0..8),
        ) {
            let characters: Vec<char> = text.chars().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(characters.len())).collect();
            cuts.extend([0, characters.len()]);
            cuts.sort_unstable();
            let pieces: Vec<String> = cuts.windows(2).map(|pair| characters[pair[0]..pair[1]].iter().collect()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(scan(&pieces, 2), scan(&[&text], 2));
        }
    }
}
