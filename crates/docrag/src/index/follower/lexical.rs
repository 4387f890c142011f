//! The words: every process has its own index of them, filled from Postgres.

use super::{FollowError, Following, Round, last_by_tenant};
use crate::index::Scope;
use crate::index::lexical::{Text, TextChange};
use crate::store::StoreError;
use crate::store::followers::{Entry, FollowerRow, Reading, StoredChunk, StoredText};
use crate::store::outbox::OutboxChange;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// The index's name in `followers`.
pub(crate) const LEXICAL: &str = "lexical";

impl Following {
    /// One turn of the lexical index.
    pub(crate) async fn lexical_round(&self) -> Result<Round, FollowError> {
        let applied = self.followed.lexical_applied();
        let batch = self.store.follow(Reading::Lexical, LEXICAL, None, applied, self.settings.batch).await?;
        if batch.too_late {
            self.refill_lexical().await?;
            return Ok(Round::More);
        }
        let Some(last) = batch.entries.last().map(|entry| entry.seq) else { return Ok(Round::CaughtUp) };
        let full = batch.entries.len() == self.settings.batch;
        let seqs = last_by_tenant(&batch.entries);
        self.apply_texts(changes(batch.entries)).await?;
        self.followed.lexical_at(last, seqs);
        self.note_lexical().await?;
        Ok(if full { Round::More } else { Round::CaughtUp })
    }

    /// Says in Postgres how far the lexical index is, and that the process lives.
    pub(crate) async fn note_lexical(&self) -> Result<(), StoreError> {
        if !self.followed.lexical_loaded() {
            return Ok(());
        }
        let row = FollowerRow { build: 1, generation: None, applied_seq: self.followed.lexical_applied() };
        self.store.followed(LEXICAL, &self.replica, row).await
    }

    pub(super) async fn apply_texts(&self, changes: Vec<TextChange>) -> Result<(), FollowError> {
        if changes.is_empty() {
            return Ok(());
        }
        let lexical = Arc::clone(&self.lexical);
        let done = tokio::task::spawn_blocking(move || lexical.apply(changes)).await;
        Ok(done.map_err(|panic| FollowError::Panicked(panic.to_string()))??)
    }

    /// After entries were missed: puts everything in again, and takes out what Postgres does not have. Searches go on.
    async fn refill_lexical(&self) -> Result<(), FollowError> {
        tracing::warn!("the lexical index is behind what was pruned; it is filled again");
        let seq = self.store.register(LEXICAL, &self.replica, 1).await?;
        let (mut seen, mut after) = (HashSet::new(), None);
        loop {
            let mut page = self.page(after, false, true, None).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen.extend(page.iter().map(|chunk| chunk.id));
            self.apply_texts(texts(&mut page)).await?;
        }
        let gone: Vec<Uuid> = self.lexical.held().into_iter().filter(|id| !seen.contains(id)).collect();
        self.apply_texts(gone.into_iter().map(TextChange::Delete).collect()).await?;
        self.followed.lexical_from(seq);
        Ok(())
    }
}

pub(super) fn texts(chunks: &mut [StoredChunk]) -> Vec<TextChange> {
    let upsert = |chunk: &mut StoredChunk| {
        let scope = Scope { tenant: chunk.tenant.clone(), corpus: chunk.corpus.clone() };
        Some(TextChange::Upsert(text(chunk.id, chunk.doc_id, scope, chunk.text.take()?)))
    };
    chunks.iter_mut().filter_map(upsert).collect()
}

fn text(id: Uuid, doc_id: Uuid, scope: Scope, stored: StoredText) -> Text {
    let title = stored.title.unwrap_or_default();
    Text { id, doc_id, scope, title, heading: stored.heading, content: stored.content }
}

fn changes(entries: Vec<Entry>) -> Vec<TextChange> {
    let mut changes = HashMap::with_capacity(entries.len());
    for entry in entries {
        let change = match (entry.change, entry.text) {
            (OutboxChange::Text, Some(stored)) => {
                let scope = Scope { tenant: entry.tenant, corpus: entry.corpus };
                TextChange::Upsert(text(entry.chunk_id, entry.doc_id, scope, stored))
            }
            (OutboxChange::Delete, _) => TextChange::Delete(entry.chunk_id),
            _ => continue,
        };
        changes.insert(entry.chunk_id, change);
    }
    changes.into_values().collect()
}
