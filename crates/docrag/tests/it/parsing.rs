//! PDFs, in the child process that opens them.

use docrag::document::{Block, BlockKind, MediaType, ParseError, ParseLimits, Parsed, parse, parse_pdf};
use pdf_extract::{
    Document, EncryptionState, EncryptionVersion, Object, ObjectId, Permissions, Stream, StringFormat, dictionary,
};
use rstest::rstest;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_docrag");
/// Enough for the program itself without optimisation, and little more.
const LIMITS: ParseLimits = ParseLimits { text_bytes: 1 << 20, time: Duration::from_mins(2), memory_bytes: 512 << 20 };

async fn read(bytes: Vec<u8>, limits: &ParseLimits) -> Result<Parsed, ParseError> {
    parse_pdf(Path::new(PROGRAM), bytes, limits).await
}

/// A document of one page per content stream.
fn pdf(contents: Vec<Stream>) -> Document {
    let mut document = Document::with_version("1.5");
    let pages = document.new_object_id();
    let font = document.add_object(dictionary! {
        "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Helvetica", "Encoding" => "WinAnsiEncoding",
    });
    let resources = document.add_object(dictionary! { "Font" => dictionary! { "F1" => font } });
    let page = |document: &mut Document, content: Stream| -> Object {
        let content = document.add_object(content);
        let page = dictionary! { "Type" => "Page", "Parent" => pages, "Contents" => content };
        document.add_object(page).into()
    };
    let kids: Vec<Object> = contents.into_iter().map(|content| page(&mut document, content)).collect();
    let (count, media_box) = (kids.len() as i64, vec![0.into(), 0.into(), 595.into(), 842.into()]);
    let tree = dictionary! {
        "Type" => "Pages", "Kids" => kids, "Count" => count, "Resources" => resources, "MediaBox" => media_box,
    };
    document.objects.insert(pages, Object::Dictionary(tree));
    let catalog: ObjectId = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => pages });
    document.trailer.set("Root", catalog);
    document
}

/// A page's lines from top to bottom; an empty one leaves room between paragraphs.
fn page(lines: &[&str]) -> Stream {
    let mut content = String::from("BT /F1 12 Tf 50 800 Td ");
    for line in lines {
        if !line.is_empty() {
            content.extend(["(", line, ") Tj "]);
        }
        content.push_str(if line.is_empty() { "0 -20 Td " } else { "0 -14 Td " });
    }
    content.push_str("ET");
    Stream::new(dictionary! {}, content.into_bytes())
}

fn bytes(mut document: Document) -> Vec<u8> {
    let mut bytes = Vec::new();
    document.save_to(&mut bytes).unwrap();
    bytes
}

fn manual() -> Document {
    let mut document = pdf(vec![
        page(&["Autovacuum removes dead rows before they be-", "come a burden.", "", "It runs by itself."]),
        page(&["The second page.", "", "2"]),
    ]);
    let title = Object::String(b"On Vacuum".to_vec(), StringFormat::Literal);
    let info = document.add_object(dictionary! { "Title" => title });
    document.trailer.set("Info", info);
    document
}

/// A page whose content unpacks to `size` spaces: the longest run that deflate knows, over and over.
fn bomb(size: usize) -> Document {
    let mut bits: Vec<u8> = vec![0x78, 0x9c];
    let (mut byte, mut filled) = (0_u8, 0);
    let mut put = |value: u32, length: u32, first_bit_highest: bool| {
        for index in 0..length {
            let bit = if first_bit_highest { value >> (length - 1 - index) } else { value >> index } & 1;
            byte |= (bit as u8) << filled;
            filled += 1;
            if filled == 8 {
                bits.push(byte);
                (byte, filled) = (0, 0);
            }
        }
    };
    put(0b011, 3, false); // the last block, with fixed codes
    put(0x30 + u32::from(b' '), 8, true);
    for _ in 0..size / 258 {
        put(0b1100_0101, 8, true); // 258 bytes
        put(0, 5, true); // from one byte back
    }
    put(0, 7, true);
    put(0, 8, false);
    let dictionary = dictionary! { "Filter" => "FlateDecode" };
    pdf(vec![Stream::new(dictionary, bits).with_compression(false)])
}

#[tokio::test]
async fn paragraphs_are_put_together_across_lines_and_pages_keep_their_order() {
    let paragraph = |text: &str| Block { kind: BlockKind::Paragraph, text: text.to_owned() };
    // Through the program that is found beside this test.
    let parsed = parse(MediaType::Pdf, bytes(manual()), &LIMITS).await.unwrap();
    assert_eq!(parsed.title.as_deref(), Some("On Vacuum"));
    assert_eq!(
        parsed.blocks,
        [
            paragraph("Autovacuum removes dead rows before they become a burden."),
            paragraph("It runs by itself."),
            paragraph("The second page."),
        ]
    );
}

