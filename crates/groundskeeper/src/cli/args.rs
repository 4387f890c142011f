//! The arguments, their help and their examples.

mod backup;

pub(super) use backup::{BackupArgs, BackupVerb, ExportsArgs, KeyVerb, PlaceArgs, RestoreArgs, TargetArgs};

use crate::config;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use groundskeeper_core::Severity;
use std::path::PathBuf;
use std::time::Duration;

const AFTER: &str = "\
Exit codes:
  0  fine
  1  findings at or above --fail-on, or an action that failed
  2  wrong usage or configuration
  3  it could not be found out

Examples:
  groundskeeper check postgres://me@localhost/app     look at one system, no configuration needed
  groundskeeper init                                  write a first groundskeeper.toml
  groundskeeper check                                 look at everything that is configured
  groundskeeper run                                   keep watch";

/// Keeps a retrieval-augmented-generation stack alive in production.
#[derive(Debug, Parser)]
#[command(name = "groundskeeper", version, about, after_help = AFTER, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// The configuration file [default: ./groundskeeper.toml, then the user's, then /etc/groundskeeper]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// For people or for programs: text or json (for `init`: the file to write)
    #[arg(long, global = true, value_name = "FORM", default_value = "text", value_parser = output)]
    pub output: Output,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// Say more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

