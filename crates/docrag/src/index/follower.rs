//! Follows the outbox: what Postgres has committed, the indexes get, in the order of commits, at least once.
//!
//! - An entry names a chunk; what is applied is the chunk as it is *now*. So entries may be applied twice, and an entry
//!   whose chunk has changed or gone since is harmless.
//! - Indexes in memory are filled from `vectors` first, after the outbox's head was noted; then what came after it is
//!   applied.
//! - A shared index is fed by whichever process holds the feed lock; all others only watch how far it is.
//! - Who is behind what was pruned starts over (`rebuild`).

use super::lexical::LexicalIndex;
use super::{Change, DenseIndex, IndexError, Point, Scope};
use crate::settings::IndexSettings;
use crate::store::followers::{Entry, FollowerRow, Reading, SHARED, StoredChunk, StoredVector};
use crate::store::locks::{FEED_LOCK, SessionLocks};
use crate::store::models::floats;
use crate::store::outbox::OutboxChange;
use crate::store::{Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

mod fill;
mod lexical;
mod progress;
mod rebuild;

pub(crate) use progress::Followed;

/// Batches that a shared index is fed before the lock is given back, so that a rebuild gets its turn.
const BATCHES_PER_TURN: usize = 32;

#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("another process rebuilds the index")]
    Rebuilding,
    #[error("what the rebuild has to follow was pruned meanwhile")]
    TooLate,
    #[error("the index thread panicked: {0}")]
    Panicked(String),
}

/// How a round went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// Everything that there was is applied.
    CaughtUp,
    More,
}

/// What follows, and how far it is.
pub(crate) struct Following {
    pub(crate) store: Store,
    pub(crate) locks: Arc<SessionLocks>,
    pub(crate) dense: Arc<DenseIndex>,
    pub(crate) lexical: Arc<LexicalIndex>,
    pub(crate) settings: IndexSettings,
    /// Of the vectors that the dense index takes.
    pub(crate) dimension: usize,
    /// Names this process in `followers`.
    pub(crate) replica: String,
    pub(crate) followed: Followed,
    /// Another model serves than the one that this process knows of.
    pub(crate) serving_changed: Notify,
    /// Who feeds the dense index in this process; session locks do not keep a process from itself.
    pub(super) gate: Mutex<()>,
    pub(super) rebuilding: Mutex<()>,
}

impl Following {
    pub(crate) fn new(
        store: Store,
        locks: Arc<SessionLocks>,
        dense: Arc<DenseIndex>,
        lexical: Arc<LexicalIndex>,
        settings: IndexSettings,
        dimension: usize,
    ) -> Self {
        Self {
            store,
            locks,
            dense,
            lexical,
            settings,
            dimension,
            replica: Uuid::new_v4().to_string(),
            followed: Followed::default(),
            serving_changed: Notify::new(),
            gate: Mutex::new(()),
            rebuilding: Mutex::new(()),
        }
    }

    /// One turn of the dense index.
    pub(crate) async fn dense_round(self: &Arc<Self>) -> Result<Round, FollowError> {
        if self.dense.is_shared() { self.shared_round().await } else { self.memory_round().await }
    }

    async fn memory_round(self: &Arc<Self>) -> Result<Round, FollowError> {
        let _gate = self.gate.lock().await;
        let (applied, generation) = (self.followed.dense_applied(), self.followed.generation());
        let name = self.dense.name();
        let batch = self.store.follow(Reading::Dense, name, generation, applied, self.settings.batch).await?;
        if batch.serving != self.followed.known_serving() {
            self.followed.set_known_serving(batch.serving);
            self.serving_changed.notify_one();
        }
        if batch.too_late || batch.wanted_build > self.followed.build() || batch.serving != generation {
            self.rebuild_beside(batch.wanted_build);
            if batch.too_late {
                return Ok(Round::CaughtUp);
            }
        }
        let Some(last) = batch.entries.last().map(|entry| entry.seq) else { return Ok(Round::CaughtUp) };
        let full = batch.entries.len() == self.settings.batch;
        let seqs = last_by_tenant(&batch.entries);
        self.dense.apply(self.changes(batch.entries)).await?;
        self.followed.dense_at(last, seqs);
        self.note_dense().await?;
        Ok(if full { Round::More } else { Round::CaughtUp })
    }

    /// A rebuild takes a while; the served build is followed meanwhile.
    fn rebuild_beside(self: &Arc<Self>, build: i64) {
        if self.rebuilding.try_lock().is_err() {
            return;
        }
        let following = Arc::clone(self);
        tokio::spawn(async move {
            match following.rebuild_memory(build).await {
                Ok(()) | Err(FollowError::Rebuilding) => {}
                // The next round sees that it is still due.
                Err(error) => tracing::warn!(%error, "the index in memory could not be rebuilt"),
            }
        });
    }

    async fn shared_round(self: &Arc<Self>) -> Result<Round, FollowError> {
        let _gate = self.gate.lock().await;
        if !self.locks.try_lock(&[FEED_LOCK]).await?.contains(&true) {
            return self.watch_shared().await;
        }
        let result = self.feed_shared().await;
        self.locks.unlock(&[FEED_LOCK]).await?;
        result
    }

