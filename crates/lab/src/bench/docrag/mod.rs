//! Doc-RAG beside its peers: retrieval quality, search latency, embedding throughput, the ingest pipeline.
//!
//! The part `crash` is a test of Doc-RAG, run for longer; `cargo xtask` runs it.

mod embedding;
mod ingest;
mod latency;
mod manual;
mod peers;
mod pgvector;
mod quality;

use super::Options;
use crate::bar::Bar;
use anyhow::{Result, bail};

/// Parts that can be asked for alone with `--part`.
const PARTS: [&str; 4] = ["quality", "search", "embedding", "ingest"];

pub(super) async fn measure(options: &Options) -> Result<Vec<Bar>> {
    if let Some(part) = &options.part
        && !PARTS.contains(&part.as_str())
    {
        bail!("the bench `docrag` has no part `{part}`; it has {}", PARTS.join(", "));
    }
    let wanted = |name: &str| options.part.as_deref().is_none_or(|part| part == name);
    let mut bars = Vec::new();
    if wanted("embedding") {
        bars.extend(embedding::measure().await?);
    }
    if wanted("ingest") {
        bars.extend(ingest::measure(options.full).await?);
    }
    if wanted("search") {
        bars.extend(latency::measure().await?);
    }
    if wanted("quality") {
        bars.extend(quality::measure(options.data.as_deref()).await?);
    }
    Ok(bars)
}
