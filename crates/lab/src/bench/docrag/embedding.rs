//! Embedding throughput beside ONNX Runtime: the same int8 model, the same texts, two threads each, in turn.

use super::{manual, peers};
use crate::bar::{Bar, Wanted};
use crate::bench::median;
use anyhow::{Context, Result};
use serde_json::json;
use std::io::Write;
use std::time::Instant;

const TEXTS: usize = 160;
const ROUNDS: usize = 3;
const THREADS: usize = 2;

pub(super) async fn measure() -> Result<Vec<Bar>> {
    let embedder = manual::embedder_with(THREADS).await?;
    let mut pieces = manual::pieces(&manual::pages(40)?, embedder.counter()).await?;
    pieces.truncate(TEXTS);
    let texts: Vec<String> = pieces.into_iter().map(|piece| piece.text).collect();
    let mut file = tempfile::NamedTempFile::new()?;
    for text in &texts {
        writeln!(file, "{}", json!({ "text": text }))?;
    }
    let path = file.path().to_str().context("the temporary folder has no UTF-8 name")?.to_owned();
    let model = crate::docrag::model_folder().display().to_string();
    let threads = THREADS.to_string();

    embedder.passages(texts[..16.min(texts.len())].to_vec()).await?;
    let (mut ratios, mut versions) = (Vec::new(), String::new());
    for round in 1..=ROUNDS {
        let started = Instant::now();
        embedder.passages(texts.clone()).await?;
        let ours = texts.len() as f64 / started.elapsed().as_secs_f64();
        let answer =
            peers::retrieval(&["embed", "--model", &model, "--texts", &path, "--threads", &threads, "--batch", "0"])
                .await?;
        let theirs = answer["texts_per_second"].as_f64().context("the peer gave no texts_per_second")?;
        println!("round {round}: docrag {ours:.1} texts/s, ONNX Runtime {theirs:.1} texts/s");
        versions = peers::versions(&answer);
        ratios.push(ours / theirs);
    }
    println!(
        "{} texts of the Postgres manual, {THREADS} threads each; peer at its best batch size and way of waiting; {versions}\n",
        texts.len()
    );
    Ok(vec![Bar::new("docrag.embedding_ratio", median(&ratios), "x", Wanted::AtLeast, 1.0)])
}
