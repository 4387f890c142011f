//! What Prometheus scrapes.
//!
//! Series are bounded: checks are counted per system and answer, not listed; findings are listed only while they are
//! open. Actions are not here as a counter, because the present knows the latest actions only, and a counter that falls
//! is worse than none.

use super::exposition::Exposition;
use crate::app::api::StatusView;
use groundskeeper_core::quantity::seconds_between;
use groundskeeper_core::sample::Sample;
use jiff::Timestamp;

pub(super) fn render(status: &StatusView, samples: &[Sample], resident_bytes: Option<f64>) -> String {
    let mut to = Exposition::default();
    keeper(&mut to, status, resident_bytes);
    checks(&mut to, status);
    findings(&mut to, status);
    tasks(&mut to, status);
    measured(&mut to, samples);
    to.to_text()
}

fn keeper(to: &mut Exposition, status: &StatusView, resident_bytes: Option<f64>) {
    to.gauge("groundskeeper_build_info", "The version that runs.", &[("version", &status.version)], 1.0);
    let all_paused = status.pauses.iter().any(|pause| pause.task.is_none());
    let help = "Whether a person has paused all actions (scope actions) or one task.";
    to.gauge("groundskeeper_paused", help, &[("scope", "actions")], f64::from(u8::from(all_paused)));
    for task in status.pauses.iter().filter_map(|pause| pause.task.as_deref()) {
        to.gauge("groundskeeper_paused", help, &[("scope", task)], 1.0);
    }
    to.gauge(
        "groundskeeper_notices",
        "Things about the keeper itself that a person must know; the page says which.",
        &[],
        status.notices.len() as f64,
    );
    if let Some(watched) = status.watched {
        let age = seconds_between(watched, status.now).max(0.0);
        to.gauge("groundskeeper_watch_age_seconds", "Time since the last finished watch.", &[], age);
    }
    if let Some(bytes) = resident_bytes {
        to.gauge("process_resident_memory_bytes", "Resident memory of the keeper.", &[], bytes);
    }
}

fn checks(to: &mut Exposition, status: &StatusView) {
    for view in &status.systems {
        let system = view.system.to_string();
        for (answer, number) in [("ok", view.ok), ("failing", view.failing), ("unknown", view.unknown.len() as u32)] {
            to.gauge(
                "groundskeeper_checks",
                "Checks of a system by their present answer.",
                &[("system", &system), ("status", answer)],
                f64::from(number),
            );
        }
    }
}

fn findings(to: &mut Exposition, status: &StatusView) {
    for view in status.findings.iter().filter(|view| view.opened.is_some() && view.resolved.is_none()) {
        let finding = &view.finding;
        let ignored = if view.ignored.is_some() { "true" } else { "false" };
        to.gauge(
            "groundskeeper_finding_open",
            "An open finding.",
            &[
                ("system", &finding.system.to_string()),
                ("check", &finding.check),
                ("severity", finding.severity.as_str()),
                ("fingerprint", &finding.fingerprint.0),
                ("ignored", ignored),
            ],
            1.0,
        );
    }
}

fn tasks(to: &mut Exposition, status: &StatusView) {
    for entry in &status.calendar {
        let Some(last) = &entry.last else { continue };
        let labels = [("task", entry.task.as_str())];
        let help = "When the last run of a task began.";
        to.gauge("groundskeeper_task_last_run_timestamp_seconds", help, &labels, epoch(last.started));
        // A run under way is neither good nor bad yet.
        if last.ended.is_some() {
            let ok = f64::from(u8::from(last.outcome == "ok"));
            to.gauge("groundskeeper_task_last_run_ok", "Whether the last run of a task succeeded.", &labels, ok);
        }
    }
}

fn measured(to: &mut Exposition, samples: &[Sample]) {
    for sample in samples {
        let (kind, system) = (sample.system.kind.as_str(), sample.system.to_string());
        if sample.metric == "up" {
            let help = "Whether a system answered its last reading.";
            to.gauge("groundskeeper_system_up", help, &[("system", &system), ("kind", kind)], sample.value);
            continue;
        }
        let suffix = sample.unit.metric_suffix();
        let base = sample.metric.strip_suffix(suffix).unwrap_or(&sample.metric);
        to.gauge(
            &format!("groundskeeper_{kind}_{base}{suffix}"),
            &format!("{} of {kind}, as last read.", sample.metric.replace('_', " ")),
            &[("system", &system), ("subject", &sample.subject)],
            sample.value,
        );
    }
}

fn epoch(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
