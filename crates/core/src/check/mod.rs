//! Judging: a pure function turns what was seen into findings.
//!
//! A check never fails quietly. Its answer is *ok* (no findings), *failing* (findings) or *unknown* with the reason;
//! what could not be read is never taken for good news. Thresholds have defaults with their source, and the
//! configuration may override each by name.
//!
//! To add a check: one item in a topic file, one line in [`catalogue`], one fixture in the topic's tests.

pub mod backup;
pub mod catalogue;
pub mod host;
pub mod http;
pub mod logs;
pub mod postgres;
pub mod redis;
#[cfg(test)]
mod verdicts;

use crate::finding::{Draft, Finding};
use crate::observation::{self, Failure, Gap, Observation, Reading};
use crate::quantity::{Unit, Value};
use crate::severity::Severity;
use crate::system::{SystemId, SystemKind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One thing that is looked at, with all that a person needs to understand its answer.
#[derive(Debug)]
pub struct Check {
    /// `system.noun_condition`, stable for ever: it is in configurations and in records.
    pub id: &'static str,
    pub title: &'static str,
    pub runbook: Runbook,
    /// Where the facts come from: the SQL, the INFO fields, the system call.
    pub source: &'static str,
    pub thresholds: &'static [Threshold],
    pub hold: Hold,
    pub judge: Judge,
}

impl Check {
    pub fn system(&self) -> SystemKind {
        match self.judge {
            Judge::Reach(kind, _) => kind,
            Judge::Postgres(_) => SystemKind::Postgres,
            Judge::Redis(_) => SystemKind::Redis,
            Judge::Http(_) => SystemKind::Http,
            Judge::Host(_) => SystemKind::Host,
            Judge::Logs(_) => SystemKind::Logs,
            Judge::Backup(_) => SystemKind::Backup,
        }
    }
}

/// The human text of a check.
#[derive(Debug, Clone, Copy)]
pub struct Runbook {
    /// What it means for users when this fails.
    pub means: &'static str,
    /// How to see it with one's own eyes, without Groundskeeper.
    pub confirm: &'static str,
    /// What to do, safest step first.
    pub act: &'static str,
}

/// A number that a check compares with.
#[derive(Debug, Clone, Copy)]
pub struct Threshold {
    /// The key in `[checks."…"]`: `warning`, `critical`, `minimum_calls` …
    pub name: &'static str,
    pub default: f64,
    pub unit: Unit,
    /// What it bounds and why this default, with its source.
    pub why: &'static str,
}

/// How long a condition must hold before its finding opens, and be gone before it resolves, in seconds. Binary facts
/// (down, refused) use zero: there is nothing to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    pub open_after: f64,
    pub clear_after: f64,
}

impl Hold {
    pub const NONE: Self = Self { open_after: 0.0, clear_after: 0.0 };

    pub const fn minutes(open_after: f64, clear_after: f64) -> Self {
        Self { open_after: open_after * 60.0, clear_after: clear_after * 60.0 }
    }
}

