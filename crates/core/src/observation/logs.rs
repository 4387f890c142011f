//! A log folder, by size only in this version: no content is read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logs {
    pub folder: String,
    pub files: u64,
    pub bytes: u64,
    /// Bytes in files that a rotation already closed (`.gz`, `.zst`, `.1` …).
    pub rotated_bytes: u64,
    /// The largest ten, largest first.
    pub largest: Vec<LogFile>,
    /// Entries that could not be read, with the reason; at most ten.
    pub unreadable: Vec<String>,
    /// True when the walk stopped at its bound of files: the sums are then lower bounds.
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogFile {
    pub path: String,
    pub bytes: u64,
    pub modified: Option<Timestamp>,
    pub rotated: bool,
}
