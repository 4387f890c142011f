//! The report as text: for a terminal, and for a mail that somebody reads with the first coffee.
//!
//! The rules: the verdict stands in the first lines, the rest is there to look up. What needs a person comes before what
//! does not. Times are those of the clock on the wall in the report's zone. A line has at most [`WIDTH`] columns, except
//! where a statement or a name is longer: those are to be copied, and are never broken.

use super::{ActionLine, DayReport, Figure, FindingLine, RunLine, SystemReport};
use crate::plan::PlanItem;
use crate::policy::{Decision, Outcome};
use crate::quantity::{Unit, format_count, format_number, format_seconds, seconds_between};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::{Display, Write};

const WIDTH: usize = 100;
/// Lines of a kind that are shown before the rest is only counted: two hundred tables are one fact, not two hundred.
const RESOLVED_SHOWN: usize = 20;
const STEPS_SHOWN: usize = 5;

pub(super) fn of(report: &DayReport) -> String {
    // The rules of a zone come from this machine's zone database: data like a table of constants, not a clock.
    let mut page = Page { report, zone: TimeZone::get(&report.zone).ok(), out: String::new() };
    page.head();
    page.findings();
    page.actions();
    page.proposals();
    page.systems();
    page.calendar();
    page.out
}

struct Page<'a> {
    report: &'a DayReport,
    /// None where this machine does not know the zone: the times are then UTC, and the head says so.
    zone: Option<TimeZone>,
    out: String,
}

/// Where a finding stood when the report's time was over. One that resolved later was open at the time: a report says
/// the same whenever it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Open,
    Ignored,
    Resolved,
}

impl<'a> Page<'a> {
    fn line(&mut self, text: impl Display) {
        // Writing to a String cannot fail; the result is dropped for that reason.
        let _ = writeln!(self.out, "{text}");
    }

    /// `09:12`, or `19 Nov` for what was before the report's time.
    fn clock(&self, at: Timestamp) -> String {
        let format = if at < self.report.from { "%-d %b" } else { "%H:%M" };
        let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
        at.to_zoned(zone).strftime(format).to_string()
    }

    fn standing(&self, line: &FindingLine) -> Standing {
        match line.resolved {
            Some(at) if at <= self.report.to => Standing::Resolved,
            _ if line.ignored => Standing::Ignored,
            _ => Standing::Open,
        }
    }

