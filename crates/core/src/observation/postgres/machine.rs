//! The machine that the server runs on, as far as anybody says.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Bytes that the server, the operating system's cache and whatever else runs there share.
    pub memory: Option<u64>,
    pub cores: Option<u32>,
    pub storage: Option<Storage>,
    /// Who says so, for a person.
    pub told_by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Flash, or the network storage of a cloud: reading anywhere costs about the same.
    Ssd,
    /// Disks that turn.
    Hdd,
}
