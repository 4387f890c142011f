//! The report of one day: what was seen, what was wrong, what was done, what would have been done.
//!
//! It is made from the record alone, so that it can be made again years later and says the same.

mod text;

use crate::finding::Fingerprint;
use crate::plan::Plan;
use crate::policy::{Autonomy, Outcome};
use crate::quantity::Unit;
use crate::remedy::RiskClass;
use crate::severity::Severity;
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DayReport {
    /// `2026-11-21`, in `zone`.
    pub day: String,
    pub zone: String,
    pub from: Timestamp,
    pub to: Timestamp,
    /// The day is not over yet.
    pub partial: bool,
    pub autonomy: Autonomy,
    pub systems: Vec<SystemReport>,
    pub findings: Vec<FindingLine>,
    pub actions: Vec<ActionLine>,
    /// What the open findings ask for now; only in the report of the present day.
    pub plan: Option<Plan>,
    pub runs: Vec<RunLine>,
    pub notifications_sent: u64,
    pub notifications_failed: u64,
    /// Tasks of the calendar that this build does not have yet: never shown as done.
    pub not_available: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SystemReport {
    pub system: SystemId,
    /// Readings that were answered, and all; one reading a minute is kept.
    pub answered: u64,
    pub readings: u64,
    pub figures: Vec<Figure>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub metric: String,
    pub subject: String,
    pub unit: Unit,
    pub min: f64,
    pub mean: f64,
    pub max: f64,
    pub last: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FindingLine {
    pub fingerprint: Fingerprint,
    pub check: String,
    pub system: SystemId,
    pub severity: Severity,
    pub summary: String,
    pub opened: Timestamp,
    pub resolved: Option<Timestamp>,
    pub ignored: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionLine {
    pub at: Timestamp,
    pub remedy: String,
    pub class: RiskClass,
    pub statement: String,
    pub outcome: Outcome,
    pub detail: String,
    /// `daemon`, or the person who applied it.
    pub by: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunLine {
    pub task: String,
    pub runs: u64,
    pub failed: u64,
    pub last: Timestamp,
    pub last_summary: String,
}

impl DayReport {
    /// The report as a person reads it in a terminal or a mail.
    pub fn to_text(&self) -> String {
        text::of(self)
    }
}

#[cfg(test)]
mod tests;
