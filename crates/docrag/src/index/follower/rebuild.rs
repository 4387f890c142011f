//! Making an index anew from Postgres, beside the one that is served.
//!
//! Note the outbox's head, read all of `vectors`, apply what came after the head until hardly anything is left; then,
//! with the feeding of the old build stopped for a moment, apply the rest and switch. Searches see the old build or the
//! new one, and nothing is lost between them.
//!
//! Interrupted before the switch, the old build still serves. A shared index whose rebuild was interrupted between the
//! switch and the last note of it serves a build that its row does not name: whoever feeds it next fills it anew
//! (`shared`).

use super::{FollowError, Following, Round};
use crate::index::FIRST_BUILD;
use crate::store::followers::{FollowerRow, Reading, SHARED};
use crate::store::locks::{FEED_LOCK, REBUILD_LOCK};
use std::time::Duration;

const LOCK_POLL: Duration = Duration::from_millis(100);

/// What a rebuild tells while it runs: chunks done, and all that there are.
pub(crate) type Told<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

impl Following {
    /// Rebuilds a shared index with the vectors of this generation; with `serve`, the generation serves from the switch
    /// on.
    pub(crate) async fn rebuild_shared(
        &self,
        generation: Option<i64>,
        serve: bool,
        told: Told<'_>,
    ) -> Result<(), FollowError> {
        let _alone = self.rebuilding.try_lock().map_err(|_| FollowError::Rebuilding)?;
        if !self.locks.try_lock(&[REBUILD_LOCK]).await?.contains(&true) {
            return Err(FollowError::Rebuilding);
        }
        let result = self.rebuild_shared_alone(generation, serve, told).await;
        self.locks.unlock(&[REBUILD_LOCK]).await?;
        result
    }

    async fn rebuild_shared_alone(
        &self,
        generation: Option<i64>,
        serve: bool,
        told: Told<'_>,
    ) -> Result<(), FollowError> {
        let name = self.dense.name();
        let build = self.store.want_build(name).await?;
        let replica = format!("{SHARED}-build-{build}");
        let seq = self.fill(build, &replica, generation, told).await?;
        let seq = self.catch_up(build, &replica, generation, seq).await?;
        let _gate = self.gate.lock().await;
        while !self.locks.try_lock(&[FEED_LOCK]).await?.contains(&true) {
            tokio::time::sleep(LOCK_POLL).await;
        }
        let result = async {
            let seq = self.catch_up(build, &replica, generation, seq).await?;
            self.dense.switch_build(build).await?;
            if let (true, Some(generation)) = (serve, generation) {
                self.store.serve_model(generation, true).await?;
            }
            self.store.followed(name, SHARED, FollowerRow { build, generation, applied_seq: seq }).await?;
            self.store.unregister(&replica).await?;
            Ok(())
        };
        let result = result.await;
        self.locks.unlock(&[FEED_LOCK]).await?;
        result
    }

    /// The first time that a shared index is fed. The feed lock is held.
    pub(super) async fn begin_shared(&self, generation: Option<i64>) -> Result<Round, FollowError> {
        if self.dense.count().await? > 0 || self.dense.served_build().await? != Some(FIRST_BUILD) {
            return self.refill_shared(generation, "it holds what this database knows nothing of").await;
        }
        self.refill(generation, None).await
    }

    /// Makes a shared index anew that is not what it should be. The feed lock is held, and nothing else would be fed
    /// anyway.
    pub(super) async fn refill_shared(&self, generation: Option<i64>, why: &str) -> Result<Round, FollowError> {
        // Until then, this process's searches do without it.
        self.followed.set_generation(None);
        self.refill(generation, Some(why)).await
    }

