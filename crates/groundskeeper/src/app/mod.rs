//! The one façade: every surface (command line, page, socket) calls it and nothing else.
//!
//! | file | what it holds |
//! |---|---|
//! | [`api`] | the requests and the values that come back |
//! | `daemon` | `run`: the calendar, the page and the socket until it is told to stop |
//! | `session` | the client's side: the running daemon, or the store itself |
//! | `socket` | the daemon's side: one line of JSON in, one out |
//! | [`backup`] | the backups: through the keeper, and without any |
//! | `exports` | the rows that retention has deleted |
//! | `measured` | how long recovery takes, and how much would be lost, over months |
//! | `tune` | advice for settings, and the plan of changing one |
//! | `view`, `report` | from the record and the present to what is shown |

mod accept;
pub mod api;
pub mod backup;
mod check;
mod daemon;
mod decide;
mod exports;
pub(crate) mod measured;
pub(crate) mod report;
mod session;
mod socket;
mod status;
mod tune;
pub(crate) mod view;

pub use backup::Backups;
pub use check::check_now;
pub use daemon::{Daemon, run, start};
pub use session::{Session, Watcher};
pub use tune::tune_postgres;

use crate::clock::Clock;
use crate::config::Settings;
use crate::notify::{Heartbeat, Pipeline};
use crate::present::Present;
use crate::record::{self, Record, Store};
use crate::remediation::{Executor, StackActuator};
use crate::stack::Stack;
use crate::tasks::{self, Proof, Shop, TaskEntry};
use api::{Answer, Request};
use groundskeeper_backup::Progress;
use groundskeeper_core::check::catalogue;
use groundskeeper_core::observation::{LastRun, SealKey};
use groundskeeper_core::report::DayReport;
use groundskeeper_core::sample::Sample;
use serde::Serialize;
use std::sync::Arc;

/// Why a request was not answered, with the exit code that the command line gives: 1 an action failed, 2 the request or
/// the configuration is wrong, 3 it could not be found out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    pub message: String,
    pub exit: u8,
}

impl CallError {
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: 2 }
    }

    pub fn unanswered(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: 3 }
    }
}

impl From<record::Error> for CallError {
    fn from(error: record::Error) -> Self {
        let exit = match &error {
            record::Error::Newer { .. } | record::Error::Folder { .. } | record::Error::Lookup(_) => 2,
            _ => 3,
        };
        Self { message: error.to_string(), exit }
    }
}

/// The keeper with its store open.
pub struct App {
    shop: Arc<Shop>,
    entries: Vec<TaskEntry>,
}

impl App {
    /// Opens the store and settles what a dead process left in it (but for actions: see `recover`).
    pub async fn open(settings: Settings, clock: Clock) -> Result<Self, CallError> {
        let (folder, now) = (settings.state_dir.clone(), clock.now());
        let (store, key) = tokio::task::spawn_blocking(move || -> record::Result<(Store, SealKey)> {
            let mut store = Store::open(&folder, now)?;
            store.interrupt_runs(now)?;
            let key = store.seal_key()?;
            Ok((store, key))
        })
        .await
        .map_err(|ended| CallError::unanswered(format!("opening the store ended: {ended}")))??;
        let stack = Stack::new(settings.systems.clone()).sealing(key);
        let record = Record::new(store);
        let present = Present::default();
        let broken = record.with(|store| store.verify_audit()).await?.1;
        present.set_broken_audit(broken.map(|broken| format!("entry {}: {}", broken.seq, broken.why)));
        let pipeline = Pipeline::new(settings.notify.clone(), record.clone(), clock.clone())
            .map_err(|error| CallError::usage(error.to_string()))?;
        let heartbeat = settings
            .heartbeat
            .clone()
            .map(|heartbeat| Heartbeat::new(heartbeat, clock.clone()))
            .transpose()
            .map_err(|error| CallError::usage(error.to_string()))?;
        let executor = Executor::new(
            record.clone(),
            clock.clone(),
            settings.policy.clone(),
            Arc::new(StackActuator { systems: stack.clone(), clock: clock.clone(), expiry: settings.expiry.clone() }),
            stack.len(),
        );
        remember_last_backup(&stack, &record).await?;
        let shop = Arc::new(Shop {
            settings,
            stack,
            record,
            clock,
            present,
            executor,
            pipeline,
            heartbeat,
            repository: tokio::sync::Mutex::default(),
        });
        let entries = tasks::registry(&shop);
        Ok(Self { shop, entries })
    }

