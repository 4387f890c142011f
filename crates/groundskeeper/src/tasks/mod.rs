//! The tasks of the calendar and their one registry.
//!
//! To add a task: one file here, one line in [`registry`], and its line of the calendar marked as built.

mod acceptance;
mod backup;
mod backup_verification;
mod bloat;
pub mod calendar;
mod daily_health;
mod database_maintenance;
mod deep;
pub(crate) mod expired;
mod history;
mod performance_review;
mod plans;
mod retention;
mod sizes;
mod watch;

pub(crate) use backup_verification::{Climbed, Proof, climb};
pub(crate) use database_maintenance::strict;
pub(crate) use retention::{Retained, retain, space};
pub(crate) use watch::{Round, failing, judge_now};

use crate::app::api::ActionView;
use crate::clock::Clock;
use crate::config::Settings;
use crate::notify::{Heartbeat, Pipeline};
use crate::present::Present;
use crate::record::Record;
use crate::remediation::Executor;
use crate::scheduler::{Entry, Job, Schedule};
use crate::stack::Stack;
use calendar::When;
use groundskeeper_core::plan::Plan;
use groundskeeper_core::receipt::Receipt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// What every task may use.
pub(crate) struct Shop {
    pub(crate) settings: Settings,
    pub(crate) stack: Stack,
    pub(crate) record: Record,
    pub(crate) clock: Clock,
    pub(crate) present: Present,
    pub(crate) executor: Executor,
    pub(crate) pipeline: Pipeline,
    pub(crate) heartbeat: Option<Heartbeat>,
    /// Held by whoever works on the repository of backups: two would stand in each other's way.
    pub(crate) repository: Mutex<()>,
}

/// What a run shows to whoever asked for it by hand.
#[derive(Debug, Clone, Default)]
pub struct Found {
    pub details: Vec<String>,
    pub plan: Option<Plan>,
    pub actions: Vec<ActionView>,
    /// The set that was made or tried.
    pub receipt: Option<Receipt>,
}

pub type TaskEntry = Entry<Found>;

/// Every task of this build with its schedule in force; those switched off are left out unless asked for by name.
pub(crate) fn registry(shop: &Arc<Shop>) -> Vec<TaskEntry> {
    let job = |name: &str| -> Option<Arc<dyn Job<Yield = Found>>> {
        let shop = Arc::clone(shop);
        Some(match name {
            "watch" => Arc::new(watch::Watch(shop)),
            "backup" => Arc::new(backup::Backup(shop)),
            "backup-verification" => Arc::new(backup_verification::BackupVerification(shop)),
            "retention" => Arc::new(retention::Retention(shop)),
            "daily-health" => Arc::new(daily_health::DailyHealth(shop)),
            "performance-review" => Arc::new(performance_review::PerformanceReview(shop)),
            "database-maintenance" => Arc::new(database_maintenance::DatabaseMaintenance(shop)),
            _ => return None,
        })
    };
    calendar::LINES
        .iter()
        // `wal` has no time of its own: the daemon runs it beside the calendar.
        .filter(|line| line.built && is_configured(&shop.settings, line.name))
        .filter_map(|line| Some(Entry::new(line.name, schedule(&shop.settings, line)?, job(line.name)?)))
        .collect()
}

/// Whether the configuration leaves the task switched on.
pub(crate) fn is_enabled(settings: &Settings, name: &str) -> bool {
    settings.tasks.get(name).and_then(|task| task.enabled).unwrap_or(true)
}

/// Whether there is what the task works on.
pub(crate) fn is_configured(settings: &Settings, name: &str) -> bool {
    match name {
        "backup" | "backup-verification" | "retention" => settings.backup.is_some(),
        "wal" => settings.backup.as_ref().is_some_and(|backup| backup.wal.is_some()),
        _ => true,
    }
}

/// The schedule in force: the configured one or the calendar's. None for what has no time of its own.
pub(crate) fn schedule(settings: &Settings, line: &calendar::Line) -> Option<Schedule> {
    let task = settings.tasks.get(line.name).cloned().unwrap_or_default();
    let zone = task.zone.unwrap_or_else(|| settings.zone.clone());
    if let Some(every) = task.every {
        return Some(Schedule::Every(every));
    }
    let cron = match (&task.cron, line.when) {
        (Some(cron), _) => cron.as_str(),
        (None, When::Cron(cron)) => cron,
        (None, When::Seconds(seconds)) => return Some(Schedule::Every(Duration::from_secs(seconds))),
        (None, When::Always) => return None,
    };
    // The configuration was validated and the defaults are tested, so a line that does not parse is logged, not hidden.
    Schedule::cron(cron, zone).map_err(|error| tracing::error!(task = line.name, error)).ok()
}
