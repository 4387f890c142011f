//! `check`: read now, judge now, record nothing. Needs no store and no daemon.

use super::CallError;
use super::api::{CheckView, CheckedSystem};
use super::view;
use crate::clock::Clock;
use crate::config::Settings;
use crate::stack::Stack;
use groundskeeper_core::check::{catalogue, judge};
use groundskeeper_core::{SystemId, SystemKind};
use jiff::Timestamp;
use std::time::Instant;

/// Checks the configured systems. `select` holds system ids (`postgres.main`), kinds (`postgres`) or check ids; empty
/// means everything.
pub async fn check_now(settings: &Settings, select: &[String]) -> Result<CheckView, CallError> {
    let stack = Stack::new(settings.systems.clone());
    check(settings, &stack, Clock::wall().now(), select).await
}

pub(super) async fn check(
    settings: &Settings,
    stack: &Stack,
    now: Timestamp,
    select: &[String],
) -> Result<CheckView, CallError> {
    let selection = Selection::parse(select, stack)?;
    let started = Instant::now();
    let mut systems = Vec::new();
    let mut readings = stack.observe(now, |system| selection.takes_system(system));
    while let Some(read) = readings.join_next().await {
        let (system, observation) =
            read.map_err(|panic| CallError::unanswered(format!("a reading ended in a bug: {panic}")))?;
        let judgements = catalogue::of(system.kind)
            .filter(|check| !settings.tuning.is_disabled(check.id) && selection.takes_check(&system, check.id))
            .map(|check| judge(check, &system, &observation, None, &settings.tuning, now))
            .collect();
        systems.push(CheckedSystem {
            address: stack.address(&system),
            took: observation.took(),
            version: view::version(&observation),
            facts: view::facts(&observation),
            judgements,
            system,
        });
    }
    systems.sort_by(|a, b| a.system.cmp(&b.system));
    Ok(CheckView { at: now, took: started.elapsed().as_secs_f64(), systems })
}

/// What was asked for, resolved against what exists.
struct Selection {
    systems: Vec<SystemId>,
    kinds: Vec<SystemKind>,
    checks: Vec<&'static str>,
}

impl Selection {
    fn parse(select: &[String], stack: &Stack) -> Result<Self, CallError> {
        let mut selection = Self { systems: Vec::new(), kinds: Vec::new(), checks: Vec::new() };
        for word in select {
            if let Some(system) = stack.ids().find(|id| id.to_string() == *word) {
                selection.systems.push(system.clone());
            } else if let Some(check) = catalogue::find(word) {
                selection.checks.push(check.id);
            } else if let Ok(kind) = word.parse::<SystemKind>() {
                selection.kinds.push(kind);
            } else {
                return Err(CallError::usage(unknown(word, stack)));
            }
        }
        let kind_is_there = |kind: SystemKind| stack.ids().any(|id| id.kind == kind);
        for kind in selection.kinds.iter().copied().chain(selection.checks.iter().filter_map(|id| kind_of(id))) {
            if !kind_is_there(kind) {
                if kind == SystemKind::Backup {
                    return Err(CallError::usage(super::backup::NOT_CONFIGURED));
                }
                return Err(CallError::usage(format!(
                    "no {kind} is configured; add a [{kind}.NAME] table, or give a URL: `groundskeeper check URL`"
                )));
            }
        }
        Ok(selection)
    }

    fn takes_system(&self, system: &SystemId) -> bool {
        let everything = self.systems.is_empty() && self.kinds.is_empty() && self.checks.is_empty();
        everything || self.takes_whole(system) || self.checks.iter().any(|id| kind_of(id) == Some(system.kind))
    }

    fn takes_check(&self, system: &SystemId, check: &str) -> bool {
        let nothing_named = self.systems.is_empty() && self.kinds.is_empty() && self.checks.is_empty();
        nothing_named || self.takes_whole(system) || self.checks.contains(&check)
    }

    fn takes_whole(&self, system: &SystemId) -> bool {
        self.systems.contains(system) || self.kinds.contains(&system.kind)
    }
}

fn kind_of(check: &str) -> Option<SystemKind> {
    check.split('.').next()?.parse().ok()
}

fn unknown(word: &str, stack: &Stack) -> String {
    let known: Vec<String> = stack
        .ids()
        .map(ToString::to_string)
        .chain(catalogue::CHECKS.iter().map(|check| check.id.to_owned()))
        .chain(SystemKind::ALL.iter().map(ToString::to_string))
        .collect();
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, word).total_cmp(&strsim::jaro_winkler(b, word)))
        .map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"));
    format!("`{word}` is neither a system, a kind of system, a check nor a URL{nearest}")
}
