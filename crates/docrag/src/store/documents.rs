//! Documents as callers see them. What changes them is in `accept` and `work`.

use super::{Store, StoreError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;
use uuid::Uuid;

/// How far a document has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DocumentState {
    /// Accepted, waiting to be read.
    Received,
    /// Read; some chunks wait for their embedding.
    Chunked,
    /// All chunks are embedded; an index has yet to follow.
    Embedded,
    /// Searchable.
    Indexed,
    /// Given up; see the error. What was searchable of an earlier version still is.
    Failed,
    /// Gone; an index has yet to follow.
    Deleted,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentRecord {
    pub id: Uuid,
    pub corpus: String,
    pub source: String,
    pub title: Option<String>,
    pub media_type: String,
    pub metadata: serde_json::Value,
    pub byte_size: i64,
    /// Counts the contents that were accepted.
    pub version: i64,
    pub state: DocumentState,
    /// Of the last try, also while it is tried again.
    pub error: Option<String>,
    pub attempts: i32,
    pub chunk_count: i32,
    /// The last change of this document that an index has to follow.
    pub outbox_seq: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub indexed_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Default)]
pub struct DocumentList {
    pub corpus: Option<String>,
    /// Deleted ones are listed only when they are asked for.
    pub state: Option<DocumentState>,
    /// From the page before.
    pub cursor: Option<String>,
    /// 1 to 1,000.
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Asks for the next page; none when this is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl DocumentState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Chunked => "chunked",
            Self::Embedded => "embedded",
            Self::Indexed => "indexed",
            Self::Failed => "failed",
            Self::Deleted => "deleted",
        }
    }

    pub(super) fn from_text(text: &str) -> Self {
        match text {
            "received" => Self::Received,
            "chunked" => Self::Chunked,
            "embedded" => Self::Embedded,
            "indexed" => Self::Indexed,
            "deleted" => Self::Deleted,
            _ => Self::Failed,
        }
    }
}

/// Position in a listing: microseconds since 1970 and the id, so that documents that change meanwhile are neither
/// repeated endlessly nor skipped silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    at: Timestamp,
    id: Uuid,
}

impl Cursor {
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (micros, id) = text.split_once('.')?;
        let at = Timestamp::from_microsecond(micros.parse().ok()?).ok()?;
        Some(Self { at, id: id.parse().ok()? })
    }

    fn to_text(self) -> String {
        format!("{}.{}", self.at.as_microsecond(), self.id.simple())
    }
}

impl Store {
    /// Also a deleted one, while its tombstone is there.
    pub async fn document(&self, tenant: &str, id: Uuid) -> Result<Option<DocumentRecord>, StoreError> {
        Ok(self.documents_by_id(tenant, &[id]).await?.pop())
    }

    pub async fn documents_by_id(&self, tenant: &str, ids: &[Uuid]) -> Result<Vec<DocumentRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, corpus, source, title, media_type, metadata, byte_size, version, state, error, attempts,
                    chunk_count, outbox_seq, created_at, updated_at, indexed_at
             FROM documents WHERE tenant = $1 AND id = ANY($2)",
        )
        .bind(tenant)
        .bind(ids)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(record).collect()
    }

    /// The last changed first.
    pub(crate) async fn list_documents(
        &self,
        tenant: &str,
        list: &DocumentList,
        after: Option<Cursor>,
    ) -> Result<Page<DocumentRecord>, StoreError> {
        let limit = list.limit.clamp(1, 1_000);
        let rows = sqlx::query(
            "SELECT id, corpus, source, title, media_type, metadata, byte_size, version, state, error, attempts,
                    chunk_count, outbox_seq, created_at, updated_at, indexed_at
             FROM documents
             WHERE tenant = $1 AND ($2::text IS NULL OR corpus = $2)
               AND CASE WHEN $3::text IS NULL THEN state <> 'deleted' ELSE state = $3 END
               AND ($4::timestamptz IS NULL OR (updated_at, id) < ($4, $5))
             ORDER BY updated_at DESC, id DESC LIMIT $6",
        )
        .bind(tenant)
        .bind(&list.corpus)
        .bind(list.state.map(DocumentState::as_str))
        .bind(after.map(|cursor| jiff_sqlx::ToSqlx::to_sqlx(cursor.at)))
        .bind(after.map(|cursor| cursor.id))
        .bind(limit as i64 + 1)
        .fetch_all(&self.pool)
        .await?;
        let mut items = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let next = last.map(|document| Cursor { at: document.updated_at, id: document.id }.to_text());
        Ok(Page { items, next })
    }

    /// Ids of the documents whose metadata contains `metadata`, at most `limit` of them: the allow-list of a filtered
    /// search. Ask for one more than can be used to see whether there are too many.
    pub async fn matching_documents(
        &self,
        tenant: &str,
        corpus: &str,
        metadata: &serde_json::Value,
        limit: usize,
    ) -> Result<Vec<Uuid>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT id FROM documents
             WHERE tenant = $1 AND corpus = $2 AND metadata @> $3 AND state <> 'deleted' LIMIT $4",
        )
        .bind(tenant)
        .bind(corpus)
        .bind(metadata)
        .bind(limit as i64)
        .fetch_all(&self.pool)
        .await?;
        Ok(ids)
    }
}

fn record(row: &PgRow) -> Result<DocumentRecord, StoreError> {
    Ok(DocumentRecord {
        id: row.try_get("id")?,
        corpus: row.try_get("corpus")?,
        source: row.try_get("source")?,
        title: row.try_get("title")?,
        media_type: row.try_get("media_type")?,
        metadata: row.try_get("metadata")?,
        byte_size: row.try_get("byte_size")?,
        version: row.try_get("version")?,
        state: DocumentState::from_text(row.try_get("state")?),
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        chunk_count: row.try_get("chunk_count")?,
        outbox_seq: row.try_get("outbox_seq")?,
        created_at: super::time(row, "created_at")?,
        updated_at: super::time(row, "updated_at")?,
        indexed_at: super::time_or_none(row, "indexed_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_rubbish_is_refused() {
        let cursor = Cursor { at: Timestamp::from_microsecond(1_700_000_000_123_456).unwrap(), id: Uuid::from_u128(7) };
        assert_eq!(Cursor::from_text(&cursor.to_text()), Some(cursor));
        for rubbish in ["", ".", "x.y", "1700000000123456", "99999999999999999999.0", "1.' OR true --"] {
            assert_eq!(Cursor::from_text(rubbish), None, "{rubbish}");
        }
    }
}
