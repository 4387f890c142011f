//! `check`: reads now, judges now.

use super::args::CheckArgs;
use super::findings::finding_lines;
use super::paint::{Paint, state_name};
use super::{Desk, FINDINGS, FINE, Outcome, Stop, UNKNOWN, counted, progress, table};
use crate::app::api::{CheckView, CheckedSystem, SystemState};
use crate::app::{self};
use crate::config;
use groundskeeper_core::quantity::format_seconds;
use groundskeeper_core::{Finding, Severity, Status, Unknown, UnknownKind};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) async fn run(desk: &mut Desk, args: &CheckArgs) -> Outcome {
    let (urls, names): (Vec<&str>, Vec<&str>) =
        args.select.iter().map(String::as_str).partition(|word| config::is_url(word));
    let settings = if urls.is_empty() { desk.settings()? } else { config::for_urls(&urls)? };
    if settings.systems.is_empty() {
        return Err(Stop::usage(
            "no system is configured; add a section such as [postgres.main], or let `groundskeeper init` find some",
        ));
    }
    let select: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let systems: Vec<String> = settings.systems.iter().map(|system| system.id.to_string()).collect();
    let doing = format!("reading {}", systems.join(", "));
    let view = progress::shown(&doing, app::check_now(&settings, &select)).await?;
    let verbose = desk.verbose;
    desk.show(&view, |paint| render(&view, *paint, verbose))?;
    Ok(exit_code(&view, args.fail_on))
}

fn statuses(view: &CheckView) -> impl Iterator<Item = &Status> {
    view.systems.iter().flat_map(|system| &system.judgements).map(|judgement| &judgement.status)
}

fn findings(system: &CheckedSystem) -> impl Iterator<Item = &Finding> {
    system
        .judgements
        .iter()
        .filter_map(|judgement| match &judgement.status {
            Status::Failing { findings } => Some(findings),
            _ => None,
        })
        .flatten()
}

fn exit_code(view: &CheckView, fail_on: Severity) -> u8 {
    let worst = view.systems.iter().flat_map(findings).map(|finding| finding.severity).max();
    let not_read =
        statuses(view).any(|status| matches!(status, Status::Unknown(Unknown { kind: UnknownKind::NotRead, .. })));
    let judged = statuses(view).any(|status| !matches!(status, Status::Unknown(_)));
    if worst.is_some_and(|worst| worst >= fail_on) {
        FINDINGS
    } else if not_read || !judged {
        UNKNOWN
    } else {
        FINE
    }
}

/// The worst of what could be judged; unknown only says that something could not. What needs a second reading is no
/// blemish.
fn state(system: &CheckedSystem) -> SystemState {
    if let Some(worst) = findings(system).map(|finding| finding.severity).max() {
        return match worst {
            Severity::Info => SystemState::Info,
            Severity::Warning => SystemState::Warning,
            Severity::Critical => SystemState::Critical,
        };
    }
    let blind = |status: &Status| matches!(status, Status::Unknown(unknown) if unknown.kind.is_trouble());
    if system.judgements.iter().any(|judgement| blind(&judgement.status)) {
        SystemState::Unknown
    } else {
        SystemState::Ok
    }
}

fn render(view: &CheckView, paint: Paint, verbose: bool) -> String {
    let rows: Vec<Vec<String>> = view
        .systems
        .iter()
        .map(|system| {
            vec![
                "●".to_owned(),
                system.system.to_string(),
                state_name(state(system)).to_owned(),
                system.address.clone(),
                system.version.clone().unwrap_or_default(),
                format_seconds(system.took),
            ]
        })
        .collect();
    let mut out = table::columns(&rows, "", |line, column, cell| match (column, view.systems.get(line)) {
        (0 | 2, Some(system)) => paint.state(state(system), &cell),
        (1, _) => paint.bold(&cell),
        (4 | 5, _) => paint.dim(&cell),
        _ => cell,
    });
    for system in &view.systems {
        let mut found: Vec<&Finding> = findings(system).collect();
        found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        for finding in found {
            out.push('\n');
            finding_lines(&mut out, finding, paint, verbose);
        }
        if verbose {
            details(&mut out, system, paint);
        }
    }
    unknowns(&mut out, view, paint);
    totals(&mut out, view, paint);
    out
}

fn details(out: &mut String, system: &CheckedSystem, paint: Paint) {
    let _ = writeln!(out, "\n{}", paint.bold(&system.system.to_string()));
    let facts: Vec<Vec<String>> = system.facts.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    out.push_str(&table::plain(&facts, "  "));
    for judgement in &system.judgements {
        let mark = match &judgement.status {
            Status::Ok => paint.good("✓"),
            Status::Failing { .. } => paint.critical("✗"),
            Status::Unknown(_) => paint.state(SystemState::Unknown, "?"),
        };
        let _ = writeln!(out, "  {mark} {}", judgement.check);
    }
}

/// What could not be judged, by reason: one line each.
fn unknowns(out: &mut String, view: &CheckView, paint: Paint) {
    let mut by_reason: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
    let (mut need_history, mut not_asked) = (0, 0);
    let mut silent: BTreeMap<String, usize> = BTreeMap::new();
    for judgement in view.systems.iter().flat_map(|system| &system.judgements) {
        let Status::Unknown(unknown) = &judgement.status else { continue };
        let system = judgement.system.to_string();
        match unknown.kind {
            UnknownKind::NeedsHistory => need_history += 1,
            UnknownKind::NotAsked => not_asked += 1,
            UnknownKind::NoAnswer => *silent.entry(system).or_default() += 1,
            UnknownKind::NotRead | UnknownKind::NotHere => {
                by_reason.entry((system, unknown.reason.as_str())).or_default().push(&judgement.check);
            }
        }
    }
    if !by_reason.is_empty() || !silent.is_empty() || need_history + not_asked > 0 {
        out.push('\n');
    }
    let mark = paint.state(SystemState::Unknown, "?");
    for ((system, reason), checks) in &by_reason {
        let _ = writeln!(out, "{mark} {system}: {reason} {}", paint.dim(&format!("({})", checks.join(", "))));
    }
    for (system, count) in &silent {
        let _ = writeln!(out, "{mark} {system}: {} had no answer to judge", counted(*count, "check"));
    }
    if need_history > 0 {
        let verb = if need_history == 1 { "compares" } else { "compare" };
        let they = if need_history == 1 { "it needs" } else { "they need" };
        let line =
            format!("{} {verb} two readings: {they} the daemon (`groundskeeper run`)", counted(need_history, "check"));
        let _ = writeln!(out, "{}", paint.dim(&line));
    }
    if not_asked > 0 {
        let verb = if not_asked == 1 { "looks" } else { "look" };
        let line = format!(
            "{} {verb} into tables, once a day: `groundskeeper task run daily-health` does it now",
            counted(not_asked, "check")
        );
        let _ = writeln!(out, "{}", paint.dim(&line));
    }
}

fn totals(out: &mut String, view: &CheckView, paint: Paint) {
    let count = |wanted: &str| statuses(view).filter(|status| status.as_str() == wanted).count();
    let (ok, failing, unknown) = (count("ok"), count("failing"), count("unknown"));
    let mut parts = vec![paint.good(&format!("{ok} ok"))];
    if failing > 0 {
        parts.push(paint.critical(&format!("{failing} failing")));
    }
    if unknown > 0 {
        parts.push(format!("{unknown} unknown"));
    }
    let _ = writeln!(
        out,
        "\n{}, {}: {} in {}",
        counted(view.systems.len(), "system"),
        counted(ok + failing + unknown, "check"),
        parts.join(", "),
        format_seconds(view.took)
    );
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
