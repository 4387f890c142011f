//! Corpora: what a search looks through, and how.

use super::audit::{self, AuditEntry};
use super::{Store, StoreError};
use crate::search::SearchMode;
use crate::service::Caller;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CorpusRecord {
    pub name: String,
    /// How it is searched when the request does not say.
    pub search_mode: SearchMode,
    /// Why that mode: by default, by hand, or by which evaluation.
    pub mode_reason: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl Store {
    pub async fn corpus(&self, tenant: &str, name: &str) -> Result<Option<CorpusRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT name, search_mode, mode_reason, created_at FROM corpora WHERE tenant = $1 AND name = $2",
        )
        .bind(tenant)
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(record).transpose()
    }

    /// By name.
    pub async fn corpora(&self, tenant: &str) -> Result<Vec<CorpusRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT name, search_mode, mode_reason, created_at FROM corpora WHERE tenant = $1 ORDER BY name",
        )
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(record).collect()
    }

    /// Of a corpus of the caller's tenant; the audit log says so. `false` when there is no such corpus.
    pub async fn set_search_mode(
        &self,
        caller: &Caller,
        name: &str,
        mode: SearchMode,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let done = sqlx::query("UPDATE corpora SET search_mode = $3, mode_reason = $4 WHERE tenant = $1 AND name = $2")
            .bind(&caller.tenant)
            .bind(name)
            .bind(mode_text(mode))
            .bind(reason)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        let details = serde_json::json!({"search_mode": mode, "reason": reason});
        let entry = AuditEntry::done(caller, "corpus.set-mode", name.to_owned(), details);
        audit::write(&mut *tx, &entry).await?;
        tx.commit().await?;
        Ok(true)
    }
}

fn mode_text(mode: SearchMode) -> &'static str {
    match mode {
        SearchMode::Hybrid => "hybrid",
        SearchMode::Dense => "dense",
        SearchMode::Lexical => "lexical",
    }
}

fn record(row: &PgRow) -> Result<CorpusRecord, StoreError> {
    // The column's CHECK allows these three.
    let search_mode = match row.try_get("search_mode")? {
        "dense" => SearchMode::Dense,
        "lexical" => SearchMode::Lexical,
        _ => SearchMode::Hybrid,
    };
    Ok(CorpusRecord {
        name: row.try_get("name")?,
        search_mode,
        mode_reason: row.try_get("mode_reason")?,
        created_at: super::time(row, "created_at")?,
    })
}
