//! Follows the outbox: what Postgres has committed, the indexes get, in the order of commits, at least once.
//!
//! - An entry names a chunk; what is applied is the chunk as it is *now*. So entries may be applied twice, and an entry
//!   whose chunk has changed or gone since is harmless.
//! - Indexes in memory are filled from `vectors` first, after the outbox's head was noted; then what came after it is
//!   applied.
//! - A shared index is fed by whichever process holds the feed lock; all others only watch how far it is. A process whose
//!   model's vectors have another length than those that are served never feeds it.
//! - Who is behind what was pruned starts over (`rebuild`), and so does a shared index that is not what its row says.

use super::lexical::LexicalIndex;
use super::{Change, DenseIndex, IndexError, Point, Scope};
use crate::settings::IndexSettings;
use crate::store::followers::{Entry, FollowerRow, Reading, StoredChunk, StoredVector};
use crate::store::locks::SessionLocks;
use crate::store::models::floats;
use crate::store::outbox::OutboxChange;
use crate::store::{Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

mod fill;
mod lexical;
mod progress;
mod rebuild;
mod shared;

pub(crate) use progress::Followed;

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
    /// When a shared index was last compared with its row.
    pub(super) compared: Mutex<Option<Instant>>,
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
            compared: Mutex::new(None),
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
        self.hear_of(batch.serving, batch.complete_seq);
        if batch.too_late || batch.wanted_build > self.followed.build() || batch.serving != generation {
            self.rebuild_beside(batch.wanted_build);
            if batch.too_late {
                return Ok(Round::CaughtUp);
            }
        }
        let Some(last) = batch.entries.last().map(|entry| entry.seq) else { return Ok(Round::CaughtUp) };
        let full = batch.entries.len() == self.settings.batch;
        let seqs = last_by_tenant(&batch.entries);
        self.dense.apply(self.changes(batch.entries)?).await?;
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

    /// Which model serves, as a round has seen it.
    fn hear_of(&self, serving: Option<i64>, complete_seq: Option<i64>) {
        self.followed.set_complete(if serving.is_some() { complete_seq } else { Some(0) });
        if serving != self.followed.known_serving() {
            self.followed.set_known_serving(serving);
            self.serving_changed.notify_one();
        }
    }

    /// Says in Postgres how far this process's own dense index is, and that the process lives.
    pub(crate) async fn note_dense(&self) -> Result<(), StoreError> {
        let name = self.dense.name();
        if self.dense.is_shared() {
            return self.store.uses_shared(name).await;
        }
        if !self.followed.dense_loaded() {
            return Ok(());
        }
        let (build, applied_seq) = (self.followed.build(), self.followed.dense_applied());
        let row = FollowerRow { build, generation: self.followed.generation(), applied_seq };
        self.store.followed(name, &self.replica, row).await
    }

    /// What these entries come to. Of several entries for a chunk only the last counts, since each is applied as the
    /// chunk is now.
    fn changes(&self, entries: Vec<Entry>) -> Result<Vec<Change>, IndexError> {
        let mut changes = HashMap::with_capacity(entries.len());
        for entry in entries {
            let scope = Scope { tenant: entry.tenant, corpus: entry.corpus };
            let change = match (entry.change, entry.vector) {
                (OutboxChange::Vector, Some(vector)) => {
                    self.point(entry.chunk_id, entry.doc_id, scope, vector)?.map(Change::Upsert)
                }
                (OutboxChange::Delete, _) => Some(Change::Delete { id: entry.chunk_id, scope }),
                _ => None,
            };
            if let Some(change) = change {
                changes.insert(entry.chunk_id, change);
            }
        }
        Ok(changes.into_values().collect())
    }

    /// `None` for a vector of another model's length, which an index of this process's own does not need: nothing is
    /// searched there until the right model runs. What a shared index does not get would be missing for everybody.
    fn point(&self, id: Uuid, doc_id: Uuid, scope: Scope, stored: StoredVector) -> Result<Option<Point>, IndexError> {
        let vector = floats(&stored.bytes);
        if vector.len() != self.dimension {
            if !self.dense.is_shared() {
                return Ok(None);
            }
            let (got, expected) = (vector.len(), self.dimension);
            return Err(IndexError::Refused {
                index: self.dense.name(),
                cause: format!(
                    "the vector of chunk {id} has {got} numbers, and the model of this process makes {expected}; feed it \
                     from a process with the model that serves"
                ),
            });
        }
        Ok(Some(Point {
            id,
            doc_id,
            tenant: scope.tenant,
            corpus: scope.corpus,
            chunk_hash: stored.chunk_hash,
            model_fingerprint: stored.fingerprint,
            generation: stored.generation,
            vector,
        }))
    }

    fn points(&self, chunks: &mut [StoredChunk]) -> Result<Vec<Change>, IndexError> {
        let upsert = |chunk: &mut StoredChunk| {
            let scope = Scope { tenant: chunk.tenant.clone(), corpus: chunk.corpus.clone() };
            let vector = chunk.vector.take()?;
            Some(self.point(chunk.id, chunk.doc_id, scope, vector).transpose()?.map(Change::Upsert))
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
