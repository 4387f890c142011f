//! The backups on the page: the newest sets, each with its ladder of four marks.

use super::chart::{Chart, Plot, Span};
use super::moment::{Moment, Present};
use crate::app::api::{BackupView, MeasuredView, Measurement, RecoveryPoints, RetentionView};
use crate::app::backup::KEEPER;
use crate::app::measured::{DAYS, took, worst};
use groundskeeper_core::quantity::{format_bytes, format_seconds};
use groundskeeper_core::receipt::{ClimbOutcome, Receipt, Rung};

pub(super) struct Backups {
    pub(super) repository: String,
    /// `120 GiB free of 200 GiB`
    pub(super) space: Option<String>,
    /// Why there is no list of sets; empty when there is one.
    pub(super) empty: String,
    pub(super) last_proof: Option<Proof>,
    /// What is kept, and how many sets would go; a sentence or two.
    pub(super) retention: Option<String>,
    pub(super) charts: Vec<Chart>,
    /// What has no chart yet, a sentence each.
    pub(super) unmeasured: Vec<String>,
    pub(super) sets: Vec<Set>,
}

pub(super) struct Proof {
    pub(super) set: String,
    pub(super) at: Moment,
    /// The measured recovery time.
    pub(super) recovery: Option<String>,
}

pub(super) struct Set {
    pub(super) name: String,
    pub(super) made: Moment,
    pub(super) ladder: Vec<Step>,
    /// `postgres.main, 2 GiB at the source, 35 MiB added in 12 s`
    pub(super) what: String,
    pub(super) recovery: Option<String>,
    /// What is missing in it and what failed, a sentence each.
    pub(super) wrong: Vec<String>,
    /// Why no rule keeps it.
    pub(super) goes: Option<String>,
}

fn retention(view: &RetentionView) -> String {
    let going = match view.going.len() {
        0 => "No set is to go.".to_owned(),
        1 => "1 set is to go".to_owned(),
        many => format!("{many} sets are to go"),
    };
    let how = match (view.going.len(), view.applies) {
        (0, _) => "",
        (_, true) => " with the task retention, in the maintenance window.",
        (_, false) => "; `groundskeeper backup prune --apply` removes them.",
    };
    format!("Kept: {}. {going}{how}", view.rules)
}

/// One rung: a number and a symbol to see, words to hear.
pub(super) struct Step {
    pub(super) class: &'static str,
    pub(super) symbol: &'static str,
    pub(super) number: usize,
    pub(super) words: String,
}

impl Backups {
    pub(super) fn new(view: &BackupView, present: &Present) -> Self {
        let empty = match (&view.failure, view.read) {
            (Some(why), _) => format!("The sets are not known: {why}"),
            (None, None) => "Not read yet.".to_owned(),
            (None, Some(_)) if view.sets.is_empty() => "There is no set yet.".to_owned(),
            (None, Some(_)) => String::new(),
        };
        Self {
            repository: view.repository.clone(),
            space: view.space.map(|space| {
                format!("{} free of {}", format_bytes(space.free as f64), format_bytes(space.total as f64))
            }),
            empty,
            last_proof: view.last_proof.as_ref().map(|proof| Proof {
                set: proof.set.to_string(),
                at: present.moment(proof.at),
                recovery: proof.recovery_seconds.map(format_seconds),
            }),
            retention: view.retention.as_ref().map(retention),
            charts: charts(&view.measured, present),
            unmeasured: if view.sets.is_empty() { Vec::new() } else { unmeasured(&view.measured) },
            sets: view.sets.iter().map(|receipt| Set::new(receipt, view.retention.as_ref(), present)).collect(),
        }
    }
}

/// Drills are points of one line however far apart they are; a day without a measurement is a gap.
const ANY_SECONDS: f64 = f64::INFINITY;
const NEXT_DAY_SECONDS: f64 = 48.0 * 3_600.0;

fn charts(view: &MeasuredView, present: &Present) -> Vec<Chart> {
    let points = view.recovery_points.iter().flat_map(|points| &points.days);
    let span = Span::of(view.recovery_times.iter().chain(points).copied(), present.now());
    let recovery = took(&view.recovery_times).map(|took| Chart {
        id: "chart-recovery".to_owned(),
        title: "Recovery time".to_owned(),
        what: "from the start of a restore to the first answer, in each drill",
        sentence: format!("It took {took}."),
        plot: plot(&view.recovery_times, span, ANY_SECONDS, present),
        rows: rows(&view.recovery_times, present),
    });
    let lost = view.recovery_points.iter().filter_map(|points| lost(points, span, present));
    recovery.into_iter().chain(lost).collect()
}

