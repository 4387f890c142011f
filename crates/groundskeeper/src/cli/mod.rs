//! The command line: it asks [`crate::app`], renders, and gives the exit code. One file a verb or group of verbs.

mod accept;
mod args;
mod audit;
mod backup;
mod calendar;
mod check;
mod doctor;
mod documents;
mod explain;
mod findings;
mod grants;
mod init;
mod notify;
mod output;
mod paint;
mod pause;
mod person;
mod plan;
mod progress;
mod report;
mod run;
mod status;
mod table;
mod task;
mod tune;

pub use args::{Cli, Color, Command, Output, OutputForm};

use crate::app::Session;
use crate::app::api::Request;
use crate::config::{self, Settings};
use jiff::Timestamp;
use output::{Out, Stop};
use paint::Paint;
use serde::de::DeserializeOwned;
use std::io::{IsTerminal, Write as _};

/// What every verb needs: where to write, how to paint, and which configuration.
struct Desk {
    out: Out,
    paint: Paint,
    form: OutputForm,
    /// Only `init` writes one.
    file: Option<std::path::PathBuf>,
    config: Option<std::path::PathBuf>,
    verbose: bool,
}

/// The exit code, or why the verb stopped.
type Outcome = Result<u8, Stop>;

const FINE: u8 = 0;
const FINDINGS: u8 = 1;
const UNKNOWN: u8 = 3;

/// Carries out what was asked for and gives the exit code.
pub async fn run(cli: Cli) -> u8 {
    let (form, file) = match cli.output {
        Output::Form(form) => (form, None),
        Output::File(file) => (OutputForm::Text, Some(file)),
    };
    let mut desk = Desk {
        out: Out::stdout(),
        paint: Paint::choose(cli.color, std::io::stdout().is_terminal()),
        form,
        file,
        config: cli.config,
        verbose: cli.verbose > 0,
    };
    let ended = dispatch(&mut desk, cli.command).await;
    let ended = ended.and_then(|code| desk.out.flush().map(|()| code).map_err(Stop::from));
    match ended {
        Ok(code) => code,
        // Whoever read us has seen enough.
        Err(Stop::ReaderGone) => FINE,
        Err(Stop::Said { message, exit }) => {
            // What was already rendered belongs before the complaint; when it cannot be written nobody reads it.
            let _ = desk.out.flush();
            let paint = Paint::choose(cli.color, std::io::stderr().is_terminal());
            let _ = writeln!(std::io::stderr(), "{} {message}", paint.critical("error:"));
            exit
        }
    }
}

async fn dispatch(desk: &mut Desk, command: Command) -> Outcome {
    if let Some(file) = desk.file.as_ref().filter(|_| !matches!(command, Command::Init(_))) {
        let hint = config::did_you_mean(&file.display().to_string(), ["text", "json"]);
        return Err(Stop::usage(format!("--output is `text` or `json`, not `{}`{hint}", file.display())));
    }
    match command {
        Command::Init(args) => init::run(desk, &args),
        Command::Check(args) => check::run(desk, &args).await,
        Command::Grants(args) => grants::run(desk, &args),
        Command::Run => run::run(desk).await,
        Command::Status => status::run(desk).await,
        Command::Doctor => doctor::run(desk).await,
        Command::Calendar => calendar::run(desk).await,
        Command::Task(args) => task::run(desk, args).await,
        Command::Findings { all } => findings::list(desk, all).await,
        Command::Ignore(args) => findings::ignore(desk, args).await,
        Command::Unignore { fingerprint } => findings::unignore(desk, fingerprint).await,
        Command::Accept { system } => accept::run(desk, system).await,
        Command::Backup(args) => backup::run(desk, args).await,
        Command::Explain(args) => explain::run(desk, &args),
        Command::Tune(args) => tune::run(desk, &args).await,
        Command::Report { day } => report::run(desk, day).await,
        Command::Plan => plan::plan(desk).await,
        Command::Approve { hash, any_time } => plan::approve(desk, hash, any_time).await,
        Command::Apply { hash } => plan::apply(desk, hash).await,
        Command::Actions { limit } => plan::actions(desk, limit).await,
        Command::Undo { entry } => plan::undo(desk, entry).await,
        Command::Pause(args) => pause::pause(desk, args).await,
        Command::Resume { task } => pause::resume(desk, task).await,
        Command::Notify(args) => notify::run(desk, args).await,
        Command::Audit { limit } => audit::run(desk, limit).await,
        Command::Completions { shell } => documents::completions(desk, shell),
        Command::Man { dir } => documents::man(desk, dir.as_deref()),
    }
}

impl Desk {
    fn settings(&self) -> Result<Settings, Stop> {
        Ok(config::load(self.config.as_deref())?)
    }

    /// Asks the keeper; a spinner shows when it takes long.
    async fn ask<T: DeserializeOwned>(&self, settings: &Settings, doing: &str, request: Request) -> Result<T, Stop> {
        let mut session = Session::connect(settings).await?;
        Ok(progress::shown(doing, session.call(request)).await?)
    }

    /// The same for work on the repository of backups, which tells how far it is.
    async fn ask_counting<T: DeserializeOwned>(
        &self,
        settings: &Settings,
        doing: &str,
        request: Request,
    ) -> Result<T, Stop> {
        let mut session = Session::connect(settings).await?;
        let watcher = session.watcher(settings);
        Ok(progress::counted(doing, async || watcher.look().await, session.call(request)).await?)
    }

    /// The value itself for programs, or what `render` makes of it for people.
    fn show<T: serde::Serialize>(&mut self, value: &T, render: impl FnOnce(&Paint) -> String) -> Result<(), Stop> {
        match self.form {
            OutputForm::Json => self.out.json(value),
            OutputForm::Text => {
                let text = render(&self.paint);
                self.out.text(&text)
            }
        }
    }
}

/// `2026-11-21 18:04` in the configured zone.
fn moment(at: Timestamp, settings: &Settings) -> String {
    at.to_zoned(settings.zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// `1 check`, `3 checks`.
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
