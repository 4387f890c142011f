//! The sections of the page: each takes one value of `app` and has every word ready for the template.

use super::moment::{Moment, Present};
use crate::app::api::{
    ActionResult, ActionView, CalendarEntry, CalendarState, FindingState, FindingView, RunView, SystemState, SystemView,
};
use groundskeeper_core::policy::Outcome;
use groundskeeper_core::quantity::{format_seconds, seconds_between};
use groundskeeper_core::{Severity, Value};

/// More are counted, not listed; the command line lists all.
const OFFENDERS_SHOWN: usize = 20;

/// Colour, symbol and word belong together: nobody should need to see colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) class: &'static str,
    pub(super) symbol: &'static str,
    pub(super) word: &'static str,
}

const fn mark(class: &'static str, symbol: &'static str, word: &'static str) -> Mark {
    Mark { class, symbol, word }
}

fn of_state(state: SystemState) -> Mark {
    match state {
        SystemState::Ok => mark("fine", "✓", "fine"),
        SystemState::Unknown => mark("unknown", "?", "unknown"),
        SystemState::Info => mark("info", "i", "note"),
        SystemState::Warning => mark("warning", "!", "warning"),
        SystemState::Critical => mark("critical", "✕", "critical"),
        SystemState::Waiting => mark("unknown", "…", "not read yet"),
    }
}

fn of_severity(severity: Severity) -> Mark {
    match severity {
        Severity::Info => mark("info", "i", "note"),
        Severity::Warning => mark("warning", "!", "warning"),
        Severity::Critical => mark("critical", "✕", "critical"),
    }
}

pub(super) struct Card {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) mark: Mark,
    pub(super) read: Option<Moment>,
    pub(super) took: Option<String>,
    /// `14 checks are fine, 1 fails.`
    pub(super) counts: String,
    pub(super) unknown: Vec<(String, String)>,
    pub(super) facts: Vec<(String, String)>,
}

impl Card {
    pub(super) fn new(view: &SystemView, present: &Present) -> Self {
        Self {
            name: view.system.to_string(),
            address: view.address.clone(),
            mark: of_state(view.state),
            read: view.read.map(|at| present.moment(at)),
            took: view.took.map(format_seconds),
            counts: counts(view),
            unknown: view.unknown.clone(),
            facts: view.facts.clone(),
        }
    }
}

fn counts(view: &SystemView) -> String {
    let fine = match view.ok {
        0 => None,
        1 => Some("1 check is fine".to_owned()),
        number => Some(format!("{number} checks are fine")),
    };
    let failing = match view.failing {
        0 => None,
        1 if view.ok == 0 => Some("1 check fails".to_owned()),
        number if view.ok == 0 => Some(format!("{number} checks fail")),
        1 => Some("1 fails".to_owned()),
        number => Some(format!("{number} fail")),
    };
    let parts: Vec<String> = [fine, failing].into_iter().flatten().collect();
    parts.join(", ")
}

pub(super) struct Finding {
    pub(super) mark: Mark,
    pub(super) system: String,
    pub(super) subject: String,
    pub(super) check: String,
    pub(super) summary: String,
    pub(super) evidence: Vec<Fact>,
    /// Without any, the column is left out.
    pub(super) has_thresholds: bool,
    pub(super) offenders: Vec<(String, String)>,
    pub(super) offenders_more: usize,
    pub(super) fix: String,
    pub(super) since: Moment,
    pub(super) fingerprint: String,
    /// Enough to type.
    pub(super) short: String,
    /// Gone, but not for long enough.
    pub(super) clearing: bool,
    pub(super) ignored: Option<Ignored>,
}

pub(super) struct Fact {
    pub(super) what: String,
    pub(super) value: String,
    pub(super) threshold: String,
    pub(super) source: String,
}

pub(super) struct Ignored {
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) until: Moment,
}

impl Finding {
    pub(super) fn new(view: &FindingView, present: &Present) -> Self {
        let finding = &view.finding;
        let evidence = finding.evidence.iter().map(|evidence| Fact {
            what: evidence.what.clone(),
            value: shown(&evidence.value, present),
            threshold: evidence.threshold.as_ref().map(|limit| shown(limit, present)).unwrap_or_default(),
            source: evidence.source.clone(),
        });
        let offenders = finding.offenders.iter().take(OFFENDERS_SHOWN);
        Self {
            mark: of_severity(finding.severity),
            system: finding.system.to_string(),
            subject: finding.subject.to_string(),
            check: finding.check.clone(),
            summary: finding.summary.clone(),
            evidence: evidence.collect(),
            has_thresholds: finding.evidence.iter().any(|evidence| evidence.threshold.is_some()),
            offenders: offenders.map(|offender| (offender.target.to_string(), offender.note.clone())).collect(),
            offenders_more: finding.offenders.len().saturating_sub(OFFENDERS_SHOWN),
            fix: finding.fix.clone(),
            since: present.moment(view.opened.unwrap_or(view.first_seen)),
            fingerprint: finding.fingerprint.0.clone(),
            short: finding.fingerprint.short().to_owned(),
            clearing: view.state == FindingState::Clearing,
            ignored: view.ignored.as_ref().map(|ignored| Ignored {
                by: ignored.by.clone(),
                reason: ignored.reason.clone(),
                until: present.moment(ignored.until),
            }),
        }
    }
}