    /// Nothing while somebody rebuilds: the index is new after that, and two would remove each other's builds. Without a
    /// reason it is the first time.
    async fn refill(&self, generation: Option<i64>, why: Option<&str>) -> Result<Round, FollowError> {
        let Ok(_alone) = self.rebuilding.try_lock() else { return Ok(Round::CaughtUp) };
        if !self.locks.try_lock(&[REBUILD_LOCK]).await?.contains(&true) {
            return Ok(Round::CaughtUp);
        }
        let result = self.refill_alone(generation, why).await;
        self.locks.unlock(&[REBUILD_LOCK]).await?;
        result.map(|()| Round::More)
    }

    async fn refill_alone(&self, generation: Option<i64>, why: Option<&str>) -> Result<(), FollowError> {
        let name = self.dense.name();
        let build = if let Some(why) = why {
            tracing::warn!(index = name, why, "the index is made anew");
            self.store.want_build(name).await?
        } else {
            FIRST_BUILD + 1
        };
        let replica = format!("{SHARED}-build-{build}");
        let seq = self.fill(build, &replica, generation, &|_, _| {}).await?;
        let seq = self.catch_up(build, &replica, generation, seq).await?;
        self.dense.switch_build(build).await?;
        self.store.followed(name, SHARED, FollowerRow { build, generation, applied_seq: seq }).await?;
        self.store.unregister(&replica).await?;
        Ok(())
    }

    /// Rebuilds what this process holds in memory, for the model that serves now.
    pub(super) async fn rebuild_memory(&self, build: i64) -> Result<(), FollowError> {
        let _alone = self.rebuilding.try_lock().map_err(|_| FollowError::Rebuilding)?;
        let generation = self.store.serving_generation().await?;
        let replica = format!("{}-build", self.replica);
        let seq = self.fill(build, &replica, generation, &|_, _| {}).await?;
        let seq = self.catch_up(build, &replica, generation, seq).await?;
        {
            let _gate = self.gate.lock().await;
            let seq = self.catch_up(build, &replica, generation, seq).await?;
            self.dense.switch_build(build).await?;
            self.followed.set_build(build);
            self.followed.set_generation(generation);
            self.followed.dense_from(seq);
        }
        self.note_dense().await?;
        self.store.unregister(&replica).await?;
        tracing::info!(build, "the index in memory was rebuilt");
        Ok(())
    }

    /// Reads everything into the new build; returns the number after which it has to follow.
    async fn fill(
        &self,
        build: i64,
        replica: &str,
        generation: Option<i64>,
        told: Told<'_>,
    ) -> Result<i64, FollowError> {
        let name = self.dense.name();
        self.dense.begin_build(build).await?;
        let total = self.store.count_chunks().await?;
        let seq = self.store.register(name, replica, build).await?;
        let (mut after, mut done) = (None, 0);
        told(0, total);
        loop {
            let mut page = self.page(after, true, false, generation).await?;
            let Some(last) = page.last() else { return Ok(seq) };
            after = Some(last.id);
            done += page.len() as u64;
            self.dense.fill_build(build, self.points(&mut page)?).await?;
            // Also says that the rebuild lives, so that what it has to follow is not pruned.
            self.store.followed(name, replica, FollowerRow { build, generation, applied_seq: seq }).await?;
            told(done, total.max(done));
        }
    }

    async fn catch_up(
        &self,
        build: i64,
        replica: &str,
        generation: Option<i64>,
        mut seq: i64,
    ) -> Result<i64, FollowError> {
        let name = self.dense.name();
        loop {
            let batch = self.store.follow(Reading::Dense, name, generation, seq, self.settings.batch).await?;
            if batch.too_late {
                return Err(FollowError::TooLate);
            }
            let Some(last) = batch.entries.last().map(|entry| entry.seq) else { return Ok(seq) };
            let full = batch.entries.len() == self.settings.batch;
            self.dense.fill_build(build, self.changes(batch.entries)?).await?;
            seq = last;
            self.store.followed(name, replica, FollowerRow { build, generation, applied_seq: seq }).await?;
            if !full {
                return Ok(seq);
            }
        }
    }
}
