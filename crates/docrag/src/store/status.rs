//! Figures about the ingest, for people and for metrics.

use super::documents::DocumentState;
use super::{Store, StoreError};
use crate::service::{CorpusStatus, FailureStatus, IndexStatus};
use sqlx::Row;
use sqlx::postgres::PgRow;

impl Store {
    pub(crate) async fn corpus_states(&self, tenant: Option<&str>) -> Result<Vec<CorpusStatus>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant, corpus, state, count(*) AS documents, sum(chunk_count)::bigint AS chunks FROM documents
             WHERE $1::text IS NULL OR tenant = $1 GROUP BY tenant, corpus, state ORDER BY tenant, corpus, state",
        )
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        let status = |row: &PgRow| {
            Ok(CorpusStatus {
                tenant: row.try_get("tenant")?,
                corpus: row.try_get("corpus")?,
                state: DocumentState::from_text(row.try_get("state")?),
                documents: row.try_get("documents")?,
                chunks: row.try_get("chunks")?,
            })
        };
        rows.iter().map(status).collect()
    }

    pub(crate) async fn index_states(&self) -> Result<Vec<IndexStatus>, StoreError> {
        let rows = sqlx::query(
            "SELECT f.index_name, f.replica, f.build, f.applied_seq, lag.entries,
                    coalesce(extract(epoch FROM now() - lag.oldest), 0)::float8 AS lag_seconds,
                    extract(epoch FROM now() - f.seen_at)::float8 AS seen_seconds
             FROM followers f CROSS JOIN LATERAL (
                 SELECT count(*) AS entries, min(created_at) AS oldest FROM outbox WHERE seq > f.applied_seq) lag
             ORDER BY f.index_name, f.replica",
        )
        .fetch_all(&self.pool)
        .await?;
        let status = |row: &PgRow| {
            Ok(IndexStatus {
                index: row.try_get("index_name")?,
                replica: row.try_get("replica")?,
                build: row.try_get("build")?,
                applied_seq: row.try_get("applied_seq")?,
                lag_entries: row.try_get("entries")?,
                lag_seconds: row.try_get("lag_seconds")?,
                seen_seconds: row.try_get("seen_seconds")?,
            })
        };
        rows.iter().map(status).collect()
    }

    /// Given up, or failed at least once and tried again.
    pub(crate) async fn failures(&self, tenant: Option<&str>, limit: i64) -> Result<Vec<FailureStatus>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, tenant, corpus, source, state, error, attempts FROM documents
             WHERE error IS NOT NULL AND state IN ('received', 'chunked', 'failed')
               AND ($1::text IS NULL OR tenant = $1)
             ORDER BY state = 'failed' DESC, updated_at DESC LIMIT $2",
        )
        .bind(tenant)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let status = |row: &PgRow| {
            Ok(FailureStatus {
                id: row.try_get("id")?,
                tenant: row.try_get("tenant")?,
                corpus: row.try_get("corpus")?,
                source: row.try_get("source")?,
                state: DocumentState::from_text(row.try_get("state")?),
                error: row.try_get("error")?,
                attempts: row.try_get("attempts")?,
            })
        };
        rows.iter().map(status).collect()
    }

    /// For how long the longest waiting document has been neither searchable nor failed, and how many are so.
    pub(crate) async fn backlog(&self, tenant: Option<&str>) -> Result<(f64, i64), StoreError> {
        let backlog = sqlx::query_as(
            "SELECT coalesce(extract(epoch FROM now() - min(waiting_since)), 0)::float8, count(*) FROM documents
             WHERE state IN ('received', 'chunked', 'embedded') AND ($1::text IS NULL OR tenant = $1)",
        );
        Ok(backlog.bind(tenant).fetch_one(&self.pool).await?)
    }

    /// Documents by state, over all tenants.
    pub(crate) async fn states(&self) -> Result<Vec<(DocumentState, i64)>, StoreError> {
        let states: Vec<(String, i64)> =
            sqlx::query_as("SELECT state, count(*) FROM documents GROUP BY state").fetch_all(&self.pool).await?;
        Ok(states.into_iter().map(|(state, count)| (DocumentState::from_text(&state), count)).collect())
    }
}
