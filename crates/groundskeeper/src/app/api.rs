//! What can be asked of the keeper, and what comes back: the one vocabulary of the socket, the command line and the page.
//!
//! A request travels over the daemon's Unix socket as one line of JSON, or straight into [`super::App`] when no daemon
//! runs; the answer is the same value either way. Times are UTC timestamps; a surface shows them in the zone it likes.

mod backup;

pub use backup::{
    BackupInitView, BackupListView, BackupPruneView, BackupStatusView, BackupTryView, BackupView, Done, Export,
    ExportsView, KeyInfo, LastProof, MeasuredView, Measurement, RecoveryPlanView, RecoveryPoints, RestorePlan,
    RestoreView, RetentionView, Target,
};

use groundskeeper_core::check::Judgement;
use groundskeeper_core::finding::{Finding, Fingerprint};
use groundskeeper_core::observation::Drift;
use groundskeeper_core::plan::{Plan, PlanItem};
use groundskeeper_core::policy::{Autonomy, Outcome};
use groundskeeper_core::receipt::Receipt;
use groundskeeper_core::remedy::{RiskClass, Undo};
use groundskeeper_core::tuning::postgres::Advised;
use groundskeeper_core::{Severity, SystemId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `by` is the operating-system user who asked; it goes into the audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Request {
    /// -> [`StatusView`]
    Status,
    /// Reads the named systems now (all without names) and judges them, without touching the record. -> [`CheckView`]
    Check { select: Vec<String> },
    /// Open findings; with `all` also pending and resolved ones of the last 30 days. -> `Vec<FindingView>`
    Findings { all: bool },
    /// -> `Vec<CalendarEntry>`
    Calendar,
    /// Runs a task now and waits for its end. -> [`TaskRunView`]
    TaskRun { name: String, dry_run: bool, by: String },
    /// Looks now, plans for what it sees and keeps the plan for `approve` and `apply`. -> [`PlanView`]
    Plan,
    /// Plans the change of one advised setting of a Postgres (the only one without a name) and keeps the plan. -> [`PlanView`]
    PlanSetting { system: Option<String>, setting: String },
    /// -> [`ApprovalView`]
    Approve { hash: String, any_time: bool, by: String },
    /// Executes a kept plan; each step is guarded again. -> `Vec<ActionView>`
    Apply { hash: String, by: String },
    /// Without a task: all actions. -> [`PauseView`]
    Pause { task: Option<String>, reason: String, until: Option<Timestamp>, by: String },
    /// -> `bool`: whether there was a pause
    Resume { task: Option<String>, by: String },
    /// The newest first. -> `Vec<ActionView>`
    Actions { limit: u32 },
    /// -> [`UndoView`]
    Undo { entry: i64, by: String },
    /// The finding by any unique prefix of its fingerprint. -> [`IgnoreView`]
    Ignore { fingerprint: String, reason: String, until: Timestamp, by: String },
    /// -> `bool`: whether it was ignored
    Unignore { fingerprint: String, by: String },
    /// Makes the present configuration of a system the accepted one. -> [`AcceptView`]
    Accept { system: String, by: String },
    /// Today without a day (`2026-11-21`). -> [`groundskeeper_core::report::DayReport`]
    Report { day: Option<String> },
    /// Sends a test message through every channel, or the named one. -> `Vec<DeliveryView>`
    NotifyTest { channel: Option<String> },
    /// The newest entries of the audit, newest first, and whether the whole chain holds. -> [`AuditView`]
    Audit { limit: u32 },
    /// Reads a set's data back (rungs 1 and 2); the newest without a name, which may be the first letters of one.
    /// -> [`BackupTryView`]
    BackupVerify { set: Option<String>, by: String },
    /// Restores a set into the scratch place and boots it (rungs 3 to 6). -> [`BackupTryView`]
    BackupDrill { set: Option<String>, target: Option<Target>, by: String },
    /// How far the work on the repository is. -> `Option<`[`Done`]`>`
    BackupProgress,
    /// Which sets no rule keeps, and with `apply` their removal. -> [`BackupPruneView`]
    BackupPrune { apply: bool, by: String },
}

/// How an answer travels: either the value or an error with the exit code that belongs to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done(serde_json::Value),
    Refused { message: String, exit: u8 },
}

/// Everything that the page and `status` show.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusView {
    pub now: Timestamp,
    pub version: String,
    /// The configured zone, by its IANA name.
    pub zone: String,
    pub autonomy: Autonomy,
    pub pauses: Vec<PauseView>,
    /// Things about the keeper itself that a person must know: a damaged store set aside, a channel that fails.
    pub notices: Vec<String>,
    pub systems: Vec<SystemView>,
    /// Open findings, the worst first, ignored ones last.
    pub findings: Vec<FindingView>,
    /// The latest runs, newest first; the watch is left out because it runs all the time.
    pub runs: Vec<RunView>,
    pub calendar: Vec<CalendarEntry>,
    pub actions: Vec<ActionView>,
    /// None when no backup is configured.
    #[serde(default)]
    pub backup: Option<BackupView>,
    /// When the watch last finished; none before the first.
    pub watched: Option<Timestamp>,
}

