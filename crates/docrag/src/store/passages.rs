//! Texts of chunks, for what a search has found.

use super::{Store, StoreError};
use sqlx::Row;
use uuid::Uuid;

/// A chunk with what its document says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPassage {
    pub chunk_id: Uuid,
    pub doc_id: Uuid,
    pub source: String,
    pub title: Option<String>,
    pub heading: String,
    pub content: String,
    pub metadata: serde_json::Value,
    pub position: i32,
}

impl Store {
    /// In no particular order. Chunks that have gone meanwhile, and those of other tenants, are left out.
    pub async fn passages(&self, tenant: &str, ids: &[Uuid]) -> Result<Vec<StoredPassage>, StoreError> {
        let rows = sqlx::query(
            "SELECT v.id, v.doc_id, d.source, d.title, v.heading, v.content, d.metadata, v.position
             FROM vectors v JOIN documents d ON d.id = v.doc_id
             WHERE v.id = ANY($1) AND v.tenant = $2 AND d.tenant = $2 AND d.state <> 'deleted'",
        )
        .bind(ids)
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        let passage = |row: &sqlx::postgres::PgRow| {
            Ok(StoredPassage {
                chunk_id: row.try_get("id")?,
                doc_id: row.try_get("doc_id")?,
                source: row.try_get("source")?,
                title: row.try_get("title")?,
                heading: row.try_get("heading")?,
                content: row.try_get("content")?,
                metadata: row.try_get("metadata")?,
                position: row.try_get("position")?,
            })
        };
        rows.iter().map(passage).collect()
    }
}
