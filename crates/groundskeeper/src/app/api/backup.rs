//! What is told of backups.

pub use groundskeeper_backup::Done;
pub use groundskeeper_backup::exports::Export;
pub use groundskeeper_backup::vault::KeyInfo;
pub use groundskeeper_backup::wal::Target;

use super::ActionView;
use groundskeeper_backup::PrunePlan;
use groundskeeper_backup::vault::Restored;
use groundskeeper_core::SystemId;
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
    #[serde(default)]
    pub wal: Vec<WalStream>,
    /// None before the first look.
    #[serde(default)]
    pub retention: Option<RetentionView>,
    #[serde(default)]
    pub measured: MeasuredView,
}

/// What was measured of recovery in the last 90 days.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MeasuredView {
    /// How long each drill took from the start of the restore to the first answered query, the oldest first.
    pub recovery_times: Vec<Measurement>,
    /// How much a disaster would have taken: of each Postgres whose WAL streams, and then of all that is only in sets.
    pub recovery_points: Vec<RecoveryPoints>,
}

/// Of what was written in the last so many seconds a disaster would have left nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecoveryPoints {
    /// Whose WAL streams; none: what is only in sets, of which that is the age of the newest.
    pub system: Option<SystemId>,
    /// The worst of each day, the oldest first.
    pub days: Vec<Measurement>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub at: Timestamp,
    pub seconds: f64,
}

/// What retention would do with the sets that are shown, as far as a look from outside can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetentionView {
    /// `the last 3, 7 daily`
    pub rules: String,
    /// Whether the task `retention` removes sets, and not only tells of them.
    pub applies: bool,
    /// The sets that no rule keeps, with the reason.
    pub going: Vec<(SetId, String)>,
}

/// What was planned for the sets, and what was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupPruneView {
    pub repository: String,
    pub plan: PrunePlan,
    /// None for a plan, and when there was nothing to do.
    pub action: Option<ActionView>,
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

/// How to bring everything back, step by step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecoveryPlanView {
    /// Markdown.
    pub plan: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupListView {
    pub now: Timestamp,
    pub repository: String,
    /// Every set, newest first.
    pub sets: Vec<Receipt>,
}

/// The rows that retention has deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExportsView {
    pub now: Timestamp,
    pub repository: String,
    /// Every piece; the newest deletion first, its pieces in their order.
    pub exports: Vec<Export>,
    /// Bytes of all of them.
    pub stored: u64,
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
    /// Bytes of that WAL, which lies beside what is restored until it is replayed.
    #[serde(default)]
    pub wal: u64,
    pub into: PathBuf,
    /// Folders with something in them, which are moved aside.
    #[serde(default)]
    pub replaces: Vec<PathBuf>,
    /// Bytes; none when the disk does not tell.
    pub free: Option<u64>,
    /// What a person should know before.
    pub warnings: Vec<String>,
}

impl RestorePlan {
    /// That are needed, with the WAL, and as many again for what relations grow by when it is replayed.
    pub fn bytes(&self) -> u64 {
        self.systems.iter().map(|(_, bytes)| bytes).sum::<u64>() + self.wal.saturating_mul(2)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreView {
    pub plan: RestorePlan,
    pub restored: Restored,
}
