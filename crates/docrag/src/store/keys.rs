//! API keys: hashed, scoped, of one tenant. The secret is shown once, when the key is made.

use super::audit::{self, AuditEntry};
use super::{Store, StoreError};
use crate::service::{Caller, Scopes};
use jiff::Timestamp;
use jiff_sqlx::ToSqlx;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::fmt::Write as _;
use utoipa::ToSchema;
use uuid::Uuid;

/// So that a leaked key is recognised for what it is.
pub const PREFIX: &str = "dr_";

#[derive(Debug, Clone)]
pub struct NewKey {
    pub tenant: String,
    pub name: String,
    pub scopes: Scopes,
    pub expires_at: Option<Timestamp>,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRecord {
    pub id: Uuid,
    pub tenant: String,
    pub name: String,
    /// Of `read`, `write` and `admin`.
    #[schema(value_type = Vec<String>)]
    pub scopes: Scopes,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// To the minute.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Timestamp>,
}

/// Why a key or a session does not let in. Callers tell the log, not the client, which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthRefusal {
    #[error("unknown")]
    Unknown,
    #[error("expired")]
    Expired,
    #[error("revoked")]
    Revoked,
}

/// 32 random bytes behind the prefix, as it is shown once.
pub(super) fn new_secret(prefix: &str) -> Result<SecretString, StoreError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|cause| StoreError::Randomness(cause.to_string()))?;
    let mut text = prefix.to_owned();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(SecretString::from(text))
}

pub(super) fn hash_of(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

impl Store {
    /// Makes a key, and says so in the audit log; the secret is not kept and cannot be shown again.
    pub async fn create_key(&self, caller: &Caller, key: &NewKey) -> Result<(KeyRecord, SecretString), StoreError> {
        let secret = new_secret(PREFIX)?;
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "INSERT INTO api_keys (id, tenant, name, hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
             RETURNING id, tenant, name, scopes, created_at, expires_at, revoked_at, last_used",
        )
        .bind(Uuid::new_v4())
        .bind(&key.tenant)
        .bind(&key.name)
        .bind(hash_of(secret.expose_secret()))
        .bind(key.scopes.names())
        .bind(key.expires_at.map(ToSqlx::to_sqlx))
        .fetch_one(&mut *tx)
        .await?;
        let key = record(&row)?;
        audit::write(&mut *tx, &AuditEntry::done(caller, "key.create", key.id.to_string(), details(&key))).await?;
        tx.commit().await?;
        Ok((key, secret))
    }

    /// The newest first; of all tenants with `None`.
    pub async fn keys(&self, tenant: Option<&str>) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, tenant, name, scopes, created_at, expires_at, revoked_at, last_used
             FROM api_keys WHERE $1::text IS NULL OR tenant = $1 ORDER BY created_at DESC, id",
        )
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(record).collect()
    }

    /// Revokes a key of the caller's tenant at once, with the sessions that were opened by it, and says so in the audit
    /// log. `false` when there is no such key (any more).
    pub async fn revoke_key(&self, caller: &Caller, id: Uuid) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let row = sqlx::query(
            "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL AND tenant = $2
             RETURNING id, tenant, name, scopes, created_at, expires_at, revoked_at, last_used",
        )
        .bind(id)
        .bind(&caller.tenant)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let entry = AuditEntry::done(caller, "key.revoke", id.to_string(), details(&record(&row)?));
        audit::write(&mut *tx, &entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Whose key this is.
    pub async fn authenticate_key(&self, secret: &str) -> Result<Result<KeyRecord, AuthRefusal>, StoreError> {
        if !secret.starts_with(PREFIX) {
            return Ok(Err(AuthRefusal::Unknown));
        }
        let row = sqlx::query(
            "SELECT id, tenant, name, scopes, created_at, expires_at, revoked_at, last_used,
                    coalesce(expires_at <= now(), false) AS expired,
                    coalesce(last_used < now() - interval '1 minute', true) AS note
             FROM api_keys WHERE hash = $1",
        )
        .bind(hash_of(secret))
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(Err(AuthRefusal::Unknown)) };
        let key = record(&row)?;
        if key.revoked_at.is_some() {
            return Ok(Err(AuthRefusal::Revoked));
        }
        if row.try_get("expired")? {
            return Ok(Err(AuthRefusal::Expired));
        }
        // Once a minute is enough to see whether a key is in use, and spares a write per request.
        if row.try_get("note")? {
            sqlx::query("UPDATE api_keys SET last_used = now() WHERE id = $1").bind(key.id).execute(&self.pool).await?;
        }
        Ok(Ok(key))
    }
}

/// What the audit log says of a key.
fn details(key: &KeyRecord) -> serde_json::Value {
    serde_json::json!({"name": key.name, "scopes": key.scopes})
}

fn record(row: &PgRow) -> Result<KeyRecord, StoreError> {
    let names: Vec<String> = row.try_get("scopes")?;
    Ok(KeyRecord {
        id: row.try_get("id")?,
        tenant: row.try_get("tenant")?,
        name: row.try_get("name")?,
        scopes: Scopes::from_names(&names),
        created_at: super::time(row, "created_at")?,
        expires_at: super::time_or_none(row, "expires_at")?,
        revoked_at: super::time_or_none(row, "revoked_at")?,
        last_used: super::time_or_none(row, "last_used")?,
    })
}
