//! The scheduler: wakes jobs when they are due, once each, and knows nothing of what they do.
//!
//! - A job takes no input, is idempotent and does not retry: its next activation is the retry.
//! - A run of a cron line is claimed in the record by `(task, due)`; whoever claims it runs it, so nothing fires twice,
//!   not after a restart and not when the clock is set back.
//! - A fixed rhythm has a grid to wake by, but its runs are due when they begin: a clock that is set back stops no watch.
//!   So is a run by hand: two requests in one millisecond are two runs, one after the other.
//! - A moment that was missed (the machine was off or asleep, the job before it took too long) is made up for once,
//!   however often it was missed. A fixed rhythm is not made up for; it goes on. A task that has never run has missed
//!   nothing.
//! - A paused job is skipped when it is due; on resume its missed moment is made up for like any other.
//! - Each job has its own loop, so that none delays another, and never overlaps itself.
//! - A job that panics has failed, and its loop goes on.
//! - A moment whose run cannot be recorded (a full disk) is not run. A cron line makes up for it as soon as it can be; a
//!   rhythm goes on.

mod schedule;

pub use schedule::Schedule;

use crate::clock::Clock;
use crate::record::{self, Record};
use jiff::{SignedDuration, Timestamp};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinError, JoinSet};

/// Between two looks at what is out of our hands: a pause, a full disk.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Claims and runs one activation of the calendar. None when somebody else has claimed it; a rhythm always runs.
async fn run_once<Y: Send + Default + 'static>(
    entry: &Entry<Y>,
    record: &Record,
    clock: &Clock,
    due: Timestamp,
    cause: Cause,
) -> record::Result<Option<End<Y>>> {
    if !entry.schedule.catches_up() {
        return begin(entry, record, clock, cause).await.map(Some);
    }
    let _running = entry.running.lock().await;
    let (name, now) = (entry.name, clock.now());
    match record.with(move |store| store.claim_run(name, due, cause.as_str(), now)).await? {
        Some(id) => finish(entry, record, clock, id).await.map(Some),
        None => Ok(None),
    }
}

/// Runs it now, whoever else has started it in this very millisecond: each request is a run of its own.
pub async fn run_by_hand<Y: Send + Default + 'static>(
    entry: &Entry<Y>,
    record: &Record,
    clock: &Clock,
) -> record::Result<End<Y>> {
    begin(entry, record, clock, Cause::ByHand).await
}

/// A run that is due when it begins.
async fn begin<Y: Send + Default + 'static>(
    entry: &Entry<Y>,
    record: &Record,
    clock: &Clock,
    cause: Cause,
) -> record::Result<End<Y>> {
    let _running = entry.running.lock().await;
    let (name, now) = (entry.name, clock.now());
    let id = record.with(move |store| store.begin_run(name, cause.as_str(), now)).await?;
    finish(entry, record, clock, id).await
}

/// Carries out what was claimed as the run `id`, and writes down how it ended.
async fn finish<Y: Send + Default + 'static>(
    entry: &Entry<Y>,
    record: &Record,
    clock: &Clock,
    id: i64,
) -> record::Result<End<Y>> {
    let end = carry_out(entry, Mode::Real).await;
    let (ok, summary, now) = (end.ok, end.summary.clone(), clock.now());
    record.with(move |store| store.finish_run(id, ok, &summary, now)).await?;
    Ok(end)
}

/// Says what an activation would do. It is not a run: nothing is claimed or recorded.
pub async fn dry_run<Y: Send + Default + 'static>(entry: &Entry<Y>) -> End<Y> {
    let _running = entry.running.lock().await;
    carry_out(entry, Mode::DryRun).await
}

