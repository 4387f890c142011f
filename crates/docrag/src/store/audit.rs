//! Who did what. One partition a month, made ahead.

use super::{Store, StoreError};
use crate::service::Caller;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgExecutor, Row};
use utoipa::ToSchema;
use uuid::Uuid;

/// Months beyond the current one for which partitions are there.
const MONTHS_AHEAD: i32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    Done,
    Refused,
    Failed,
}

#[derive(Debug, Clone)]
pub struct AuditEntry {
    pub tenant: Option<String>,
    /// `key:<id>`, `session:<id>`, `cli` or `nobody`.
    pub actor: String,
    /// `object.verb`: document.create, key.revoke, session.login …
    pub action: String,
    pub subject: String,
    pub outcome: AuditOutcome,
    pub request_id: Option<String>,
    pub details: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRecord {
    pub id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub tenant: Option<String>,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub outcome: AuditOutcome,
    pub request_id: Option<String>,
    pub details: serde_json::Value,
}

/// Where a list goes on: after this entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditCursor {
    pub at: Timestamp,
    pub id: Uuid,
}

impl AuditOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    fn from_text(text: &str) -> Self {
        match text {
            "done" => Self::Done,
            "refused" => Self::Refused,
            _ => Self::Failed,
        }
    }
}

impl AuditEntry {
    /// `caller` has done it.
    pub(crate) fn done(caller: &Caller, action: &str, subject: String, details: serde_json::Value) -> Self {
        Self {
            tenant: Some(caller.tenant.clone()),
            actor: caller.actor.clone(),
            action: action.to_owned(),
            subject,
            outcome: AuditOutcome::Done,
            request_id: Some(caller.request_id.clone()),
            details,
        }
    }
}

/// Within the transaction of what it tells of, where there is one: neither is there without the other.
pub(super) async fn write(executor: impl PgExecutor<'_>, entry: &AuditEntry) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_logs (id, tenant, actor, action, subject, outcome, request_id, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(Uuid::now_v7())
    .bind(&entry.tenant)
    .bind(&entry.actor)
    .bind(&entry.action)
    .bind(&entry.subject)
    .bind(entry.outcome.as_str())
    .bind(&entry.request_id)
    .bind(&entry.details)
    .execute(executor)
    .await?;
    Ok(())
}

impl Store {
    pub async fn write_audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        write(&self.pool, entry).await
    }

    /// A tenant's entries, the newest first, older than `before`.
    pub async fn audit(
        &self,
        tenant: &str,
        before: Option<AuditCursor>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, created_at, tenant, actor, action, subject, outcome, request_id, details FROM audit_logs
             WHERE tenant = $1 AND ($2::timestamptz IS NULL OR (created_at, id) < ($2, $3))
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .bind(tenant)
        .bind(before.map(|cursor| jiff_sqlx::ToSqlx::to_sqlx(cursor.at)))
        .bind(before.map(|cursor| cursor.id))
        .bind(limit as i64)
        .fetch_all(&self.pool)
        .await?;
        let record = |row: &sqlx::postgres::PgRow| {
            Ok(AuditRecord {
                id: row.try_get("id")?,
                at: super::time(row, "created_at")?,
                tenant: row.try_get("tenant")?,
                actor: row.try_get("actor")?,
                action: row.try_get("action")?,
                subject: row.try_get("subject")?,
                outcome: AuditOutcome::from_text(row.try_get("outcome")?),
                request_id: row.try_get("request_id")?,
                details: row.try_get("details")?,
            })
        };
        rows.iter().map(record).collect()
    }

    /// Makes the partitions of this month and the next two, and moves into them what the default one has caught.
    /// Returns how many rows are left in the default partition: any at all means that a month had none.
    pub async fn ensure_audit_partitions(&self) -> Result<i64, StoreError> {
        for ahead in 0..=MONTHS_AHEAD {
            self.ensure_audit_partition(ahead).await?;
        }
        Ok(sqlx::query_scalar("SELECT count(*) FROM audit_logs_default").fetch_one(&self.pool).await?)
    }

    async fn ensure_audit_partition(&self, ahead: i32) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let month = sqlx::query(
            "SELECT 'audit_logs_' || to_char(m, 'YYYY_MM') AS name, to_char(m, 'YYYY-MM-DD') AS first,
                    to_char(m + interval '1 month', 'YYYY-MM-DD') AS next,
                    to_regclass('audit_logs_' || to_char(m, 'YYYY_MM')) IS NOT NULL AS there
             FROM (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => $1) AS m) months",
        )
        .bind(ahead)
        .fetch_one(&mut *tx)
        .await?;
        if month.try_get("there")? {
            return Ok(());
        }
        // Two replicas may find it missing at the same time.
        super::lock_for_transaction(&mut tx, super::AUDIT_LOCK).await?;
        let (name, first, next): (String, String, String) =
            (month.try_get("name")?, month.try_get("first")?, month.try_get("next")?);
        // Not to_regclass: without a table in the statement, it may answer from what was cached before the lock.
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_class WHERE relname = $1)")
            .bind(&name)
            .fetch_one(&mut *tx)
            .await?;
        if there {
            return Ok(());
        }
        // Attaching fails while the default partition holds rows of the month, so they move first.
        let statements = format!(
            "LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE;
             CREATE TABLE {name} (LIKE audit_logs INCLUDING ALL);
             WITH moved AS (DELETE FROM audit_logs_default
                            WHERE created_at >= '{first} 00:00+00' AND created_at < '{next} 00:00+00' RETURNING *)
             INSERT INTO {name} SELECT * FROM moved;
             ALTER TABLE audit_logs ATTACH PARTITION {name} FOR VALUES FROM ('{first} 00:00+00') TO ('{next} 00:00+00');"
        );
        // Safe: all three are made by to_char above.
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut *tx).await?;
        tx.commit().await?;
        tracing::info!(partition = name, "made an audit partition");
        Ok(())
    }
}