#[tokio::test]
async fn pages_that_are_pictures_are_told_apart_from_broken_files() {
    let error = read(bytes(pdf(vec![page(&[])])), &LIMITS).await.unwrap_err();
    assert!(error.to_string().contains("OCR"), "{error}");
}

#[rstest]
#[case::header_only(b"%PDF-1.4\n".to_vec())]
#[case::rubbish([b"%PDF-1.7\n".as_slice(), &[0xa5; 5_000]].concat())]
#[case::cut_off({ let whole = bytes(manual()); whole[..whole.len() / 2].to_vec() })]
#[case::without_pages(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>".to_vec())]
#[tokio::test]
async fn a_broken_file_is_a_clear_error(#[case] bytes: Vec<u8>) {
    let error = read(bytes, &LIMITS).await.unwrap_err();
    assert!(matches!(error, ParseError::Broken { format: "PDF", .. } | ParseError::NoText { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_whose_bytes_were_changed_anywhere_never_harms_the_service() {
    let whole = bytes(manual());
    for step in 1..12 {
        let mut damaged = whole.clone();
        for place in (step * 13..damaged.len()).step_by(step * 41) {
            damaged[place] = damaged[place].wrapping_add(step as u8);
        }
        if let Err(error) = read(damaged, &LIMITS).await {
            assert!(!matches!(error, ParseError::Interrupted(_)), "{error}");
        }
    }
}

#[tokio::test]
async fn a_password_is_asked_for_and_an_empty_one_is_tried() {
    let encrypted = |user_password| {
        let mut document = manual();
        let id = || Object::String(b"0123456789abcdef".to_vec(), StringFormat::Literal);
        document.trailer.set("ID", Object::Array(vec![id(), id()]));
        let permissions = Permissions::all();
        let version =
            EncryptionVersion::V1 { document: &document, owner_password: "owner", user_password, permissions };
        let state = EncryptionState::try_from(version).unwrap();
        document.encrypt(&state).unwrap();
        bytes(document)
    };
    let error = read(encrypted("secret"), &LIMITS).await.unwrap_err();
    assert!(error.to_string().contains("password"), "{error}");
    let parsed = read(encrypted(""), &LIMITS).await.unwrap();
    assert_eq!(parsed.blocks[1].text, "It runs by itself.");
}

#[tokio::test]
async fn a_file_that_unpacks_beyond_the_memory_limit_ends_its_process_only() {
    let bomb = bytes(bomb(300 << 20));
    assert!(bomb.len() < 2 << 20, "{}", bomb.len());
    let error = read(bomb, &ParseLimits { memory_bytes: 256 << 20, ..LIMITS }).await.unwrap_err();
    assert!(error.to_string().contains("256 MiB of memory"), "{error}");
}

#[tokio::test]
async fn more_text_than_allowed_is_refused() {
    let limits = ParseLimits { text_bytes: 50, ..LIMITS };
    let error = read(bytes(manual()), &limits).await.unwrap_err();
    assert!(matches!(error, ParseError::TooMuchText { limit: 50 }), "{error:?}");
}

/// A program that tells its process id and stays.
fn sleeper(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (program, pid) = (folder.join("sleeper"), folder.join("pid"));
    fs::write(&program, format!("#!/bin/sh\necho $$ > {}\nexec sleep 600\n", pid.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program, pid)
}

#[tokio::test]
async fn a_reader_that_takes_too_long_is_killed_and_leaves_no_zombie() {
    let folder = tempfile::tempdir().unwrap();
    let (program, pid) = sleeper(folder.path());
    let limits = ParseLimits { time: Duration::from_secs(1), ..LIMITS };
    // More than a pipe holds: the one who writes must not wait for ever either.
    let error = parse_pdf(&program, vec![b'x'; 1 << 20], &limits).await.unwrap_err();
    assert!(matches!(error, ParseError::TooSlow(_)), "{error:?}");
    let pid = fs::read_to_string(pid).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[tokio::test]
async fn a_reader_nobody_waits_for_any_more_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (program, pid) = sleeper(folder.path());
    let reading = parse_pdf(&program, b"%PDF-".to_vec(), &LIMITS);
    assert!(tokio::time::timeout(Duration::from_secs(1), reading).await.is_err());
    let process = Path::new("/proc").join(fs::read_to_string(pid).unwrap().trim());
    let started = Instant::now();
    while process.exists() {
        assert!(started.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_counts_as_an_interruption() {
    let error = parse_pdf(Path::new("/nowhere/docrag"), b"%PDF-".to_vec(), &LIMITS).await.unwrap_err();
    assert!(matches!(&error, ParseError::Interrupted(cause) if cause.contains("/nowhere/docrag")), "{error:?}");
}
