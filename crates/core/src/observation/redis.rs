//! Redis (and Valkey), read by one `INFO` over one connection.

use super::Part;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redis {
    pub version: String,
    /// Seconds since start.
    pub uptime: f64,
    /// Made anew by every start of the server: two readings of one `run_id` share their counters.
    pub run_id: String,
    pub memory: Part<RedisMemory>,
    pub stats: Part<RedisStats>,
    pub clients: Part<RedisClients>,
    pub persistence: Part<Persistence>,
    pub replication: Part<RedisReplication>,
    /// Keys in all databases, and how many of them expire.
    pub keys: Part<Keys>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisMemory {
    pub used: u64,
    /// Resident set of the process.
    pub resident: u64,
    /// 0: no limit.
    pub max: u64,
    /// `noeviction`, `allkeys-lru` …
    pub policy: String,
    /// `mem_fragmentation_ratio`.
    pub fragmentation: f64,
    /// Memory of the machine.
    pub system: u64,
}

/// Counters since start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisStats {
    pub hits: u64,
    pub misses: u64,
    pub evicted: u64,
    pub expired: u64,
    pub rejected_connections: u64,
    pub commands: u64,
    /// `-OOM` and other replies by error code, from `errorstats` (6.2 on): (code, count).
    pub errors: Vec<(String, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisClients {
    pub connected: u64,
    /// From 6.2 on; none before.
    pub max: Option<u64>,
    pub blocked: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Persistence {
    /// The dataset is being loaded; most commands are refused.
    pub loading: bool,
    pub changes_since_save: u64,
    pub last_save: Option<Timestamp>,
    pub last_save_ok: bool,
    pub aof_enabled: bool,
    pub last_aof_write_ok: bool,
    /// `stop-writes-on-bgsave-error` and a failed save: writes are refused. Unknown when CONFIG is not allowed.
    pub saves_configured: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisReplication {
    /// `master` or `slave`, as Redis still calls them in INFO.
    pub primary: bool,
    pub replicas: u64,
    /// On a replica: whether its link to the primary is up, and seconds since it went down.
    pub link_up: Option<bool>,
    pub link_down_seconds: Option<u64>,
    pub upstream: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    pub total: u64,
    pub expiring: u64,
}
