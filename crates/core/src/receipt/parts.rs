//! What has to be known of each kind of part to restore it, Postgres apart.

use serde::{Deserialize, Serialize};

/// The data of a Redis or Valkey: one RDB file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyspace {
    /// `7.0.15`, `8.1.0 (Valkey)`. An older server may not be able to read the file.
    pub version: String,
    /// Of the file's format: 10 for Redis 7.0.
    pub rdb_version: u32,
    /// Keys of all databases, as the server said right before it made the file.
    pub keys: u64,
    /// Bytes that they took in the server's memory; loading the file takes about as much.
    pub memory: u64,
    /// The CRC64 at the end of the file, as 16 hexadecimal digits. None when the server makes none (`rdbchecksum no`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Where in the stream of changes the file stands: the replication id, and the offset in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(String, u64)>,
    /// Modules that were loaded, without which a server cannot read the file when it has data of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
}
