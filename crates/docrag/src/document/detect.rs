//! Which format some bytes are in: what the sender declared, else the name's ending, else how they begin. Bytes that
//! contradict the answer are an error, so that a picture sent as text never reaches an index.

use super::decode::{looks_binary, utf16_without_mark};
use super::{MediaType, ParseError};
use encoding_rs::Encoding;

/// PDF readers accept other bytes before the header.
const PDF_HEADER_WITHIN: usize = 1024;

/// Formats that people send by mistake, by how they begin.
const SIGNATURES: [(&[u8], &str); 14] = [
    (b"PK\x03\x04", "a ZIP archive (or an Office document)"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"(\xb5/\xfd", "Zstandard data"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "an SQLite database"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
];

pub(super) fn detect(declared: Option<&str>, name: &str, bytes: &[u8]) -> Result<MediaType, ParseError> {
    if bytes.is_empty() {
        return Err(ParseError::Empty);
    }
    let media = match declared.map(by_declaration) {
        Some(Declared::Media(media)) => media,
        Some(Declared::Unknown(name)) => return Err(ParseError::UnknownFormat(name)),
        Some(Declared::Nothing) | None => match by_ending(name) {
            Some(media) => media,
            None => return by_content(bytes),
        },
    };
    if media == MediaType::Pdf {
        return if is_pdf(bytes) {
            Ok(media)
        } else {
            Err(ParseError::Broken { format: "PDF", cause: "it does not begin with %PDF-".to_owned() })
        };
    }
    if is_pdf_at_once(bytes) || signature(bytes).is_some() || is_binary(bytes) {
        return Err(ParseError::Binary { expected: media.expected() });
    }
    Ok(media)
}

enum Declared {
    Media(MediaType),
    /// What senders say that do not know.
    Nothing,
    Unknown(String),
}

fn by_declaration(declared: &str) -> Declared {
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/octet-stream" | "binary/octet-stream" | "*/*" => Declared::Nothing,
        "text/markdown" | "text/x-markdown" => Declared::Media(MediaType::Markdown),
        "text/html" | "application/xhtml+xml" => Declared::Media(MediaType::Html),
        "application/pdf" | "application/x-pdf" => Declared::Media(MediaType::Pdf),
        text if text.starts_with("text/") => Declared::Media(MediaType::Text),
        _ => Declared::Unknown(essence),
    }
}

/// `name` is a path or a URL.
fn by_ending(name: &str) -> Option<MediaType> {
    let file = name.split(['?', '#']).next()?.rsplit(['/', '\\']).next()?;
    let (stem, ending) = file.rsplit_once('.')?;
    if stem.is_empty() {
        return None;
    }
    match ending.to_ascii_lowercase().as_str() {
        "txt" | "text" | "log" | "rst" | "adoc" => Some(MediaType::Text),
        "md" | "markdown" | "mdown" | "mkd" => Some(MediaType::Markdown),
        "html" | "htm" | "xhtml" | "shtml" => Some(MediaType::Html),
        "pdf" => Some(MediaType::Pdf),
        _ => None,
    }
}

fn by_content(bytes: &[u8]) -> Result<MediaType, ParseError> {
    if is_pdf_at_once(bytes) {
        return Ok(MediaType::Pdf);
    }
    if let Some(what) = signature(bytes) {
        return Err(ParseError::UnknownFormat(what.to_owned()));
    }
    if is_binary(bytes) {
        return Err(ParseError::UnknownFormat("binary data".to_owned()));
    }
    Ok(if begins_as_html(bytes) { MediaType::Html } else { MediaType::Text })
}

fn is_pdf_at_once(bytes: &[u8]) -> bool {
    bytes.starts_with(b"%PDF-")
}

fn is_pdf(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(PDF_HEADER_WITHIN)].windows(5).any(|window| window == b"%PDF-")
}

fn signature(bytes: &[u8]) -> Option<&'static str> {
    SIGNATURES.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, what)| *what)
}

fn is_binary(bytes: &[u8]) -> bool {
    Encoding::for_bom(bytes).is_none() && utf16_without_mark(bytes).is_none() && looks_binary(bytes)
}

fn begins_as_html(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase();
    let mut rest = head.trim_start_matches('\u{feff}').trim_start();
    // Comments and an XML declaration may come first.
    while rest.starts_with("<!--") || rest.starts_with("<?") {
        let Some(end) = rest.find('>') else { return false };
        rest = rest[end + 1..].trim_start();
    }
    ["<!doctype html", "<html", "<head", "<body"].iter().any(|tag| rest.starts_with(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Some("text/html; charset=utf-8"), "a.txt", b"plain", MediaType::Html)]
    #[case(Some("application/octet-stream"), "notes.MD", b"# a", MediaType::Markdown)]
    #[case(None, "https://host/guide.html?v=1.2#top", b"plain", MediaType::Html)]
    #[case(None, "guide.pdf", b"\n%PDF-1.4", MediaType::Pdf)]
    #[case(None, "guide", b"%PDF-1.4", MediaType::Pdf)]
    #[case(None, "v1.2/guide", b"\xef\xbb\xbf <!-- x -->\n<!DOCTYPE HTML>", MediaType::Html)]
    #[case(None, "", b"<?xml version=\"1.0\"?><html>", MediaType::Html)]
    #[case(Some("text/csv"), "", b"a,b", MediaType::Text)]
    #[case(None, ".html", b"plain", MediaType::Text)]
    #[case(None, "letter.txt", b"h\0i\0!\0!\0", MediaType::Text)]
    fn declaration_then_ending_then_content_decide(
        #[case] declared: Option<&str>,
        #[case] name: &str,
        #[case] bytes: &[u8],
        #[case] media: MediaType,
    ) {
        assert_eq!(detect(declared, name, bytes).unwrap(), media);
    }

    #[rstest]
    #[case(None, "a.txt", b"".as_slice(), "empty")]
    #[case(Some("image/png"), "a.png", b"\x89PNG", "image/png is not a format")]
    #[case(None, "a.docx", b"PK\x03\x04\x14", "ZIP archive")]
    #[case(None, "a.bin", b"\x00\x01\x02\x03", "binary data is not a format")]
    #[case(Some("text/plain"), "a.txt", b"\x89PNG\r\n\x1a\n", "not text")]
    #[case(Some("text/plain"), "a.txt", b"%PDF-1.7", "not text")]
    #[case(None, "a.html", b"\x1f\x8b\x08", "not HTML")]
    #[case(Some("application/pdf"), "a.pdf", b"hello", "%PDF-")]
    fn what_cannot_be_ingested_is_refused_with_the_reason(
        #[case] declared: Option<&str>,
        #[case] name: &str,
        #[case] bytes: &[u8],
        #[case] reason: &str,
    ) {
        let error = detect(declared, name, bytes).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
