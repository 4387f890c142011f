//! Who has put a lock or a hold into an object store, and when such an object belongs to nobody any more: because its
//! process on this machine is gone, or because it was not written for half an hour by the clock *of the store*. Those of the
//! machines may be wrong, and then two would believe that it is theirs.

use super::store::{Found, Store};
use crate::error::{Error, Result};
use crate::scratch::process_start;
use groundskeeper_core::quantity::seconds_between;
use jiff::Timestamp;
use object_store::Error as StoreError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub(super) const RENEWED_EVERY: Duration = Duration::from_mins(5);
/// After a renewal that failed.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// As restic has it.
pub(super) const STALE_SECONDS: f64 = 1_800.0;

/// A process that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// Random: one for each time that something is taken.
    pub(super) id: String,
    pub(super) host: String,
    pub(super) process: u32,
    /// When the process started, and in which kernel it runs: ids come again, and containers have their own.
    pub(super) started: u64,
    pub(super) machine: String,
}

impl Owner {
    pub(super) fn new() -> Result<Self> {
        let id = getrandom::u64().map_err(|error| Error::Worker(format!("no random number: {error}")))?;
        let process = std::process::id();
        Ok(Self {
            id: format!("{id:016x}"),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            process,
            started: process_start(process).unwrap_or_default(),
            machine: machine(),
        })
    }

    /// Whether it was a process of this machine that is not there any more.
    pub(super) fn is_gone(&self) -> bool {
        let here = !self.machine.is_empty() && self.machine == machine();
        here && process_start(self.process) != Some(self.started)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.process, self.host)
    }
}

/// Whether what was written then is nobody's now. Both by the store's clock.
pub(super) fn is_silent(written: Timestamp, now: Timestamp) -> bool {
    seconds_between(written, now) > STALE_SECONDS
}

/// None when there is no such object.
pub(super) async fn found(store: &Store, name: &str) -> std::result::Result<Option<Found>, StoreError> {
    match store.find(name).await {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn json(value: &impl Serialize) -> std::result::Result<Vec<u8>, StoreError> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| StoreError::Generic { store: "the owner", source: Box::new(error) })
}

/// This boot of this kernel, and the space of process ids that we see. Empty when it cannot be told.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let space = std::fs::read_link("/proc/self/ns/pid").ok();
    boot.zip(space).map(|(boot, space)| format!("{} {}", boot.trim(), space.display())).unwrap_or_default()
}
