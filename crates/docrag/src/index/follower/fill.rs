//! Filling indexes from `vectors`.

use super::lexical::{LEXICAL, texts};
use super::{FollowError, Following};
use crate::store::StoreError;
use crate::store::followers::{Reading, StoredChunk};
use std::time::Duration;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(1);
/// Chunks read at once: a few megabytes.
const PAGE: usize = 1_000;

/// A fill under way.
struct Load {
    generation: Option<i64>,
    complete_seq: Option<i64>,
    build: i64,
    lexical_seq: i64,
    dense_seq: i64,
    after: Option<Uuid>,
}

/// Asks again while Postgres is away.
async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match ask().await {
            Err(error) if error.can_retry() => {
                tracing::warn!(%error, "the indexes wait for Postgres to be filled from");
                tokio::time::sleep(PATIENCE).await;
            }
            result => return result,
        }
    }
}

impl Following {
    /// Fills what this process keeps in memory, in one pass. When Postgres goes away meanwhile, it goes on with the
    /// page that it was at: starting over with a later head would keep what was deleted in between.
    pub(crate) async fn load(&self) -> Result<(), FollowError> {
        let mut load = patiently(|| self.begin_load()).await?;
        let own_dense = !self.dense.is_shared();
        let mut count = 0;
        loop {
            let mut page = patiently(|| self.page(load.after, own_dense, true, load.generation)).await?;
            let Some(last) = page.last() else { break };
            load.after = Some(last.id);
            count += page.len();
            if own_dense {
                self.dense.apply(self.points(&mut page)?).await?;
            }
            self.apply_texts(texts(&mut page)).await?;
        }
        self.followed.lexical_from(load.lexical_seq);
        if own_dense {
            self.followed.set_build(load.build);
            self.followed.set_generation(load.generation);
            self.followed.set_known_serving(load.generation);
            self.followed.set_complete(if load.generation.is_some() { load.complete_seq } else { Some(0) });
            self.followed.dense_from(load.dense_seq);
            self.followed.set_dense_loaded();
        }
        self.followed.set_lexical_loaded();
        tracing::info!(chunks = count, "indexes in memory are filled");
        Ok(())
    }

    async fn begin_load(&self) -> Result<Load, StoreError> {
        let name = self.dense.name();
        // A build that was wanted before this process began is what it makes anyway.
        let now = self.store.follow(Reading::Dense, name, None, i64::MAX, 1).await?;
        let lexical_seq = self.store.register(LEXICAL, &self.replica, 1).await?;
        let mut dense_seq = lexical_seq;
        if !self.dense.is_shared() {
            dense_seq = self.store.register(name, &self.replica, now.wanted_build).await?;
        }
        Ok(Load {
            generation: now.serving,
            complete_seq: now.complete_seq,
            build: now.wanted_build,
            lexical_seq,
            dense_seq,
            after: None,
        })
    }

    pub(super) async fn page(
        &self,
        after: Option<Uuid>,
        vectors: bool,
        texts: bool,
        generation: Option<i64>,
    ) -> Result<Vec<StoredChunk>, StoreError> {
        self.store.chunks_after(after, vectors, texts, generation, PAGE).await
    }
}
