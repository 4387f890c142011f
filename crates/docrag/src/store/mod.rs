//! Everything that Postgres keeps. One file per table or two; SQL stands nowhere else.
//!
//! Rules:
//! - Nobody who holds a connection waits for another one, so a pool of any size cannot deadlock.
//! - Whoever writes to the outbox first locks the document's row, then the outbox (`outbox::append`), in this order.
//! - Times are Postgres's own `now()`: replicas need not agree on a clock.
//! - Nothing above Postgres 13 is used.

use crate::settings::DatabaseSettings;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{PgPool, Row};
use std::str::FromStr;
use std::time::Duration;

pub(crate) mod accept;
pub mod audit;
pub mod corpora;
pub mod documents;
pub(crate) mod followers;
pub mod keys;
pub(crate) mod locks;
pub(crate) mod models;
pub(crate) mod outbox;
pub mod passages;
pub mod sessions;
mod status;
pub(crate) mod work;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no database is configured: set DATABASE_URL, or database.url in docrag.toml")]
    NotConfigured,
    #[error("database.url is not an address that Postgres is reached by (postgres://user:password@host/database): {0}")]
    Address(String),
    #[error("postgres does not answer: {0}")]
    Unreachable(String),
    #[error("postgres: {0}")]
    Refused(#[source] sqlx::Error),
    #[error("the schema cannot be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error("the operating system gives no random bytes: {0}")]
    Randomness(String),
    /// Another writer was faster; the caller starts the step again.
    #[error("the document changed meanwhile")]
    Changed,
    /// Vectors of the model that made them are not wanted any more.
    #[error("another embedding model serves meanwhile")]
    ModelChanged,
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn can_retry(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Changed | Self::ModelChanged)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        let away = match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => true,
            E::Database(cause) => cause.code().is_some_and(|code| is_passing(&code)),
            _ => false,
        };
        if away { Self::Unreachable(error.to_string()) } else { Self::Refused(error) }
    }
}

/// SQLSTATEs that say nothing about the statement: connections, shutdown and start-up, too many clients, a standby that
/// was just promoted or demoted, deadlock, serialization, and a statement that waited too long.
fn is_passing(code: &str) -> bool {
    code.starts_with("08")
        || matches!(code, "57P01" | "57P02" | "57P03" | "53300" | "25006" | "40001" | "40P01" | "57014" | "55P03")
}

/// The least that a running service gets by with: one connection holds locks, one listens, one works.
const LEAST_CONNECTIONS: u32 = 3;

/// The system of record; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects; waits `acquire_seconds` at most for a server that is not there yet.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, StoreError> {
        let url = settings.url.as_ref().ok_or(StoreError::NotConfigured)?;
        let options = PgConnectOptions::from_str(url.expose_secret())
            .map_err(|cause| StoreError::Address(cause.to_string()))?
            .application_name("docrag")
            .options([("statement_timeout", format!("{}s", settings.statement_seconds))]);
        let place = format!("{}:{}", options.get_host(), options.get_port());
        let pool = PgPoolOptions::new()
            .min_connections(settings.min_connections)
            .max_connections(settings.max_connections.max(LEAST_CONNECTIONS))
            .acquire_timeout(Duration::from_secs(settings.acquire_seconds))
            .idle_timeout(Duration::from_secs(settings.idle_seconds))
            .max_lifetime(Duration::from_secs(settings.lifetime_seconds))
            .test_before_acquire(settings.test_before_acquire)
            .connect_with(options)
            .await;
        match pool {
            Ok(pool) => Ok(Self { pool }),
            // The pool tries again and again, and forgets why.
            Err(sqlx::Error::PoolTimedOut) => {
                let within = settings.acquire_seconds;
                Err(StoreError::Unreachable(format!("{place} gave no connection within {within} s; does it run?")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the schema up to date. Replicas that start together take turns.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match sqlx::migrate!().run(&self.pool).await {
            Err(sqlx::migrate::MigrateError::Execute(error)) => Err(error.into()),
            result => Ok(result?),
        }
    }

    /// Whether Postgres answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// Advisory locks: one number space for the whole database, so ours begin with four letters. Documents are locked by the
/// first half of their ids, which are hashes.
const OUTBOX_LOCK: i64 = lock_number(1);
const AUDIT_LOCK: i64 = lock_number(2);

const fn lock_number(which: i64) -> i64 {
    ((u32::from_be_bytes(*b"docr") as i64) << 32) | which
}

/// Waits for the lock; it goes with the transaction.
async fn lock_for_transaction(tx: &mut sqlx::PgConnection, lock: i64) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(lock).execute(tx).await?;
    Ok(())
}

fn time(row: &PgRow, column: &str) -> Result<Timestamp, StoreError> {
    Ok(row.try_get::<jiff_sqlx::Timestamp, _>(column)?.to_jiff())
}

fn time_or_none(row: &PgRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.try_get::<Option<jiff_sqlx::Timestamp>, _>(column)?.map(jiff_sqlx::Timestamp::to_jiff))
}