/// One option with two meanings, because both are what people type: the form of an answer, and the file of `init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Form(OutputForm),
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputForm {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look around and write a first, commented configuration
    Init(InitArgs),
    /// Read systems now and judge them; changes and records nothing
    Check(CheckArgs),
    /// Print the SQL that gives Groundskeeper's role what it needs, and no more
    Grants(GrantsArgs),
    /// Keep watch: the calendar, the page and the socket, until told to stop
    #[command(after_help = "Stop it with Ctrl-C or SIGTERM: runs under way are finished first.\n\
                            GROUNDSKEEPER_LOG sets what is logged (info, debug, groundskeeper=trace …).")]
    Run,
    /// What the keeper knows at this moment
    Status,
    /// Check the installation itself: configuration, state folder, store, daemon, systems
    Doctor,
    /// Every task, when it runs next and how it last ended
    Calendar,
    /// Run a task by hand
    Task(TaskArgs),
    /// Open findings, the worst first
    Findings {
        /// Also pending ones, and those resolved in the last 30 days
        #[arg(long)]
        all: bool,
    },
    /// Leave a finding in peace for a while, with a reason
    Ignore(IgnoreArgs),
    /// Take an ignored finding seriously again
    Unignore {
        /// The fingerprint, or the first digits of it
        fingerprint: String,
    },
    /// Take the present configuration of a Postgres for the right one; later changes of it are found
    #[command(
        after_help = "The first reading of the keeper accepts what it sees. Example: groundskeeper accept postgres.main"
    )]
    Accept {
        /// A Postgres of the configuration
        system: String,
    },
    /// Backups that prove themselves: make, list, prove and restore them
    Backup(BackupArgs),
    /// What a check looks at, what it means when it fails, and what to do
    Explain(ExplainArgs),
    /// Which settings would suit a server better, and why; with --plan, a plan to change one of them
    Tune(TuneArgs),
    /// The report of a day
    Report {
        /// The day [default: today]
        #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
        day: Option<String>,
    },
    /// Look now and plan: what would be done and why, and what not and why not
    Plan,
    /// Allow the exact steps of a plan; the approval expires
    Approve {
        /// The plan's hash, or the first eight digits of it
        hash: String,
        /// Also outside the maintenance windows
        #[arg(long)]
        any_time: bool,
    },
    /// Carry out a plan; every step is guarded once more
    Apply {
        /// The plan's hash, or the first eight digits of it
        hash: String,
    },
    /// What was done, the newest first
    Actions {
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Undo an action, where that is possible
    Undo {
        /// The number of the entry, as `actions` shows it
        entry: i64,
    },
    /// Stop all actions, or one task
    Pause(PauseArgs),
    /// End a pause
    Resume {
        /// The task [default: all actions]
        task: Option<String>,
    },
    /// Try out the channels to people
    Notify(NotifyArgs),
    /// The audit: who did what, and whether the chain holds
    Audit {
        /// At most so many entries
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Print the completions of a shell
    #[command(after_help = "Example: groundskeeper completions bash > /etc/bash_completion.d/groundskeeper")]
    Completions { shell: Shell },
    /// Print the manual page, or write a page for every verb
    Man {
        /// Write all pages into this folder
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundskeeper init                                 writes ./groundskeeper.toml
  groundskeeper init --output /etc/groundskeeper/groundskeeper.toml
  groundskeeper init --stdout                        only shows what it would write

Secrets are not copied: the file refers to variables such as ${DATABASE_URL}.")]
pub struct InitArgs {
    /// Replace the file when it is there
    #[arg(long)]
    pub force: bool,
    /// Print the file instead of writing it
    #[arg(long, conflicts_with = "force")]
    pub stdout: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundskeeper check                                everything that is configured
  groundskeeper check postgres.main redis            one system, and all of a kind
  groundskeeper check postgres.long_query            one check
  groundskeeper check postgres://me@localhost/app    one system, without any configuration
  groundskeeper check host:                          this machine
  groundskeeper check --fail-on critical --output json")]
pub struct CheckArgs {
    /// A system (postgres.main), a kind (postgres), a check, or an address [default: everything]
    #[arg(value_name = "SELECTOR")]
    pub select: Vec<String>,
    /// The lowest severity that gives exit code 1: info, warning or critical
    #[arg(long, value_name = "SEVERITY", default_value = "warning")]
    pub fail_on: Severity,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundskeeper grants postgres.main | psql -U postgres app
  groundskeeper grants --for watch --for act --role keeper
  groundskeeper grants --for watch --for retention
  groundskeeper grants postgres.main --for watch --for tune
  groundskeeper grants --for watch --for backup")]
pub struct GrantsArgs {
    /// A Postgres of the configuration [default: the only one]
    pub system: Option<String>,
    /// The role that Groundskeeper logs in as
    #[arg(long, default_value = "groundskeeper")]
    pub role: String,
    /// What it is to be able to do: watch, act (end-sessions, maintain, retention and tune as well, and reindex behind dashes)
    /// or backup; or one of those; may be given several times
    #[arg(long = "for", value_name = "PURPOSE", default_value = "watch")]
    pub purposes: Vec<config::Purpose>,
}

#[derive(Debug, Args)]
pub struct TaskArgs {
    #[command(subcommand)]
    pub verb: TaskVerb,
}

#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// Run a task now and wait for its end
    #[command(after_help = "Example: groundskeeper task run database-maintenance --dry-run")]
    Run {
        /// The task, as `calendar` shows it
        name: String,
        /// Only say what it would do
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Example: groundskeeper ignore 3fa2b1c9 --reason \"migration until Friday\" --for 3d")]
pub struct IgnoreArgs {
    /// The fingerprint, or the first digits of it
    pub fingerprint: String,
    /// Why; it is shown wherever the finding is
    #[arg(long)]
    pub reason: String,
    /// For how long: 30m, 12h, 7d
    #[arg(long = "for", value_name = "DURATION", value_parser = config::parse_duration)]
    pub amount: Duration,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The check, such as `postgres.long_query`, or a kind of system
    #[arg(required_unless_present = "all")]
    pub check: Option<String>,
    /// List every check, by system
    #[arg(long, conflicts_with = "check")]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct TuneArgs {
    #[command(subcommand)]
    pub verb: TuneVerb,
}

#[derive(Debug, Subcommand)]
pub enum TuneVerb {
    /// Settings and pools of a Postgres: the reasons, and the statements to copy
    #[command(after_help = "The advice follows from the machine and from what the server counted. A server that is \
reached over a Unix socket is taken to have all of this machine, or of this container; of any other one, even at localhost, \
the configuration says what it has:

  [postgres.main]
  machine = { memory = \"8 GiB\", cores = 4, storage = \"ssd\" }

Examples:
  groundskeeper tune postgres                                  the only one that is configured
  groundskeeper tune postgres main --output json
  groundskeeper tune postgres main --plan work_mem             then `approve` and `apply` what it says
  groundskeeper tune postgres postgres://me@localhost/app      one without any configuration")]
    Postgres {
        /// A Postgres of the configuration, or an address [default: the only one]
        #[arg(value_name = "NAME|URL")]
        system: Option<String>,
        /// Plan the change of this one setting, and keep the plan for `approve` and `apply`
        #[arg(long, value_name = "SETTING")]
        plan: Option<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundskeeper pause --reason \"release\" --for 2h     all actions
  groundskeeper pause database-maintenance --reason \"load test\"")]
pub struct PauseArgs {
    /// The task [default: all actions]
    pub task: Option<String>,
    /// Why; it is shown until the end of the pause
    #[arg(long)]
    pub reason: String,
    /// For how long: 30m, 2h, 7d [default: until `resume`]
    #[arg(long = "for", value_name = "DURATION", value_parser = config::parse_duration)]
    pub amount: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct NotifyArgs {
    #[command(subcommand)]
    pub verb: NotifyVerb,
}

#[derive(Debug, Subcommand)]
pub enum NotifyVerb {
    /// Send a test message through every channel, or one
    Test {
        /// The channel's name
        channel: Option<String>,
    },
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a result")]
fn output(text: &str) -> Result<Output, String> {
    Ok(match text {
        "text" => Output::Form(OutputForm::Text),
        "json" => Output::Form(OutputForm::Json),
        file => Output::File(PathBuf::from(file)),
    })
}

/// A day that exists, as written.
fn day(text: &str) -> Result<String, String> {
    let date: jiff::civil::Date =
        text.parse().map_err(|_| "a day is written YYYY-MM-DD, such as 2026-11-21".to_owned())?;
    Ok(date.to_string())
}
