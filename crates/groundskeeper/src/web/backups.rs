//! The backups on the page: the newest sets, each with its ladder of four marks.

use super::moment::{Moment, Present};
use crate::app::api::{BackupView, RetentionView};
use crate::app::backup::KEEPER;
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
            sets: view.sets.iter().map(|receipt| Set::new(receipt, view.retention.as_ref(), present)).collect(),
        }
    }
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
