//! Settings of a Postgres that we may change, the values that they may get, and what must hold for that.
//!
//! Both are closed: a step cannot name a setting that is not here, nor carry a value that is more than a number with a unit or
//! one of a few words. So no bug can reach `shared_preload_libraries`, `listen_addresses`, authentication, commands, `fsync`,
//! or what a standby must have as much of as its primary (`max_connections` and its like).

mod ground;
mod value;

pub use ground::{Ground, Limits, Line};
pub use value::{SettingValue, is_same};

use super::{StepState, Verification};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A setting that the tuning advises and that can be taken back without a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameter {
    AutovacuumVacuumCostLimit,
    AutovacuumVacuumScaleFactor,
    CheckpointCompletionTarget,
    CheckpointTimeout,
    EffectiveCacheSize,
    EffectiveIoConcurrency,
    LogAutovacuumMinDuration,
    LogLockWaits,
    LogTempFiles,
    MaintenanceWorkMem,
    MaxWalSize,
    MinWalSize,
    RandomPageCost,
    SharedBuffers,
    TrackIoTiming,
    WalCompression,
    WorkMem,
}

/// What is advised and left to a person, and why.
const LEFT_TO_PEOPLE: &[(&str, &str)] = &[
    ("idle_in_transaction_session_timeout", "it ends sessions, those of copies and migrations as well"),
    ("log_min_duration_statement", "it writes the values of statements into the log"),
    ("max_slot_wal_keep_size", "a slot that lost its WAL cannot be had back"),
];

impl Parameter {
    pub const ALL: [Self; 17] = [
        Self::AutovacuumVacuumCostLimit,
        Self::AutovacuumVacuumScaleFactor,
        Self::CheckpointCompletionTarget,
        Self::CheckpointTimeout,
        Self::EffectiveCacheSize,
        Self::EffectiveIoConcurrency,
        Self::LogAutovacuumMinDuration,
        Self::LogLockWaits,
        Self::LogTempFiles,
        Self::MaintenanceWorkMem,
        Self::MaxWalSize,
        Self::MinWalSize,
        Self::RandomPageCost,
        Self::SharedBuffers,
        Self::TrackIoTiming,
        Self::WalCompression,
        Self::WorkMem,
    ];

    /// As the server calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AutovacuumVacuumCostLimit => "autovacuum_vacuum_cost_limit",
            Self::AutovacuumVacuumScaleFactor => "autovacuum_vacuum_scale_factor",
            Self::CheckpointCompletionTarget => "checkpoint_completion_target",
            Self::CheckpointTimeout => "checkpoint_timeout",
            Self::EffectiveCacheSize => "effective_cache_size",
            Self::EffectiveIoConcurrency => "effective_io_concurrency",
            Self::LogAutovacuumMinDuration => "log_autovacuum_min_duration",
            Self::LogLockWaits => "log_lock_waits",
            Self::LogTempFiles => "log_temp_files",
            Self::MaintenanceWorkMem => "maintenance_work_mem",
            Self::MaxWalSize => "max_wal_size",
            Self::MinWalSize => "min_wal_size",
            Self::RandomPageCost => "random_page_cost",
            Self::SharedBuffers => "shared_buffers",
            Self::TrackIoTiming => "track_io_timing",
            Self::WalCompression => "wal_compression",
            Self::WorkMem => "work_mem",
        }
    }

    /// The setting of that name, or why we do not change it.
    pub fn find(name: &str) -> Result<Self, &'static str> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == name);
        found.ok_or_else(|| {
            let why = LEFT_TO_PEOPLE.iter().find(|(left, _)| *left == name).map(|(_, why)| *why);
            why.unwrap_or("it is none of the settings that Groundskeeper changes")
        })
    }

    /// Whether only a restart takes it up. We never restart a server.
    pub fn needs_restart(self) -> bool {
        self == Self::SharedBuffers
    }

    /// What may get worse.
    pub fn risk(self) -> &'static str {
        match self {
            Self::AutovacuumVacuumCostLimit | Self::AutovacuumVacuumScaleFactor => {
                "autovacuum takes more of the storage"
            }
            Self::CheckpointCompletionTarget => "none that is known: writes are spread over a longer time",
            Self::CheckpointTimeout => "recovery after a crash takes longer",
            Self::EffectiveCacheSize | Self::RandomPageCost => "plans change; a statement may get slower",
            Self::EffectiveIoConcurrency => "more questions to the storage at once",
            Self::LogAutovacuumMinDuration => "more lines in the log",
            Self::LogLockWaits | Self::LogTempFiles => "more lines in the log, with the statements that they are about",
            Self::MaintenanceWorkMem | Self::WorkMem => "memory: several sessions may take it at once",
            Self::MaxWalSize | Self::MinWalSize => "room in pg_wal; recovery after a crash takes longer",
            Self::SharedBuffers => "memory at the next restart; where it is not there, the server does not start",
            Self::TrackIoTiming => "some processor where its clock is slow (pg_test_timing)",
            Self::WalCompression => "some processor for each checkpoint",
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What becomes of the line of a setting in `postgresql.auto.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Change {
    /// It gets this value, while the server runs with the one that was seen when this was proposed.
    Set { value: SettingValue },
    /// What we wrote goes, while it is still there: for the line that was there before, or for none.
    PutBack { line: Option<SettingValue> },
}

impl Change {
    /// What the line says afterwards.
    fn line(&self) -> Option<&SettingValue> {
        match self {
            Self::Set { value } => Some(value),
            Self::PutBack { line } => line.as_ref(),
        }
    }

    /// The statement that writes the line. Nothing in it needs quoting: see [`SettingValue`].
    pub fn writing(&self, setting: Parameter) -> String {
        match self.line() {
            Some(value) => format!("ALTER SYSTEM SET {setting} = '{value}'"),
            None => format!("ALTER SYSTEM RESET {setting}"),
        }
    }

    /// Whether the line is as it should be.
    pub fn is_written(&self, line: Option<&str>) -> bool {
        self.line().map(SettingValue::as_str) == line
    }

    /// Whether the server has nothing of it left to do: the line is there, and what it says is in force, or waits for a
    /// restart where it takes one.
    pub(super) fn verify(&self, setting: Parameter, before: &StepState, after: &StepState) -> Verification {
        let StepState::Setting { value: was, .. } = before else { return unread() };
        let StepState::Setting { value, unit, owner, line, pending_restart } = after else { return unread() };
        if !self.is_written(line.as_deref()) {
            let says = line.as_deref().map_or_else(|| "has no line for it".to_owned(), |line| format!("says {line}"));
            return Verification::DidNotHelp(format!("postgresql.auto.conf {says}"));
        }
        if *pending_restart && setting.needs_restart() {
            return Verification::Helped(format!("written; the server runs with {value} until it is restarted"));
        }
        let is_taken = match self.line() {
            Some(line) => is_same(line.as_str(), value, unit.as_deref()),
            None => owner != BY_ALTER_SYSTEM,
        };
        if is_taken && !pending_restart {
            Verification::Helped(format!("{setting} {was} -> {value}"))
        } else {
            Verification::DidNotHelp(format!("it is written, and the server still runs with {value}"))
        }
    }
}

fn unread() -> Verification {
    Verification::DidNotHelp("the setting could not be read".to_owned())
}

/// As [`crate::observation::Owner`] writes it.
const BY_ALTER_SYSTEM: &str = "ALTER SYSTEM";

#[cfg(test)]
mod tests;
