//! Feeding an index that all processes share.

use super::{FollowError, Following, Round};
use crate::store::followers::{FollowerRow, Reading, SHARED};
use crate::store::locks::FEED_LOCK;
use crate::store::models::Serving;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Batches that a shared index is fed before the lock is given back, so that a rebuild gets its turn.
const BATCHES_PER_TURN: usize = 32;
/// Between two looks at whether the served build is the one that was filled.
const COMPARE: Duration = Duration::from_secs(10);

impl Following {
    pub(super) async fn shared_round(self: &Arc<Self>) -> Result<Round, FollowError> {
        let _gate = self.gate.lock().await;
        if !self.locks.try_lock(&[FEED_LOCK]).await?.contains(&true) {
            return self.watch_shared(self.store.serving_model().await?).await;
        }
        let result = self.feed_shared().await;
        if result.is_err() {
            // Who knows what is there when it is back.
            *self.compared.lock().await = None;
        }
        self.locks.unlock(&[FEED_LOCK]).await?;
        result
    }

    /// The feed lock is held, so no other process switches to another model meanwhile.
    async fn feed_shared(&self) -> Result<Round, FollowError> {
        let name = self.dense.name();
        let serving = self.store.serving_model().await?;
        if serving.is_some_and(|serving| serving.dimension != self.dimension) {
            // Its vectors could only be left out here, and would be missing for everybody.
            return self.watch_shared(serving).await;
        }
        let generation = serving.map(|serving| serving.generation);
        self.hear_of(generation, serving.and_then(|serving| serving.complete_seq));
        let Some(mut row) = self.store.follower(name, SHARED).await? else {
            return self.begin_shared(generation).await;
        };
        if let Some(why) = self.difference(row, generation).await? {
            return self.refill_shared(generation, why).await;
        }
        row.generation = generation;
        self.followed.set_generation(generation);
        for _ in 0..BATCHES_PER_TURN {
            let batch =
                self.store.follow(Reading::Dense, name, generation, row.applied_seq, self.settings.batch).await?;
            if batch.too_late {
                return self.refill_shared(generation, "it is behind what was pruned").await;
            }
            if batch.serving != generation {
                // The first model ever: its vectors are in these entries.
                return Ok(Round::More);
            }
            let Some(last) = batch.entries.last().map(|entry| entry.seq) else {
                self.see_shared(row).await?;
                return Ok(Round::CaughtUp);
            };
            self.dense.apply(self.changes(batch.entries)?).await?;
            row.applied_seq = last;
            self.store.followed(name, SHARED, row).await?;
            self.see_shared(row).await?;
        }
        Ok(Round::More)
    }

    /// Why the served build is not what its row says: a server that was replaced, emptied or restored, a switch that was
    /// interrupted. A build that was not filled from here has another number.
    async fn difference(&self, row: FollowerRow, generation: Option<i64>) -> Result<Option<&'static str>, FollowError> {
        if row.generation.is_some() && row.generation != generation {
            return Ok(Some("its vectors are of another model"));
        }
        let mut compared = self.compared.lock().await;
        if compared.is_some_and(|at| at.elapsed() < COMPARE) {
            return Ok(None);
        }
        if self.dense.served_build().await? != Some(row.build) {
            return Ok(Some("another build is served than the one that was filled"));
        }
        if let Some(generation) = generation
            && self.dense.is_empty().await?
            && self.store.has_followed_vectors(generation, row.applied_seq).await?
        {
            return Ok(Some("it is empty"));
        }
        *compared = Some(Instant::now());
        Ok(None)
    }

    /// Another process feeds the index; how far is it?
    async fn watch_shared(&self, serving: Option<Serving>) -> Result<Round, FollowError> {
        self.hear_of(serving.map(|serving| serving.generation), serving.and_then(|serving| serving.complete_seq));
        if let Some(row) = self.store.follower(self.dense.name(), SHARED).await? {
            self.followed.set_generation(row.generation.or(serving.map(|serving| serving.generation)));
            self.see_shared(row).await?;
        }
        Ok(Round::CaughtUp)
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
}
