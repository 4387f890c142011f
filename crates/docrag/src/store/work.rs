//! What the stages read and write. A stage that started on an older content of the document gets
//! [`StoreError::Changed`] and starts over.

use super::documents::DocumentState;
use super::outbox::{self, Of, OutboxChange};
use super::{Store, StoreError};
use crate::chunk::Chunk;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};
use std::time::Duration;
use uuid::Uuid;

/// A document that waits for a stage.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub id: Uuid,
    pub tenant: String,
    pub corpus: String,
    pub source: String,
    pub title: Option<String>,
    pub media_type: String,
    pub version: i64,
    /// A removed document comes back as version 1, so the version alone does not tell its contents apart.
    pub content_hash: Vec<u8>,
    pub state: DocumentState,
    pub attempts: i32,
    /// Long readings of this content in a row that never ended.
    pub starts: i32,
}

/// A chunk that waits for its embedding.
#[derive(Debug)]
pub(crate) struct Pending {
    pub id: Uuid,
    pub heading: String,
    pub content: String,
    pub chunk_hash: Vec<u8>,
    /// Of the same text elsewhere in this tenant.
    pub twin: Option<Vec<u8>>,
}

/// The model whose vectors are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Making {
    pub generation: i64,
    pub fingerprint: String,
}

impl Task {
    fn of(&self) -> Of<'_> {
        Of { tenant: &self.tenant, corpus: &self.corpus, doc_id: self.id }
    }
}