fn lost(points: &RecoveryPoints, span: Span, present: &Present) -> Option<Chart> {
    let sentence = format!("A disaster would have taken at most the last {}.", worst(&points.days)?);
    let (id, of, what) = match &points.system {
        Some(system) => (
            format!("chart-risk-{system}"),
            system.to_string(),
            "how long it took until what was written was in the repository, at the worst of each day",
        ),
        None => (
            "chart-risk-sets".to_owned(),
            "what is only in sets".to_owned(),
            "the age of the newest whole set, at the worst of each day",
        ),
    };
    let (plot, rows) = (plot(&points.days, span, NEXT_DAY_SECONDS, present), rows(&points.days, present));
    Some(Chart { id, title: format!("At risk in {of}"), what, sentence, plot, rows })
}

fn plot(measured: &[Measurement], span: Span, joined: f64, present: &Present) -> Plot {
    let words = |one: &Measurement| format!("{}: {}", present.moment(one.at).exact, format_seconds(one.seconds));
    let measured: Vec<(Measurement, String)> = measured.iter().map(|one| (*one, words(one))).collect();
    Plot::new(&measured, span, joined, |back| present.day(back))
}

fn rows(measured: &[Measurement], present: &Present) -> Vec<(Moment, String)> {
    measured.iter().rev().map(|one| (present.moment(one.at), format_seconds(one.seconds))).collect()
}

fn unmeasured(view: &MeasuredView) -> Vec<String> {
    let mut sentences = Vec::new();
    if view.recovery_times.is_empty() {
        sentences.push(format!(
            "How long a recovery takes was not measured in the last {DAYS} days; `groundskeeper backup drill` does it now."
        ));
    }
    if view.recovery_points.is_empty() {
        sentences.push(
            "How much a disaster would take is not known yet: the watch measures it from the first whole set on."
                .to_owned(),
        );
    }
    sentences
}

impl Set {
    fn new(receipt: &Receipt, retention: Option<&RetentionView>, present: &Present) -> Self {
        let systems: Vec<&str> =
            receipt.parts.iter().map(|part| part.name.as_str()).filter(|name| *name != KEEPER).collect();
        let missing = receipt.missing.iter().map(|missing| format!("{} is missing: {}", missing.system, missing.why));
        let failed = receipt.failed().map(|(rung, why)| format!("rung {} ({rung}) failed: {why}", rung.number()));
        Self {
            name: receipt.set.to_string(),
            made: present.moment(receipt.made),
            ladder: receipt.ladder().map(|rung| Step::new(receipt, rung, present)).collect(),
            what: format!(
                "{}, {} at the source, {} added in {}",
                if systems.is_empty() { "no system".to_owned() } else { systems.join(", ") },
                format_bytes(receipt.bytes() as f64),
                format_bytes(receipt.added as f64),
                format_seconds(receipt.took)
            ),
            recovery: receipt.recovery_time().map(format_seconds),
            wrong: missing.chain(receipt.gaps()).chain(failed).collect(),
            goes: retention
                .and_then(|view| view.going.iter().find(|(set, _)| *set == receipt.set).map(|(_, why)| why.clone())),
        }
    }
}

impl Step {
    fn new(receipt: &Receipt, rung: Rung, present: &Present) -> Self {
        let last = receipt.climbs.iter().rev().find(|climb| climb.rung == rung);
        let (class, symbol, words) = match last.map(|climb| (&climb.outcome, present.moment(climb.at).relative)) {
            None => ("unknown", "–", "not tried yet".to_owned()),
            Some((ClimbOutcome::Proven { shown, .. }, when)) => ("fine", "✓", format!("proven {when}: {shown}")),
            Some((ClimbOutcome::Failed { why }, when)) => ("critical", "✕", format!("failed {when}: {why}")),
            Some((ClimbOutcome::NotTried { why }, when)) => {
                ("unknown", "?", format!("could not be tried {when}: {why}"))
            }
        };
        Self { class, symbol, number: rung.number(), words: format!("{rung}: {words}") }
    }
}
