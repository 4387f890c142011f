//! The record: everything that was seen, judged, planned, done and said, in one SQLite file.
//!
//! Rules:
//! - One process owns the file, by a lock beside it that dies with the process.
//! - `synchronous = FULL` in WAL mode: what was committed survives a power cut. What was half written is rolled back by
//!   SQLite at the next start.
//! - A damaged file is moved aside under a name with the date, never deleted and never repaired in place; the keeper
//!   goes on with a new one, paused, and says so until a person has dealt with the old one.
//! - A file from a newer version is refused: guessing at its meaning could lose it.
//! - Times are milliseconds since the epoch. Structured values are JSON of the core types.
//!
//! All calls are short and blocking; async callers go through [`Record`], which runs them on the blocking pool.

mod accepted;
mod audit;
mod baselines;
mod control;
mod copy;
mod findings;
mod journal;
mod migrations;
mod outbox;
mod plans;
mod points;
mod runs;
mod samples;
mod secret;
mod sizes;
mod statements;

pub use audit::{AuditRow, Broken};
pub use baselines::{Baseline, IndexName};
pub use control::{Approval, Ignored, Pause};
pub use copy::Copy;
pub use journal::{Entry, Intent, Owed};
pub use outbox::{Heard, Message, MessageCounts};
pub use plans::PlanRun;
pub use points::{Point, Points};
pub use runs::Run;
pub use samples::Resolution;
pub use sizes::Grown;
pub use statements::Paces;

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the state folder {folder}: {cause}; create it, or set `state_dir` to a folder that this user may write", folder = .folder.display())]
    Folder { folder: PathBuf, cause: std::io::Error },
    #[error("cannot lock the store {file}: {cause}", file = .file.display())]
    Lock { file: PathBuf, cause: std::io::Error },
    #[error("the store {file} is in use by another groundskeeper process; stop that one, or talk to it while `groundskeeper run` is up", file = .file.display())]
    Locked { file: PathBuf },
    #[error("the store {file} was written by a newer groundskeeper (schema {found}, this one knows {known}); run the newer version, or set `state_dir` to another folder", file = .file.display())]
    Newer { file: PathBuf, found: i64, known: i64 },
    #[error("the disk of the store is full; free some space under {folder}: nothing was recorded", folder = .folder.display())]
    Full { folder: PathBuf },
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the store holds a value that this version cannot read: {0}")]
    Value(#[from] serde_json::Error),
    #[error("the operating system gives no random numbers: {0}")]
    Randomness(String),
    #[error("{0}")]
    Lookup(String),
    #[error("the store's worker ended: {0}")]
    Worker(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// The open store. Dropping it gives the lock back.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    folder: PathBuf,
    _lock: File,
}

const FILE: &str = "record.sqlite";

impl Store {
    /// Opens (or makes) the store in `folder`. A damaged one is set aside first.
    pub fn open(folder: &Path, now: Timestamp) -> Result<Self> {
        let unusable = |cause| Error::Folder { folder: folder.to_owned(), cause };
        // Sessions, addresses and statements are nobody else's business; and whoever may open the lock may hold it.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        let file = folder.join(FILE);
        let lock = private(&folder.join("record.lock")).map_err(unusable)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => Error::Locked { file: file.clone() },
            other => Error::Lock { file: file.clone(), cause: other.into() },
        })?;
        // SQLite gives its journal files the permissions of the file itself.
        private(&file).map_err(unusable)?;
        let mut began_anew = false;
        let connection = match healthy(&file) {
            Ok(connection) => connection,
            Err(damage) if is_damage(&damage) => {
                let aside = set_aside(folder, now).map_err(unusable)?;
                tracing::error!(damaged = %damage, kept_as = %aside.display(), "the store is damaged; it was set aside and a new one begun");
                private(&file).map_err(unusable)?;
                began_anew = true;
                healthy(&file).map_err(|error| described(folder, error))?
            }
            Err(other) => return Err(described(folder, other)),
        };
        let mut store = Self { connection, folder: folder.to_owned(), _lock: lock };
        migrations::migrate(&mut store.connection, &file).map_err(|error| named(folder, error))?;
        if began_anew {
            store.pause(&memory_lost(now))?;
        }
        Ok(store)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the disk has no room for another change.
    pub fn is_full(&self) -> bool {
        is_full(&self.folder)
    }

    /// Damaged stores of earlier days that nobody has dealt with yet.
    pub fn set_aside(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(&self.folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        found.retain(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("record.damaged-") && name.ends_with(".sqlite"))
        });
        found.sort();
        found
    }

    /// Runs a change in one transaction: all of it is durable afterwards, or none.
    fn atomically<T>(&mut self, change: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let folder = self.folder.clone();
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(|error| described(&folder, error))?;
        let value = change(&transaction).map_err(|error| named(&folder, error))?;
        transaction.commit().map_err(|error| described(&folder, error))?;
        Ok(value)
    }
}

