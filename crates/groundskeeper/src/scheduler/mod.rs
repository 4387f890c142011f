//! The scheduler: wakes jobs when they are due, once each, and knows nothing of what they do.
//!
//! - A job takes no input, is idempotent and does not retry: its next activation is the retry.
//! - A run is claimed in the record by `(task, due)`; whoever claims it runs it, so nothing fires twice, not after a
//!   restart and not when the clock is set back.
//! - A moment that was missed (the machine was off or asleep, the job before it took too long) is made up for once,
//!   however often it was missed. A fixed rhythm is not made up for; it goes on. A task that has never run has missed
//!   nothing.
//! - A paused job is skipped when it is due; on resume its missed moment is made up for like any other.
//! - Each job has its own loop, so that none delays another, and never overlaps itself.

mod schedule;

pub use schedule::Schedule;

use crate::clock::Clock;
use crate::record::{self, Record};
use jiff::Timestamp;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether a run may change things or only says what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Real,
    DryRun,
}

/// What a schedule can wake.
pub trait Job: Send + Sync {
    /// What a caller by hand gets to see beside the summary.
    type Yield: Send;

    fn run(&self, mode: Mode) -> BoxFuture<'_, End<Self::Yield>>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End<Y> {
    pub ok: bool,
    /// One line for the record.
    pub summary: String,
    pub found: Y,
}

/// A job on the calendar.
pub struct Entry<Y> {
    pub name: &'static str,
    pub schedule: Schedule,
    pub job: Arc<dyn Job<Yield = Y>>,
    /// Held while it runs: a run by hand and one by the calendar do not overlap.
    running: Arc<Mutex<()>>,
}

impl<Y> Clone for Entry<Y> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            schedule: self.schedule.clone(),
            job: Arc::clone(&self.job),
            running: Arc::clone(&self.running),
        }
    }
}

impl<Y> Entry<Y> {
    pub fn new(name: &'static str, schedule: Schedule, job: Arc<dyn Job<Yield = Y>>) -> Self {
        Self { name, schedule, job, running: Arc::default() }
    }
}

/// Why something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Calendar,
    CatchUp,
    ByHand,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Calendar => "calendar",
            Self::CatchUp => "catch-up",
            Self::ByHand => "by hand",
        }
    }
}

/// Claims and runs one activation. None when somebody else has claimed it.
pub async fn run_once<Y: Send + 'static>(
    entry: &Entry<Y>,
    record: &Record,
    clock: &Clock,
    due: Timestamp,
    cause: Cause,
) -> record::Result<Option<End<Y>>> {
    let _running = entry.running.lock().await;
    let (name, now) = (entry.name, clock.now());
    let Some(id) = record.with(move |store| store.claim_run(name, due, cause.as_str(), now)).await? else {
        return Ok(None);
    };
    let end = entry.job.run(Mode::Real).await;
    let (ok, summary, now) = (end.ok, end.summary.clone(), clock.now());
    record.with(move |store| store.finish_run(id, ok, &summary, now)).await?;
    Ok(Some(end))
}

/// Says what an activation would do. It is not a run: nothing is claimed or recorded.
pub async fn dry_run<Y: Send>(entry: &Entry<Y>) -> End<Y> {
    let _running = entry.running.lock().await;
    entry.job.run(Mode::DryRun).await
}

/// Runs all entries until `stop` turns true; a run under way is finished first.
pub async fn drive<Y: Send + 'static>(
    entries: Vec<Entry<Y>>,
    record: Record,
    clock: Clock,
    stop: watch::Receiver<bool>,
) {
    let mut loops = tokio::task::JoinSet::new();
    for entry in entries {
        loops.spawn(keep(entry, record.clone(), clock.clone(), stop.clone()));
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(panic) = ended {
            tracing::error!(%panic, "a task's loop ended; that task does not run again until a restart");
        }
    }
}

async fn keep<Y: Send + 'static>(entry: Entry<Y>, record: Record, clock: Clock, mut stop: watch::Receiver<bool>) {
    let name = entry.name;
    let mut last = record.with(move |store| store.last_due(name)).await.unwrap_or_else(|error| {
        tracing::error!(task = name, %error, "cannot read when this task last ran; a missed run is not made up for");
        None
    });
    loop {
        let now = clock.now();
        // A clock that was set back makes `last` lie in the future; the calendar then counts from now.
        let missed = last
            .filter(|last| entry.schedule.catches_up() && *last < now)
            .and_then(|last| entry.schedule.latest_by(now).filter(|due| *due > last));
        let next = missed
            .map(|due| (due, Cause::CatchUp))
            .or_else(|| Some((entry.schedule.next_after(now)?, Cause::Calendar)));
        let Some((due, cause)) = next else {
            tracing::warn!(task = name, schedule = %entry.schedule, "this schedule never fires again");
            return;
        };
        tokio::select! {
            () = clock.sleep_until(due) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if !await_resume(&entry, &record, &clock, &mut stop).await {
            return;
        }
        // After a pause, or a sleep of the machine, several moments may have passed: the latest stands for all of them.
        let due = entry.schedule.latest_by(clock.now()).map_or(due, |latest| latest.max(due));
        if let Err(error) = run_once(&entry, &record, &clock, due, cause).await {
            tracing::error!(task = name, %error, "the run could not be recorded");
        }
        last = Some(due.max(last.unwrap_or(due)));
    }
}

/// Waits while the task is paused. False when the keeper stops meanwhile.
async fn await_resume<Y>(entry: &Entry<Y>, record: &Record, clock: &Clock, stop: &mut watch::Receiver<bool>) -> bool {
    loop {
        let (name, now) = (entry.name, clock.now());
        let pauses = record.with(move |store| store.pauses(now)).await.unwrap_or_default();
        if !pauses.iter().any(|pause| pause.task.as_deref() == Some(name)) {
            return true;
        }
        tokio::select! {
            () = clock.sleep(std::time::Duration::from_secs(30)) => {}
            _ = stop.wait_for(|stop| *stop) => return false,
        }
    }
}

#[cfg(test)]
mod tests;
