//! `status`: everything at a glance.

use super::findings::view_lines;
use super::paint::{Paint, state_name};
use super::{Desk, FINE, Outcome, counted, moment, table};
use crate::app::api::{CalendarState, PauseView, Request, StatusView, SystemState};
use crate::config::Settings;
use groundskeeper_core::quantity::{format_seconds, seconds_between};
use jiff::Timestamp;
use std::fmt::Write as _;

/// So many of the coming tasks are shown; `calendar` has them all.
const COMING: usize = 3;

pub(super) async fn run(desk: &mut Desk) -> Outcome {
    let settings = desk.settings()?;
    let status: StatusView = desk.ask(&settings, "asking the keeper", Request::Status).await?;
    let verbose = desk.verbose;
    desk.show(&status, |paint| render(&status, &settings, *paint, verbose))?;
    Ok(FINE)
}

fn render(status: &StatusView, settings: &Settings, paint: Paint, verbose: bool) -> String {
    let mut out = String::new();
    let ago = |at| format!("watched {} ago", format_seconds(seconds_between(at, status.now).max(0.0)));
    // Without a daemon the present is empty; the record still knows when somebody last looked.
    let earlier = earlier_watch(status);
    let watched = match (status.watched, earlier) {
        (Some(at), _) => ago(at),
        (None, Some(at)) => format!("last {}; `groundskeeper run` keeps watch", ago(at)),
        (None, None) => "not watched yet; `groundskeeper run` keeps watch".to_owned(),
    };
    let _ =
        writeln!(out, "{} {} · autonomy {} · {watched}", paint.bold("Groundskeeper"), status.version, status.autonomy);
    for pause in &status.pauses {
        let _ = writeln!(out, "{}", paint.critical(&pause_line(pause, settings)));
    }
    for notice in &status.notices {
        let _ = writeln!(out, "{} {notice}", paint.critical("!"));
    }
    out.push('\n');
    systems(&mut out, status, paint);
    if status.findings.is_empty() {
        // Nothing seen is not nothing wrong.
        let line = match status.watched {
            None if earlier.is_none() => paint.dim("Nothing was looked at yet."),
            Some(_) if status.systems.iter().all(|system| system.state == SystemState::Ok) => {
                paint.good("Nothing is wrong.")
            }
            _ => "No finding is open.".to_owned(),
        };
        let _ = writeln!(out, "\n{line}");
    }
    for view in &status.findings {
        out.push('\n');
        view_lines(&mut out, view, settings, paint, verbose);
    }
    coming(&mut out, status, settings, paint);
    if let Some(action) = status.actions.first() {
        let _ = writeln!(
            out,
            "{} {} {} {}",
            paint.bold("Last action:"),
            moment(action.at, settings),
            action.statement,
            paint.dim("(`groundskeeper actions` lists them)")
        );
    }
    out
}

fn earlier_watch(status: &StatusView) -> Option<Timestamp> {
    status.calendar.iter().find(|entry| entry.task == "watch")?.last.as_ref()?.ended
}

fn systems(out: &mut String, status: &StatusView, paint: Paint) {
    let rows: Vec<Vec<String>> = status
        .systems
        .iter()
        .map(|system| {
            let judged = match (system.failing, system.unknown.len()) {
                _ if system.state == SystemState::Waiting => "not read yet".to_owned(),
                (0, 0) => format!("{} ok", counted(system.ok as usize, "check")),
                (0, unknown) => format!("{} ok, {unknown} unknown", system.ok),
                (failing, 0) => format!("{} ok, {failing} failing", system.ok),
                (failing, unknown) => format!("{} ok, {failing} failing, {unknown} unknown", system.ok),
            };
            let facts: Vec<String> =
                system.facts.iter().take(COMING).map(|(name, value)| format!("{name} {value}")).collect();
            vec![
                "●".to_owned(),
                system.system.to_string(),
                state_name(system.state).to_owned(),
                system.address.clone(),
                judged,
                facts.join(", "),
            ]
        })
        .collect();
    out.push_str(&table::columns(&rows, "", |line, column, cell| match (column, status.systems.get(line)) {
        (0 | 2, Some(system)) => paint.state(system.state, &cell),
        (1, _) => paint.bold(&cell),
        (5, _) => paint.dim(&cell),
        _ => cell,
    }));
}

fn coming(out: &mut String, status: &StatusView, settings: &Settings, paint: Paint) {
    let mut next: Vec<_> = status
        .calendar
        .iter()
        .filter(|entry| entry.state == CalendarState::Scheduled && entry.task != "watch")
        .filter_map(|entry| Some((entry.next?, entry.task.as_str())))
        .collect();
    next.sort_unstable();
    let lines: Vec<String> =
        next.iter().take(COMING).map(|(at, task)| format!("{task} {}", moment(*at, settings))).collect();
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{} {}", paint.bold("Next:"), lines.join(", "));
    }
    let failed: Vec<_> = status.runs.iter().filter(|run| run.outcome == "failed").collect();
    if let Some(run) = failed.first() {
        let times = counted(failed.len(), "recent run");
        let _ = writeln!(
            out,
            "{} {times} failed, the last {} at {}: {}",
            paint.critical("!"),
            run.task,
            moment(run.started, settings),
            run.summary
        );
    }
}

pub(super) fn pause_line(pause: &PauseView, settings: &Settings) -> String {
    let what = pause.task.as_deref().unwrap_or("all actions");
    let until = pause.until.map_or_else(
        || "until `groundskeeper resume`".to_owned(),
        |until| format!("until {}", moment(until, settings)),
    );
    format!("Paused: {what} {until}, by {}: {}", pause.by, pause.reason)
}
