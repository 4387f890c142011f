//! Postgres 13 to 18, read over one connection.
//!
//! Counters are as the server gives them (since its statistics were reset); rates are made by checks from two readings.
//! Sizes of tables come from `pg_class.relpages`: that takes no lock, so that a reading never waits behind a migration.

mod accepted;
mod deep;
mod distribution;
mod footprint;
mod groups;
mod horizon;
mod keys;
mod machine;
mod past;
mod plans;
mod room;
mod seal;
mod security;
mod settings;
mod statements;
mod structure;
mod usage;
mod vacuuming;
mod vectors;

pub use accepted::{Accepted, AcceptedSetting, Drift, OwnChange};
pub use deep::{Deep, LeftAlone, NotCompared, SequenceBehind, Sequences};
pub use distribution::{ColumnDistribution, Distribution, Distributions};
pub use footprint::{Footprint, Footprints, NoEstimate, suspects};
pub use groups::{Opened, SessionGroup};
pub use horizon::{HeldBy, Holder, Horizon, Prepared, Slot};
pub use keys::{IntegerKey, IntegerKeys};
pub use machine::{Machine, Storage};
pub use past::{Pace, Past};
pub use plans::{Earlier, NotPlanned, PlanShape, Planned, Plans, Unplanned};
pub use room::{Disk, Room, SizeOf, Sizes, WalWritten};
pub use seal::{DIGEST, SealKey};
pub use security::{AccessRule, Extension, OpenRoutine, OpenSchema, PlainClient, Security, Superuser};
pub use settings::{Owner, Setting, Settings, bytes_written, seconds_written};
pub use statements::{Leaders, Statement, Statements, Totals};
pub use structure::{ForeignKey, ForeignKeys, Index, Named, Structure, TableName, Trigger};
pub use usage::{IndexUsage, IndexUse, StandbyUsage};
pub use vacuuming::{Vacuuming, Worker};
pub use vectors::{VectorColumn, VectorIndex, VectorIndexKind, VectorSetting, Vectors};

use super::Part;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Postgres {
    pub server: Box<Server>,
    /// Who we are and what we may read; always known once connected.
    pub access: Access,
    pub activity: Part<Box<Activity>>,
    pub databases: Part<Vec<Database>>,
    pub tables: Part<Vec<Table>>,
    pub checkpoints: Part<Checkpoints>,
    pub archiver: Part<Box<Archiver>>,
    pub replication: Part<Replication>,
    pub horizon: Part<Box<Horizon>>,
    pub vacuuming: Part<Box<Vacuuming>>,
    pub footprints: Part<Box<Footprints>>,
    pub keys: Part<Box<IntegerKeys>>,
    pub usage: Part<Box<IndexUsage>>,
    pub structure: Box<Structure>,
    pub room: Box<Room>,
    /// None where pgvector is not created in the connected database.
    pub vectors: Part<Option<Box<Vectors>>>,
    /// None where nobody says what it runs on.
    pub machine: Option<Box<Machine>>,
    pub settings: Part<Box<Settings>>,
    /// What somebody accepted, out of the record; none where there is none.
    pub accepted: Option<Box<Accepted>>,
    pub security: Box<Security>,
    pub statements: Box<Statements>,
    /// None where nobody asked: only the deeper rounds do.
    pub deep: Option<Box<Deep>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// As in `server_version_num`: 150018 is 15.18.
    pub version_num: u32,
    /// As in `server_version`, with the distribution's suffix.
    pub version: String,
    pub started: Timestamp,
    /// A standby: everything is read-only and some counters are not kept.
    pub in_recovery: bool,
    pub database: String,
    pub max_connections: u32,
    /// `superuser_reserved_connections` plus, from 16 on, `reserved_connections`.
    pub reserved_connections: u32,
    pub autovacuum: bool,
    pub autovacuum_freeze_max_age: u64,
    /// `checkpoint_timeout`, seconds.
    pub checkpoint_timeout: f64,
}

