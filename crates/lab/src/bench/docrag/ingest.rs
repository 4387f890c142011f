//! The whole ingest pipeline beside embedding alone: the same chunks, the same model, the same threads.

use super::manual;
use crate::bar::{Bar, Wanted};
use crate::bench::process::peak_megabytes;
use crate::docrag::{DocRag, Place};
use crate::stack::Stack;
use anyhow::{Context, Result};
use std::time::Instant;

/// Every fifteenth page by default: about 80 pages.
const PART: usize = 15;

pub(super) async fn measure(full: bool) -> Result<Vec<Bar>> {
    let pages = manual::pages(if full { 1 } else { PART })?;
    let (pipeline, memory, texts) = whole_pipeline(&pages).await?;
    let embedder = manual::embedder().await?;
    embedder.passages(texts.iter().take(16).cloned().collect()).await?;
    let started = Instant::now();
    let count = texts.len();
    embedder.passages(texts).await?;
    let pure = started.elapsed().as_secs_f64();
    println!(
        "{} pages of the manual, {count} chunks: whole pipeline {pipeline:.1} s, embedding alone {pure:.1} s; at most \
         {memory:.0} MB resident\n",
        pages.len()
    );
    Ok(vec![
        Bar::new("docrag.ingest_ratio", pipeline / pure, "x", Wanted::AtMost, 1.3),
        Bar::new("docrag.ingest_memory", memory, "MB", Wanted::Below, 400.0),
    ])
}

/// Seconds, peak of the service's memory, and the texts that it embedded.
async fn whole_pipeline(pages: &[std::path::PathBuf]) -> Result<(f64, f64, Vec<String>)> {
    let stack = Stack::start().await?;
    let (database, log) = (stack.app_url(), stack.log_folder().join("docrag.log"));
    let place = Place { folder: stack.folder(), database: &database, redis: None, log: &log, more: "" };
    let service = DocRag::start(&place).await?;
    let started = Instant::now();
    service.ingest(pages).await?;
    let took = started.elapsed().as_secs_f64();
    let memory = peak_megabytes(service.id().context("docrag has ended")?)?;
    service.stop().await?;
    let client = stack.postgres.client_at(&database).await;
    let rows = client
        .query(
            "SELECT coalesce(d.title, ''), v.heading, v.content FROM vectors v JOIN documents d ON d.id = v.doc_id",
            &[],
        )
        .await?;
    let texts = rows
        .iter()
        .map(|row| docrag::chunk::embedded_text(Some(row.get::<_, &str>(0)), row.get(1), row.get(2)))
        .collect();
    Ok((took, memory, texts))
}