/// The state of a system: the worst of its checks, where unknown is worse than ok and better than failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemState {
    Ok,
    /// Every check that could answer was ok, and some could not.
    Unknown,
    Info,
    Warning,
    Critical,
    /// Not read yet.
    Waiting,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SystemView {
    pub system: SystemId,
    /// Where it is, without credentials.
    pub address: String,
    pub state: SystemState,
    pub read: Option<Timestamp>,
    /// Seconds for the whole reading.
    pub took: Option<f64>,
    pub ok: u32,
    pub failing: u32,
    /// Checks without an answer, with the reason.
    pub unknown: Vec<(String, String)>,
    /// A few key numbers, ready to show: (`connections`, `12`).
    pub facts: Vec<(String, String)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckView {
    pub at: Timestamp,
    /// Seconds for all systems, side by side.
    pub took: f64,
    pub systems: Vec<CheckedSystem>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckedSystem {
    pub system: SystemId,
    pub address: String,
    pub took: f64,
    /// The version that the system names, when it names one.
    pub version: Option<String>,
    pub judgements: Vec<Judgement>,
    pub facts: Vec<(String, String)>,
}

/// What is the accepted configuration of a system from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AcceptView {
    pub system: SystemId,
    pub at: Timestamp,
    /// Settings that are not at their default.
    pub settings: usize,
    /// How they differ from what was accepted before; none when nothing was.
    pub changes: Option<Vec<Drift>>,
}

/// Advice for the settings of one Postgres.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TuneView {
    pub at: Timestamp,
    pub system: SystemId,
    pub address: String,
    pub version: String,
    #[serde(flatten)]
    pub advised: Advised,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    Pending,
    Open,
    Clearing,
    Resolved,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindingView {
    pub finding: Finding,
    pub state: FindingState,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    pub opened: Option<Timestamp>,
    pub resolved: Option<Timestamp>,
    pub ignored: Option<IgnoreView>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IgnoreView {
    pub fingerprint: Fingerprint,
    pub reason: String,
    pub until: Timestamp,
    pub by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalendarState {
    Scheduled,
    /// Switched off in the configuration.
    Disabled,
    Paused,
    /// What it works on is not in the configuration.
    NotConfigured,
    /// On the calendar of the design, not in this build.
    NotAvailable,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CalendarEntry {
    pub task: String,
    pub what: String,
    /// `every 30 s` or the cron line.
    pub schedule: String,
    pub zone: String,
    pub state: CalendarState,
    pub next: Option<Timestamp>,
    pub last: Option<RunView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    pub id: i64,
    pub task: String,
    /// `calendar`, `catch-up`, `by hand`.
    pub trigger: String,
    pub due: Timestamp,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    /// `running`, `ok`, `failed`, `interrupted`.
    pub outcome: String,
    pub summary: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskRunView {
    pub task: String,
    pub dry_run: bool,
    pub ok: bool,
    pub summary: String,
    /// What the task found out, as lines for a person.
    pub details: Vec<String>,
    /// What it did or would do, for tasks that act.
    pub plan: Option<Plan>,
    pub actions: Vec<ActionView>,
    /// The backup set that it made or tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanView {
    pub plan: Plan,
    /// Systems that could not be looked at, with the reason: an empty plan says nothing about them.
    pub unread: Vec<(SystemId, String)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApprovalView {
    pub hash: String,
    pub by: String,
    pub expires: Timestamp,
    pub any_time: bool,
    pub items: Vec<PlanItem>,
}

/// A row of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionView {
    /// None for a step that a guard stopped before the journal.
    pub entry: Option<i64>,
    pub at: Timestamp,
    pub ended: Option<Timestamp>,
    pub remedy: String,
    pub class: RiskClass,
    pub subject: String,
    pub statement: String,
    pub why: String,
    pub by: String,
    pub result: ActionResult,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum ActionResult {
    /// It happened (or began).
    Ended { outcome: Outcome, detail: String },
    /// A guard stopped it.
    Skipped { reason: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UndoView {
    pub entry: i64,
    pub undo: Undo,
    /// What came of it, when there was a step to undo.
    pub action: Option<ActionView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PauseView {
    /// None: all actions.
    pub task: Option<String>,
    pub reason: String,
    pub by: String,
    pub since: Timestamp,
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliveryView {
    pub channel: String,
    pub ok: bool,
    pub detail: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditView {
    /// None when the chain holds; otherwise the first entry that does not fit and why.
    pub broken: Option<String>,
    pub head: String,
    pub entries: Vec<AuditEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub seq: i64,
    pub at: Timestamp,
    pub who: String,
    pub what: String,
    pub detail: String,
    pub hash: String,
}

/// The worst severity that is open and not ignored, for exit codes and headlines.
pub fn worst(findings: &[FindingView]) -> Option<Severity> {
    findings
        .iter()
        .filter(|view| view.ignored.is_none() && view.opened.is_some() && view.resolved.is_none())
        .map(|view| view.finding.severity)
        .max()
}
