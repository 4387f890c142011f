//! The machine that Groundskeeper runs on.

use super::Part;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub cores: u32,
    /// Load averages over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    pub memory: Memory,
    pub mounts: Vec<Mount>,
    /// Mounts that did not answer, with the reason (a network filesystem whose server is gone).
    pub unreadable: Vec<String>,
    pub clock: Part<Clock>,
    pub uptime: f64,
}

/// Bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub total: u64,
    /// What a new process could have without swapping.
    pub available: u64,
    pub swap_total: u64,
    pub swap_used: u64,
}

/// A mounted filesystem that is written to; pseudo filesystems and read-only images are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub path: String,
    pub filesystem: String,
    /// Bytes in all, and free for a process that is not root.
    pub total: u64,
    pub available: u64,
    /// Inodes; 0 where the filesystem makes them as needed.
    pub inodes: u64,
    pub inodes_free: u64,
    /// Against its owner's will: the kernel stopped the writing after an error. For a mount that the configuration
    /// names: read-only for any reason.
    pub read_only: bool,
}

/// Whether a time service keeps the clock, as that service tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// A time service keeps it.
    pub synchronised: bool,
    /// The bound of the error, seconds; none where the source does not tell.
    pub max_error: Option<f64>,
}