impl Store {
    /// Documents that wait, the longest waiting first, but those that this process works on. Without a model, only those
    /// that wait to be read.
    pub(crate) async fn waiting(&self, busy: &[Uuid], embedding: bool, limit: usize) -> Result<Vec<Uuid>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT id FROM documents
             WHERE state IN ('received', 'chunked') AND ($2 OR state = 'received') AND next_attempt_at <= now()
               AND id <> ALL($1)
             ORDER BY next_attempt_at, id LIMIT $3",
        );
        Ok(ids.bind(busy).bind(embedding).bind(limit as i64).fetch_all(&self.pool).await?)
    }

    /// The document, when it still waits.
    pub(crate) async fn task(&self, id: Uuid) -> Result<Option<Task>, StoreError> {
        let row = sqlx::query(
            "SELECT id, tenant, corpus, source, title, media_type, version, content_hash, state, attempts, starts
             FROM documents WHERE id = $1 AND state IN ('received', 'chunked') AND next_attempt_at <= now()",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let task = |row: PgRow| -> Result<Task, StoreError> {
            Ok(Task {
                id,
                tenant: row.try_get("tenant")?,
                corpus: row.try_get("corpus")?,
                source: row.try_get("source")?,
                title: row.try_get("title")?,
                media_type: row.try_get("media_type")?,
                version: row.try_get("version")?,
                content_hash: row.try_get("content_hash")?,
                state: DocumentState::from_text(row.try_get("state")?),
                attempts: row.try_get("attempts")?,
                starts: row.try_get("starts")?,
            })
        };
        row.map(task).transpose()
    }

    pub(crate) async fn body(&self, task: &Task) -> Result<Vec<u8>, StoreError> {
        let body = sqlx::query_scalar(
            "SELECT b.body FROM document_bodies b JOIN documents d ON d.id = b.doc_id AND d.version = b.version
             WHERE d.id = $1 AND d.version = $2 AND d.content_hash = $3",
        );
        let body = body.bind(task.id).bind(task.version).bind(&task.content_hash);
        body.fetch_optional(&self.pool).await?.ok_or(StoreError::Changed)
    }

    /// Reading has taken long: should the service go down now, this may be why. The next try then comes later and at a
    /// moment of its own, so that documents which were read at the same time are told apart.
    pub(crate) async fn note_start(&self, task: &Task) -> Result<(), StoreError> {
        let note = of_task(
            "UPDATE documents SET starts = starts + 1,
                 next_attempt_at = now() + make_interval(secs => 10 * 2 ^ least(starts, 8) * (0.5 + random()))
             WHERE id = $1 AND version = $2 AND content_hash = $3 AND state = 'received'",
            task,
        );
        note.execute(&self.pool).await?;
        Ok(())
    }

    /// The service was told to stop while it read: that the reading will not end is not the document's fault.
    pub(crate) async fn forget_start(&self, task: &Task) -> Result<(), StoreError> {
        let forget = of_task(
            "UPDATE documents SET starts = greatest(starts - 1, 0), next_attempt_at = now()
             WHERE id = $1 AND version = $2 AND content_hash = $3 AND state = 'received'",
            task,
        );
        forget.execute(&self.pool).await?;
        Ok(())
    }

    /// Replaces the document's chunks: those that are the same stay, with their embeddings. Returns the new state.
    pub(crate) async fn put_chunks(
        &self,
        task: &Task,
        title: Option<&str>,
        chunks: &[Chunk],
    ) -> Result<DocumentState, StoreError> {
        let mut tx = self.pool.begin().await?;
        lock_version(&mut tx, task).await?;
        // The first version has no chunks before it.
        let removed = if task.version > 1 { remove_others(&mut tx, task, chunks).await? } else { Vec::new() };
        let added = insert_new(&mut tx, task, chunks).await?;
        outbox::lock(&mut tx).await?;
        let deleted = outbox::append(&mut tx, task.of(), OutboxChange::Delete, &removed).await?;
        let seq = outbox::append(&mut tx, task.of(), OutboxChange::Text, &added).await?.max(deleted);
        let state: String = sqlx::query_scalar(
            "UPDATE documents SET title = $2, chunk_count = $3, outbox_seq = greatest(outbox_seq, $4), error = NULL,
                 attempts = 0, starts = 0, next_attempt_at = now(),
                 state = CASE WHEN $5 OR EXISTS (
                     SELECT 1 FROM vectors WHERE doc_id = $1 AND generation IS DISTINCT FROM
                         (SELECT generation FROM models WHERE serving)) THEN 'chunked' ELSE 'embedded' END
             WHERE id = $1 RETURNING state",
        )
        .bind(task.id)
        .bind(title)
        .bind(chunks.len() as i32)
        .bind(seq)
        .bind(!added.is_empty())
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(DocumentState::from_text(&state))
    }

    /// Chunks of the document without an embedding by this model, in reading order.
    pub(crate) async fn pending(
        &self,
        doc_id: Uuid,
        generation: i64,
        limit: usize,
    ) -> Result<Vec<Pending>, StoreError> {
        let rows = sqlx::query(
            "SELECT v.id, v.heading, v.content, v.chunk_hash, twin.embedding AS twin
             FROM vectors v LEFT JOIN LATERAL (
                 SELECT t.embedding FROM vectors t
                 WHERE t.tenant = v.tenant AND t.chunk_hash = v.chunk_hash AND t.generation = $2
                   AND t.embedding IS NOT NULL LIMIT 1) twin ON true
             WHERE v.doc_id = $1 AND v.generation IS DISTINCT FROM $2 ORDER BY v.position LIMIT $3",
        )
        .bind(doc_id)
        .bind(generation)
        .bind(limit as i64)
        .fetch_all(&self.pool)
        .await?;
        let pending = |row: &PgRow| {
            Ok(Pending {
                id: row.try_get("id")?,
                heading: row.try_get("heading")?,
                content: row.try_get("content")?,
                chunk_hash: row.try_get("chunk_hash")?,
                twin: row.try_get("twin")?,
            })
        };
        rows.iter().map(pending).collect()
    }

    /// Writes embeddings, in one short transaction. With `last`, the document is `embedded` when none is missing. A chunk's
    /// id stands for its text, so what was made for a chunk that is still there is right for every version of the
    /// document, and is kept also when the document has changed meanwhile.
    pub(crate) async fn put_embeddings(
        &self,
        task: &Task,
        making: &Making,
        embeddings: &[(Uuid, Vec<u8>)],
        last: bool,
    ) -> Result<DocumentState, StoreError> {
        let ids: Vec<Uuid> = embeddings.iter().map(|(id, _)| *id).collect();
        let bytes: Vec<&[u8]> = embeddings.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let mut tx = self.pool.begin().await?;
        let lock = sqlx::query("SELECT 1 FROM documents WHERE id = $1 FOR UPDATE").bind(task.id);
        lock.execute(&mut *tx).await?;
        let written: Vec<Uuid> = sqlx::query_scalar(
            "UPDATE vectors v SET embedding = n.embedding, model_fingerprint = $4, generation = $5, embedded_at = now()
             FROM unnest($2::uuid[], $3::bytea[]) AS n (id, embedding)
             WHERE v.id = n.id AND v.doc_id = $1 AND v.generation IS DISTINCT FROM $5 RETURNING v.id",
        )
        .bind(task.id)
        .bind(ids)
        .bind(bytes)
        .bind(&making.fingerprint)
        .bind(making.generation)
        .fetch_all(&mut *tx)
        .await?;
        outbox::lock(&mut tx).await?;
        let seq = outbox::append(&mut tx, task.of(), OutboxChange::Vector, &written).await?;
        let after: Option<(String, bool, bool)> = sqlx::query_as(
            "UPDATE documents SET outbox_seq = greatest(outbox_seq, $2),
                 attempts = CASE WHEN version = $5 AND content_hash = $6 THEN 0 ELSE attempts END,
                 error = CASE WHEN version = $5 AND content_hash = $6 THEN NULL ELSE error END,
                 state = CASE WHEN version = $5 AND content_hash = $6 AND state = 'chunked' AND $4 AND NOT EXISTS (
                     SELECT 1 FROM vectors WHERE doc_id = $1 AND generation IS DISTINCT FROM $3)
                     THEN 'embedded' ELSE state END
             WHERE id = $1
             RETURNING state, version = $5 AND content_hash = $6,
                 $3 IS NOT DISTINCT FROM (SELECT generation FROM models WHERE serving)",
        )
        .bind(task.id)
        .bind(seq)
        .bind(making.generation)
        .bind(last)
        .bind(task.version)
        .bind(&task.content_hash)
        .fetch_optional(&mut *tx)
        .await?;
        let (state, unchanged, serves) = after.ok_or(StoreError::Changed)?;
        if !serves {
            return Err(StoreError::ModelChanged);
        }
        tx.commit().await?;
        if unchanged { Ok(DocumentState::from_text(&state)) } else { Err(StoreError::Changed) }
    }

    /// Gives the document up.
    pub(crate) async fn give_up(&self, task: &Task, error: &str) -> Result<(), StoreError> {
        let give_up = of_task(
            "UPDATE documents SET state = 'failed', error = $4, attempts = attempts + 1
             WHERE id = $1 AND version = $2 AND content_hash = $3 AND state IN ('received', 'chunked')",
            task,
        );
        give_up.bind(error).execute(&self.pool).await?;
        Ok(())
    }

    /// Tries the document again later. The service lives: whatever was started has ended.
    pub(crate) async fn put_off(
        &self,
        task: &Task,
        error: &str,
        delay: Duration,
        counts: bool,
    ) -> Result<(), StoreError> {
        let put_off = of_task(
            "UPDATE documents SET error = $4, attempts = attempts + $5, starts = 0,
                 next_attempt_at = now() + make_interval(secs => $6)
             WHERE id = $1 AND version = $2 AND content_hash = $3 AND state IN ('received', 'chunked')",
            task,
        );
        put_off.bind(error).bind(i32::from(counts)).bind(delay.as_secs_f64()).execute(&self.pool).await?;
        Ok(())
    }
}