/// A moment is shown in the configured zone, like every other time of the page.
fn shown(value: &Value, present: &Present) -> String {
    if let Value::Time { at } = value { present.moment(*at).exact } else { value.to_string() }
}

pub(super) struct PendingFinding {
    pub(super) mark: Mark,
    pub(super) system: String,
    pub(super) summary: String,
    pub(super) seen: Moment,
}

impl PendingFinding {
    pub(super) fn new(view: &FindingView, present: &Present) -> Self {
        Self {
            mark: of_severity(view.finding.severity),
            system: view.finding.system.to_string(),
            summary: view.finding.summary.clone(),
            seen: present.moment(view.first_seen),
        }
    }
}

pub(super) struct Action {
    pub(super) at: Moment,
    pub(super) mark: Mark,
    pub(super) remedy: String,
    pub(super) class: &'static str,
    pub(super) statement: String,
    pub(super) why: String,
    pub(super) by: String,
    pub(super) detail: String,
}

impl Action {
    pub(super) fn new(view: &ActionView, present: &Present) -> Self {
        let (mark, detail) = match &view.result {
            ActionResult::Ended { outcome, detail } => (of_outcome(*outcome), detail),
            ActionResult::Skipped { reason } => (mark("unknown", "–", "not done"), reason),
        };
        Self {
            at: present.moment(view.at),
            mark,
            remedy: view.remedy.clone(),
            class: view.class.as_str(),
            statement: view.statement.clone(),
            why: view.why.clone(),
            by: view.by.clone(),
            detail: detail.clone(),
        }
    }
}

fn of_outcome(outcome: Outcome) -> Mark {
    match outcome {
        Outcome::Helped => mark("fine", "✓", "helped"),
        Outcome::DidNotHelp => mark("warning", "!", "did not help"),
        Outcome::Failed => mark("critical", "✕", "failed"),
        Outcome::Abandoned => mark("unknown", "–", "abandoned before it happened"),
        Outcome::Running => mark("info", "…", "running"),
    }
}

pub(super) struct Run {
    pub(super) task: String,
    pub(super) trigger: String,
    pub(super) started: Moment,
    pub(super) took: Option<String>,
    pub(super) mark: Mark,
    pub(super) summary: String,
}

impl Run {
    pub(super) fn new(view: &RunView, present: &Present) -> Self {
        Self {
            task: view.task.clone(),
            trigger: view.trigger.clone(),
            started: present.moment(view.started),
            took: view.ended.map(|ended| format_seconds(seconds_between(view.started, ended).max(0.0))),
            mark: of_run(&view.outcome),
            summary: view.summary.clone(),
        }
    }
}

fn of_run(outcome: &str) -> Mark {
    match outcome {
        "ok" => mark("fine", "✓", "ok"),
        "running" => mark("info", "…", "running"),
        "interrupted" => mark("warning", "!", "interrupted"),
        _ => mark("critical", "✕", "failed"),
    }
}

pub(super) struct Calendar {
    /// What can run, the next first.
    pub(super) coming: Vec<Coming>,
    /// On the calendar of the design, not in this build: shown, and never as if it ran.
    pub(super) not_available: Vec<Coming>,
}

pub(super) struct Coming {
    pub(super) task: String,
    pub(super) what: String,
    pub(super) schedule: String,
    pub(super) zone: String,
    pub(super) next: Option<Moment>,
    pub(super) last: Option<Run>,
    /// Why there is no next run; empty when there is one.
    pub(super) stopped: &'static str,
}

impl Calendar {
    pub(super) fn new(entries: &[CalendarEntry], present: &Present) -> Self {
        let (not_available, mut coming): (Vec<&CalendarEntry>, Vec<&CalendarEntry>) =
            entries.iter().partition(|entry| entry.state == CalendarState::NotAvailable);
        coming.sort_by_key(|entry| (entry.state != CalendarState::Scheduled, entry.next.is_none(), entry.next));
        let shown = |list: Vec<&CalendarEntry>| list.into_iter().map(|entry| Coming::new(entry, present)).collect();
        Self { coming: shown(coming), not_available: shown(not_available) }
    }
}

impl Coming {
    fn new(entry: &CalendarEntry, present: &Present) -> Self {
        Self {
            task: entry.task.clone(),
            what: entry.what.clone(),
            schedule: entry.schedule.clone(),
            zone: entry.zone.clone(),
            next: entry.next.filter(|_| entry.state == CalendarState::Scheduled).map(|at| present.moment(at)),
            last: entry.last.as_ref().map(|run| Run::new(run, present)),
            stopped: match entry.state {
                CalendarState::Scheduled => "",
                CalendarState::Disabled => "switched off",
                CalendarState::Paused => "paused",
                CalendarState::NotConfigured => "not configured",
                CalendarState::NotAvailable => "not yet available",
            },
        }
    }
}
