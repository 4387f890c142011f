//! What the indexes have to follow.
//!
//! `seq` grows in the order of commits, because whoever appends holds one advisory lock from before its first number
//! until after its commit. So a follower that has seen a number has seen everything before it. (Without the lock, a
//! slow transaction with a lower number could commit after a follower had gone past it, and never be followed.)

use super::{OUTBOX_LOCK, Store, StoreError, lock_for_transaction};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

/// Postgres channels: something to follow, something to work on.
pub(crate) const OUTBOX_CHANNEL: &str = "docrag_outbox";
pub(crate) const DOCUMENTS_CHANNEL: &str = "docrag_documents";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutboxChange {
    Text,
    Vector,
    Delete,
    Metadata,
}

impl OutboxChange {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Vector => "vector",
            Self::Delete => "delete",
            Self::Metadata => "metadata",
        }
    }

    pub(super) fn from_text(text: &str) -> Self {
        match text {
            "text" => Self::Text,
            "vector" => Self::Vector,
            "delete" => Self::Delete,
            _ => Self::Metadata,
        }
    }
}

/// Whose entries are appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of<'a> {
    pub tenant: &'a str,
    pub corpus: &'a str,
    pub doc_id: Uuid,
}

/// Waits for the other writers. The document's row must be locked before, never after: the order keeps two writers from
/// waiting for each other. Until the transaction ends, nobody else appends and the serving model stays.
pub(super) async fn lock(tx: &mut PgConnection) -> Result<(), StoreError> {
    lock_for_transaction(tx, OUTBOX_LOCK).await
}

/// Appends one entry per chunk, and wakes the followers when it is committed. The outbox must be locked. Returns the last
/// number, 0 when there was nothing to append.
pub(super) async fn append(
    tx: &mut PgConnection,
    of: Of<'_>,
    change: OutboxChange,
    chunks: &[Uuid],
) -> Result<i64, StoreError> {
    if chunks.is_empty() {
        return Ok(0);
    }
    let row = sqlx::query(
        "WITH appended AS (
             INSERT INTO outbox (tenant, corpus, doc_id, chunk_id, change)
             SELECT $1, $2, $3, id, $5 FROM unnest($4::uuid[]) AS chunks (id) RETURNING seq)
         SELECT max(seq) AS seq, pg_notify('docrag_outbox', '') FROM appended",
    )
    .bind(of.tenant)
    .bind(of.corpus)
    .bind(of.doc_id)
    .bind(chunks)
    .bind(change.as_str())
    .fetch_one(tx)
    .await?;
    Ok(row.try_get("seq")?)
}

impl Store {
    /// The last number that was given out.
    pub(crate) async fn outbox_head(&self) -> Result<i64, StoreError> {
        let head = sqlx::query_scalar(
            "SELECT greatest(coalesce((SELECT max(seq) FROM outbox), 0), (SELECT seq FROM outbox_pruned))",
        );
        Ok(head.fetch_one(&self.pool).await?)
    }

    /// The last entry of each tenant between two numbers, `after` excluded.
    pub(crate) async fn outbox_tenants(&self, after: i64, until: i64) -> Result<Vec<(String, i64)>, StoreError> {
        let tenants = sqlx::query_as(
            "SELECT tenant, max(seq) FROM outbox WHERE seq > $1 AND seq <= $2 GROUP BY tenant ORDER BY tenant",
        );
        Ok(tenants.bind(after).bind(until).fetch_all(&self.pool).await?)
    }

    /// Removes what every live follower has applied and what is older than ten minutes. Returns how many entries went.
    pub(crate) async fn prune_outbox(&self) -> Result<u64, StoreError> {
        let gone: i64 = sqlx::query_scalar(
            "WITH gone AS (
                 DELETE FROM outbox WHERE created_at < now() - interval '10 minutes' AND seq <= (
                     SELECT min(applied_seq) FROM followers WHERE seen_at > now() - interval '1 hour')
                 RETURNING seq),
             noted AS (
                 UPDATE outbox_pruned SET seq = greatest(seq, (SELECT max(seq) FROM gone))
                 WHERE EXISTS (SELECT 1 FROM gone) RETURNING 1)
             SELECT count(*) FROM gone",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(gone as u64)
    }

    /// Tells the workers of all processes that there is something to do.
    pub(crate) async fn notify_workers(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT pg_notify('docrag_documents', '')").execute(&self.pool).await?;
        Ok(())
    }

    /// Tells the followers of all processes to look.
    pub(crate) async fn notify_followers(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT pg_notify('docrag_outbox', '')").execute(&self.pool).await?;
        Ok(())
    }
}
