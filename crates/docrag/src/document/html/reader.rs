//! The state while reading a page: what is open, and the text that is not yet a block.

use super::super::blocks::{BLOCK_BYTES, Blocks, Bounds, clean_prose};
use super::super::markdown::join_cells;
use super::super::{BlockKind, ParseError};
use super::MAX_DEPTH;
use super::tags::{Content, Kind, Marks, kind, marks};
use html5ever::LocalName;
use html5ever::tokenizer::{Tag, TagKind};
use std::mem;

/// How the tokenizer has to go on after a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Markup,
    TextWithEntities,
    RawText,
    Script,
}

struct Element {
    name: LocalName,
    kind: Kind,
    marks: Marks,
}

#[derive(Default)]
struct Table {
    cells: Vec<String>,
    in_cell: bool,
    /// Its cells are not data.
    layout: bool,
}

pub(super) struct Reader {
    blocks: Blocks,
    contents: Blocks,
    xml: bool,
    stack: Vec<Element>,
    /// Index in `stack` of the element whose content is dropped.
    dropped: Option<usize>,
    tables: Vec<Table>,
    text: String,
    /// What `text` will be.
    block: BlockKind,
    pre: usize,
    /// How many are open: looking for one that is not would walk over the whole stack at every tag.
    paragraphs: usize,
    headings: usize,
    notes: usize,
    in_contents: usize,
    /// Stands before the next paragraph: the term of a definition, or the kind of a note.
    lead: Option<String>,
    title: String,
    first_heading: Option<String>,
    has_body: bool,
}

