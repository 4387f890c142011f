//! Markdown, as GitHub understands it. Front matter is no text; its `title` names the document when no heading does.

use super::blocks::{BLOCK_BYTES, Blocks, Bounds};
use super::{BlockKind, ParseError, Parsed, html};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::mem;

/// The parser's tree may take so many times what the text may.
const NODES_TO_TEXT: usize = 4;

pub(super) fn parse(text: &str, bounds: Bounds) -> Result<Parsed, ParseError> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS;
    check_nodes(text, bounds)?;
    let mut reader = Reader::new(bounds);
    for event in Parser::new_ext(text, options) {
        reader.read(event)?;
    }
    reader.finish()
}

/// The parser builds its whole tree before it tells of the beginning: a node for every line, and for every character
/// that may mean something. A node takes about as much as a block.
fn check_nodes(text: &str, bounds: Bounds) -> Result<(), ParseError> {
    let nodes = text.bytes().filter(|byte| b"\n*_~`[]<&\\|!>$".contains(byte)).count();
    bounds.check_text(nodes.saturating_mul(BLOCK_BYTES) / NODES_TO_TEXT)
}

struct Reader {
    blocks: Blocks,
    /// The text of the block that is open.
    text: String,
    kind: BlockKind,
    /// Cells of the table row that is open.
    cells: Vec<String>,
    raw_html: String,
    metadata: Option<String>,
    front_title: Option<String>,
}

impl Reader {
    fn new(bounds: Bounds) -> Self {
        Self {
            blocks: Blocks::new(bounds),
            text: String::new(),
            kind: BlockKind::Paragraph,
            cells: Vec::new(),
            raw_html: String::new(),
            metadata: None,
            front_title: None,
        }
    }

