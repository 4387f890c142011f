//! What runs beside requests: workers, followers, housekeeping. Each of them goes on by itself after Postgres was away.

use super::model::{PATIENTLY, asked_again};
use super::{ModelState, Service};
use crate::index::DenseIndex;
use crate::index::follower::{FollowError, Following, Round};
use crate::index::memory::MOST_CHUNKS;
use crate::ingest;
use crate::store::StoreError;
use crate::store::outbox::{DOCUMENTS_CHANNEL, OUTBOX_CHANNEL};
use sqlx::postgres::PgListener;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Between two rounds of a follower: entries come in many small commits, and a round costs about the same for all of
/// them together.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
const AWAY: Duration = Duration::from_secs(1);
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
const PRUNE: Duration = Duration::from_secs(30);
const UPKEEP: Duration = Duration::from_hours(1);
const MARK: Duration = Duration::from_millis(500);

/// Who is woken by what this process or another one commits.
#[derive(Default)]
pub(crate) struct Wakes {
    /// Here and not with [`Background`], so that it does not close before whoever listens to it has ended.
    pub(super) stop: watch::Sender<bool>,
    pub(crate) documents: Notify,
    pub(crate) dense: Notify,
    pub(crate) lexical: Notify,
}

impl Wakes {
    pub(crate) fn followers(&self) {
        self.dense.notify_one();
        self.lexical.notify_one();
    }
}

/// The background work of a started service. Dropping it leaves the work running; [`Background::stop`] ends it.
pub struct Background {
    service: Service,
    tasks: JoinSet<()>,
}

impl Drop for Background {
    fn drop(&mut self) {
        self.tasks.detach_all();
    }
}

impl Background {
    pub(super) fn start(service: &Service) -> Self {
        service.wakes().stop.send_replace(false);
        let stopped = service.wakes().stop.subscribe();
        let mut tasks = JoinSet::new();
        tasks.spawn(ingest::dispatch(service.clone(), stopped.clone()));
        tasks.spawn(follow(service.clone(), stopped.clone()));
        tasks.spawn(listen(service.clone(), stopped.clone()));
        tasks.spawn(mark(service.clone(), stopped.clone()));
        tasks.spawn(watch_model(service.clone(), stopped.clone()));
        tasks.spawn(keep_house(service.clone(), stopped));
        Self { service: service.clone(), tasks }
    }

    /// Lets running batches end, within `limits.drain_seconds`, and gives up what this process holds.
    pub async fn stop(mut self) {
        self.service.wakes().stop.send_replace(true);
        let within = Duration::from_secs(self.service.settings().limits.drain_seconds);
        let drained = tokio::time::timeout(within, async { while self.tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(?within, "background work did not end in time; what was not committed is done again later");
            self.tasks.abort_all();
        }
        self.service.locks().close().await;
        // Without it, the outbox would be kept for this process for an hour.
        if let Err(error) = self.service.store().unregister(&self.service.following().replica).await {
            tracing::warn!(%error, "the rows in table followers are left to expire");
        }
        self.service.has_stopped();
    }
}

/// Fills what is in memory, then follows.
async fn follow(service: Service, stop: watch::Receiver<bool>) {
    let following = service.following();
    let mut ended = stop.clone();
    tokio::select! {
        result = following.load() => {
            if let Err(error) = result {
                tracing::error!(%error, "the indexes in memory cannot be filled; restart the service");
                return;
            }
        }
        _ = ended.wait_for(|stop| *stop) => return,
    }
    let wakes = service.wakes();
    tokio::join!(
        rounds(stop.clone(), &wakes.dense, following, "dense", || following.dense_round()),
        rounds(stop, &wakes.lexical, following, "lexical", || following.lexical_round()),
    );
}

async fn rounds<F>(
    mut stop: watch::Receiver<bool>,
    wake: &Notify,
    following: &Arc<Following>,
    index: &str,
    mut round: impl FnMut() -> F,
) where
    F: Future<Output = Result<Round, FollowError>>,
{
    let mut failing = false;
    while !*stop.borrow() {
        let wait = match round().await {
            Ok(done) => {
                if failing {
                    tracing::info!(index, "the index is followed again");
                }
                failing = false;
                if done == Round::More {
                    continue;
                }
                following.poll()
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(index, %error, "the index is not followed; trying again");
                }
                failing = true;
                AWAY
            }
        };
        let pause = async {
            if failing {
                tokio::time::sleep(wait).await;
            } else {
                tokio::time::sleep(ROUND_PAUSE).await;
                let _ = tokio::time::timeout(wait, wake.notified()).await;
            }
        };
        tokio::select! {
            () = pause => {}
            _ = stop.changed() => {}
        }
    }
}

/// Wakes workers and followers when any process has committed something. They also look by themselves now and then, so
/// that nothing depends on this.
async fn listen(service: Service, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            error = listen_once(&service) => tracing::debug!(%error, "not listening to Postgres; trying again"),
        }
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(AWAY) => {}
        }
    }
}

