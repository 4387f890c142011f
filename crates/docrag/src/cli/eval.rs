//! `docrag eval FOLDER`.

use super::Context;
use super::output::{Stop, bar};
use crate::eval::{EvalError, Options};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Judged queries in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Measure this corpus, whose documents' sources are the judged ids, instead of ingesting the collection
    #[arg(long, value_name = "NAME")]
    corpus: Option<String>,
    /// The corpus's tenant
    #[arg(long, default_value = "default", value_name = "NAME", requires = "corpus")]
    tenant: String,
    /// Search the corpus in the recommended mode from now on
    #[arg(long)]
    save: bool,
}

pub(super) async fn run(args: &EvalArgs, context: &mut Context) -> Result<u8, Stop> {
    let service = context.open().await?;
    let background = service.start();
    let corpus = args.corpus.clone().map(|name| (args.tenant.clone(), name));
    let options = Options { folder: args.folder.clone(), corpus, save: args.save };
    let bar = bar(0, "{msg:<20} {wide_bar} {pos}/{len} {eta}");
    let mut progress = |doing: &str, done: usize, of: usize| {
        bar.set_message(doing.to_owned());
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let report = crate::eval::run(&service, &options, &mut progress).await;
    bar.finish_and_clear();
    background.stop().await;
    let report = report?;
    if context.is_json() {
        context.out.json(&report)?;
    } else {
        context.out.text(&report.to_text())?;
    }
    Ok(0)
}

impl From<EvalError> for Stop {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::Service(error) => error.into(),
            EvalError::Collection(error) => Self::usage(error.to_string()),
            error => Self::unknown(error.to_string()),
        }
    }
}
