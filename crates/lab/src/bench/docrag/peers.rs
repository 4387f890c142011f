//! The peers, which are Python packages in an environment of their own; `cargo xtask bench` makes it.

use anyhow::{Context, Result, ensure};
use groundskeeper_testing::scratch::cache;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::Command;

/// Runs `retrieval.py` with these arguments and reads the JSON that it prints.
pub(super) async fn retrieval(arguments: &[&str]) -> Result<Value> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/retrieval.py");
    let python = cache().join("peers/bin/python");
    ensure!(
        python.is_file(),
        "the peers are not installed in {}; run this through `cargo xtask bench docrag`, which installs them",
        cache().join("peers").display()
    );
    let output = Command::new(python)
        .arg(script)
        .args(arguments)
        .env("TOKENIZERS_PARALLELISM", "false")
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(output.status.success(), "retrieval.py {} failed: {}", arguments.join(" "), output.status);
    serde_json::from_slice(&output.stdout).context("retrieval.py printed no JSON")
}

/// `name version` of each package that the peer names.
pub(super) fn versions(answer: &Value) -> String {
    let packages = answer["versions"].as_object().cloned().unwrap_or_default();
    let named: Vec<String> =
        packages.iter().map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?"))).collect();
    named.join(", ")
}