    fn of_standing(&self, standing: Standing) -> Vec<&'a FindingLine> {
        self.report.findings.iter().filter(|line| self.standing(line) == standing).collect()
    }

    fn head(&mut self) {
        let report = self.report;
        let utc = if self.zone.is_none() { ", times in UTC" } else { "" };
        let so_far = if report.partial { ", so far" } else { "" };
        self.line(format_args!("Report of {} ({}{utc}{so_far})", report.day, report.zone));
        let verdict = self.verdict();
        self.line(verdict);
        let deeds = format!("{} Autonomy: {}.", deeds(&report.actions), report.autonomy);
        self.paragraph("", "", &deeds);
        let unread: Vec<String> =
            report.systems.iter().filter(|s| s.answered == 0).map(|s| s.system.to_string()).collect();
        if !unread.is_empty() {
            self.paragraph("", "", &format!("No answer from {}: nothing is known about it.", unread.join(", ")));
        }
        let failed: u64 = report.runs.iter().map(|run| run.failed).sum();
        if failed > 0 {
            self.line(format_args!("{} failed: see Calendar.", counted(failed, "run")));
        }
        if report.notifications_failed > 0 {
            let messages = counted(report.notifications_failed, "notification");
            self.line(format_args!("{messages} could not be delivered."));
        }
    }

    fn verdict(&self) -> String {
        let number = |standing| self.of_standing(standing).len();
        let (open, ignored, resolved) = (number(Standing::Open), number(Standing::Ignored), number(Standing::Resolved));
        if open + ignored + resolved == 0 {
            // Not to have looked is no good news.
            return if self.report.systems.is_empty() {
                "No system is under care.".into()
            } else if self.report.systems.iter().all(|system| system.answered == 0) {
                "Nothing is known: no system was read.".into()
            } else if self.report.systems.iter().any(|system| system.answered == 0) {
                "Nothing was wrong in what was read.".into()
            } else {
                "Nothing was wrong.".into()
            };
        }
        let now = if self.report.partial { "now" } else { "at the end" };
        let mut parts = vec![if open == 0 { format!("Nothing is wrong {now}") } else { format!("{open} open {now}") }];
        if ignored > 0 {
            parts.push(format!("{ignored} ignored"));
        }
        if resolved > 0 {
            parts.push(format!("{resolved} resolved"));
        }
        format!("{}.", parts.join(", "))
    }

    fn findings(&mut self) {
        let times = self.report.findings.iter().map(|line| columns(&self.clock(line.opened))).max().unwrap_or(0);
        let names = self.report.findings.iter().map(|line| columns(&line.system.to_string())).max().unwrap_or(0);
        for (standing, title) in
            [(Standing::Open, "Open"), (Standing::Ignored, "Ignored"), (Standing::Resolved, "Resolved")]
        {
            let lines = self.of_standing(standing);
            if lines.is_empty() {
                continue;
            }
            self.line(format_args!("\n{title}"));
            let shown = if standing == Standing::Resolved { RESOLVED_SHOWN } else { lines.len() };
            for line in lines.iter().take(shown) {
                let (at, severity, system) = (self.clock(line.opened), line.severity, &line.system);
                let first = format!("  {at:<times$}  {severity:<8}  {system:<names$}  ");
                let rest = " ".repeat(columns(&first));
                self.paragraph(&first, &rest, &line.summary);
                let how_long = match standing {
                    Standing::Resolved => {
                        let end = line.resolved.unwrap_or(self.report.to);
                        format!("until {} ({})", self.clock(end), span(line.opened, end))
                    }
                    _ => format!("for {}", span(line.opened, self.report.to)),
                };
                let about = format!("{}, {} {}", how_long, line.check, line.fingerprint.short());
                self.paragraph(&rest, &rest, &about);
            }
            self.and_more(lines.len(), shown, "groundskeeper findings --all");
        }
    }

    fn actions(&mut self) {
        if self.report.actions.is_empty() {
            return;
        }
        self.line("\nActions");
        let times = self.report.actions.iter().map(|action| columns(&self.clock(action.at))).max().unwrap_or(0);
        for action in &self.report.actions {
            let first = format!("  {:<times$}  {:<12}  ", self.clock(action.at), outcome(action.outcome));
            let rest = " ".repeat(columns(&first));
            self.statement(&first, &rest, &action.statement);
            let colon = if action.detail.is_empty() { "" } else { ": " };
            let detail = format!("{}, by {}{colon}{}", action.class, action.by, action.detail);
            self.paragraph(&rest, &rest, &detail);
        }
    }

    /// What the plan holds, by what it waits for: the reason is said once, not once a table.
    fn proposals(&mut self) {
        let Some(plan) = self.report.plan.as_ref().filter(|plan| !plan.items.is_empty()) else { return };
        self.line(format_args!("\nProposed, and not done (plan {})", plan.short_hash()));
        let mut groups: Vec<(String, Vec<&PlanItem>)> = Vec::new();
        for item in &plan.items {
            let waits_for = waits_for(&item.decision);
            match groups.iter_mut().find(|(known, _)| *known == waits_for) {
                Some((_, items)) => items.push(item),
                None => groups.push((waits_for, vec![item])),
            }
        }
        for (waits_for, items) in groups {
            // A reason that is too long for a line is broken where its second half begins.
            let halves = waits_for.split_once("; ").filter(|_| columns(&waits_for) + 2 > WIDTH);
            if let Some((half, other)) = halves {
                self.paragraph("  ", "  ", &format!("{half};"));
                self.paragraph("  ", "  ", other);
            } else {
                self.paragraph("  ", "  ", &waits_for);
            }
            for item in items.iter().take(STEPS_SHOWN) {
                self.statement("    ", "    ", &item.statement);
                self.paragraph("        ", "        ", &item.why);
            }
            self.and_more(items.len(), STEPS_SHOWN, "groundskeeper plan");
        }
    }

    fn systems(&mut self) {
        if self.report.systems.is_empty() {
            return;
        }
        self.line("\nSystems");
        let names = self.report.systems.iter().map(|system| columns(&system.system.to_string())).max().unwrap_or(0);
        let figures = self.report.systems.iter().flat_map(|system| &system.figures);
        let (mut widest, mut latest) = (0, 0);
        for figure in figures {
            widest = widest.max(columns(&figure_name(figure)));
            latest = latest.max(columns(&format_number(figure.last, figure.unit)));
        }
        // One long name must not push every figure off the page.
        let (widest, latest) = (widest.min(44), latest.min(16));
        for system in &self.report.systems {
            self.line(format_args!("  {:<names$}  {}", system.system, answers(system)));
            for figure in &system.figures {
                let show = |value: f64| format_number(value, figure.unit);
                let (name, last) = (figure_name(figure), show(figure.last));
                let name = if columns(&name) > widest {
                    self.line(format_args!("    {name}"));
                    String::new()
                } else {
                    name
                };
                if show(figure.min) == show(figure.max) {
                    self.line(format_args!("    {name:<widest$}  {last}"));
                } else {
                    let (min, max, mean) = (show(figure.min), show(figure.max), show(mean_of(figure)));
                    self.line(format_args!("    {name:<widest$}  {last:<latest$}  ({min} to {max}, mean {mean})"));
                }
            }
        }
    }

    fn calendar(&mut self) {
        self.line("\nCalendar");
        if self.report.runs.is_empty() {
            self.line("  nothing ran");
        }
        let names = self.report.runs.iter().map(|run| columns(&run.task)).max().unwrap_or(0);
        let times: Vec<String> = self.report.runs.iter().map(times).collect();
        let widest = times.iter().map(|text| columns(text)).max().unwrap_or(0);
        for (run, times) in self.report.runs.iter().zip(times) {
            let first = format!("  {:<names$}  {times:<widest$}  last at {}", run.task, self.clock(run.last));
            let rest = " ".repeat(2 + names + 2 + widest + 2);
            if run.last_summary.is_empty() {
                self.line(first);
            } else {
                self.paragraph(&format!("{first}: "), &rest, &run.last_summary);
            }
        }
        if self.report.notifications_sent > 0 {
            self.line(format_args!("  {} delivered", counted(self.report.notifications_sent, "notification")));
        }
        if !self.report.not_available.is_empty() {
            let text = format!("not yet in this version: {}", self.report.not_available.join(", "));
            self.paragraph("  ", "  ", &text);
        }
    }

    fn and_more(&mut self, all: usize, shown: usize, command: &str) {
        if all > shown {
            self.line(format_args!("    and {} more: `{command}` lists them", all - shown));
        }
    }

    /// Words in lines of at most [`WIDTH`] columns; `first` stands before the first line, `rest` before the others.
    fn paragraph(&mut self, first: &str, rest: &str, text: &str) {
        let mut line = first.to_owned();
        let mut is_empty = true;
        for word in text.split_whitespace() {
            if !is_empty && columns(&line) + 1 + columns(word) > WIDTH {
                self.line(&line);
                rest.clone_into(&mut line);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.line(line.trim_end());
    }

    /// A statement as it can be copied: never broken, and its remark below it, each line of it still a remark.
    fn statement(&mut self, first: &str, rest: &str, statement: &str) {
        // A remark cannot begin inside a quoted name.
        let remark = statement.split_once(" -- ").filter(|(sql, _)| sql.matches('"').count().is_multiple_of(2));
        let Some((sql, remark)) = remark else { return self.line(format_args!("{first}{statement}")) };
        self.line(format_args!("{first}{sql}"));
        let rest = format!("{rest}-- ");
        self.paragraph(&rest, &rest, remark);
    }
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", format_count(number as f64), if number == 1 { "" } else { "s" })
}

fn span(from: Timestamp, to: Timestamp) -> String {
    // Nobody cares about the milliseconds of an outage.
    format_seconds(seconds_between(from, to).max(0.0).round())
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Helped => "helped",
        Outcome::DidNotHelp => "did not help",
        Outcome::Failed => "failed",
        Outcome::Abandoned => "not done",
        Outcome::Running => "under way",
    }
}

