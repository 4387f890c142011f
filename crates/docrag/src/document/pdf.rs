//! PDF: the text of its pages, put together to paragraphs.
//!
//! `extract` runs in a process of its own (see `child`): the reader of this format panics, recurses and unpacks as
//! much as a file tells it to.

use super::blocks::{Blocks, Bounds, clean_prose};
use super::text::{Wrapping, paragraphs};
use super::{ParseError, Parsed};
use pdf_extract::{ConvertToFmt, Dictionary, Document, Object, PlainTextOutput, output_doc_page};
use std::fmt;

pub(super) const SCANNED: &str = "; pages that are pictures have to go through text recognition (OCR) first";

pub(super) fn extract(bytes: &[u8], bounds: Bounds) -> Result<Parsed, ParseError> {
    let mut document = Document::load_mem(bytes).map_err(broken)?;
    // Many files are encrypted with an empty password, which only asks readers not to print them.
    if document.is_encrypted() && document.decrypt("").is_err() {
        return Err(broken("it is encrypted with a password; save it without one"));
    }
    let mut blocks = Blocks::new(bounds);
    let pages: Vec<u32> = document.get_pages().into_keys().collect();
    let (mut room, mut failure) = (bounds.text_room(), None);
    for number in &pages {
        let mut page = Page { text: String::new(), room, full: false };
        if let Err(error) = output_doc_page(&document, &mut PlainTextOutput::new(&mut page), *number) {
            if page.full {
                bounds.check_text(usize::MAX)?;
            }
            // A damaged page does not make the others unreadable.
            failure.get_or_insert(error.to_string());
        }
        room -= page.text.len();
        paragraphs(without_page_number(&page.text), &mut blocks, Wrapping::Always)?;
        bounds.check_time()?;
    }
    if blocks.len() == 0 {
        return Err(failure.map_or(ParseError::NoText { hint: SCANNED }, broken));
    }
    if let Some(title) = title(&document) {
        blocks.set_title(&title);
    }
    Ok(blocks.finish())
}

fn broken(cause: impl fmt::Display) -> ParseError {
    ParseError::Broken { format: "PDF", cause: cause.to_string() }
}

/// Collects a page's text up to a limit.
struct Page {
    text: String,
    room: usize,
    full: bool,
}

impl ConvertToFmt for &mut Page {
    type Writer = Self;

    fn convert(self) -> Self {
        self
    }
}

impl fmt::Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > self.room {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// The last line, when it is but a number.
fn without_page_number(page: &str) -> &str {
    let page = page.trim_end();
    let (rest, last) = page.rsplit_once('\n').unwrap_or(("", page));
    let last = last.trim();
    if !last.is_empty() && last.len() <= 4 && last.bytes().all(|b| b.is_ascii_digit()) { rest } else { page }
}

/// What the file calls itself, unless a word processor named it after a file.
fn title(document: &Document) -> Option<String> {
    let info = document.trailer.get(b"Info").ok()?;
    let info: &Dictionary = match info {
        Object::Reference(id) => document.get_object(*id).and_then(Object::as_dict).ok()?,
        other => other.as_dict().ok()?,
    };
    let title = clean_prose(&text_string(info.get(b"Title").and_then(Object::as_str).ok()?));
    let lower = title.to_lowercase();
    let machine_made = lower.starts_with("microsoft word")
        || lower.starts_with("untitled")
        || [".doc", ".docx", ".pdf", ".tex", ".dvi", ".indd"].iter().any(|ending| lower.ends_with(ending));
    (!title.is_empty() && !machine_made).then_some(title)
}

/// UTF-16 or UTF-8 with a byte order mark, else nearly Latin-1 (ISO 32000-1, 7.9.2.2).
fn text_string(bytes: &[u8]) -> String {
    match encoding_rs::Encoding::for_bom(bytes) {
        Some((encoding, _)) => encoding.decode_with_bom_removal(bytes).0.into_owned(),
        None => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_at_the_foot_of_a_page_is_no_text() {
        assert_eq!(without_page_number("text\n\n 17 \n"), "text\n");
        assert_eq!(without_page_number("in the year\n2024 it was"), "in the year\n2024 it was");
        assert_eq!(without_page_number("12"), "");
    }

    #[test]
    fn titles_are_read_in_both_encodings() {
        assert_eq!(text_string(b"\xfe\xff\0G\0r\0\xfc\0n"), "Grün");
        assert_eq!(text_string(b"Gr\xfcn"), "Grün");
    }
}