/// Opens (or makes) a file that only its owner may read. What is in it stays.
fn private(path: &Path) -> std::io::Result<File> {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// With the store the keeper lost its pauses, cool-downs and open actions, so it does nothing until somebody has looked.
fn memory_lost(now: Timestamp) -> Pause {
    Pause {
        task: None,
        reason: "the store was damaged and begun anew, and with it what was paused, done and tried; resume when you have looked"
            .into(),
        who: "groundskeeper".into(),
        since: now,
        until: None,
    }
}

fn healthy(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    // Closing a damaged file must not write to it: it is kept as it was found.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // 2 MiB of page cache: the keeper's memory budget is small and the record's working set too.
    connection.pragma_update(None, "cache_size", -2048)?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(connection)
    } else {
        Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(verdict)))
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase))
}

/// SQLite says "disk full" where it writes, and "input/output error" where it makes room for its index first.
fn described(folder: &Path, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Error::Full { folder: folder.to_owned() },
        Some(rusqlite::ErrorCode::SystemIoFailure) if is_full(folder) => Error::Full { folder: folder.to_owned() },
        _ => Error::Sqlite(error),
    }
}

/// Less than the smallest change with its index takes.
fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail * disk.f_frsize < 64 * 1024)
}

fn named(folder: &Path, error: Error) -> Error {
    match error {
        Error::Sqlite(inner) => described(folder, inner),
        other => other,
    }
}

fn set_aside(folder: &Path, now: Timestamp) -> std::io::Result<PathBuf> {
    let stamp = now.strftime("%Y%m%dT%H%M%S");
    let mut aside = folder.join(format!("record.damaged-{stamp}.sqlite"));
    let mut attempt = 1;
    while aside.exists() {
        attempt += 1;
        aside = folder.join(format!("record.damaged-{stamp}-{attempt}.sqlite"));
    }
    fs::rename(folder.join(FILE), &aside)?;
    for suffix in ["-wal", "-shm"] {
        let part = folder.join(format!("{FILE}{suffix}"));
        if part.exists() {
            let mut target = aside.clone().into_os_string();
            target.push(suffix);
            fs::rename(part, target)?;
        }
    }
    Ok(aside)
}

/// The store for async callers.
#[derive(Debug, Clone)]
pub struct Record {
    store: Arc<Mutex<Store>>,
}

impl Record {
    pub fn new(store: Store) -> Self {
        Self { store: Arc::new(Mutex::new(store)) }
    }

    /// Runs `work` on the blocking pool, so that a slow disk stops nobody else.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || {
            // A poisoned lock means that an earlier call panicked between two statements; every change is one
            // transaction, so the store itself is consistent.
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut store)
        })
        .await
        .map_err(|ended| Error::Worker(ended.to_string()))?
    }
}

fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// A column of milliseconds as a moment. A value outside the calendar cannot come from us; it is held at its edge.
fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests;
