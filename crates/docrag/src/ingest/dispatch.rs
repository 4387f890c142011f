//! Which documents are worked on, by how many workers, by this process.

use super::stages::{settle_panic, work};
use crate::service::{ModelState, Service};
use crate::store::StoreError;
use crate::store::locks::of_document;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use uuid::Uuid;

/// Documents locked ahead, for each worker, so that no worker waits for Postgres to say what is next.
const AHEAD: usize = 4;
/// Documents that another process had locked are asked for again after this; it may be gone.
const ELSEWHERE: Duration = Duration::from_secs(2);
/// Until Postgres is asked again after it was away.
const AWAY: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

struct Dispatcher {
    service: Service,
    stop: watch::Receiver<bool>,
    running: JoinSet<Result<(), StoreError>>,
    by_task: HashMap<Id, Uuid>,
    /// Locked, and waiting for a worker.
    queue: VecDeque<Uuid>,
    /// Done with; the locks go back with the next question to Postgres.
    finished: Vec<Uuid>,
    /// Locked by other processes when last asked; left out until `elsewhere_until`, so that what waits behind them is
    /// seen.
    elsewhere: HashSet<Uuid>,
    elsewhere_until: Instant,
    /// Times in a row that Postgres was away.
    outage: usize,
}

/// Runs until it is told to stop, and then until the running batches are done.
pub(crate) async fn dispatch(service: Service, stop: watch::Receiver<bool>) {
    let dispatcher = Dispatcher {
        service,
        stop,
        running: JoinSet::new(),
        by_task: HashMap::new(),
        queue: VecDeque::new(),
        finished: Vec::new(),
        elsewhere: HashSet::new(),
        elsewhere_until: Instant::now(),
        outage: 0,
    };
    dispatcher.run().await;
}

impl Dispatcher {
    async fn run(mut self) {
        while !*self.stop.borrow() {
            let workers = self.service.settings().ingest.workers;
            let found = if self.queue.len() < workers { self.refill().await } else { Ok(true) };
            let wait = match found {
                Ok(more) => {
                    self.outage = 0;
                    // Nothing is left to be locked: do not ask at every end of a document.
                    if more { Duration::ZERO } else { self.service.following().poll() }
                }
                Err(error) => self.away(&error),
            };
            self.assign(workers);
            self.pause(wait, workers).await;
        }
        while let Some(done) = self.running.join_next_with_id().await {
            self.finish(done).await;
        }
        let locks: Vec<i64> = self.finished.drain(..).chain(self.queue.drain(..)).map(of_document).collect();
        // Should Postgres be away, the locks are gone already.
        let _ = self.service.locks().unlock(&locks).await;
    }

    fn assign(&mut self, workers: usize) {
        while self.running.len() < workers {
            let Some(id) = self.queue.pop_front() else { return };
            let handle = self.running.spawn(work(self.service.clone(), id, self.stop.clone()));
            self.by_task.insert(handle.id(), id);
        }
    }

    /// Until a worker is free, something new may wait, or `wait` is over.
    async fn pause(&mut self, wait: Duration, workers: usize) {
        let busy = !self.queue.is_empty() && self.running.len() >= workers;
        let mut stop = self.stop.clone();
        tokio::select! {
            Some(done) = self.running.join_next_with_id() => self.finish(done).await,
            () = self.service.wakes().documents.notified(), if !busy => {}
            () = tokio::time::sleep(wait), if !busy => {
                // With nothing to wait for, the next question goes past them: Postgres would give the same ones again.
                if !wait.is_zero() {
                    self.elsewhere.clear();
                }
            }
            _ = stop.changed() => {}
        }
    }

    async fn finish(&mut self, done: Result<(Id, Result<(), StoreError>), JoinError>) {
        let task = match &done {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        let Some(id) = self.by_task.remove(&task) else { return };
        self.finished.push(id);
        let result = match done {
            Ok((_, result)) => result,
            Err(error) if error.is_panic() => settle_panic(&self.service, id, panic_text(error)).await,
            Err(_) => Ok(()),
        };
        if let Err(error) = result {
            let wait = self.away(&error);
            tokio::time::sleep(wait).await;
        }
    }

    /// Locks what waits. `false` when nothing more waits.
    async fn refill(&mut self) -> Result<bool, StoreError> {
        if !self.finished.is_empty() {
            let locks: Vec<i64> = self.finished.drain(..).map(of_document).collect();
            self.service.locks().unlock(&locks).await?;
        }
        if self.elsewhere_until <= Instant::now() {
            self.elsewhere.clear();
            self.elsewhere_until = Instant::now() + ELSEWHERE;
        }
        let limit = self.service.settings().ingest.workers * AHEAD;
        let known: Vec<Uuid> = self.by_task.values().chain(&self.queue).chain(&self.elsewhere).copied().collect();
        let embedding = matches!(self.service.embedding_state(), ModelState::Serving { .. });
        let ids = self.service.store().waiting(&known, embedding, limit).await?;
        if ids.is_empty() {
            return Ok(false);
        }
        let locks: Vec<i64> = ids.iter().copied().map(of_document).collect();
        let held = self.service.locks().try_lock(&locks).await?;
        for (id, held) in ids.into_iter().zip(held) {
            if held {
                self.queue.push_back(id);
            } else {
                self.elsewhere.insert(id);
            }
        }
        Ok(true)
    }

    fn away(&mut self, error: &StoreError) -> Duration {
        if self.outage == 0 {
            tracing::warn!(%error, "ingest waits for Postgres");
        }
        let wait = AWAY[self.outage.min(AWAY.len() - 1)];
        self.outage += 1;
        wait
    }
}

fn panic_text(error: JoinError) -> String {
    let panic = error.into_panic();
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