impl Reader {
    pub(super) fn new(bounds: Bounds, xml: bool) -> Self {
        Self {
            blocks: Blocks::new(bounds),
            contents: Blocks::new(bounds),
            xml,
            stack: Vec::new(),
            dropped: None,
            tables: Vec::new(),
            text: String::new(),
            block: BlockKind::Paragraph,
            pre: 0,
            paragraphs: 0,
            headings: 0,
            notes: 0,
            in_contents: 0,
            lead: None,
            title: String::new(),
            first_heading: None,
            has_body: false,
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        if self.dropped.is_some() {
        } else if self.stack.last().is_some_and(|top| top.kind == Kind::Title) {
            self.title.push_str(text);
        } else {
            self.text.push_str(text);
        }
    }

    pub(super) fn tag(&mut self, tag: &Tag) -> Result<Next, ParseError> {
        match tag.kind {
            TagKind::StartTag => self.start(tag),
            TagKind::EndTag => {
                self.end(&tag.name)?;
                Ok(Next::Markup)
            }
        }
    }

    /// The blocks, the page's title as it is written, and the first heading.
    pub(super) fn finish(mut self) -> Result<(Blocks, String, Option<String>), ParseError> {
        self.close_down_to(0)?;
        self.flush()?;
        self.flush_lead()?;
        if !self.has_body {
            self.blocks.append(self.contents)?;
        }
        Ok((self.blocks, self.title, self.first_heading))
    }

    fn start(&mut self, tag: &Tag) -> Result<Next, ParseError> {
        let kind = kind(&tag.name);
        let closed = tag.self_closing && (self.xml || self.dropped.is_some());
        self.close_implied(kind, &tag.name)?;
        if self.dropped.is_some() {
            return Ok(self.start_dropped(tag, kind, closed));
        }
        match kind {
            Kind::Break => {
                self.text.push(if self.pre > 0 { '\n' } else { ' ' });
                return Ok(Next::Markup);
            }
            Kind::Void => return Ok(Next::Markup),
            _ => {}
        }
        let marks = marks(tag);
        let drop = marks.dropped || matches!(kind, Kind::Dropped(_));
        let too_deep = self.stack.len() >= MAX_DEPTH;
        if !drop && (too_deep || closed) {
            // Nothing will close it.
            if kind.closes_paragraph() {
                self.part()?;
            }
            return Ok(Next::Markup);
        }
        if drop && closed {
            return Ok(Next::Markup);
        }
        if !drop {
            self.open(kind)?;
        }
        if &*tag.name == "hr" {
            return Ok(Next::Markup);
        }
        self.paragraphs += usize::from(kind == Kind::Paragraph);
        self.headings += usize::from(matches!(kind, Kind::Heading(_)));
        self.notes += usize::from(marks.note);
        self.in_contents += usize::from(marks.contents);
        self.stack.push(Element { name: tag.name.clone(), kind, marks });
        if drop {
            self.dropped = Some(self.stack.len() - 1);
        }
        Ok(next(kind, &tag.name))
    }

    /// Within what is dropped only the nesting matters, and what would swallow the end tag.
    fn start_dropped(&mut self, tag: &Tag, kind: Kind, closed: bool) -> Next {
        if closed || matches!(kind, Kind::Break | Kind::Void) || &*tag.name == "hr" {
            return Next::Markup;
        }
        if self.stack.len() < MAX_DEPTH {
            self.stack.push(Element { name: tag.name.clone(), kind: Kind::Inline, marks: Marks::default() });
        }
        next(kind, &tag.name)
    }

    /// The end tags that HTML lets one leave out.
    fn close_implied(&mut self, kind: Kind, name: &LocalName) -> Result<(), ParseError> {
        let found = match kind {
            Kind::Item => self.innermost(|kind| kind == Kind::Item, &[Kind::List]),
            Kind::Term | Kind::Definition => {
                self.innermost(|kind| matches!(kind, Kind::Term | Kind::Definition), &[Kind::List])
            }
            Kind::Cell => self.innermost(|kind| kind == Kind::Cell, &[Kind::Row, Kind::Table]),
            Kind::Row => self.innermost(|kind| kind == Kind::Row, &[Kind::Table]),
            Kind::RowGroup => self.innermost(|kind| kind == Kind::RowGroup, &[Kind::Table]),
            _ => None,
        };
        if let Some(index) = found {
            self.close_down_to(index)?;
        }
        if !kind.closes_paragraph() || matches!(&**name, "html" | "body") {
            return Ok(());
        }
        if self.paragraphs > 0
            && let Some(index) = self.innermost(|kind| kind == Kind::Paragraph, &[Kind::Cell, Kind::Table])
        {
            self.close_down_to(index)?;
        }
        // A heading holds no blocks: whoever forgot its end tag did not mean the rest of the page.
        if self.headings > 0
            && !self.text.trim().is_empty()
            && let Some(index) = self.innermost(|kind| matches!(kind, Kind::Heading(_)), &[Kind::Cell, Kind::Table])
        {
            self.close_down_to(index)?;
        }
        Ok(())
    }

    /// The innermost open element that is `wanted`, unless one of `barriers` is nearer, or a dropped element.
    fn innermost(&self, wanted: impl Fn(Kind) -> bool, barriers: &[Kind]) -> Option<usize> {
        let floor = self.dropped.map_or(0, |index| index + 1);
        for (index, open) in self.stack.iter().enumerate().skip(floor).rev() {
            if wanted(open.kind) {
                return Some(index);
            }
            if barriers.contains(&open.kind) {
                return None;
            }
        }
        None
    }

    fn open(&mut self, kind: Kind) -> Result<(), ParseError> {
        match kind {
            Kind::Heading(level) => {
                self.make_layout()?;
                self.part()?;
                self.block = BlockKind::Heading(level);
            }
            Kind::Item | Kind::Definition => {
                self.part()?;
                self.set_block(BlockKind::ListItem);
            }
            Kind::Term => {
                self.part()?;
                if !self.in_data_cell() {
                    self.flush_lead()?;
                }
            }
            Kind::Pre => {
                self.part()?;
                if !self.in_data_cell() {
                    self.pre += 1;
                    self.block = BlockKind::Code;
                }
            }
            Kind::Table => {
                self.make_layout()?;
                self.part()?;
                self.tables.push(Table::default());
            }
            Kind::Cell => {
                self.part()?;
                if let Some(table) = self.tables.last_mut() {
                    table.in_cell = true;
                }
            }
            Kind::Block | Kind::Paragraph | Kind::List | Kind::RowGroup | Kind::Row => self.part()?,
            Kind::Inline | Kind::Title | Kind::Break | Kind::Void | Kind::Dropped(_) => {}
        }
        Ok(())
    }

    fn end(&mut self, name: &LocalName) -> Result<(), ParseError> {
        let closing = kind(name);
        // An end tag does not reach out of its cell, unless it is the table's.
        let in_table = matches!(closing, Kind::Cell | Kind::Row | Kind::RowGroup | Kind::Table);
        let floor = self.dropped.unwrap_or(0);
        for (index, open) in self.stack.iter().enumerate().skip(floor).rev() {
            if open.name == *name || matches!((open.kind, closing), (Kind::Heading(_), Kind::Heading(_))) {
                return self.close_down_to(index);
            }
            if open.kind == Kind::Table && closing != Kind::Table || open.kind == Kind::Cell && !in_table {
                return Ok(());
            }
        }
        Ok(())
    }

    fn close_down_to(&mut self, index: usize) -> Result<(), ParseError> {
        while self.stack.len() > index {
            let Some(element) = self.stack.pop() else { break };
            match self.dropped {
                // Its own kind says nothing any more: `Dropped`, or one that was never opened.
                Some(root) if root == self.stack.len() => self.dropped = None,
                Some(_) => {}
                None => self.close(element.kind)?,
            }
            self.paragraphs -= usize::from(element.kind == Kind::Paragraph);
            self.headings -= usize::from(matches!(element.kind, Kind::Heading(_)));
            self.notes -= usize::from(element.marks.note);
            self.in_contents -= usize::from(element.marks.contents);
        }
        Ok(())
    }

    fn close(&mut self, kind: Kind) -> Result<(), ParseError> {
        match kind {
            Kind::Inline | Kind::Title | Kind::Break | Kind::Void | Kind::Dropped(_) => return Ok(()),
            Kind::Heading(_) => return self.close_heading(),
            Kind::Term if !self.in_data_cell() => {
                let term = clean_prose(&mem::take(&mut self.text));
                self.lead = (!term.is_empty()).then_some(term);
                return Ok(());
            }
            Kind::Cell => {
                if let Some(table) = self.tables.last_mut()
                    && !table.layout
                {
                    table.cells.push(mem::take(&mut self.text));
                    table.in_cell = false;
                    return self.blocks.bounds().check_text(table.cells.len() * BLOCK_BYTES);
                }
            }
            Kind::Row => {
                if let Some(table) = self.tables.last_mut() {
                    let cells = mem::take(&mut table.cells);
                    table.in_cell = false;
                    self.push(BlockKind::TableRow, &join_cells(&cells))?;
                }
            }
            Kind::Table => {
                if let Some(table) = self.tables.pop() {
                    self.push(BlockKind::TableRow, &join_cells(&table.cells))?;
                }
            }
            _ => {}
        }
        self.part()?;
        if kind == Kind::List && !self.in_data_cell() {
            self.flush_lead()?;
        }
        if kind == Kind::Pre {
            self.pre = self.pre.saturating_sub(1);
        }
        self.set_block(BlockKind::Paragraph);
        Ok(())
    }

    /// The heading of a note stands before its text: `Note: …`.
    fn close_heading(&mut self) -> Result<(), ParseError> {
        if self.notes > 0 {
            let heading = clean_prose(&mem::take(&mut self.text));
            self.block = BlockKind::Paragraph;
            self.lead = (!heading.is_empty()).then_some(heading);
            return Ok(());
        }
        if self.first_heading.is_none() && !self.has_body {
            let heading = clean_prose(&self.text);
            self.first_heading = (!heading.is_empty()).then_some(heading);
        }
        self.flush()
    }

    fn in_data_cell(&self) -> bool {
        self.tables.last().is_some_and(|table| table.in_cell && !table.layout)
    }

    /// A heading or a table within a cell shows that the table around it only arranges things.
    fn make_layout(&mut self) -> Result<(), ParseError> {
        if !self.in_data_cell() {
            return Ok(());
        }
        let cells = self.tables.last_mut().map(|table| {
            table.layout = true;
            mem::take(&mut table.cells)
        });
        for cell in cells.unwrap_or_default() {
            self.push(BlockKind::Paragraph, &cell)?;
        }
        Ok(())
    }

    fn set_block(&mut self, block: BlockKind) {
        if !self.in_data_cell() {
            self.block = block;
        }
    }

    /// Here one paragraph ends and another may begin.
    fn part(&mut self) -> Result<(), ParseError> {
        if self.in_data_cell() {
            self.text.push(' ');
            Ok(())
        } else {
            self.flush()
        }
    }

    fn flush(&mut self) -> Result<(), ParseError> {
        let text = mem::take(&mut self.text);
        if text.trim().is_empty() {
            return Ok(());
        }
        let block = mem::replace(&mut self.block, BlockKind::Paragraph);
        self.push(block, &text)
    }

    fn flush_lead(&mut self) -> Result<(), ParseError> {
        match self.lead.take() {
            Some(lead) => self.push(BlockKind::ListItem, &lead),
            None => Ok(()),
        }
    }

    fn push(&mut self, block: BlockKind, text: &str) -> Result<(), ParseError> {
        if text.trim().is_empty() {
            return Ok(());
        }
        if let Some(lead) = self.lead.take() {
            if matches!(block, BlockKind::Paragraph | BlockKind::ListItem) {
                return self.push(block, &format!("{lead}: {text}"));
            }
            self.push(BlockKind::ListItem, &lead)?;
        }
        if self.in_contents > 0 {
            return self.contents.push(block, text);
        }
        self.has_body |= !matches!(block, BlockKind::Heading(_));
        self.blocks.push(block, text)
    }
}

fn next(kind: Kind, name: &LocalName) -> Next {
    match kind {
        Kind::Title | Kind::Dropped(Content::TextWithEntities) => Next::TextWithEntities,
        Kind::Dropped(Content::RawText) => Next::RawText,
        Kind::Dropped(Content::Script) => Next::Script,
        Kind::Pre if &**name == "xmp" => Next::RawText,
        _ => Next::Markup,
    }
}
