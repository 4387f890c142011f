//! `docrag corpus list|set-mode`.

use super::output::{Stop, columns, one_line};
use super::{Context, Whose};
use crate::search::SearchMode;
use crate::store::Store;
use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(super) enum CorpusCommand {
    /// List corpora and how they are searched
    List(Whose),
    /// Set how a corpus is searched when a request does not say; `docrag eval` recommends a mode
    SetMode(SetModeArgs),
}

#[derive(Debug, Args)]
pub(super) struct SetModeArgs {
    /// The corpus
    #[arg(value_name = "CORPUS")]
    corpus: String,
    #[arg(value_enum, value_name = "MODE")]
    mode: Mode,
    #[command(flatten)]
    whose: Whose,
    /// Why, for whoever asks later
    #[arg(long, default_value = "by hand", value_name = "TEXT")]
    reason: String,
}

/// How a corpus is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// By meaning and by words, fused
    Hybrid,
    /// By meaning
    Dense,
    /// By words
    Lexical,
}

impl From<Mode> for SearchMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Hybrid => Self::Hybrid,
            Mode::Dense => Self::Dense,
            Mode::Lexical => Self::Lexical,
        }
    }
}

pub(super) async fn run(command: &CorpusCommand, context: &mut Context) -> Result<u8, Stop> {
    let store = Store::open(&context.settings.database).await?;
    store.migrate().await?;
    match command {
        CorpusCommand::List(whose) => list(whose, &store, context).await,
        CorpusCommand::SetMode(args) => set_mode(args, &store, context).await,
    }
}

async fn list(whose: &Whose, store: &Store, context: &mut Context) -> Result<u8, Stop> {
    let corpora = store.corpora(&whose.tenant).await?;
    if context.is_json() {
        context.out.json(&corpora)?;
        return Ok(0);
    }
    if corpora.is_empty() {
        context.out.line("There are no corpora yet; `docrag ingest PATH` makes the first one.")?;
        return Ok(0);
    }
    let mut rows = vec![["corpus", "mode", "why"].map(str::to_owned).to_vec()];
    rows.extend(corpora.iter().map(|corpus| {
        vec![one_line(&corpus.name, 60), corpus.search_mode.as_str().to_owned(), one_line(&corpus.mode_reason, 100)]
    }));
    context.out.text(&columns(&rows, ""))?;
    Ok(0)
}

async fn set_mode(args: &SetModeArgs, store: &Store, context: &mut Context) -> Result<u8, Stop> {
    let caller = args.whose.caller();
    let mode = SearchMode::from(args.mode);
    if !store.set_search_mode(&caller, &args.corpus, mode, &args.reason).await? {
        let message = format!(
            "tenant {} has no corpus {}; `docrag corpus list` shows them",
            one_line(&caller.tenant, 60),
            one_line(&args.corpus, 60)
        );
        return Err(Stop::failed(message));
    }
    if context.is_json() {
        context.out.json(&store.corpus(&args.whose.tenant, &args.corpus).await?)?;
    } else {
        context.out.line(&format!("{} is searched {} from now on.", one_line(&args.corpus, 60), mode.as_str()))?;
    }
    Ok(0)
}
