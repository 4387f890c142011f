//! Remedies: the declared ways to mend a finding.
//!
//! A remedy says which finding it answers, how risky it is, what its steps are, how success is recognised and what can
//! be undone. It is data; the executor carries it out under guards. There is no step for what is refused for ever
//! (FLUSHALL, VACUUM FULL, ending a superuser's session): a step that does not exist cannot be reached by a bug.

mod declared;
mod outcome;
mod partition;
mod sequence;
pub mod setting;
mod statistics;
mod step;

pub use declared::{REMEDIES, is_rest_of_reindex};
pub use outcome::{Undo, Verification};
pub use partition::Detach;
pub use sequence::{Advance, FilledColumn};
pub use statistics::{LARGEST_TARGET, next_target, puts_back, statistics_statements};
pub use step::{LARGEST_BATCH, Reindexing, Step, StepState};

use crate::finding::Finding;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How much harm a change could do, and with it who decides. Ordered by risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskClass {
    /// Reading. Always runs.
    Observe,
    /// Backups and proofs. Always runs once configured.
    Protect,
    /// Upkeep that no user notices: analyze, vacuum. Autonomy `assist` and up, inside a maintenance window.
    Routine,
    /// Mends one thing and touches one client: ending an idle transaction. Autonomy `auto` and up.
    Corrective,
    /// Users may notice. Needs an approval of the exact plan.
    Disruptive,
}

impl RiskClass {
    /// Whether it is done inside a maintenance window only.
    pub fn waits_for_window(self) -> bool {
        matches!(self, Self::Routine | Self::Disruptive)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Protect => "protect",
            Self::Routine => "routine",
            Self::Corrective => "corrective",
            Self::Disruptive => "disruptive",
        }
    }
}

impl fmt::Display for RiskClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A Postgres identifier, always quoted: the shortest way to be right.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A step whose intent is in the journal. The `act` modules take nothing else, so that no change can happen that the
/// journal does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalledStep {
    entry: i64,
    step: Step,
}

impl JournalledStep {
    /// To be called by the journal, with the id of the row that is already durable.
    pub fn recorded(entry: i64, step: Step) -> Self {
        Self { entry, step }
    }

    pub fn entry(&self) -> i64 {
        self.entry
    }

    pub fn step(&self) -> &Step {
        &self.step
    }
}

/// A declared fix for the findings of one check.
#[derive(Debug)]
pub struct Remedy {
    pub id: &'static str,
    pub title: &'static str,
    /// The check whose findings it answers; none where a rule of the configuration asks for it.
    pub check: Option<&'static str>,
    /// Checks that fail as well when that one does: their alarms do not hold the cure back either.
    pub eases: &'static [&'static str],
    pub class: RiskClass,
    /// What must hold at the moment of execution, in words; the executor and the server enforce it.
    pub preconditions: &'static str,
    pub verification: &'static str,
    /// Seconds before the same remedy may touch the same subject again.
    pub cooldown: f64,
    /// At most so many executions of this remedy in an hour.
    pub hourly_cap: u32,
    pub propose: fn(&Finding) -> Vec<Proposal>,
}

/// A step that a remedy proposes, with the effect that a person can expect.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    pub step: Step,
    pub why: String,
    pub expected: String,
}

/// The remedy with that id.
pub fn find(id: &str) -> Option<&'static Remedy> {
    REMEDIES.iter().find(|remedy| remedy.id == id)
}

#[cfg(test)]
mod tests;
