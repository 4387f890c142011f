//! Texts to measure with: the Postgres manual in HTML, cut into chunks by Doc-RAG's own parser and chunker.

use crate::demo;
use anyhow::{Context, Result, ensure};
use docrag::chunk::{Chunk, ChunkLimits, Chunker, embedded_text};
use docrag::document::{MediaType, ParseLimits, parse};
use docrag::embed::{Embedder, TokenCounter};
use docrag::settings::{EmbeddingSettings, Settings};
use std::path::PathBuf;
use std::time::Duration;
use uuid::Uuid;

/// A chunk with the text that is embedded.
pub(super) struct Piece {
    pub(super) chunk: Chunk,
    pub(super) text: String,
    pub(super) title: String,
}

/// Every `step`th page of the manual, so that a part of it is a fair part.
pub(super) fn pages(step: usize) -> Result<Vec<PathBuf>> {
    let all = demo::pages(true)?;
    ensure!(all.len() > 500, "the manual has only {} pages", all.len());
    // The index of the book is no prose.
    let prose = all.into_iter().filter(|page| page.file_name().is_some_and(|name| name != "bookindex.html"));
    Ok(prose.step_by(step).collect())
}

pub(super) async fn pieces(pages: &[PathBuf], counter: TokenCounter) -> Result<Vec<Piece>> {
    let settings = Settings::default();
    let limits = ParseLimits {
        text_bytes: settings.parsing.max_text_bytes,
        time: Duration::from_secs(settings.parsing.seconds),
        memory_bytes: settings.parsing.memory_bytes,
    };
    let sizes =
        ChunkLimits { max_tokens: settings.chunking.max_tokens, overlap_tokens: settings.chunking.overlap_tokens };
    let chunker = Chunker::new(counter, sizes);
    let mut pieces = Vec::new();
    for page in pages {
        let bytes = std::fs::read(page).with_context(|| format!("reading {}", page.display()))?;
        let Ok(parsed) = parse(MediaType::Html, bytes, &limits).await else { continue };
        let title = parsed.title.clone().unwrap_or_default();
        for chunk in chunker.chunks(Uuid::nil(), Some(&title), &parsed) {
            let text = embedded_text(Some(&title), &chunk.heading, &chunk.content);
            pieces.push(Piece { chunk, text, title: title.clone() });
        }
    }
    Ok(pieces)
}

/// The local model as the service runs it by default: a thread for each core.
pub(super) async fn embedder() -> Result<Embedder> {
    embedder_with(EmbeddingSettings::default().threads).await
}

pub(super) async fn embedder_with(threads: usize) -> Result<Embedder> {
    let model_dir = crate::docrag::model_folder();
    let settings = EmbeddingSettings { model_dir, threads, ..EmbeddingSettings::default() };
    Embedder::open(&settings).await.context("the model is not installed; `cargo xtask bench docrag` installs it")
}