    fn read(&mut self, event: Event<'_>) -> Result<(), ParseError> {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => {
                self.metadata.as_mut().unwrap_or(&mut self.text).push_str(&text);
                Ok(())
            }
            Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.text.push_str(&text);
                Ok(())
            }
            Event::SoftBreak | Event::HardBreak => {
                self.text.push(' ');
                Ok(())
            }
            Event::Html(raw) => {
                self.raw_html.push_str(&raw);
                Ok(())
            }
            Event::InlineHtml(tag) => {
                // Only what parts words matters.
                if tag.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("<br")) {
                    self.text.push(' ');
                }
                Ok(())
            }
            Event::Rule | Event::FootnoteReference(_) | Event::TaskListMarker(_) => Ok(()),
        }
    }

    fn start(&mut self, tag: &Tag<'_>) -> Result<(), ParseError> {
        let kind = match tag {
            Tag::Heading { level, .. } => BlockKind::Heading(depth(*level)),
            Tag::CodeBlock(_) => BlockKind::Code,
            Tag::Item => BlockKind::ListItem,
            Tag::TableHead | Tag::TableRow => BlockKind::TableRow,
            // The first paragraph of an item is the item.
            Tag::Paragraph if self.kind == BlockKind::ListItem && self.text.trim().is_empty() => return Ok(()),
            Tag::Paragraph | Tag::BlockQuote(_) | Tag::FootnoteDefinition(_) | Tag::List(_) | Tag::HtmlBlock => {
                BlockKind::Paragraph
            }
            Tag::MetadataBlock(_) => {
                self.metadata = Some(String::new());
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.flush()?;
        self.kind = kind;
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) -> Result<(), ParseError> {
        match tag {
            TagEnd::MetadataBlock(_) => {
                self.front_title = self.metadata.take().as_deref().and_then(front_title);
                Ok(())
            }
            TagEnd::TableCell => {
                self.cells.push(mem::take(&mut self.text));
                Ok(())
            }
            TagEnd::TableHead | TagEnd::TableRow => {
                self.text = join_cells(&mem::take(&mut self.cells));
                self.flush()
            }
            TagEnd::HtmlBlock => {
                let raw = mem::take(&mut self.raw_html);
                self.blocks.append(html::fragment(&raw, self.blocks.bounds())?)
            }
            TagEnd::Heading(HeadingLevel::H1) => {
                self.blocks.set_title(&self.text);
                self.flush()
            }
            TagEnd::Paragraph
            | TagEnd::Heading(_)
            | TagEnd::CodeBlock
            | TagEnd::Item
            | TagEnd::BlockQuote(_)
            | TagEnd::FootnoteDefinition => self.flush(),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), ParseError> {
        let kind = mem::replace(&mut self.kind, BlockKind::Paragraph);
        self.blocks.push(kind, &mem::take(&mut self.text))
    }

    fn finish(mut self) -> Result<Parsed, ParseError> {
        self.flush()?;
        if let Some(title) = self.front_title.take() {
            self.blocks.set_title(&title);
        }
        let parsed = self.blocks.finish();
        if parsed.blocks.is_empty() { Err(ParseError::NoText { hint: "" }) } else { Ok(parsed) }
    }
}

pub(super) fn join_cells(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| super::blocks::clean_prose(cell)).collect();
    // A row of empty cells says nothing, and nor do those at its end.
    let filled = cells.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
    cells[..filled].join(" | ")
}

fn depth(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

/// `title: X` of YAML or `title = "X"` of TOML. Whatever is more complicated is left alone.
fn front_title(metadata: &str) -> Option<String> {
    metadata.lines().find_map(|line| {
        let rest = line.strip_prefix("title")?.trim_start();
        let value = rest.strip_prefix([':', '='])?.trim().trim_matches(['"', '\'']);
        (!value.is_empty() && !value.starts_with(['|', '>', '[', '{'])).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Block, ParseLimits};
    use super::*;
    use BlockKind::{Code, Heading, ListItem, Paragraph, TableRow};
    use std::time::Duration;

    fn read(text: &str) -> Parsed {
        let limits = ParseLimits { text_bytes: 1 << 20, time: Duration::from_mins(1), memory_bytes: 0 };
        parse(text, Bounds::start(&limits)).unwrap()
    }

    fn kinds(parsed: &Parsed) -> Vec<(BlockKind, &str)> {
        parsed.blocks.iter().map(|Block { kind, text }| (*kind, text.as_str())).collect()
    }

    #[test]
    fn every_structure_becomes_its_block() {
        let parsed = read(
            "---\ntitle: Front\n---\n# The *Guide*\n\nOne\nline, `code` and [a link](http://x).\n\n\
             * item\n  * inner\n* two\n\n  more of two\n\n> quoted\n\n```sql\nSELECT 1;\n  -- x\n```\n\n\
             | a | b |\n|---|---|\n| 1 | 2 |\n\n<div><p>inside</p><script>evil()</script></div>\n\n## Sub\nEnd<br>here.\n",
        );
        assert_eq!(parsed.title.as_deref(), Some("The Guide"));
        assert_eq!(
            kinds(&parsed),
            [
                (Heading(1), "The Guide"),
                (Paragraph, "One line, code and a link."),
                (ListItem, "item"),
                (ListItem, "inner"),
                (ListItem, "two"),
                (Paragraph, "more of two"),
                (Paragraph, "quoted"),
                (Code, "SELECT 1;\n  -- x"),
                (TableRow, "a | b"),
                (TableRow, "1 | 2"),
                (Paragraph, "inside"),
                (Heading(2), "Sub"),
                (Paragraph, "End here."),
            ]
        );
    }

    #[test]
    fn the_front_matters_title_names_a_document_without_a_heading() {
        assert_eq!(read("+++\ntitle = \"T\"\n+++\ntext").title.as_deref(), Some("T"));
        assert_eq!(read("---\ntitle: [a, b]\n---\ntext").title, None);
    }

    #[test]
    fn a_tree_that_is_far_larger_than_its_text_is_not_built() {
        let limits = ParseLimits { text_bytes: 1 << 16, time: Duration::from_mins(1), memory_bytes: 0 };
        for text in ["a\n\n".repeat(1 << 14), "*a".repeat(1 << 14)] {
            let error = parse(&text, Bounds::start(&limits)).unwrap_err();
            assert!(matches!(error, ParseError::TooMuchText { .. }), "{error}");
        }
        let usual = "A *word* of [a link](http://x) and `code` in a line of usual length, as people write them.\n";
        parse(&usual.repeat(500), Bounds::start(&limits)).unwrap();
    }

    #[test]
    fn deep_nesting_is_read_without_recursion() {
        let parsed = read(&format!("{}deep", "> ".repeat(20_000)));
        assert!(parsed.blocks.last().unwrap().text.contains("deep"));
    }
}
