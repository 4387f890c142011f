//! The report of one day: what was seen, what was wrong, what was done, what would have been done.
//!
//! It is made from the record alone, so that it can be made again years later and says the same.

use crate::finding::Fingerprint;
use crate::plan::Plan;
use crate::policy::{Autonomy, Decision, Outcome};
use crate::quantity::{Unit, format_number, format_seconds};
use crate::remedy::RiskClass;
use crate::severity::Severity;
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

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
        let mut out = String::new();
        // Writing to a String cannot fail; the results are dropped for that reason.
        let _ = self.write_head(&mut out);
        let _ = self.write_findings(&mut out);
        let _ = self.write_actions(&mut out);
        let _ = self.write_systems(&mut out);
        let _ = self.write_runs(&mut out);
        out
    }

    fn write_head(&self, out: &mut String) -> std::fmt::Result {
        let so_far = if self.partial { ", so far" } else { "" };
        writeln!(out, "Report of {} ({}{so_far})", self.day, self.zone)?;
        let open = self.findings.iter().filter(|line| line.resolved.is_none() && !line.ignored).count();
        let resolved = self.findings.iter().filter(|line| line.resolved.is_some()).count();
        let verdict = match (open, resolved) {
            (0, 0) => "Nothing was wrong.".to_owned(),
            (0, resolved) => format!("Nothing is wrong now; {resolved} resolved during the day."),
            (open, 0) => format!("{open} open."),
            (open, resolved) => format!("{open} open, {resolved} resolved during the day."),
        };
        writeln!(
            out,
            "{verdict} {} actions taken. Autonomy: {}.",
            self.actions.iter().filter(|action| action.outcome != Outcome::Abandoned).count(),
            self.autonomy
        )
    }

    fn write_findings(&self, out: &mut String) -> std::fmt::Result {
        if self.findings.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nFindings")?;
        for line in &self.findings {
            let state = match (line.resolved, line.ignored) {
                (Some(at), _) => {
                    format!("resolved after {}", format_seconds(crate::quantity::seconds_between(line.opened, at)))
                }
                (None, true) => "open, ignored".to_owned(),
                (None, false) => "open".to_owned(),
            };
            writeln!(
                out,
                "  {}  {:<8}  {}  {} [{state}]",
                line.opened.strftime("%H:%M"),
                line.severity,
                line.system,
                line.summary
            )?;
            writeln!(out, "         {}  {}", line.fingerprint.short(), line.check)?;
        }
        Ok(())
    }

    fn write_actions(&self, out: &mut String) -> std::fmt::Result {
        if !self.actions.is_empty() {
            writeln!(out, "\nDone")?;
            for action in &self.actions {
                let outcome = match action.outcome {
                    Outcome::Helped => "helped",
                    Outcome::DidNotHelp => "did not help",
                    Outcome::Failed => "failed",
                    Outcome::Abandoned => "abandoned before it happened",
                    Outcome::Running => "running",
                };
                writeln!(
                    out,
                    "  {}  {}  ({}, by {})",
                    action.at.strftime("%H:%M"),
                    action.statement,
                    action.class,
                    action.by
                )?;
                writeln!(out, "         {outcome}: {}", action.detail)?;
            }
        }
        let Some(plan) = &self.plan else { return Ok(()) };
        if plan.items.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nWould do, and has not (plan {})", plan.short_hash())?;
        for item in &plan.items {
            let why_not = match &item.decision {
                Decision::Do => "due at the next run".to_owned(),
                Decision::NeedsApproval { reason } | Decision::Skip { reason, .. } => reason.clone(),
            };
            writeln!(out, "  {}\n         why: {}; not now: {why_not}", item.statement, item.why)?;
        }
        Ok(())
    }

    fn write_systems(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nSystems")?;
        for system in &self.systems {
            let up = if system.readings == 0 {
                "no reading".to_owned()
            } else {
                let share = system.answered as f64 / system.readings as f64 * 100.0;
                format!(
                    "answered {} of {} readings ({})",
                    system.answered,
                    system.readings,
                    format_number(share, Unit::Percent)
                )
            };
            writeln!(out, "  {:<20} {up}", system.system)?;
            for figure in &system.figures {
                let name = if figure.subject.is_empty() {
                    figure.metric.replace('_', " ")
                } else {
                    format!("{} of {}", figure.metric.replace('_', " "), figure.subject)
                };
                let show = |value: f64| format_number(value, figure.unit);
                if (figure.max - figure.min).abs() < f64::EPSILON {
                    writeln!(out, "    {name:<38} {}", show(figure.last))?;
                } else {
                    writeln!(
                        out,
                        "    {name:<38} {}  (between {} and {}, mean {})",
                        show(figure.last),
                        show(figure.min),
                        show(figure.max),
                        show(figure.mean)
                    )?;
                }
            }
        }
        Ok(())
    }

    fn write_runs(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nCalendar")?;
        if self.runs.is_empty() {
            writeln!(out, "  nothing ran")?;
        }
        for run in &self.runs {
            let failed = if run.failed > 0 { format!(", {} failed", run.failed) } else { String::new() };
            let times = if run.runs == 1 { "once".to_owned() } else { format!("{} times", run.runs) };
            writeln!(
                out,
                "  {:<22} {times}{failed}, last at {}: {}",
                run.task,
                run.last.strftime("%H:%M"),
                run.last_summary
            )?;
        }
        if !self.not_available.is_empty() {
            writeln!(out, "  not yet available in this version: {}", self.not_available.join(", "))?;
        }
        if self.notifications_sent + self.notifications_failed > 0 {
            writeln!(out, "  notifications: {} sent, {} failed", self.notifications_sent, self.notifications_failed)?;
        }
        Ok(())
    }
}
