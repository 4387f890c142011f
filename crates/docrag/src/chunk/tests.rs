use super::*;
use crate::document::{Block, BlockKind};
use BlockKind::{Code, Heading, ListItem, Paragraph, TableRow};
use proptest::prelude::*;
use std::collections::HashSet;

const DOCUMENT: Uuid = Uuid::from_u128(7);

fn chunker(max_tokens: usize, overlap_tokens: usize) -> Chunker {
    Chunker::new(TokenCounter::approximate(), ChunkLimits { max_tokens, overlap_tokens })
}

fn parsed(blocks: &[(BlockKind, &str)]) -> Parsed {
    let blocks = blocks.iter().map(|(kind, text)| Block { kind: *kind, text: (*text).to_owned() }).collect();
    Parsed { title: None, blocks }
}

fn chunks(limits: (usize, usize), title: &str, blocks: &[(BlockKind, &str)]) -> Vec<Chunk> {
    chunker(limits.0, limits.1).chunks(DOCUMENT, Some(title), &parsed(blocks))
}

/// Twelve words, no two alike.
fn sentence(number: usize) -> String {
    format!("Page {number} of the map number {number} shows where row {number} of it lies.")
}

fn paragraph(number: usize, sentences: usize) -> String {
    (0..sentences).map(|index| sentence(number * 100 + index)).collect::<Vec<_>>().join(" ")
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().filter(|word| *word != "-").collect()
}

#[test]
fn a_document_that_fits_is_one_chunk_with_its_headings_in_the_text() {
    let blocks = [
        (Heading(1), "Guide"),
        (Paragraph, "Intro."),
        (Heading(2), "Install"),
        (ListItem, "one"),
        (ListItem, "two"),
        (Heading(2), "Run"),
        (Code, "a {\n  b\n}"),
        (TableRow, "x | y"),
        (TableRow, "1 | 2"),
    ];
    let chunks = chunks((256, 32), "Guide", &blocks);
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].heading, "");
    assert_eq!(chunks[0].content, "Intro.\n\nInstall\n- one\n- two\n\nRun\na {\n  b\n}\n\nx | y\n1 | 2");
    assert_eq!(
        embedded_text(Some("Guide"), &chunks[0].heading, &chunks[0].content),
        format!("Guide\n{}", chunks[0].content)
    );
}

#[test]
fn a_chunk_of_one_section_carries_the_path_of_its_headings() {
    let (one, two) = (paragraph(1, 8), paragraph(2, 8));
    let blocks = [
        (Heading(1), "Backup"),
        (Heading(2), "Dump"),
        (Paragraph, one.as_str()),
        (Heading(3), "Large"),
        (Paragraph, two.as_str()),
    ];
    let chunks = chunks((256, 0), "Manual", &blocks);
    let headings: Vec<&str> = chunks.iter().map(|chunk| chunk.heading.as_str()).collect();
    assert_eq!(headings, ["Backup > Dump", "Backup > Dump > Large"]);
    assert_eq!(chunks[1].content, two);
}

#[test]
fn small_sections_go_together_and_keep_their_headings() {
    let sections: Vec<(String, String)> = (0..20).map(|n| (format!("Option {n}"), paragraph(n, 2))).collect();
    let mut blocks = vec![(Heading(1), "Options")];
    for (heading, text) in &sections {
        blocks.push((Heading(2), heading));
        blocks.push((Paragraph, text));
    }
    let chunks = chunks((256, 32), "Manual", &blocks);
    assert!((4..=10).contains(&chunks.len()), "{} chunks", chunks.len());
    let text: String = chunks.iter().flat_map(|chunk| [chunk.heading.as_str(), "\n", &chunk.content, "\n"]).collect();
    assert!(sections.iter().all(|(heading, _)| text.contains(heading.as_str())));
    assert!(chunks.iter().all(|chunk| chunk.heading.starts_with("Options")));
}