/// Runs the job in a task of its own, so that a panic ends that one only. Dropped, it takes the job along.
async fn carry_out<Y: Send + Default + 'static>(entry: &Entry<Y>, mode: Mode) -> End<Y> {
    let job = Arc::clone(&entry.job);
    let mut alone = JoinSet::new();
    alone.spawn(async move { job.run(mode).await });
    match alone.join_next().await {
        Some(Ok(end)) => end,
        Some(Err(ended)) => failed(entry.name, &why(ended)),
        None => failed(entry.name, "it never began"),
    }
}

fn failed<Y: Default>(task: &str, why: &str) -> End<Y> {
    tracing::error!(task, why, "the task ended in a bug");
    End { ok: false, summary: format!("the task ended in a bug: {why}"), found: Y::default() }
}

/// The words of a panic.
fn why(ended: JoinError) -> String {
    let Ok(panic) = ended.try_into_panic() else { return "it was stopped".to_owned() };
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

/// Runs all entries until `stop` turns true; a run under way is finished first.
pub async fn drive<Y: Send + Default + 'static>(
    entries: Vec<Entry<Y>>,
    record: Record,
    clock: Clock,
    stop: watch::Receiver<bool>,
) {
    let mut loops = JoinSet::new();
    for entry in entries {
        loops.spawn(keep(entry, record.clone(), clock.clone(), stop.clone()));
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(panic) = ended {
            tracing::error!(%panic, "a task's loop ended; that task does not run again until a restart");
        }
    }
}

async fn keep<Y: Send + Default + 'static>(
    entry: Entry<Y>,
    record: Record,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
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
            reached = reach(&clock, due) => if !reached { continue },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if !await_resume(&entry, &record, &clock, &mut stop).await {
            return;
        }
        // After a pause, or a sleep of the machine, several moments may have passed: the latest stands for all of them.
        let due = entry.schedule.latest_by(clock.now()).map_or(due, |latest| latest.max(due));
        if let Err(error) = run_once(&entry, &record, &clock, due, cause).await {
            tracing::error!(task = name, %error, "the run could not be recorded");
            if !entry.schedule.catches_up() {
                continue;
            }
            // Still missed, and made up for as soon as it can be recorded. One whose start was recorded does not start again.
            last = last.or_else(|| due.checked_sub(SignedDuration::from_millis(1)).ok());
            if !rest(&clock, &mut stop).await {
                return;
            }
            continue;
        }
        last = Some(due.max(last.unwrap_or(due)));
    }
}

/// Waits until `due`. False when the clock was set back meanwhile: then the calendar is asked again.
async fn reach(clock: &Clock, due: Timestamp) -> bool {
    let mut seen = clock.now();
    while seen < due {
        clock.sleep_towards(due).await;
        let now = clock.now();
        if now < seen {
            return false;
        }
        seen = now;
    }
    true
}

/// Waits a little, by the clock but also when that is set back. False when the keeper stops meanwhile.
async fn rest(clock: &Clock, stop: &mut watch::Receiver<bool>) -> bool {
    let end = clock.now().checked_add(PATIENCE).unwrap_or(Timestamp::MAX);
    tokio::select! {
        () = clock.sleep_towards(end) => true,
        _ = stop.wait_for(|stop| *stop) => false,
    }
}

/// Waits while the task is paused, or while nobody can say whether it is. False when the keeper stops meanwhile.
async fn await_resume<Y>(entry: &Entry<Y>, record: &Record, clock: &Clock, stop: &mut watch::Receiver<bool>) -> bool {
    let mut is_said = false;
    loop {
        let (name, now) = (entry.name, clock.now());
        match record.with(move |store| store.pauses(now)).await {
            Ok(pauses) if !pauses.iter().any(|pause| pause.task.as_deref() == Some(name)) => return true,
            Ok(_) => {}
            Err(error) if is_said => tracing::debug!(task = name, %error, "still no answer about pauses"),
            Err(error) => {
                is_said = true;
                tracing::error!(task = name, %error, "cannot read whether the task is paused; it waits until that is known");
            }
        }
        if !rest(clock, stop).await {
            return false;
        }
    }
}

#[cfg(test)]
mod tests;
