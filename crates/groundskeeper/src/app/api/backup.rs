//! What is told of backups.

pub use groundskeeper_backup::vault::KeyInfo;
pub use groundskeeper_backup::wal::Target;

use groundskeeper_backup::vault::Restored;
use groundskeeper_core::check::Judgement;
use groundskeeper_core::observation::{Space, WalStream};
use groundskeeper_core::receipt::{Climb, Receipt, SetId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The repository at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupView {
    /// Its folder.
    pub repository: String,
    /// None before the first look.
    pub read: Option<Timestamp>,
    /// Why the sets are not known.
    pub failure: Option<String>,
    /// The newest, newest first.
    pub sets: Vec<Receipt>,
    pub last_proof: Option<LastProof>,
    pub space: Option<Space>,
    /// The streams of WAL that were asked for.
    pub wal: Vec<WalStream>,
}

/// When a set was last shown to restore and boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastProof {
    pub set: SetId,
    pub at: Timestamp,
    /// Measured: from the start of the restore to the first answered query.
    pub recovery_seconds: Option<f64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupInitView {
    pub repository: String,
    /// False when it was there already and opens with the key.
    pub made: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupListView {
    pub now: Timestamp,
    pub repository: String,
    /// Every set, newest first.
    pub sets: Vec<Receipt>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupStatusView {
    pub now: Timestamp,
    pub backup: BackupView,
    pub judgements: Vec<Judgement>,
}

/// A set after a try at two rungs of the ladder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupTryView {
    pub receipt: Receipt,
    /// What was tried now, the lowest rung first.
    pub tried: Vec<Climb>,
}

/// What a restore would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestorePlan {
    pub set: SetId,
    pub made: Timestamp,
    pub age_seconds: f64,
    /// What will be restored: its name and its bytes.
    pub systems: Vec<(String, u64)>,
    /// The one that was asked for; none: all.
    pub only: Option<String>,
    /// How far the WAL after the set is replayed; none: not at all.
    pub target: Option<Target>,
    pub into: PathBuf,
    /// Bytes; none when the disk does not tell.
    pub free: Option<u64>,
    /// What a person should know before.
    pub warnings: Vec<String>,
}

impl RestorePlan {
    pub fn bytes(&self) -> u64 {
        self.systems.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreView {
    pub plan: RestorePlan,
    pub restored: Restored,
}