impl Server {
    /// 15 for 15.18.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// 18 for 15.18.
    pub fn minor(&self) -> u32 {
        self.version_num % 10_000
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub user: String,
    pub superuser: bool,
    /// Member of `pg_monitor`, or everything that it brings.
    pub monitor: bool,
    /// Member of `pg_signal_backend`.
    pub signal_backend: bool,
}

impl Access {
    /// Nothing that is watched is hidden from us.
    pub fn sees_all(&self) -> bool {
        self.superuser || self.monitor
    }
}

/// `pg_stat_activity`, client backends only, our own session left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Every client backend of the cluster, ours included: what counts against `max_connections`.
    pub total: u32,
    pub active: u32,
    pub idle: u32,
    pub idle_in_transaction: u32,
    /// Backends whose state is hidden from us for want of a grant.
    pub hidden: u32,
    /// Sessions that are not idle, or that hold a transaction; at most 200, the oldest transaction first.
    pub sessions: Vec<Session>,
    /// Who has the connections open: (application or user, count), largest first, at most 10.
    pub by_application: Vec<(String, u32)>,
    /// The same in more detail, by application, user and address: the largest 20 groups.
    pub groups: Vec<SessionGroup>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub pid: i32,
    pub backend_start: Timestamp,
    pub database: String,
    pub user: String,
    pub application: String,
    /// Empty for a Unix socket.
    pub client: String,
    pub state: SessionState,
    /// Seconds since the transaction began; none outside a transaction.
    pub transaction_age: Option<f64>,
    /// Seconds since the current (active) or last (idle) query began.
    pub query_age: Option<f64>,
    /// Seconds in the present state.
    pub state_age: Option<f64>,
    /// `Lock: transactionid`, `Client: ClientRead` …; empty when running.
    pub wait: String,
    /// The pids that this session waits for, as `pg_blocking_pids` gives them.
    pub blocked_by: Vec<i32>,
    /// Seconds that it has waited for that lock: `pg_locks.waitstart` from 14 on, the query's age before. None when it
    /// waits for no lock.
    pub lock_wait: Option<f64>,
    /// `AccessExclusiveLock` …: what it waits for, when that is a lock of a whole table.
    pub lock_mode: Option<String>,
    /// The first 200 characters, literals replaced by `?`.
    pub query: String,
    /// Never ours to end: a superuser's session, one of a role with REPLICATION, a backup or restore tool, or our own.
    pub protected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    Active,
    Idle,
    IdleInTransaction,
    IdleInTransactionAborted,
    Other,
}

/// A row of `pg_database` with its counters; templates are listed too, for their transaction ids age as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Database {
    pub name: String,
    /// Bytes; none where we may not connect and therefore may not ask.
    pub size: Option<u64>,
    /// `age(datfrozenxid)`.
    pub xid_age: u64,
    /// `mxid_age(datminmxid)`.
    pub multixact_age: u64,
    pub blocks_hit: u64,
    pub blocks_read: u64,
    pub commits: u64,
    pub rollbacks: u64,
    pub deadlocks: u64,
    pub temporary_bytes: u64,
}

/// A user table of the connected database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    /// `reltuples`: an estimate; none when the table was never analyzed.
    pub rows_estimated: Option<f64>,
    /// Heap, TOAST and index pages in bytes, estimated from `relpages`.
    pub size: u64,
    pub live_rows: u64,
    /// How often it was read from its beginning (`seq_scan`), and the live rows that were read so (`seq_tup_read`).
    pub whole_scans: u64,
    pub rows_scanned: u64,
    pub dead_rows: u64,
    pub modified_since_analyze: u64,
    /// The numbers at which autovacuum itself would start, after the table's own settings.
    pub vacuum_trigger: f64,
    pub analyze_trigger: f64,
    pub last_vacuum: Option<Timestamp>,
    pub last_analyze: Option<Timestamp>,
    /// False where the table switched it off.
    pub autovacuum: bool,
    /// We own it, are superuser, or may MAINTAIN it (17 on): vacuum and analyze would work.
    pub maintainable: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoints {
    pub timed: u64,
    pub requested: u64,
    pub stats_reset: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Archiver {
    /// `archive_mode` is on or always.
    pub enabled: bool,
    pub archived: u64,
    pub failed: u64,
    pub last_archived: Option<Timestamp>,
    pub last_failed: Option<Timestamp>,
    pub last_failed_segment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replication {
    /// On a primary: its standbys.
    pub standbys: Vec<Standby>,
    /// On a standby: seconds since the last replayed transaction, and bytes received but not replayed.
    pub replay_delay: Option<f64>,
    pub replay_backlog: Option<u64>,
    /// On a standby: whether the WAL receiver runs.
    pub receiving: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standby {
    pub name: String,
    pub client: String,
    /// `streaming`, `catchup`, `startup`, `backup`.
    pub state: String,
    /// Bytes of WAL that the primary has and the standby has not replayed.
    pub lag_bytes: Option<u64>,
    /// `replay_lag`, seconds.
    pub lag_seconds: Option<f64>,
    pub parts: LagParts,
}

/// Where a standby's lag is. The three in bytes make up the whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LagParts {
    /// Bytes that the primary has not sent yet.
    pub unsent: Option<u64>,
    /// Bytes that are on their way, or that the standby has not written to its disk.
    pub unflushed: Option<u64>,
    /// Bytes that the standby has and has not replayed.
    pub unreplayed: Option<u64>,
    /// `flush_lag`, seconds: until the standby had it on its disk.
    pub flush_seconds: Option<f64>,
}
