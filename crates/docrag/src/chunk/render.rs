//! The text of a chunk.

use super::outline::{Glue, Outline};
use super::pack::Part;

pub(super) struct Rendered {
    pub(super) heading: String,
    pub(super) content: String,
    /// Of both, when the tokens of its atoms add up to them: where a word was parted they do not.
    pub(super) tokens: Option<usize>,
}

pub(super) fn render(outline: &Outline<'_>, part: &Part) -> Rendered {
    let above = common_path(outline, part);
    let mut text = Text { outline, content: String::new(), tokens: 0, parted: false };
    let first = &outline.atoms[part.atoms.start];
    // Where sections went together, each says its own heading, also the one that began before.
    for index in &outline.sections[first.section].path[above.len()..] {
        if !first.lead.contains(index) {
            text.heading(*index);
        }
    }
    let overlap = &part.overlap;
    if overlap.bytes > 0 {
        let before = outline.atoms[part.atoms.start - 1].text;
        text.add(&before[before.len() - overlap.bytes..], Glue::Block);
    }
    text.tokens += overlap.tokens;
    for index in part.atoms.start - overlap.atoms..part.atoms.end {
        let atom = &outline.atoms[index];
        if index >= part.atoms.start {
            atom.lead.clone().filter(|index| !above.contains(index)).for_each(|index| text.heading(index));
            text.tokens += atom.tokens;
        }
        text.atom(atom.text, atom.glue, atom.bullet);
    }
    let heading: Vec<&str> = above.iter().map(|index| outline.headings[*index].text).collect();
    text.tokens += above.iter().map(|index| outline.headings[*index].tokens).sum::<usize>();
    // The sign between two headings.
    text.tokens += above.len().saturating_sub(1);
    Rendered { heading: heading.join(" > "), tokens: (!text.parted).then_some(text.tokens), content: text.content }
}

/// The headings above every section of a chunk.
fn common_path<'o>(outline: &'o Outline<'_>, part: &Part) -> &'o [usize] {
    let section = |atom: usize| outline.atoms[atom].section;
    let sections = &outline.sections[section(part.atoms.start)..=section(part.atoms.end - 1)];
    let Some((first, others)) = sections.split_first() else { return &[] };
    let common = others.iter().fold(first.path.len(), |length, other| {
        first.path[..length].iter().zip(&other.path).take_while(|(one, another)| one == another).count()
    });
    &first.path[..common]
}

struct Text<'o, 'a> {
    outline: &'o Outline<'a>,
    content: String,
    tokens: usize,
    parted: bool,
}

impl Text<'_, '_> {
    fn heading(&mut self, index: usize) {
        let heading = &self.outline.headings[index];
        self.tokens += heading.tokens;
        self.add(heading.text, Glue::Block);
        // Its text follows on the next line.
        self.content.push('\n');
    }

    fn atom(&mut self, text: &str, glue: Glue, bullet: bool) {
        if bullet {
            self.add("- ", glue);
            self.content.push_str(text);
        } else {
            self.add(text, glue);
        }
    }

    fn add(&mut self, text: &str, glue: Glue) {
        if !self.content.is_empty() {
            let between = match glue {
                _ if self.content.ends_with('\n') => "",
                Glue::Nothing => "",
                Glue::Word | Glue::Sentence => " ",
                Glue::Line | Glue::Item => "\n",
                Glue::Block => "\n\n",
            };
            self.parted |= glue == Glue::Nothing;
            self.content.push_str(between);
        }
        self.content.push_str(text);
    }
}