    /// Ends the findings of systems and checks that are not in the configuration any more. Only the daemon does this: a
    /// command with another configuration file must not resolve what this one watches.
    async fn retire(&self) -> Result<(), CallError> {
        let now = self.shop.clock.now();
        let ids: Vec<String> = self.shop.stack.ids().map(ToString::to_string).collect();
        let tuning = self.shop.settings.tuning.clone();
        self.shop
            .record
            .with(move |store| {
                let still = |system: &str, check: &str| {
                    ids.iter().any(|id| id == system)
                        && catalogue::find(check).is_some_and(|check| !tuning.is_disabled(check.id))
                };
                let ended = store.retire(still, now)?;
                if ended > 0 {
                    let what = format!("{ended} findings of systems or checks that are not configured any more");
                    store.audit("groundskeeper", "retire", &what, now)?;
                }
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// Answers any request; the socket and a session without a daemon end here.
    pub async fn dispatch(&self, request: Request) -> Answer {
        let answered = match request {
            Request::Status => pack(self.status().await),
            Request::Check { select } => {
                pack(check::check(&self.shop.settings, &self.shop.stack, self.shop.clock.now(), &select).await)
            }
            Request::Findings { all } => pack(self.findings(all).await),
            Request::Calendar => pack(self.calendar().await),
            Request::TaskRun { name, dry_run, by } => pack(self.task_run(&name, dry_run, &by).await),
            Request::Plan => pack(self.plan().await),
            Request::PlanSetting { system, setting } => pack(self.plan_setting(system.as_deref(), &setting).await),
            Request::Approve { hash, any_time, by } => pack(self.approve(&hash, any_time, &by).await),
            Request::Apply { hash, by } => pack(self.apply(&hash, &by).await),
            Request::Pause { task, reason, until, by } => pack(self.pause(task, reason, until, by).await),
            Request::Resume { task, by } => pack(self.resume(task, by).await),
            Request::Actions { limit } => pack(self.actions(limit).await),
            Request::Undo { entry, by } => pack(self.undo(entry, &by).await),
            Request::Ignore { fingerprint, reason, until, by } => {
                pack(self.ignore(fingerprint, reason, until, by).await)
            }
            Request::Unignore { fingerprint, by } => pack(self.unignore(fingerprint, by).await),
            Request::Accept { system, by } => pack(self.accept(&system, &by).await),
            Request::Report { day } => pack(self.report(day).await),
            Request::NotifyTest { channel } => pack(self.notify_test(channel.as_deref()).await),
            Request::Audit { limit } => pack(self.audit(limit).await),
            Request::BackupVerify { set, by } => {
                pack(self.backup_try(Proof::Verify(backup::BY_HAND), set.as_deref(), &by).await)
            }
            Request::BackupDrill { set, target, by } => {
                pack(self.backup_try(Proof::Drill(backup::BY_HAND, target), set.as_deref(), &by).await)
            }
            Request::BackupProgress => pack(Ok(self.progress().and_then(Progress::now))),
            Request::BackupPrune { apply, by } => pack(self.backup_prune(apply, &by).await),
        };
        answered.unwrap_or_else(|error| Answer::Refused { message: error.message, exit: error.exit })
    }

    /// The day's report; today's without a day.
    pub async fn report(&self, day: Option<String>) -> Result<DayReport, CallError> {
        report::of_day(&self.shop, day.as_deref(), self.shop.clock.now()).await
    }

    /// The samples of the latest reading of every system.
    #[expect(clippy::unused_async, reason = "a surface awaits every call of the façade")]
    pub async fn latest_samples(&self) -> Vec<Sample> {
        self.shop.present.samples()
    }

    /// How far the work on the repository of backups is, when there is one.
    fn progress(&self) -> Option<&Progress> {
        self.shop.stack.lookout().map(|lookout| lookout.vault().progress())
    }

    fn entry(&self, name: &str) -> Result<&TaskEntry, CallError> {
        if let Some(entry) = self.entries.iter().find(|entry| entry.name == name) {
            return Ok(entry);
        }
        if !tasks::is_configured(&self.shop.settings, name) {
            let no_wal = name == "wal" && self.shop.settings.backup.is_some();
            let why =
                if no_wal { "WAL is not streamed; `wal = true` in [backup] does it" } else { backup::NOT_CONFIGURED };
            return Err(CallError::usage(why));
        }
        if name == "wal" {
            let why =
                "the task wal goes on for as long as the keeper runs; groundskeeper backup status shows how it stands";
            return Err(CallError::usage(why));
        }
        let built: Vec<&str> = self.entries.iter().map(|entry| entry.name).collect();
        if tasks::calendar::NAMES.contains(&name) {
            return Err(CallError::usage(format!(
                "the task {name} is not yet available in this version; available are {}",
                built.join(", ")
            )));
        }
        Err(CallError::usage(format!("there is no task {name}; available are {}", built.join(", "))))
    }
}

/// Of a run that made no set only the record knows.
async fn remember_last_backup(stack: &Stack, record: &Record) -> record::Result<()> {
    let Some(lookout) = stack.lookout() else { return Ok(()) };
    let last = record.with(|store| store.last_run("backup")).await?;
    if let Some(run) = last.filter(|run| run.ended.is_some()) {
        // A run that made a set and missed something has failed as well; the set is younger than the run's start.
        let failed = (run.outcome != "ok").then_some(run.summary);
        lookout.remember(LastRun { at: run.started, failed });
    }
    Ok(())
}

fn pack<T: Serialize>(result: Result<T, CallError>) -> Result<Answer, CallError> {
    let value = serde_json::to_value(result?)
        .map_err(|error| CallError::unanswered(format!("the answer could not be written: {error}")))?;
    Ok(Answer::Done(value))
}
