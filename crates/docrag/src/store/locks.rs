//! Locks that this process holds as long as it lives: on documents that it works on, on a shared index that it feeds.
//!
//! They are advisory locks of one database session, so `kill -9` releases them at once, and no transaction stays open
//! while a model computes. When the connection breaks they are all gone; that is safe, because whatever is written is
//! guarded by the document and its chunks as they are: another process may do the same work again, never other work.

use super::{Store, StoreError, lock_number};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Whoever holds it feeds the shared index; a rebuild holds it while it switches.
pub(crate) const FEED_LOCK: i64 = lock_number(3);
/// One rebuild at a time.
pub(crate) const REBUILD_LOCK: i64 = lock_number(4);

pub(crate) struct SessionLocks {
    store: Store,
    connection: Mutex<Option<PoolConnection<Postgres>>>,
}

/// The lock of a document.
pub(crate) fn of_document(id: Uuid) -> i64 {
    // An id is a hash, so that half of it is as good as another hash.
    (id.as_u128() >> 64) as i64
}

impl SessionLocks {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, connection: Mutex::new(None) }
    }

    /// Which of these could be locked; nobody is waited for. A lock that this process holds already is given again and
    /// has to be released as often.
    pub(crate) async fn try_lock(&self, locks: &[i64]) -> Result<Vec<bool>, StoreError> {
        self.ask(
            "SELECT pg_try_advisory_lock(l) FROM unnest($1::bigint[]) WITH ORDINALITY AS locks (l, n) ORDER BY n",
            locks,
        )
        .await
    }

    /// Releasing what is lost already is harmless.
    pub(crate) async fn unlock(&self, locks: &[i64]) -> Result<(), StoreError> {
        let sql = "SELECT pg_advisory_unlock(l) FROM unnest($1::bigint[]) AS locks (l)";
        self.ask(sql, locks).await.map(drop)
    }

    async fn ask(&self, sql: &'static str, locks: &[i64]) -> Result<Vec<bool>, StoreError> {
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.store.pool.acquire().await?,
        };
        let answer = sqlx::query_scalar(sql).bind(locks).fetch_all(&mut *connection).await;
        match answer {
            Ok(held) => {
                *slot = Some(connection);
                Ok(held)
            }
            Err(error) => {
                // Not back to the pool: whoever got it next would hold our locks.
                drop(connection.detach());
                Err(error.into())
            }
        }
    }

    /// Gives up all locks.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            let _ = sqlx::Connection::close(connection.detach()).await;
        }
    }
}

impl Drop for SessionLocks {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.get_mut().take() {
            drop(connection.detach());
        }
    }
}