/// `No action was taken.`, `5 actions: 3 helped, 2 failed.`
fn deeds(actions: &[ActionLine]) -> String {
    if actions.is_empty() {
        return "No action was taken.".into();
    }
    let kinds =
        [Outcome::Helped, Outcome::DidNotHelp, Outcome::Failed, Outcome::Abandoned, Outcome::Running].map(|kind| {
            let number = actions.iter().filter(|action| action.outcome == kind).count();
            (number > 0).then(|| format!("{number} {}", outcome(kind)))
        });
    let kinds: Vec<String> = kinds.into_iter().flatten().collect();
    format!("{}: {}.", counted(actions.len() as u64, "action"), kinds.join(", "))
}

fn waits_for(decision: &Decision) -> String {
    match decision {
        Decision::Do => "due at the next run:".into(),
        Decision::NeedsApproval { reason } | Decision::Skip { reason, .. } => format!("{reason}:"),
    }
}

fn answers(system: &SystemReport) -> String {
    let (answered, readings) = (system.answered, system.readings);
    if readings == 0 {
        return "was not read".into();
    }
    if answered == readings {
        return format!(
            "answered {}",
            if readings == 1 {
                "the one reading".into()
            } else {
                format!("all {} readings", format_count(readings as f64))
            }
        );
    }
    // Rounded down: 99.99 % is not 100 %.
    let share = (answered as f64 / readings as f64 * 1_000.0).floor() / 10.0;
    let (answered, share) = (format_count(answered as f64), format_number(share, Unit::Percent));
    format!("answered {answered} of {} ({share})", counted(readings, "reading"))
}

fn figure_name(figure: &Figure) -> String {
    let metric = figure.metric.replace('_', " ");
    if figure.subject.is_empty() { metric } else { format!("{metric} of {}", figure.subject) }
}

/// A mean of counts is not itself a count: a tenth is enough.
fn mean_of(figure: &Figure) -> f64 {
    let is_small = figure.mean.abs() < 100.0;
    match figure.unit {
        Unit::Count if is_small => (figure.mean * 10.0).round() / 10.0,
        Unit::Count => figure.mean.round(),
        _ => figure.mean,
    }
}

fn times(run: &RunLine) -> String {
    match (run.runs, run.failed) {
        (1, 0) => "once".into(),
        (1, _) => "once, failed".into(),
        (runs, 0) => format!("{} times", format_count(runs as f64)),
        (runs, failed) => format!("{} times, {} failed", format_count(runs as f64), format_count(failed as f64)),
    }
}
