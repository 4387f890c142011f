//! The command line. It holds no logic: a verb reads its arguments, calls the service and prints.
//!
//! Exit codes: 0 fine, 1 something failed, 2 usage or configuration, 3 it could not be found out.

use crate::service::{Caller, Scopes, Service};
use crate::settings::{LogFormat, Settings};
use clap::{Args, Parser, Subcommand, ValueEnum};
use output::{Out, Stop};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

mod corpus;
mod eval;
mod ingest;
mod keys;
mod model;
mod output;
pub mod parse;
mod reindex;
mod remote;
mod search;
mod serve;
mod status;

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const UNKNOWN: u8 = 3;

/// What is logged, as in `info` or `docrag=debug`.
const LOG_VARIABLE: &str = "DOCRAG_LOG";
const DEFAULT_FILE: &str = "docrag.toml";
const DEFAULT_TENANT: &str = "default";

/// A document retrieval service: ingest documents, search them, ask them.
#[derive(Debug, Parser)]
#[command(name = "docrag", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "The database is DATABASE_URL, or database.url in docrag.toml.\n\
    Exit codes: 0 fine, 1 something failed, 2 usage or configuration, 3 it could not be found out.")]
pub struct Cli {
    /// The configuration; docrag.toml in this folder when it is there
    #[arg(long, global = true, env = "DOCRAG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: HTTP, ingestion and indexes, until SIGTERM or Ctrl-C
    Serve(serve::ServeArgs),
    /// Take in files and folders, and wait until they can be searched
    Ingest(ingest::IngestArgs),
    /// Show documents by state, how far the indexes are, and the last failures
    Status(status::StatusArgs),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Install or check the local embedding model
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Build the index anew from Postgres, while the old one is served
    Reindex(reindex::ReindexArgs),
    /// Search a corpus
    Search(search::SearchArgs),
    /// Ask a question
    Ask(search::AskArgs),
    /// Show corpora, or set how one is searched
    #[command(subcommand)]
    Corpus(corpus::CorpusCommand),
    /// Measure retrieval on judged queries (BEIR layout)
    Eval(eval::EvalArgs),
    /// Reads one PDF from standard input; the service starts this itself, with its memory and time limited
    #[command(name = "parse-pdf", hide = true)]
    ParsePdf,
}

/// Whose documents.
#[derive(Debug, Clone, Args)]
struct Whose {
    /// The tenant
    #[arg(long, default_value = DEFAULT_TENANT, value_name = "NAME")]
    tenant: String,
}

impl Whose {
    fn caller(&self) -> Caller {
        let request_id = format!("cli-{}", uuid::Uuid::now_v7().simple());
        Caller { tenant: self.tenant.clone(), actor: "cli".to_owned(), scopes: Scopes::ALL, request_id }
    }
}

/// What every verb gets.
struct Context {
    settings: Settings,
    format: Format,
    out: Out,
}

impl Context {
    async fn open(&self) -> Result<Service, Stop> {
        Ok(Service::open(self.settings.clone()).await?)
    }

    fn is_json(&self) -> bool {
        self.format == Format::Json
    }
}

impl Cli {
    pub fn is_parser(&self) -> bool {
        matches!(self.command, Command::ParsePdf)
    }
}

/// The hidden child that opens PDFs. Without a runtime: it is limited in memory.
pub fn parse_pdf() -> u8 {
    match parse::run() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("docrag: {error:#}");
            FAILED
        }
    }
}

/// Runs one verb; what it returns is the exit code.
pub async fn run(cli: Cli) -> u8 {
    let mut context = match context(&cli) {
        Ok(context) => context,
        Err(stop) => return said(stop),
    };
    let ended = verb(cli.command, &mut context).await;
    let flushed = context.out.flush().map_err(Stop::from);
    match ended.and_then(|code| flushed.map(|()| code)) {
        Ok(code) => code,
        Err(stop) => said(stop),
    }
}

async fn verb(command: Command, context: &mut Context) -> Result<u8, Stop> {
    match command {
        Command::Serve(args) => serve::run(&args, context).await,
        Command::Ingest(args) => ingest::run(&args, context).await,
        Command::Status(args) => status::run(&args, context).await,
        Command::Key(command) => keys::run(command, context).await,
        Command::Model(command) => model::run(&command, context).await,
        Command::Reindex(args) => reindex::run(&args, context).await,
        Command::Search(args) => search::search(&args, context).await,
        Command::Ask(args) => search::ask(&args, context).await,
        Command::Corpus(command) => corpus::run(&command, context).await,
        Command::Eval(args) => eval::run(&args, context).await,
        Command::ParsePdf => Ok(parse_pdf()),
    }
}

fn context(cli: &Cli) -> Result<Context, Stop> {
    let beside = PathBuf::from(DEFAULT_FILE);
    let file = cli.config.clone().or_else(|| beside.exists().then_some(beside));
    let settings = Settings::load(file.as_deref())?;
    log(matches!(cli.command, Command::Serve(_)), settings.log);
    Ok(Context { settings, format: cli.output, out: Out::stdout() })
}

/// To standard error. A verb that a person waits for shows warnings only.
fn log(serving: bool, format: LogFormat) {
    // sqlx and tantivy tell of every statement and every merge.
    let usual = if serving { "info,sqlx=warn,tantivy=warn" } else { "error,docrag=warn" };
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    // An error means that a test has set one up already.
    let _ = if serving && format == LogFormat::Json {
        builder.json().flatten_event(true).try_init().map_err(drop)
    } else {
        builder.try_init().map_err(drop)
    };
}

fn said(stop: Stop) -> u8 {
    match stop {
        Stop::ReaderGone => 0,
        Stop::Said { message, exit } => {
            let _ = writeln!(io::stderr(), "error: {message}");
            exit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_in_the_environment_does_not_keep_anybody_from_working_here() {
        Cli::try_parse_from(["docrag", "search", "x", "--key", "dr_1"]).unwrap();
    }
}
