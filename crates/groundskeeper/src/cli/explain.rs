//! `explain`: a check in words, with the thresholds in force.

use super::args::ExplainArgs;
use super::paint::Paint;
use super::{Desk, FINE, Outcome, Stop, table};
use crate::config::{self, did_you_mean};
use groundskeeper_core::check::{Tuning, catalogue};
use groundskeeper_core::quantity::{format_number, format_seconds};
use groundskeeper_core::remedy::REMEDIES;
use groundskeeper_core::{Check, SystemKind};
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(super) fn run(desk: &mut Desk, args: &ExplainArgs) -> Outcome {
    // Without a usable configuration the defaults are still worth explaining.
    let tuning = config::load(desk.config.as_deref()).map(|settings| settings.tuning);
    if let (Err(error), Some(_)) = (&tuning, &desk.config) {
        return Err(Stop::from(error.clone()));
    }
    let tuning = tuning.unwrap_or_default();
    let Some(word) = &args.check else {
        let all: Vec<Value> = catalogue::CHECKS.iter().map(|check| as_json(check, &tuning)).collect();
        desk.show(&all, |paint| list(*paint, &tuning, None))?;
        return Ok(FINE);
    };
    if let Some(check) = catalogue::find(word) {
        desk.show(&as_json(check, &tuning), |paint| text(check, &tuning, *paint))?;
        return Ok(FINE);
    }
    let Ok(kind) = word.parse::<SystemKind>() else {
        let hint = did_you_mean(word, catalogue::CHECKS.iter().map(|check| check.id));
        let hint = if hint.is_empty() { "; `groundskeeper explain --all` lists them".to_owned() } else { hint };
        return Err(Stop::usage(format!("there is no check `{word}`{hint}")));
    };
    let all: Vec<Value> = catalogue::of(kind).map(|check| as_json(check, &tuning)).collect();
    desk.show(&all, |paint| list(*paint, &tuning, Some(kind)))?;
    Ok(FINE)
}

/// The threshold as a judging function would see it.
fn in_force(check: &Check, tuning: &Tuning, name: &str) -> f64 {
    tuning.limits(check).get(name)
}

fn list(paint: Paint, tuning: &Tuning, only: Option<SystemKind>) -> String {
    let mut out = String::new();
    for kind in SystemKind::ALL.into_iter().filter(|kind| only.is_none_or(|only| only == *kind)) {
        let rows: Vec<Vec<String>> = catalogue::of(kind)
            .map(|check| {
                let off = if tuning.is_disabled(check.id) { " (switched off)" } else { "" };
                vec![check.id.to_owned(), format!("{}{off}", check.title)]
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{}{}", if out.is_empty() { "" } else { "\n" }, paint.bold(kind.as_str()));
        out.push_str(&table::plain(&rows, "  "));
    }
    out
}

fn text(check: &Check, tuning: &Tuning, paint: Paint) -> String {
    let mut out = format!("{}\n{}\n", paint.bold(check.title), paint.dim(check.id));
    if tuning.is_disabled(check.id) {
        let _ = writeln!(out, "{}", paint.bold("Switched off by the configuration."));
    }
    for (head, words) in [
        ("What it means", check.runbook.means),
        ("How to see it yourself", check.runbook.confirm),
        ("What to do", check.runbook.act),
        ("Where it looks", check.source),
    ] {
        let _ = writeln!(out, "\n{}\n  {words}", paint.bold(head));
    }
    if !check.thresholds.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("Thresholds"));
        for threshold in check.thresholds {
            let value = in_force(check, tuning, threshold.name);
            let changed = (value - threshold.default).abs() > f64::EPSILON;
            let default = format_number(threshold.default, threshold.unit);
            let default = if changed { format!(" (default {default})") } else { String::new() };
            let _ = writeln!(out, "  {} = {}{default}", threshold.name, format_number(value, threshold.unit));
            let _ = writeln!(out, "      {}", paint.dim(threshold.why));
        }
        let _ = writeln!(out, "  {}", paint.dim(&format!("set them in [checks.\"{}\"]", check.id)));
    }
    let hold = tuning.hold(check);
    let after =
        |seconds: f64| if seconds > 0.0 { format!("after {}", format_seconds(seconds)) } else { "at once".into() };
    let _ = writeln!(
        out,
        "\n{}\n  opens {}, resolves {}",
        paint.bold("Patience"),
        after(hold.open_after),
        after(hold.clear_after)
    );
    for remedy in REMEDIES.iter().filter(|remedy| remedy.check == Some(check.id)) {
        let _ = writeln!(out, "\n{} {}", paint.bold("Remedy"), paint.dim(&format!("{} ({})", remedy.id, remedy.class)));
        let _ = writeln!(out, "  {}", remedy.title);
        let _ = writeln!(out, "  only if:  {}", remedy.preconditions);
        let _ = writeln!(out, "  verified: {}", remedy.verification);
    }
    out
}

fn as_json(check: &Check, tuning: &Tuning) -> Value {
    let thresholds: Vec<Value> = check
        .thresholds
        .iter()
        .map(|threshold| {
            json!({
                "name": threshold.name,
                "value": in_force(check, tuning, threshold.name),
                "default": threshold.default,
                "unit": threshold.unit,
                "why": threshold.why,
            })
        })
        .collect();
    let remedies: Vec<&str> =
        REMEDIES.iter().filter(|remedy| remedy.check == Some(check.id)).map(|remedy| remedy.id).collect();
    json!({
        "id": check.id,
        "system": check.system(),
        "title": check.title,
        "enabled": !tuning.is_disabled(check.id),
        "means": check.runbook.means,
        "confirm": check.runbook.confirm,
        "act": check.runbook.act,
        "source": check.source,
        "thresholds": thresholds,
        "hold": tuning.hold(check),
        "remedies": remedies,
    })
}