#[test]
fn neighbours_of_a_section_overlap_by_whole_sentences_and_sections_do_not() {
    let (one, two) = (paragraph(1, 30), paragraph(2, 30));
    let blocks = [(Heading(1), "A"), (Paragraph, one.as_str()), (Heading(1), "B"), (Paragraph, two.as_str())];
    let chunks = chunks((128, 32), "T", &blocks);
    for (before, after) in chunks.iter().zip(&chunks[1..]) {
        let first = sentences::sentences(&after.content).next().unwrap();
        assert_eq!(before.content.contains(first), before.heading == after.heading, "{before:?} {after:?}");
    }
}

#[test]
fn a_text_that_begins_with_its_title_does_not_get_it_twice() {
    assert_eq!(embedded_text(Some("On Wings"), "", "on wings and their flow"), "on wings and their flow");
    assert_eq!(embedded_text(Some("On\n Wings"), "A > B", "flow"), "On Wings\nA > B\nflow");
    assert_eq!(embedded_text(None, "", "flow"), "flow");
}

#[test]
fn equal_chunks_have_different_ids_and_other_documents_have_others() {
    let text = "same words again and again. ".repeat(40);
    let blocks: Vec<(BlockKind, &str)> =
        (0..4).flat_map(|_| [(Heading(1), "Same"), (Paragraph, text.as_str())]).collect();
    let all = chunks((512, 0), "T", &blocks);
    let ids: HashSet<Uuid> = all.iter().map(|chunk| chunk.id).collect();
    let hashes: HashSet<[u8; 32]> = all.iter().map(|chunk| chunk.hash).collect();
    assert_eq!((ids.len(), hashes.len()), (all.len(), 1));
    let other = chunker(512, 0).chunks(Uuid::from_u128(8), Some("T"), &parsed(&blocks));
    assert!(other.iter().all(|chunk| !ids.contains(&chunk.id)));
}

/// The share of the ids of `before` that are still there.
fn kept(before: &[Chunk], after: &[Chunk]) -> f64 {
    let ids: HashSet<Uuid> = after.iter().map(|chunk| chunk.id).collect();
    before.iter().filter(|chunk| ids.contains(&chunk.id)).count() as f64 / before.len() as f64
}

#[test]
fn an_inserted_paragraph_changes_few_chunks_of_a_long_text_without_headings() {
    let texts: Vec<String> = (0..400).map(|n| paragraph(n, 1 + n * 7 % 5)).collect();
    let blocks: Vec<(BlockKind, &str)> = texts.iter().map(|text| (Paragraph, text.as_str())).collect();
    let before = chunks((256, 32), "T", &blocks);
    for place in [0, 1, 50, 100, 133] {
        let mut edited = blocks.clone();
        edited.insert(place, (Paragraph, "A new paragraph was put here by somebody who knew more."));
        let share = kept(&before, &chunks((256, 32), "T", &edited));
        assert!(share >= 0.9, "inserted at {place}: {share:.3} of {} kept", before.len());
    }
}

#[test]
fn an_inserted_sentence_changes_few_chunks_of_one_endless_paragraph() {
    let texts: Vec<String> = (0..900).map(sentence).collect();
    let before = chunks((256, 32), "T", &[(Paragraph, &texts.join(" "))]);
    let mut edited = texts.clone();
    edited.insert(10, "Somebody wrote this in between.".to_owned());
    let share = kept(&before, &chunks((256, 32), "T", &[(Paragraph, &edited.join(" "))]));
    assert!(share >= 0.9, "{share:.3} of {} kept", before.len());
}

#[test]
fn text_without_any_place_to_part_it_is_parted_all_the_same() {
    let endless = "x".repeat(100_000);
    let chunks = chunks((256, 32), "T", &[(Paragraph, &endless), (Code, &endless)]);
    assert!(chunks.iter().all(|chunk| chunk.token_count <= 256 && chunk.content.len() <= 256 * DENSE_BYTES));
}

