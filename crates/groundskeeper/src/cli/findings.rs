//! `findings`, `ignore`, `unignore`, and how a finding is written wherever one is shown.

use super::args::IgnoreArgs;
use super::paint::Paint;
use super::{Desk, FINE, Outcome, Stop, counted, moment, person};
use crate::app::api::{FindingState, FindingView, IgnoreView, Request};
use crate::clock::Clock;
use crate::config::Settings;
use groundskeeper_core::Finding;
use jiff::{SignedDuration, Timestamp};
use std::fmt::Write as _;
use std::time::Duration;

/// So many offenders are named; `-v` names all.
const NAMED: usize = 3;

pub(super) async fn list(desk: &mut Desk, all: bool) -> Outcome {
    let settings = desk.settings()?;
    let found: Vec<FindingView> = desk.ask(&settings, "reading the findings", Request::Findings { all }).await?;
    let verbose = desk.verbose;
    desk.show(&found, |paint| {
        if found.is_empty() {
            return "No finding is open.\n".to_owned();
        }
        let mut out = String::new();
        for (index, view) in found.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            view_lines(&mut out, view, &settings, *paint, verbose);
        }
        let _ = writeln!(out, "\n{}", counted(found.len(), "finding"));
        out
    })?;
    Ok(FINE)
}

/// A finding with its history; an ignored one dimmed, so that it does not draw the eye.
pub(super) fn view_lines(out: &mut String, view: &FindingView, settings: &Settings, paint: Paint, verbose: bool) {
    if view.ignored.is_some() {
        let mut plain = String::new();
        lines(&mut plain, view, settings, Paint::none(), verbose);
        for line in plain.lines() {
            let _ = writeln!(out, "{}", paint.dim(line));
        }
    } else {
        lines(out, view, settings, paint, verbose);
    }
}

fn lines(out: &mut String, view: &FindingView, settings: &Settings, paint: Paint, verbose: bool) {
    finding_lines(out, &view.finding, paint, verbose);
    let at = |at: Timestamp| moment(at, settings);
    let state = match (view.state, view.opened, view.resolved) {
        (_, _, Some(resolved)) => format!("resolved {}", at(resolved)),
        (FindingState::Pending, ..) => format!("pending since {}, not open yet", at(view.first_seen)),
        (FindingState::Clearing, Some(opened), _) => format!("open since {}, clearing", at(opened)),
        (_, Some(opened), _) => format!("open since {}", at(opened)),
        (_, None, _) => format!("first seen {}", at(view.first_seen)),
    };
    let _ = writeln!(out, "          {}", paint.dim(&format!("{} · {state}", view.finding.fingerprint.short())));
    if let Some(ignored) = &view.ignored {
        let line = format!("ignored until {} by {}: {}", at(ignored.until), ignored.by, ignored.reason);
        let _ = writeln!(out, "          {}", paint.dim(&line));
    }
}

/// Severity, sentence, evidence, the worst offenders, the next step.
pub(super) fn finding_lines(out: &mut String, finding: &Finding, paint: Paint, verbose: bool) {
    let severity = format!("{:<8}", finding.severity);
    let _ = writeln!(
        out,
        "{}  {} {}",
        paint.severity(finding.severity, &severity),
        paint.bold(&format!("{}:", finding.system)),
        finding.summary
    );
    let subject = finding.subject.to_string();
    if !subject.is_empty() {
        let _ = writeln!(out, "          {subject}");
    }
    for evidence in &finding.evidence {
        let threshold = evidence.threshold.as_ref().map(|limit| format!(" (threshold {limit})")).unwrap_or_default();
        let source = paint.dim(&format!("← {}", evidence.source));
        let _ = writeln!(out, "          {}: {}{threshold}  {source}", evidence.what, evidence.value);
    }
    let named = if verbose { finding.offenders.len() } else { NAMED };
    for offender in finding.offenders.iter().take(named) {
        let _ = writeln!(out, "          · {}", offender.note);
    }
    if finding.offenders.len() > named {
        let _ = writeln!(out, "          · and {} more (-v names them)", finding.offenders.len() - named);
    }
    if !finding.fix.is_empty() {
        let _ = writeln!(out, "          {} {}", paint.bold("fix:"), finding.fix);
    }
    let _ = writeln!(out, "          {}", paint.dim(&format!("groundskeeper explain {}", finding.check)));
}

/// So long from now.
pub(super) fn from_now(amount: Duration) -> Result<Timestamp, Stop> {
    let amount = SignedDuration::try_from(amount).map_err(|_| Stop::usage("this duration is too long"))?;
    Clock::wall().now().checked_add(amount).map_err(|_| Stop::usage("this duration is too long"))
}

pub(super) async fn ignore(desk: &mut Desk, args: IgnoreArgs) -> Outcome {
    let settings = desk.settings()?;
    let IgnoreArgs { fingerprint, reason, amount } = args;
    let request = Request::Ignore { fingerprint, reason, until: from_now(amount)?, by: person::name() };
    let ignored: IgnoreView = desk.ask(&settings, "writing it down", request).await?;
    desk.show(&ignored, |_| {
        format!(
            "{} is ignored until {}: {}\n",
            ignored.fingerprint.short(),
            moment(ignored.until, &settings),
            ignored.reason
        )
    })?;
    Ok(FINE)
}

pub(super) async fn unignore(desk: &mut Desk, fingerprint: String) -> Outcome {
    let settings = desk.settings()?;
    let request = Request::Unignore { fingerprint: fingerprint.clone(), by: person::name() };
    let was: bool = desk.ask(&settings, "writing it down", request).await?;
    desk.show(&was, |_| {
        if was {
            format!("{fingerprint} is taken seriously again.\n")
        } else {
            format!("{fingerprint} was not ignored; nothing changed.\n")
        }
    })?;
    Ok(FINE)
}
