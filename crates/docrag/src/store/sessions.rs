//! Sessions of the page: opened with a key, for some hours. Only the token's hash is kept.

use super::audit::{self, AuditEntry};
use super::keys::{AuthRefusal, KeyRecord, hash_of, new_secret};
use super::{Store, StoreError};
use crate::service::{Caller, Scopes};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sqlx::Row;
use uuid::Uuid;

const PREFIX: &str = "ds_";
/// In the audit log, whether it was let in or not.
pub(crate) const LOGIN: &str = "session.login";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    pub id: Uuid,
    pub key_id: Uuid,
    pub tenant: String,
    /// Those of the key.
    pub scopes: Scopes,
    pub expires_at: Timestamp,
}

impl Store {
    /// Opens a session for whoever has shown this key, and says so in the audit log; the token goes into the cookie.
    pub async fn create_session(
        &self,
        key: &KeyRecord,
        hours: u64,
        request_id: &str,
    ) -> Result<(SessionRecord, SecretString), StoreError> {
        let (id, token) = (Uuid::new_v4(), new_secret(PREFIX)?);
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "INSERT INTO user_sessions (id, key_id, tenant, hash, expires_at)
             VALUES ($1, $2, $3, $4, least(now() + make_interval(hours => $5), coalesce($6, 'infinity')))
             RETURNING expires_at",
        )
        .bind(id)
        .bind(key.id)
        .bind(&key.tenant)
        .bind(hash_of(token.expose_secret()))
        .bind(i32::try_from(hours).unwrap_or(i32::MAX))
        .bind(key.expires_at.map(jiff_sqlx::ToSqlx::to_sqlx))
        .fetch_one(&mut *tx)
        .await?;
        let caller = Caller {
            tenant: key.tenant.clone(),
            actor: format!("key:{}", key.id),
            scopes: key.scopes,
            request_id: request_id.to_owned(),
        };
        let entry = AuditEntry::done(&caller, LOGIN, String::new(), serde_json::json!({"session": id}));
        audit::write(&mut *tx, &entry).await?;
        tx.commit().await?;
        let expires_at = super::time(&row, "expires_at")?;
        let session = SessionRecord { id, key_id: key.id, tenant: key.tenant.clone(), scopes: key.scopes, expires_at };
        Ok((session, token))
    }

    /// Whose session this is. A session ends with its key.
    pub async fn authenticate_session(&self, token: &str) -> Result<Result<SessionRecord, AuthRefusal>, StoreError> {
        if !token.starts_with(PREFIX) {
            return Ok(Err(AuthRefusal::Unknown));
        }
        let row = sqlx::query(
            "SELECT s.id, s.key_id, s.tenant, k.scopes, s.expires_at,
                    s.ended_at IS NOT NULL OR k.revoked_at IS NOT NULL AS revoked,
                    s.expires_at <= now() OR coalesce(k.expires_at <= now(), false) AS expired,
                    s.last_seen < now() - interval '1 minute' AS note
             FROM user_sessions s JOIN api_keys k ON k.id = s.key_id WHERE s.hash = $1",
        )
        .bind(hash_of(token))
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(Err(AuthRefusal::Unknown)) };
        if row.try_get("revoked")? {
            return Ok(Err(AuthRefusal::Revoked));
        }
        if row.try_get("expired")? {
            return Ok(Err(AuthRefusal::Expired));
        }
        let names: Vec<String> = row.try_get("scopes")?;
        let session = SessionRecord {
            id: row.try_get("id")?,
            key_id: row.try_get("key_id")?,
            tenant: row.try_get("tenant")?,
            scopes: Scopes::from_names(&names),
            expires_at: super::time(&row, "expires_at")?,
        };
        if row.try_get("note")? {
            let seen = sqlx::query("UPDATE user_sessions SET last_seen = now() WHERE id = $1").bind(session.id);
            seen.execute(&self.pool).await?;
        }
        Ok(Ok(session))
    }

    /// Ends a session at once, and says so in the audit log.
    pub async fn end_session(&self, caller: &Caller, id: Uuid) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let end = sqlx::query("UPDATE user_sessions SET ended_at = now() WHERE id = $1 AND ended_at IS NULL").bind(id);
        if end.execute(&mut *tx).await?.rows_affected() > 0 {
            let entry = AuditEntry::done(caller, "session.logout", id.to_string(), serde_json::json!({}));
            audit::write(&mut *tx, &entry).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Removes sessions that have been over for a week; the audit log remembers who logged in.
    pub async fn remove_old_sessions(&self) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "DELETE FROM user_sessions WHERE least(expires_at, coalesce(ended_at, expires_at)) < now() - interval '7 days'",
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
