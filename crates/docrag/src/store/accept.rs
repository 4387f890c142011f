//! Documents coming in and going away.

use super::audit::{self, AuditEntry};
use super::outbox::{self, Of, OutboxChange};
use super::{Store, StoreError};
use crate::service::{Caller, Outcome};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

/// A document that has passed every check.
#[derive(Debug)]
pub(crate) struct Incoming<'a> {
    pub id: Uuid,
    pub tenant: &'a str,
    pub corpus: &'a str,
    pub source: &'a str,
    pub title: Option<&'a str>,
    pub media_type: &'a str,
    pub metadata: &'a serde_json::Value,
    /// Of title, media type and body.
    pub content_hash: &'a [u8],
    pub body: &'a [u8],
}

struct Known {
    version: i64,
    same_content: bool,
    same_metadata: bool,
}

impl Store {
    /// Takes a document in; the same content again changes nothing but its metadata. What was written is in the audit
    /// log.
    pub(crate) async fn accept(&self, caller: &Caller, document: &Incoming<'_>) -> Result<(i64, Outcome), StoreError> {
        let mut tx = self.pool.begin().await?;
        let mut before = known(&mut tx, document).await?;
        if before.is_none() && !create(&mut tx, document).await? {
            // Somebody else has just created it.
            before = Some(known(&mut tx, document).await?.ok_or(StoreError::Changed)?);
        }
        let (version, outcome, written) = match before {
            None => (1, Outcome::Created, Some("document.create")),
            Some(before) => renew(&mut tx, document, &before).await?,
        };
        if let Some(action) = written {
            let details = serde_json::json!({"source": document.source, "version": version});
            let entry = AuditEntry::done(caller, action, document.id.to_string(), details);
            audit::write(&mut *tx, &entry).await?;
        }
        tx.commit().await?;
        Ok((version, outcome))
    }

    /// Removes a document's chunks and body; the row stays as a tombstone until every index has followed. `false` when
    /// there is no such document (any more).
    pub(crate) async fn delete_document(&self, caller: &Caller, id: Uuid) -> Result<bool, StoreError> {
        let tenant = caller.tenant.as_str();
        let mut tx = self.pool.begin().await?;
        let row =
            sqlx::query("SELECT corpus FROM documents WHERE id = $1 AND tenant = $2 AND state <> 'deleted' FOR UPDATE");
        let Some(row) = row.bind(id).bind(tenant).fetch_optional(&mut *tx).await? else { return Ok(false) };
        let corpus: String = row.try_get("corpus")?;
        let chunks: Vec<Uuid> = sqlx::query_scalar("DELETE FROM vectors WHERE doc_id = $1 RETURNING id")
            .bind(id)
            .fetch_all(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM document_bodies WHERE doc_id = $1").bind(id).execute(&mut *tx).await?;
        outbox::lock(&mut tx).await?;
        let of = Of { tenant, corpus: &corpus, doc_id: id };
        let seq = outbox::append(&mut tx, of, OutboxChange::Delete, &chunks).await?;
        sqlx::query(
            "UPDATE documents SET state = 'deleted', version = version + 1, chunk_count = 0, error = NULL,
                 outbox_seq = greatest(outbox_seq, $2), updated_at = now() WHERE id = $1",
        )
        .bind(id)
        .bind(seq)
        .execute(&mut *tx)
        .await?;
        let entry = AuditEntry::done(caller, "document.delete", id.to_string(), serde_json::json!({}));
        audit::write(&mut *tx, &entry).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// The row, locked.
async fn known(tx: &mut PgConnection, document: &Incoming<'_>) -> Result<Option<Known>, StoreError> {
    let row = sqlx::query(
        "SELECT version, content_hash = $2 AND state NOT IN ('failed', 'deleted') AS same_content,
                metadata = $3 AS same_metadata
         FROM documents WHERE id = $1 FOR UPDATE",
    )
    .bind(document.id)
    .bind(document.content_hash)
    .bind(document.metadata)
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Known {
        version: row.try_get("version")?,
        same_content: row.try_get("same_content")?,
        same_metadata: row.try_get("same_metadata")?,
    }))
}

async fn create(tx: &mut PgConnection, document: &Incoming<'_>) -> Result<bool, StoreError> {
    sqlx::query("INSERT INTO corpora (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(document.tenant)
        .bind(document.corpus)
        .execute(&mut *tx)
        .await?;
    let done = sqlx::query(
        "INSERT INTO documents (id, tenant, corpus, source, title, media_type, metadata, content_hash, byte_size, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'received') ON CONFLICT DO NOTHING",
    )
    .bind(document.id)
    .bind(document.tenant)
    .bind(document.corpus)
    .bind(document.source)
    .bind(document.title)
    .bind(document.media_type)
    .bind(document.metadata)
    .bind(document.content_hash)
    .bind(document.body.len() as i64)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    put_body(tx, document, 1).await?;
    Ok(true)
}

/// The version, what came of it, and the name of what was written, if anything.
async fn renew(
    tx: &mut PgConnection,
    document: &Incoming<'_>,
    known: &Known,
) -> Result<(i64, Outcome, Option<&'static str>), StoreError> {
    if known.same_content {
        if !known.same_metadata {
            outbox::lock(tx).await?;
            let of = Of { tenant: document.tenant, corpus: document.corpus, doc_id: document.id };
            outbox::append(tx, of, OutboxChange::Metadata, &[document.id]).await?;
            sqlx::query("UPDATE documents SET metadata = $2, updated_at = now() WHERE id = $1")
                .bind(document.id)
                .bind(document.metadata)
                .execute(tx)
                .await?;
        }
        let written = (!known.same_metadata).then_some("document.set-metadata");
        return Ok((known.version, Outcome::Unchanged, written));
    }
    let version = known.version + 1;
    sqlx::query(
        "UPDATE documents SET title = $2, media_type = $3, metadata = $4, content_hash = $5, byte_size = $6,
             version = $7, state = 'received', error = NULL, attempts = 0, starts = 0, next_attempt_at = now(),
             updated_at = now(), waiting_since =
                 CASE WHEN state IN ('received', 'chunked', 'embedded') THEN waiting_since ELSE now() END
         WHERE id = $1",
    )
    .bind(document.id)
    .bind(document.title)
    .bind(document.media_type)
    .bind(document.metadata)
    .bind(document.content_hash)
    .bind(document.body.len() as i64)
    .bind(version)
    .execute(&mut *tx)
    .await?;
    put_body(tx, document, version).await?;
    Ok((version, Outcome::Updated, Some("document.update")))
}

async fn put_body(tx: &mut PgConnection, document: &Incoming<'_>, version: i64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO document_bodies (doc_id, version, body) VALUES ($1, $2, $3)
         ON CONFLICT (doc_id) DO UPDATE SET version = excluded.version, body = excluded.body",
    )
    .bind(document.id)
    .bind(version)
    .bind(document.body)
    .execute(tx)
    .await?;
    Ok(())
}