/// The judging function by the observation that it needs.
#[derive(Debug, Clone, Copy)]
pub enum Judge {
    /// Is it there at all? Gets the failure when it is not.
    Reach(SystemKind, fn(&Failure) -> Draft),
    Postgres(fn(&Sight<'_, observation::Postgres>) -> Judged),
    Redis(fn(&Sight<'_, observation::Redis>) -> Judged),
    Http(fn(&Sight<'_, observation::Http>) -> Judged),
    Host(fn(&Sight<'_, observation::Host>) -> Judged),
    Logs(fn(&Sight<'_, observation::Logs>) -> Judged),
    Backup(fn(&Sight<'_, observation::Backup>) -> Judged),
}

/// No drafts means ok.
pub type Judged = Result<Vec<Draft>, Unknown>;

/// Why a check has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    pub kind: UnknownKind,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownKind {
    /// The system did not answer; its `unreachable` finding says more.
    NoAnswer,
    /// This part could not be read: permission, version, an error.
    NotRead,
    /// The check compares two readings and this was the first.
    NeedsHistory,
    /// Only the deeper rounds ask: the daily health check and the weekly maintenance. This was none of them.
    NotAsked,
    /// Nothing here can tell (a container without a time service of its own), and nothing is to be mended for that.
    NotHere,
}

impl UnknownKind {
    /// Whether somebody should do something about it. A first reading and a place without the means are no trouble.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::NoAnswer | Self::NotRead)
    }
}

impl Unknown {
    pub fn needs_history(what: &str) -> Self {
        Self {
            kind: UnknownKind::NeedsHistory,
            reason: format!("{what} is measured between two readings, and this was the first"),
        }
    }

    pub fn not_asked(what: &str) -> Self {
        Self {
            kind: UnknownKind::NotAsked,
            reason: format!("{what} is asked by the daily health check and the weekly maintenance only"),
        }
    }
}

impl From<&Gap> for Unknown {
    fn from(gap: &Gap) -> Self {
        Self { kind: UnknownKind::NotRead, reason: gap.reason.clone() }
    }
}

/// What a judging function sees: the present, the reading before it (if there was a good one), and its limits.
#[derive(Debug)]
pub struct Sight<'a, O> {
    pub now: Timestamp,
    /// How long the reading took to connect and be answered once, in seconds.
    pub latency: f64,
    pub seen: &'a O,
    /// The last successful reading before this one, with its time.
    pub before: Option<(Timestamp, &'a O)>,
    pub limits: Limits<'a>,
}

impl<'a, O> Sight<'a, O> {
    /// The threshold of that name; a name that the check does not declare is a bug that the catalogue's test finds.
    pub fn limit(&self, name: &str) -> f64 {
        self.limits.get(name)
    }

    /// The earlier reading and the seconds since it; unknown when this is the first.
    pub fn since(&self, what: &str) -> Result<(&'a O, f64), Unknown> {
        match self.before {
            Some((at, earlier)) if self.now > at => Ok((earlier, crate::quantity::seconds_between(at, self.now))),
            _ => Err(Unknown::needs_history(what)),
        }
    }

    /// Compares with `warning` and `critical`, higher is worse. Gives the severity and the threshold crossed.
    pub fn graded(&self, value: f64) -> Option<(Severity, f64)> {
        [("critical", Severity::Critical), ("warning", Severity::Warning)]
            .into_iter()
            .filter(|(name, _)| self.limits.declares(name))
            .map(|(name, severity)| (severity, self.limit(name)))
            .find(|(_, limit)| value >= *limit)
    }

    /// The same where lower is worse.
    pub fn graded_below(&self, value: f64) -> Option<(Severity, f64)> {
        [("critical", Severity::Critical), ("warning", Severity::Warning)]
            .into_iter()
            .filter(|(name, _)| self.limits.declares(name))
            .map(|(name, severity)| (severity, self.limit(name)))
            .find(|(_, limit)| value < *limit)
    }
}

/// The thresholds in force for one check.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    check: &'a Check,
    overrides: Option<&'a BTreeMap<String, f64>>,
}

impl Limits<'_> {
    fn declares(&self, name: &str) -> bool {
        self.check.thresholds.iter().any(|threshold| threshold.name == name)
    }

    /// The value in force; not a number for a name that the check does not declare.
    pub fn get(&self, name: &str) -> f64 {
        if let Some(value) = self.overrides.and_then(|overrides| overrides.get(name)) {
            return *value;
        }
        self.check.thresholds.iter().find(|threshold| threshold.name == name).map_or(f64::NAN, |found| found.default)
    }
}

/// What the configuration says about checks: thresholds, holds, and which are switched off.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tuning {
    checks: BTreeMap<String, CheckTuning>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckTuning {
    pub disabled: bool,
    pub open_after: Option<f64>,
    pub clear_after: Option<f64>,
    pub thresholds: BTreeMap<String, f64>,
}

impl Tuning {
    pub fn set(&mut self, check: &str, tuning: CheckTuning) {
        self.checks.insert(check.to_owned(), tuning);
    }

    /// The same tuning with one threshold changed: the weekly maintenance asks stricter questions than the watch.
    #[must_use]
    pub fn with_threshold(mut self, check: &str, name: &str, value: f64) -> Self {
        self.checks.entry(check.to_owned()).or_default().thresholds.insert(name.to_owned(), value);
        self
    }

    pub fn is_disabled(&self, check: &str) -> bool {
        self.checks.get(check).is_some_and(|tuning| tuning.disabled)
    }

    pub fn hold(&self, check: &Check) -> Hold {
        let tuning = self.checks.get(check.id);
        Hold {
            open_after: tuning.and_then(|t| t.open_after).unwrap_or(check.hold.open_after),
            clear_after: tuning.and_then(|t| t.clear_after).unwrap_or(check.hold.clear_after),
        }
    }

    pub fn limits<'a>(&'a self, check: &'a Check) -> Limits<'a> {
        Limits { check, overrides: self.checks.get(check.id).map(|tuning| &tuning.thresholds) }
    }
}

/// The answer of one check about one system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Judgement {
    pub check: String,
    pub system: SystemId,
    pub status: Status,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    Ok,
    Failing { findings: Vec<Finding> },
    Unknown(Unknown),
}

impl Status {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing { .. } => "failing",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Runs every enabled check of the system's kind over one observation, in the catalogue's order. What only a deeper round
/// asks is not judged by another one: its last answer stands.
pub fn judge_all(
    system: &SystemId,
    current: &Observation,
    before: Option<&Observation>,
    tuning: &Tuning,
    now: Timestamp,
) -> Vec<Judgement> {
    catalogue::of(system.kind)
        .filter(|check| !tuning.is_disabled(check.id))
        .map(|check| judge(check, system, current, before, tuning, now))
        .filter(|judgement| !matches!(&judgement.status, Status::Unknown(Unknown { kind: UnknownKind::NotAsked, .. })))
        .collect()
}

/// Runs one check. A check of another kind of system is a caller's mistake and comes back as unknown.
pub fn judge(
    check: &Check,
    system: &SystemId,
    current: &Observation,
    before: Option<&Observation>,
    tuning: &Tuning,
    now: Timestamp,
) -> Judgement {
    let limits = tuning.limits(check);
    let judged = match (&check.judge, current) {
        (Judge::Reach(_, about), seen) => Ok(seen.failure().map(about).into_iter().collect()),
        (Judge::Postgres(function), Observation::Postgres(reading)) => {
            sighted(*function, reading, before.and_then(Observation::as_postgres), limits, now)
        }
        (Judge::Redis(function), Observation::Redis(reading)) => {
            sighted(*function, reading, before.and_then(Observation::as_redis), limits, now)
        }
        (Judge::Http(function), Observation::Http(reading)) => {
            sighted(*function, reading, before.and_then(Observation::as_http), limits, now)
        }
        (Judge::Host(function), Observation::Host(reading)) => {
            sighted(*function, reading, before.and_then(Observation::as_host), limits, now)
        }
        (Judge::Logs(function), Observation::Logs(reading)) => {
            sighted(*function, reading, before.and_then(Observation::as_logs), limits, now)
        }
        (Judge::Backup(function), Observation::Backup(reading)) => {
            sighted(*function, reading, before.and_then(Observation::as_backup), limits, now)
        }
        _ => Err(Unknown { kind: UnknownKind::NotRead, reason: format!("{} does not apply to {system}", check.id) }),
    };
    let status = match judged {
        Ok(drafts) if drafts.is_empty() => Status::Ok,
        Ok(drafts) => Status::Failing {
            findings: drafts.into_iter().map(|draft| Finding::from_draft(check.id, system, draft)).collect(),
        },
        Err(unknown) => Status::Unknown(unknown),
    };
    Judgement { check: check.id.to_owned(), system: system.clone(), status }
}

fn sighted<O>(
    function: fn(&Sight<'_, O>) -> Judged,
    reading: &Reading<O>,
    before: Option<&Reading<O>>,
    limits: Limits<'_>,
    now: Timestamp,
) -> Judged {
    let seen = reading.outcome.as_ref().map_err(|failure| Unknown {
        kind: UnknownKind::NoAnswer,
        reason: format!("no answer: {}", failure.message),
    })?;
    let before = before.and_then(|earlier| Some((earlier.at, earlier.outcome.as_ref().ok()?)));
    function(&Sight { now, latency: reading.latency, seen, before, limits })
}

/// The value and the threshold as evidence share a unit; this keeps the two in step.
pub(crate) fn measured(value: f64, limit: f64, unit: Unit) -> (Value, Value) {
    (Value::number(value, unit), Value::number(limit, unit))
}