/// A statement whose `$1`, `$2` and `$3` are the document, its version and its content.
fn of_task<'q>(statement: &'static str, task: &'q Task) -> Query<'q, Postgres, PgArguments> {
    sqlx::query(statement).bind(task.id).bind(task.version).bind(&task.content_hash)
}

async fn lock_version(tx: &mut PgConnection, task: &Task) -> Result<(), StoreError> {
    let unchanged: Option<bool> = sqlx::query_scalar(
        "SELECT version = $2 AND content_hash = $3 FROM documents
         WHERE id = $1 AND state IN ('received', 'chunked') FOR UPDATE",
    )
    .bind(task.id)
    .bind(task.version)
    .bind(&task.content_hash)
    .fetch_optional(tx)
    .await?;
    if unchanged == Some(true) { Ok(()) } else { Err(StoreError::Changed) }
}

/// Removes chunks that the new content does not have, and moves those that it has.
async fn remove_others(tx: &mut PgConnection, task: &Task, chunks: &[Chunk]) -> Result<Vec<Uuid>, StoreError> {
    let ids: Vec<Uuid> = chunks.iter().map(|chunk| chunk.id).collect();
    let positions: Vec<i32> = chunks.iter().map(|chunk| chunk.position).collect();
    let removed = sqlx::query_scalar(
        "DELETE FROM vectors v WHERE v.doc_id = $1
           AND NOT EXISTS (SELECT 1 FROM unnest($2::uuid[]) AS n (id) WHERE n.id = v.id) RETURNING v.id",
    )
    .bind(task.id)
    .bind(&ids)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE vectors v SET position = n.position FROM unnest($2::uuid[], $3::integer[]) AS n (id, position)
         WHERE v.id = n.id AND v.doc_id = $1 AND v.position <> n.position",
    )
    .bind(task.id)
    .bind(&ids)
    .bind(&positions)
    .execute(&mut *tx)
    .await?;
    Ok(removed)
}

async fn insert_new(tx: &mut PgConnection, task: &Task, chunks: &[Chunk]) -> Result<Vec<Uuid>, StoreError> {
    let ids: Vec<Uuid> = chunks.iter().map(|chunk| chunk.id).collect();
    let positions: Vec<i32> = chunks.iter().map(|chunk| chunk.position).collect();
    let headings: Vec<&str> = chunks.iter().map(|chunk| chunk.heading.as_str()).collect();
    let contents: Vec<&str> = chunks.iter().map(|chunk| chunk.content.as_str()).collect();
    let hashes: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.hash.as_slice()).collect();
    let tokens: Vec<i32> = chunks.iter().map(|chunk| chunk.token_count).collect();
    let added = sqlx::query_scalar(
        "INSERT INTO vectors (id, doc_id, tenant, corpus, position, heading, content, chunk_hash, token_count)
         SELECT n.id, $1, $2, $3, n.position, n.heading, n.content, n.hash, n.tokens
         FROM unnest($4::uuid[], $5::integer[], $6::text[], $7::text[], $8::bytea[], $9::integer[])
              AS n (id, position, heading, content, hash, tokens)
         ON CONFLICT (id) DO NOTHING RETURNING id",
    )
    .bind(task.id)
    .bind(&task.tenant)
    .bind(&task.corpus)
    .bind(ids)
    .bind(positions)
    .bind(headings)
    .bind(contents)
    .bind(hashes)
    .bind(tokens)
    .fetch_all(tx)
    .await?;
    Ok(added)
}