/// Quadratic counting would take hours.
#[test]
fn two_megabytes_in_one_section_are_cut_in_a_moment() {
    let texts: Vec<String> = (0..2_000).map(|n| paragraph(n, 14)).collect();
    let blocks: Vec<(BlockKind, &str)> = texts.iter().map(|text| (Paragraph, text.as_str())).collect();
    let started = std::time::Instant::now();
    let chunks = chunks((256, 32), "T", &blocks);
    assert!(chunks.len() > 2_000 && started.elapsed().as_secs() < 30, "{} in {:?}", chunks.len(), started.elapsed());
}

#[test]
fn no_blocks_are_no_chunks() {
    assert_eq!(chunks((256, 32), "T", &[]), []);
}

fn any_block() -> impl Strategy<Value = (BlockKind, String)> {
    let kind = prop_oneof![
        2 => (1_u8..=6).prop_map(Heading),
        4 => Just(Paragraph),
        2 => Just(ListItem),
        1 => Just(Code),
        1 => Just(TableRow),
    ];
    let text = prop_oneof![
        4 => "[a-z]{1,9}( [a-z]{1,9}){0,60}\\.( [A-Z][a-z]{1,9}( [a-z]{1,12}){0,20}\\.){0,6}",
        1 => "[a-zß。 .\u{1F600}語{};|]{1,200}",
        1 => "[a-z0-9]{300,2000}",
    ];
    (kind, text).prop_filter_map("no text", |(kind, text)| {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some((kind, text))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn chunks_hold_every_word_in_its_order_within_the_limit(
        blocks in proptest::collection::vec(any_block(), 0..30),
        max_tokens in 64_usize..300,
    ) {
        let blocks: Vec<(BlockKind, &str)> = blocks.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
        let chunks = chunks((max_tokens, 0), "Title", &blocks);
        let counter = TokenCounter::approximate();
        let mut seen = String::new();
        for chunk in &chunks {
            let embedded = embedded_text(Some("Title"), &chunk.heading, &chunk.content);
            prop_assert!(counter.count(&embedded) + SPECIAL_TOKENS <= max_tokens, "{chunk:?}");
            prop_assert!(chunk.token_count as usize <= max_tokens, "{chunk:?}");
            prop_assert!(!chunk.content.is_empty());
            seen.push_str(&chunk.content);
            seen.push('\n');
        }
        // Parted words come back together when the space between chunks is left out.
        let mut rest = seen.replace(char::is_whitespace, "");
        for (kind, text) in &blocks {
            if matches!(kind, Heading(_)) {
                let heading = text.replace(char::is_whitespace, "");
                let paths: String = chunks.iter().map(|chunk| chunk.heading.replace(char::is_whitespace, "")).collect();
                prop_assert!(paths.contains(&heading) || seen.replace(char::is_whitespace, "").contains(&heading));
                continue;
            }
            for word in words(text) {
                let found = rest.find(word);
                prop_assert!(found.is_some(), "{word} of {text}");
                rest.drain(..found.unwrap_or_default() + word.len());
            }
        }
    }

    #[test]
    fn ids_are_unique_and_the_same_every_time(
        blocks in proptest::collection::vec(any_block(), 0..30),
        overlap in 0_usize..40,
    ) {
        let blocks: Vec<(BlockKind, &str)> = blocks.iter().map(|(kind, text)| (*kind, text.as_str())).collect();
        let first = chunks((96, overlap), "Title", &blocks);
        prop_assert!(first.iter().all(|chunk| chunk.token_count <= 96));
        prop_assert_eq!(&first, &chunks((96, overlap), "Title", &blocks));
        let ids: HashSet<Uuid> = first.iter().map(|chunk| chunk.id).collect();
        prop_assert_eq!(ids.len(), first.len());
        prop_assert!(first.iter().enumerate().all(|(index, chunk)| chunk.position as usize == index));
    }
}
