//! Bytes in an encoding that nobody may have declared, or declared wrongly, to text.
//!
//! In this order: a byte order mark; UTF-16 by where its zero bytes are; UTF-8 when it is valid, whatever the document
//! claims, since text in another encoding is hardly ever valid UTF-8 by chance; UTF-8 with a few damaged places; what
//! the document declares; a guess by the frequencies of letters (what Firefox does).

use super::ParseError;
use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use std::borrow::Cow;

/// How much of the beginning is looked at for a judgement.
const SAMPLE: usize = 64 << 10;
/// Where HTML has to declare its encoding.
const PRESCAN: usize = 1024;

/// The text of `bytes`, or `Binary` when they are none. `expected` is for the message.
pub(super) fn decode<'a>(bytes: &'a [u8], html: bool, expected: &'static str) -> Result<Cow<'a, str>, ParseError> {
    let encoding = Encoding::for_bom(bytes).map(|(encoding, _)| encoding).or_else(|| utf16_without_mark(bytes));
    if let Some(encoding) = encoding {
        let text = encoding.decode_with_bom_removal(bytes).0;
        // UTF-16 that is none decodes to rubbish.
        return if looks_binary(text.as_bytes()) { Err(ParseError::Binary { expected }) } else { Ok(text) };
    }
    if looks_binary(bytes) {
        return Err(ParseError::Binary { expected });
    }
    let encoding = if mostly_utf8(bytes) {
        UTF_8
    } else {
        declared(bytes, html).unwrap_or_else(|| {
            let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
            detector.feed(bytes, true);
            detector.guess(None, Utf8Detection::Allow)
        })
    };
    Ok(encoding.decode_without_bom_handling(bytes).0)
}

/// Whether this is no text in any encoding that keeps ASCII: other files have zero bytes and control characters.
pub(super) fn looks_binary(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    // Escape colours logs; form feed parts pages.
    let (zeros, controls) = sample.iter().fold((0, 0), |(zeros, controls), byte| {
        let control = *byte < 0x20 && !matches!(*byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b);
        (zeros + usize::from(*byte == 0), controls + usize::from(control))
    });
    zeros * 1000 > sample.len() || controls * 50 > sample.len()
}

/// UTF-16 of mostly Latin text has a zero in every other byte.
pub(super) fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(SAMPLE) & !1];
    if sample.len() < 8 {
        return None;
    }
    let zeros = |offset: usize| sample.iter().skip(offset).step_by(2).filter(|b| **b == 0).count();
    let (first, second, pairs) = (zeros(0), zeros(1), sample.len() / 2);
    if second * 10 > pairs * 4 && first * 50 <= pairs {
        Some(UTF_16LE)
    } else if first * 10 > pairs * 4 && second * 50 <= pairs {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// Valid, or so full of valid letters beyond ASCII that the rest is damage: an editor's slip must not turn every umlaut
/// of a book into two letters.
fn mostly_utf8(bytes: &[u8]) -> bool {
    let (mut letters, mut damage) = (0_usize, 0_usize);
    for chunk in bytes.utf8_chunks() {
        letters += chunk.valid().bytes().filter(|b| *b >= 0xc0).count();
        damage += usize::from(!chunk.invalid().is_empty());
    }
    damage == 0 || letters > damage * 20
}

/// The encoding that `<meta charset>`, `<meta http-equiv>` or an XML declaration names.
fn declared(bytes: &[u8], html: bool) -> Option<&'static Encoding> {
    if !html {
        return None;
    }
    let head = &bytes[..bytes.len().min(PRESCAN)].to_ascii_lowercase();
    [&b"charset"[..], b"encoding"].into_iter().find_map(|key| {
        let at = head.windows(key.len()).position(|window| window == key)?;
        let value: Vec<u8> = head[at + key.len()..]
            .iter()
            .copied()
            .skip_while(|b| matches!(b, b' ' | b'=' | b'"' | b'\''))
            .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':'))
            .collect();
        // A document whose ASCII could be read cannot be UTF-16, whatever it says.
        Encoding::for_label(&value).filter(|encoding| encoding.is_ascii_compatible())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const TEXT: &str = "Die Größe der Übersicht hängt vom Füllgrad ab.";

    fn utf16(text: &str, big: bool, mark: bool) -> Vec<u8> {
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
    }

    #[rstest]
    #[case::utf8(TEXT.as_bytes().to_vec())]
    #[case::utf8_with_mark([b"\xef\xbb\xbf", TEXT.as_bytes()].concat())]
    #[case::utf16_little(utf16(TEXT, false, true))]
    #[case::utf16_big(utf16(TEXT, true, true))]
    #[case::utf16_little_without_mark(utf16(TEXT, false, false))]
    #[case::utf16_big_without_mark(utf16(TEXT, true, false))]
    #[case::windows_1252(encoding_rs::WINDOWS_1252.encode(TEXT).0.into_owned())]
    fn the_same_text_comes_out_of_every_encoding(#[case] bytes: Vec<u8>) {
        assert_eq!(decode(&bytes, false, "text").unwrap(), TEXT);
    }

    #[test]
    fn a_declared_encoding_is_believed_unless_the_bytes_are_valid_utf8() {
        let page = "<meta charset=\"koi8-r\"><p>Вакуум";
        let koi = encoding_rs::KOI8_R.encode(page).0;
        assert_eq!(decode(&koi, true, "HTML").unwrap(), page);
        assert_eq!(decode(page.as_bytes(), true, "HTML").unwrap(), page);
    }

    #[test]
    fn a_damaged_place_in_utf8_does_not_change_the_encoding_of_the_rest() {
        let mut bytes = "größer ".repeat(50).into_bytes();
        bytes.push(0xff);
        assert!(decode(&bytes, false, "text").unwrap().starts_with("größer größer"));
    }

    #[rstest]
    #[case::elf(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0".as_slice())]
    #[case::controls(b"\x01\x02\x03\x04abc".as_slice())]
    #[case::zeros(&[0; 100])]
    #[case::rubbish_after_a_mark(b"\xff\xfe\x01\0\x02\0\x03\0\x04\0".as_slice())]
    fn binary_data_is_refused(#[case] bytes: &[u8]) {
        assert!(matches!(decode(bytes, false, "text"), Err(ParseError::Binary { expected: "text" })));
    }

    #[test]
    fn one_zero_byte_in_a_long_text_does_not_make_it_binary() {
        let bytes = [TEXT.repeat(100).as_bytes(), b"\0"].concat();
        assert!(decode(&bytes, false, "text").is_ok());
    }
}
