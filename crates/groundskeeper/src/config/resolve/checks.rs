//! `[checks."postgres.connections_near_limit"]`: thresholds, holds, and what is switched off.

use crate::config::nearest::did_you_mean;
use crate::config::raw::{At, Section};
use groundskeeper_core::check::{Check, CheckTuning, Threshold, Tuning, catalogue};
use groundskeeper_core::{SystemKind, Unit};
use std::collections::BTreeMap;

const SETTINGS: [&str; 3] = ["enabled", "for", "clear_after"];

pub(super) fn tuning(top: &Section<'_>) -> Tuning {
    let mut tuning = Tuning::default();
    let Some(parent) = top.section("checks") else { return tuning };
    for (name, value) in parent.entries() {
        let Some(check) = catalogue::find(name.value) else {
            parent.problem(name.at, unknown(name.value));
            continue;
        };
        if let Some(section) = parent.opened(name.value, name.at, value) {
            tuning.set(check.id, one(check, &section));
        }
    }
    tuning
}

fn unknown(name: &str) -> String {
    if name.parse::<SystemKind>().is_ok() {
        let example = catalogue::CHECKS.iter().find(|check| check.system().as_str() == name);
        let id = example.map_or("system.name", |check| check.id);
        return format!("a check's id holds a dot and must be in quotes; write [checks.\"{id}\"]");
    }
    let hint = did_you_mean(name, catalogue::CHECKS.iter().map(|check| check.id));
    let hint = if hint.is_empty() { "; `groundskeeper explain --all` lists them".to_owned() } else { hint };
    format!("there is no check `{name}`{hint}")
}

fn one(check: &Check, section: &Section<'_>) -> CheckTuning {
    let disabled = section.flag("enabled") == Some(false);
    let open_after = section.duration_or_zero("for").map(|amount| amount.as_secs_f64());
    let clear_after = section.duration_or_zero("clear_after").map(|amount| amount.as_secs_f64());
    let mut written: BTreeMap<&str, At<f64>> = BTreeMap::new();
    for threshold in check.thresholds {
        if let Some(found) = section.number(threshold.name, threshold.unit == Unit::Seconds) {
            written.insert(threshold.name, found);
        }
    }
    unknown_keys(check, section);
    order(check, section, &written);
    let thresholds = written.into_iter().map(|(name, found)| (name.to_owned(), found.value)).collect();
    CheckTuning { disabled, open_after, clear_after, thresholds }
}

/// Thresholds are named here rather than by [`Section::finish`], because a check's own names are what a person seeks.
fn unknown_keys(check: &Check, section: &Section<'_>) {
    let known: Vec<&str> = check.thresholds.iter().map(|threshold| threshold.name).chain(SETTINGS).collect();
    for (key, _) in section.entries().filter(|(key, _)| !known.contains(&key.value)) {
        let hint = did_you_mean(key.value, known.iter().copied());
        let hint = if hint.is_empty() { format!("; it has {}", known.join(", ")) } else { hint };
        section.problem(key.at, format!("{} has no threshold `{}`{hint}", check.id, key.value));
    }
}

/// A warning that comes after the critical limit would never be seen. Which way is worse shows in the defaults.
fn order(check: &Check, section: &Section<'_>, written: &BTreeMap<&str, At<f64>>) {
    for warning in check.thresholds.iter().filter(|threshold| threshold.name.contains("warning")) {
        let counterpart = warning.name.replace("warning", "critical");
        let Some(critical) = check.thresholds.iter().find(|threshold| threshold.name == counterpart) else { continue };
        let in_force = |threshold: &Threshold| written.get(threshold.name).map_or(threshold.default, |at| at.value);
        let at =
            [warning, critical].into_iter().filter_map(|threshold| written.get(threshold.name)).map(|at| at.at).max();
        let Some(at) = at else { continue };
        let (low, high) = (in_force(warning), in_force(critical));
        let (wrong, side, worse) = if warning.default < critical.default {
            (low > high, "above", "higher")
        } else if warning.default > critical.default {
            (low < high, "below", "lower")
        } else {
            continue;
        };
        if wrong {
            section.problem(
                at,
                format!(
                    "{}: `{}` ({low}) lies {side} `{counterpart}` ({high}), and {worse} is worse, so it would never \
                     be seen; exchange them",
                    check.id, warning.name
                ),
            );
        }
    }
}