async fn listen_once(service: &Service) -> StoreError {
    let wakes = service.wakes();
    let wait = async {
        let mut listener = PgListener::connect_with(service.store().pool()).await?;
        listener.listen_all([OUTBOX_CHANNEL, DOCUMENTS_CHANNEL]).await?;
        wakes.documents.notify_one();
        wakes.followers();
        loop {
            match listener.recv().await?.channel() {
                OUTBOX_CHANNEL => wakes.followers(),
                _ => wakes.documents.notify_one(),
            }
        }
    };
    let result: Result<std::convert::Infallible, sqlx::Error> = wait.await;
    match result {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Documents become `indexed` when this process's indexes have followed them.
async fn mark(service: Service, mut stop: watch::Receiver<bool>) {
    let followed = &service.following().followed;
    while !*stop.borrow() {
        if followed.loaded() {
            // Should Postgres be away, the followers say so.
            while matches!(service.store().mark_indexed(followed.applied()).await, Ok(1_000..)) {}
        }
        let changed = async {
            tokio::time::sleep(ROUND_PAUSE).await;
            let _ = tokio::time::timeout(MARK, followed.changed.notified()).await;
        };
        tokio::select! {
            () = changed => {}
            _ = stop.changed() => {}
        }
    }
}

/// Asks again which model serves: while the running one does not answer or is the wrong one, and when another process has
/// switched.
async fn watch_model(service: Service, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let state = service.recognised();
        let wait = asked_again(&state, service.inside.is_remote()).unwrap_or(PATIENTLY);
        let again = async {
            let told = tokio::time::timeout(wait, service.following().serving_changed.notified()).await;
            if told.is_err() && matches!(state, ModelState::Differs { .. }) {
                service.inside.forget_probes().await;
            }
            service.recognise_again(PATIENTLY).await
        };
        let result = tokio::select! {
            result = again => result,
            _ = stop.changed() => return,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "which model serves could not be asked");
            tokio::time::sleep(AWAY).await;
            service.following().serving_changed.notify_one();
        }
    }
}

/// When what was last done.
#[derive(Default)]
struct House {
    pruned: Option<Instant>,
    kept: Option<Instant>,
    /// Whether it was said that the index in memory holds more than it should.
    crowded: bool,
}

/// Heartbeats, tombstones, pruning, partitions, old sessions.
async fn keep_house(service: Service, mut stop: watch::Receiver<bool>) {
    let mut house = House::default();
    while !*stop.borrow() {
        if let Err(error) = house_round(&service, &mut house).await {
            tracing::debug!(%error, "housekeeping waits for Postgres");
        }
        tokio::select! {
            () = tokio::time::sleep(HEARTBEAT) => {}
            _ = stop.changed() => {}
        }
    }
}

async fn house_round(service: &Service, house: &mut House) -> Result<(), StoreError> {
    let (store, following) = (service.store(), service.following());
    following.note_dense().await?;
    following.note_lexical().await?;
    while store.remove_tombstones().await? >= 1_000 {}
    let being_made = store.serving_model().await?.is_some_and(|serving| serving.complete_seq.is_none());
    if being_made && store.note_complete().await? {
        tracing::info!("all documents have vectors of the serving model");
    }
    measure(service).await?;
    if let DenseIndex::Memory(index) = service.dense()
        && !house.crowded
        && index.count() > MOST_CHUNKS
    {
        tracing::warn!(chunks = index.count(), "{}", super::status::CROWDED);
        house.crowded = true;
    }
    // Before it is loaded, nothing says how far this process is.
    if following.followed.loaded() && is_due(house.pruned, PRUNE) {
        if being_made {
            // Nothing that an interrupted switch left behind may keep dense search off.
            store.requeue_stale().await?;
        }
        store.forget_followers().await?;
        let gone = store.prune_outbox().await?;
        tracing::debug!(entries = gone, "pruned the outbox");
        house.pruned = Some(Instant::now());
    }
    if is_due(house.kept, UPKEEP) {
        let astray = store.ensure_audit_partitions().await?;
        if astray > 0 {
            tracing::warn!(rows = astray, "audit_logs_default holds rows: a month had no partition when they came");
        }
        let sessions = store.remove_old_sessions().await?;
        tracing::debug!(sessions, "removed old sessions");
        house.kept = Some(Instant::now());
    }
    Ok(())
}

fn is_due(last: Option<Instant>, every: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= every)
}

/// Figures of `/metrics` that only Postgres knows.
async fn measure(service: &Service) -> Result<(), StoreError> {
    let (store, followed) = (service.store(), &service.following().followed);
    let states: BTreeMap<String, u64> =
        store.states().await?.into_iter().map(|(state, count)| (state.as_str().to_owned(), count as u64)).collect();
    let (oldest, _) = store.backlog(None).await?;
    service.metrics().documents(&states, Duration::from_secs_f64(oldest.max(0.0)));
    let head = store.outbox_head().await?;
    service.metrics().outbox_lag(service.dense().name(), (head - followed.dense_applied()).max(0) as u64);
    service.metrics().outbox_lag("lexical", (head - followed.lexical_applied()).max(0) as u64);
    Ok(())
}