    /// The feed lock is held.
    async fn feed_shared(&self) -> Result<Round, FollowError> {
        let name = self.dense.name();
        let generation = self.store.serving_generation().await?;
        let Some(mut row) = self.store.follower(name, SHARED).await? else {
            self.begin_shared(generation).await?;
            return Ok(Round::More);
        };
        self.see_serving(generation);
        for _ in 0..BATCHES_PER_TURN {
            let batch =
                self.store.follow(Reading::Dense, name, generation, row.applied_seq, self.settings.batch).await?;
            if batch.too_late {
                self.refill_shared(generation).await?;
                return Ok(Round::More);
            }
            let Some(last) = batch.entries.last().map(|entry| entry.seq) else {
                self.see_shared(row).await?;
                return Ok(Round::CaughtUp);
            };
            self.dense.apply(self.changes(batch.entries)).await?;
            row.applied_seq = last;
            self.store.followed(name, SHARED, row).await?;
            self.see_shared(row).await?;
        }
        Ok(Round::More)
    }

    /// Another process feeds the index; how far is it?
    async fn watch_shared(&self) -> Result<Round, FollowError> {
        self.see_serving(self.store.serving_generation().await?);
        if let Some(row) = self.store.follower(self.dense.name(), SHARED).await? {
            self.see_shared(row).await?;
        }
        Ok(Round::CaughtUp)
    }

    fn see_serving(&self, generation: Option<i64>) {
        self.followed.set_generation(generation);
        if generation != self.followed.known_serving() {
            self.followed.set_known_serving(generation);
            self.serving_changed.notify_one();
        }
    }

    async fn see_shared(&self, row: FollowerRow) -> Result<(), FollowError> {
        let before = self.followed.dense_applied();
        let seqs = if !self.followed.dense_loaded() {
            self.store.outbox_tenants(0, row.applied_seq).await?
        } else if row.applied_seq > before {
            self.store.outbox_tenants(before, row.applied_seq).await?
        } else {
            Vec::new()
        };
        self.followed.set_build(row.build);
        self.followed.dense_at(row.applied_seq, seqs);
        self.followed.set_dense_loaded();
        Ok(())
    }

    /// Says in Postgres how far this process's own dense index is, and that the process lives.
    pub(crate) async fn note_dense(&self) -> Result<(), StoreError> {
        if self.dense.is_shared() || !self.followed.dense_loaded() {
            return Ok(());
        }
        let row = FollowerRow { build: self.followed.build(), applied_seq: self.followed.dense_applied() };
        self.store.followed(self.dense.name(), &self.replica, row).await
    }

    /// What these entries come to. Of several entries for a chunk only the last counts, since each is applied as the
    /// chunk is now.
    fn changes(&self, entries: Vec<Entry>) -> Vec<Change> {
        let mut changes = HashMap::with_capacity(entries.len());
        for entry in entries {
            let scope = Scope { tenant: entry.tenant, corpus: entry.corpus };
            let change = match (entry.change, entry.vector) {
                (OutboxChange::Vector, Some(vector)) => {
                    self.point(entry.chunk_id, entry.doc_id, scope, vector).map(Change::Upsert)
                }
                (OutboxChange::Delete, _) => Some(Change::Delete { id: entry.chunk_id, scope }),
                _ => None,
            };
            if let Some(change) = change {
                changes.insert(entry.chunk_id, change);
            }
        }
        changes.into_values().collect()
    }

    /// `None` for a vector of another model's length: it waits for being made again.
    fn point(&self, id: Uuid, doc_id: Uuid, scope: Scope, stored: StoredVector) -> Option<Point> {
        let vector = floats(&stored.bytes);
        (vector.len() == self.dimension).then_some(Point {
            id,
            doc_id,
            tenant: scope.tenant,
            corpus: scope.corpus,
            chunk_hash: stored.chunk_hash,
            model_fingerprint: stored.fingerprint,
            generation: stored.generation,
            vector,
        })
    }

    fn points(&self, chunks: &mut [StoredChunk]) -> Vec<Change> {
        let upsert = |chunk: &mut StoredChunk| {
            let scope = Scope { tenant: chunk.tenant.clone(), corpus: chunk.corpus.clone() };
            self.point(chunk.id, chunk.doc_id, scope, chunk.vector.take()?).map(Change::Upsert)
        };
        chunks.iter_mut().filter_map(upsert).collect()
    }

    /// How long to wait when nobody says that there is something.
    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.settings.follow_milliseconds.max(10))
    }
}

fn last_by_tenant(entries: &[Entry]) -> Vec<(String, i64)> {
    let mut last: HashMap<&str, i64> = HashMap::new();
    for entry in entries {
        last.insert(&entry.tenant, entry.seq);
    }
    last.into_iter().map(|(tenant, seq)| (tenant.to_owned(), seq)).collect()
}
