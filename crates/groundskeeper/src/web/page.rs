//! The page as values for its templates: pure, from what `app` says to text.

use super::backups::Backups;
use super::moment::{Moment, Present};
use super::probes::stale;
use super::sections::{Action, Calendar, Card, Finding, PendingFinding, Run};
use super::sentence::{Tone, open, sentence};
use crate::app::api::{FindingState, StatusView};
use askama::Template;
use groundskeeper_core::policy::Autonomy;
use groundskeeper_core::quantity::format_seconds;
use groundskeeper_core::report::DayReport;
use jiff::ToSpan;
use jiff::civil::Date;

#[derive(Template)]
#[template(path = "page.html")]
struct Whole {
    title: String,
    version: String,
    body: Body,
}

/// What the page asks for again every few seconds.
#[derive(Template)]
#[template(path = "fragment.html")]
struct Fragment {
    title: String,
    body: Body,
}

#[derive(Template)]
#[template(path = "report.html")]
struct Report {
    day: String,
    before: Option<String>,
    after: Option<String>,
    text: String,
}

struct Body {
    tone: Tone,
    sentence: String,
    watched: Option<Moment>,
    zone: String,
    autonomy: &'static str,
    autonomy_means: &'static str,
    banners: Vec<Banner>,
    cards: Vec<Card>,
    /// None when no backup is configured.
    backups: Option<Backups>,
    /// What stands there when nothing is open.
    no_findings: &'static str,
    findings: Vec<Finding>,
    ignored: Vec<Finding>,
    pending: Vec<PendingFinding>,
    actions: Vec<Action>,
    runs: Vec<Run>,
    calendar: Calendar,
}

struct Banner {
    class: &'static str,
    text: String,
}

pub(super) fn whole(status: &StatusView) -> askama::Result<String> {
    Whole { title: title(status), version: status.version.clone(), body: body(status) }.render()
}

pub(super) fn fragment(status: &StatusView) -> askama::Result<String> {
    Fragment { title: title(status), body: body(status) }.render()
}

pub(super) fn report(report: &DayReport) -> askama::Result<String> {
    let day: Option<Date> = report.day.parse().ok();
    let neighbour = |days: i64| day.and_then(|day| day.checked_add(days.days()).ok()).map(|day| day.to_string());
    Report {
        day: report.day.clone(),
        before: neighbour(-1),
        after: neighbour(1).filter(|_| !report.partial),
        text: report.to_text(),
    }
    .render()
}

/// The tab says the worst, too.
fn title(status: &StatusView) -> String {
    match (open(status).count(), sentence(status).0) {
        (number, Tone::Critical) => format!("✕ {number} open · Groundskeeper"),
        (number, Tone::Warning) => format!("! {number} open · Groundskeeper"),
        _ => "Groundskeeper".to_owned(),
    }
}

fn body(status: &StatusView) -> Body {
    let present = Present::new(status.now, &status.zone);
    let (tone, sentence) = sentence(status);
    let finding = |view| Finding::new(view, &present);
    let settled = |view: &&crate::app::api::FindingView| view.state != FindingState::Pending;
    Body {
        tone,
        sentence,
        watched: status.watched.map(|at| present.moment(at)),
        zone: status.zone.clone(),
        autonomy: status.autonomy.as_str(),
        autonomy_means: autonomy_means(status.autonomy),
        banners: banners(status, &present),
        cards: status.systems.iter().map(|view| Card::new(view, &present)).collect(),
        backups: status.backup.as_ref().map(|view| Backups::new(view, &present)),
        no_findings: if status.watched.is_some() {
            "Nothing is wrong as far as the checks can tell."
        } else {
            "Nothing has been checked yet."
        },
        findings: open(status).filter(settled).map(finding).collect(),
        ignored: status.findings.iter().filter(|view| view.ignored.is_some()).map(finding).collect(),
        pending: status
            .findings
            .iter()
            .filter(|view| view.state == FindingState::Pending && view.ignored.is_none())
            .map(|view| PendingFinding::new(view, &present))
            .collect(),
        actions: status.actions.iter().map(|view| Action::new(view, &present)).collect(),
        runs: status.runs.iter().map(|view| Run::new(view, &present)).collect(),
        calendar: Calendar::new(&status.calendar, &present),
    }
}

fn autonomy_means(autonomy: Autonomy) -> &'static str {
    match autonomy {
        Autonomy::Observe => "looks and tells; changes nothing without an approval",
        Autonomy::Assist => "also does routine upkeep inside its window; more needs an approval",
        Autonomy::Auto => "also applies corrective remedies under guards; what users may notice needs an approval",
    }
}

fn banners(status: &StatusView, present: &Present) -> Vec<Banner> {
    let mut banners = Vec::new();
    if let Some(age) = stale(status) {
        let when = if age < 0.0 {
            "lies in the future: the clock was set back".to_owned()
        } else {
            format!("was {} ago", format_seconds(age.round()))
        };
        let text = format!("The last look {when}. What follows may be out of date.");
        banners.push(Banner { class: "critical", text });
    }
    for notice in &status.notices {
        banners.push(Banner { class: "warning", text: notice.clone() });
    }
    for pause in &status.pauses {
        let what = pause.task.as_ref().map_or("All actions are".to_owned(), |task| format!("The task {task} is"));
        let until = pause.until.map_or("until somebody resumes".to_owned(), |until| {
            let until = present.moment(until);
            format!("until {} ({})", until.exact, until.relative)
        });
        let text = format!("{what} paused by {} {until}: {}", pause.by, pause.reason);
        banners.push(Banner { class: "pause", text });
    }
    banners
}
