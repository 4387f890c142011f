//! What the server keeps for somebody: dead rows that vacuum may not remove, locks of prepared transactions, WAL of slots.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Horizon {
    /// Whoever still sees old rows, the one with the oldest view first.
    pub holders: Vec<Holder>,
    /// Longest prepared first.
    pub prepared: Vec<Prepared>,
    /// Permanent ones; those of a running backup go by themselves.
    pub slots: Vec<Slot>,
}

/// Vacuum removes no row that died after this one's view of the database was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    pub by: HeldBy,
    /// Transactions that have begun since.
    pub age: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum HeldBy {
    /// A transaction of a session; who that is, for a person.
    Session {
        pid: i32,
        backend_start: Timestamp,
        who: String,
    },
    /// A slot keeps rows for a standby, or (a logical one) those of the system catalogues only.
    Slot {
        name: String,
        is_active: bool,
        only_catalogues: bool,
    },
    /// A standby with `hot_standby_feedback`.
    Standby {
        name: String,
    },
    Prepared {
        gid: String,
    },
}

/// `pg_prepared_xacts`: a transaction that is neither committed nor rolled back, and belongs to no session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    pub gid: String,
    pub owner: String,
    pub database: String,
    /// Seconds since it was prepared.
    pub age: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    pub name: String,
    pub is_logical: bool,
    /// Somebody is connected and reads from it.
    pub is_active: bool,
    /// Bytes of WAL from where it stands to the end; none where it keeps nothing.
    pub retained: Option<u64>,
    /// What it needs was removed (`max_slot_wal_keep_size`): it can never go on.
    pub is_lost: bool,
}
