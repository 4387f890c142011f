//! The one sentence at the top of the page: what somebody wants to know who was just woken.

use super::probes::stale;
use crate::app::api::{FindingView, StatusView, SystemState, SystemView};
use groundskeeper_core::Severity;

/// The colour of the whole page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Fine,
    Info,
    Unknown,
    Warning,
    Critical,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Info => "info",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What is open and not ignored, in the order given (the worst first).
pub(super) fn open(status: &StatusView) -> impl Iterator<Item = &FindingView> {
    status.findings.iter().filter(|view| view.ignored.is_none() && view.opened.is_some() && view.resolved.is_none())
}

pub(super) fn sentence(status: &StatusView) -> (Tone, String) {
    for (severity, tone, noun) in [
        (Severity::Critical, Tone::Critical, "critical finding"),
        (Severity::Warning, Tone::Warning, "warning"),
        (Severity::Info, Tone::Info, "note"),
    ] {
        let found: Vec<&FindingView> = open(status).filter(|view| view.finding.severity == severity).collect();
        if let Some(first) = found.first() {
            return (tone, about(first, found.len(), noun));
        }
    }
    without_findings(status)
}

fn about(first: &FindingView, number: usize, noun: &str) -> String {
    let system = first.finding.system.to_string();
    let what = first.finding.summary.trim_end_matches('.');
    let on = if what.contains(&system) { String::new() } else { format!(" on {system}") };
    if number == 1 { format!("1 {noun}{on}: {what}.") } else { format!("{number} {noun}s, the first{on}: {what}.") }
}

fn without_findings(status: &StatusView) -> (Tone, String) {
    let systems = &status.systems;
    if systems.is_empty() {
        return (Tone::Unknown, "No system is under care yet.".to_owned());
    }
    if status.watched.is_none() {
        return (Tone::Unknown, "The first look is under way.".to_owned());
    }
    if stale(status).is_some() {
        return (Tone::Unknown, "Nothing is known to be wrong, but the last look was too long ago.".to_owned());
    }
    let silent: Vec<&SystemView> =
        systems.iter().filter(|view| view.state == SystemState::Waiting || view.ok + view.failing == 0).collect();
    match silent.as_slice() {
        [] => {}
        [one] => return (Tone::Unknown, format!("{} has not been read; nothing else is wrong.", one.system)),
        many => {
            let names: Vec<String> = many.iter().map(|view| view.system.to_string()).collect();
            return (Tone::Unknown, format!("{} have not been read; nothing else is wrong.", names.join(", ")));
        }
    }
    let blind: Vec<String> =
        systems.iter().filter(|view| view.state == SystemState::Unknown).map(|view| view.system.to_string()).collect();
    if !blind.is_empty() {
        return (
            Tone::Unknown,
            format!("Nothing is known to be wrong, but not everything on {} could be looked at.", blind.join(", ")),
        );
    }
    let fine = match systems.as_slice() {
        [only] => format!("{} is fine", only.system),
        [_, _] => "Both systems are fine".to_owned(),
        many => format!("All {} systems are fine", in_words(many.len())),
    };
    let unknown: usize = systems.iter().map(|view| view.unknown.len()).sum();
    match unknown {
        0 => (Tone::Fine, format!("{fine}.")),
        1 => (Tone::Fine, format!("{fine}; 1 check has no answer yet.")),
        number => (Tone::Fine, format!("{fine}; {number} checks have no answer yet.")),
    }
}

fn in_words(number: usize) -> String {
    const WORDS: [&str; 13] =
        ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    WORDS.get(number).map_or_else(|| number.to_string(), |word| (*word).to_owned())
}
