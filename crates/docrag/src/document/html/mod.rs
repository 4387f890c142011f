//! HTML: what a reader of the page would read, without what surrounds it.
//!
//! The page is read as a stream of tags and text; no tree is built. A tree of a hostile page (100,000 nested elements) is
//! slow to build, deep to walk, and ten times the size of the page, and nothing here needs one. What is open is kept on
//! a short stack, by the rules of HTML for tags that close others; deeper than `MAX_DEPTH` elements are not told
//! apart, as in browsers.
//!
//! Dropped are scripts, styles, navigation, whatever is hidden, forms' controls, and a table of contents unless the page
//! has nothing else. A table whose cells hold headings or tables is a layout, and read as if it were none.

mod reader;
mod tags;

use super::blocks::{Blocks, Bounds, clean_title};
use super::{ParseError, Parsed};
use html5ever::TokenizerResult;
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};
use reader::{Next, Reader};
use std::cell::RefCell;

/// Browsers stop telling elements apart here, too.
const MAX_DEPTH: usize = 512;
/// Time and text are looked at after so many bytes.
const SLICE: usize = 16 << 10;

pub(super) fn parse(text: &str, bounds: Bounds) -> Result<Parsed, ParseError> {
    let (blocks, raw_title, first_heading) = read(text, bounds)?.finish()?;
    let mut parsed = blocks.finish();
    if parsed.blocks.is_empty() {
        return Err(ParseError::NoText { hint: "; a page that scripts fill has to be saved as it is shown" });
    }
    parsed.title = page_title(&raw_title, first_heading.as_deref());
    Ok(parsed)
}

/// The blocks of a piece of HTML within another format.
pub(super) fn fragment(text: &str, bounds: Bounds) -> Result<Blocks, ParseError> {
    Ok(read(text, bounds)?.finish()?.0)
}

fn read(text: &str, bounds: Bounds) -> Result<Reader, ParseError> {
    // XHTML closes `<a/>`; HTML does not.
    let xml = text.trim_start().starts_with("<?xml");
    let tokenizer = Tokenizer::new(Sink(RefCell::new((Reader::new(bounds, xml), None))), TokenizerOpts::default());
    let queue = BufferQueue::default();
    let mut rest = text;
    while !rest.is_empty() {
        let (slice, after) = rest.split_at(rest.floor_char_boundary(SLICE.min(rest.len())).max(1));
        rest = after;
        queue.push_back(StrTendril::from_slice(slice));
        while !matches!(tokenizer.feed(&queue), TokenizerResult::Done) {}
        if let Some(error) = tokenizer.sink.0.borrow_mut().1.take() {
            return Err(error);
        }
        bounds.check_time()?;
    }
    tokenizer.end();
    let (reader, error) = tokenizer.sink.0.into_inner();
    error.map_or(Ok(reader), Err)
}

/// The first error stays until the slice is through.
struct Sink(RefCell<(Reader, Option<ParseError>)>);

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let (reader, error) = &mut *self.0.borrow_mut();
        if error.is_some() {
            return TokenSinkResult::Continue;
        }
        let next = match token {
            Token::TagToken(tag) => reader.tag(&tag),
            Token::CharacterTokens(text) => {
                reader.text(&text);
                Ok(Next::Markup)
            }
            _ => Ok(Next::Markup),
        };
        match next {
            Ok(Next::Markup) => TokenSinkResult::Continue,
            Ok(Next::TextWithEntities) => TokenSinkResult::RawData(RawKind::Rcdata),
            Ok(Next::RawText) => TokenSinkResult::RawData(RawKind::Rawtext),
            Ok(Next::Script) => TokenSinkResult::RawData(RawKind::ScriptData),
            Err(found) => {
                *error = Some(found);
                TokenSinkResult::Continue
            }
        }
    }
}

/// The page's title without the name of the site, which stands before or after what the first heading says:
/// `PostgreSQL: 19.5. Write Ahead Log` over a heading `19.5. Write Ahead Log` is called as the heading.
fn page_title(raw: &str, first_heading: Option<&str>) -> Option<String> {
    let heading = first_heading.and_then(clean_title);
    let Some(title) = clean_title(raw) else { return heading };
    let Some(heading) = heading else { return Some(title) };
    let parts = |rest: &str, at_end: bool| {
        let separator = if at_end { rest.trim_end().chars().last() } else { rest.trim_start().chars().next() };
        separator.is_some_and(|c| matches!(c, ':' | '|' | '-' | '–' | '—' | '·' | '»' | '«' | '/' | '•'))
    };
    let named_after = title.strip_suffix(heading.as_str()).is_some_and(|rest| parts(rest, true))
        || title.strip_prefix(heading.as_str()).is_some_and(|rest| parts(rest, false));
    Some(if named_after { heading } else { title })
}

#[cfg(test)]
mod tests;
