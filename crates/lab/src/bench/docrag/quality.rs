//! Retrieval quality beside a reference fusion: bm25s and the same model by ONNX Runtime, fused by reciprocal rank.
//!
//! Doc-RAG runs as a user runs it (`docrag eval`), with default settings and its default mode on every collection.

use super::peers;
use crate::bar::{Bar, Wanted};
use crate::docrag as service;
use crate::stack::Stack;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

const COLLECTIONS: [&str; 2] = ["cranfield", "cacm"];
/// How far below the reference nDCG@10 may be.
const ALLOWANCE: f64 = -0.01;

pub(super) async fn measure(data: Option<&Path>) -> Result<Vec<Bar>> {
    let folders = collections(data)?;
    let stack = Stack::start().await?;
    let mut bars = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = evaluate(&stack, &folder).await.with_context(|| format!("docrag eval {name}"))?;
        let model = service::model_folder().display().to_string();
        let data = folder.display().to_string();
        let theirs = peers::retrieval(&["fusion", "--model", &model, "--data", &data]).await?;
        let reference = figure(&theirs, "rrf")?;
        let hybrid = mode(&ours, "hybrid")?;
        println!("{name:<10} {:>9} {:>9} {:>9}", "lexical", "dense", "fused");
        println!("{:<10} {:>9.3} {:>9.3} {:>9.3}", "docrag", mode(&ours, "lexical")?, mode(&ours, "dense")?, hybrid);
        println!(
            "{:<10} {:>9.3} {:>9.3} {:>9.3}",
            "reference",
            figure(&theirs, "bm25")?,
            figure(&theirs, "dense")?,
            reference
        );
        println!("nDCG@10; {}\n", peers::versions(&theirs));
        bars.push(Bar::new(format!("docrag.ndcg_{name}"), hybrid - reference, "", Wanted::AtLeast, ALLOWANCE));
    }
    Ok(bars)
}

/// The collections below `--data`, or below `../shared/data` beside the clone.
fn collections(data: Option<&Path>) -> Result<Vec<PathBuf>> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = data.map_or(beside, Path::to_owned);
    let (found, missing): (Vec<PathBuf>, Vec<PathBuf>) =
        COLLECTIONS.iter().map(|name| folder.join(name)).partition(|folder| folder.join("corpus.jsonl").is_file());
    for folder in &missing {
        println!("skipped: {} is not there", folder.display());
    }
    ensure!(!found.is_empty(), "no collection to measure with; give their folder with --data DIR");
    Ok(found)
}

async fn evaluate(stack: &Stack, folder: &Path) -> Result<Value> {
    let config = stack.folder().join("eval.toml");
    std::fs::write(&config, format!("[database]\nurl = \"{}\"\n", stack.app_url()))?;
    let output = Command::new(service::binary()?)
        .arg("--config")
        .arg(&config)
        .args(["--output", "json", "eval"])
        .arg(folder)
        .env("DOCRAG_MODEL_DIR", service::model_folder())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("it printed no JSON")
}

fn mode(report: &Value, name: &str) -> Result<f64> {
    let figures = report["figures"].as_array().context("no figures in the report")?;
    let found = figures.iter().find(|figures| figures["mode"] == name);
    found.and_then(|figures| figures["ndcg@10"].as_f64()).with_context(|| format!("no nDCG@10 of {name}"))
}

fn figure(answer: &Value, run: &str) -> Result<f64> {
    answer[run]["ndcg_10"].as_f64().with_context(|| format!("the peer gave no nDCG@10 of {run}"))
}
