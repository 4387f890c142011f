//! Assembles the report of a day from the record.

use super::{CallError, view};
use crate::record::{self, Resolution, Run};
use crate::remediation::Applied;
use crate::tasks::{Shop, calendar};
use groundskeeper_core::finding::Finding;
use groundskeeper_core::plan::plan;
use groundskeeper_core::quantity::{after, seconds_between};
use groundskeeper_core::report::{ActionLine, DayReport, Figure, FindingLine, RunLine, SystemReport};
use jiff::civil::Date;
use jiff::{Span, Timestamp};
use std::collections::BTreeMap;

/// Points of a minute are kept for 48 hours; a day that reaches back further is told from hourly points.
const MINUTES_REACH_SECONDS: f64 = 47.0 * 3600.0;
/// Figures of single tables in a report: the largest few.
const TABLES_SHOWN: usize = 5;

/// The report of the calendar day in the configured zone; of today without a day.
pub(crate) async fn of_day(shop: &Shop, day: Option<&str>, now: Timestamp) -> Result<DayReport, CallError> {
    let today = now.to_zoned(shop.settings.zone.clone()).date();
    let date = match day {
        None => today,
        Some(text) => {
            text.parse::<Date>().map_err(|_| CallError::usage(format!("`{text}` is no day; write it as {today}")))?
        }
    };
    if date > today {
        return Err(CallError::usage(format!("{date} has not happened yet; today is {today}")));
    }
    let start = |date: Date| -> Result<Timestamp, CallError> {
        Ok(date
            .to_zoned(shop.settings.zone.clone())
            .map_err(|error| CallError::usage(format!("{date}: {error}")))?
            .timestamp())
    };
    let next = date.checked_add(Span::new().days(1)).map_err(|error| CallError::usage(error.to_string()))?;
    let (from, to) = (start(date)?, start(next)?);
    Ok(span(shop, date.to_string(), from, to, now).await?)
}

/// The report of the 24 hours before `now`.
pub(crate) async fn last_24_hours(shop: &Shop, now: Timestamp) -> record::Result<DayReport> {
    let label = format!("the 24 hours until {}", now.strftime("%Y-%m-%d %H:%M UTC"));
    span(shop, label, after(now, -86_400.0), now, now).await
}

async fn span(shop: &Shop, label: String, from: Timestamp, to: Timestamp, now: Timestamp) -> record::Result<DayReport> {
    let resolution =
        if seconds_between(from, now) <= MINUTES_REACH_SECONDS { Resolution::Minute } else { Resolution::Hour };
    let to_read = to.min(now);
    // Points carry the start of their minute; the one of `now` belongs to the report.
    let until = after(to_read, 1.0);
    let facts = shop
        .record
        .with(move |store| {
            Ok(Facts {
                figures: store.figures(resolution, from, until)?,
                readings: store.up_readings(resolution, from, until)?,
                tracks: store.tracks_between(from, until)?,
                entries: store.entries_between(from, until)?,
                runs: store.runs_between(from, until)?,
                ignored: store.ignored(now)?,
                messages: store.message_counts(from, until)?,
            })
        })
        .await?;
    let is_ignored = |finding: &Finding| facts.ignored.iter().any(|i| i.fingerprint == finding.fingerprint);
    let open: Vec<Finding> = facts
        .tracks
        .iter()
        .filter(|(track, ended)| ended.is_none() && !is_ignored(&track.finding))
        .map(|(track, _)| track.finding.clone())
        .collect();
    let is_present = to >= now;
    let wanted = if is_present {
        let situation = shop.executor.situation().await?;
        Some(plan(&open, &shop.settings.policy, &situation, now))
    } else {
        None
    };
    Ok(DayReport {
        day: label,
        zone: shop.settings.zone_name.clone(),
        from,
        to: to_read,
        partial: to > now,
        autonomy: shop.settings.policy.autonomy,
        systems: systems(shop, &facts),
        findings: findings(&facts),
        actions: actions(&facts),
        plan: wanted.filter(|plan| !plan.items.is_empty()),
        runs: runs(&facts.runs),
        notifications_sent: facts.messages.sent,
        notifications_failed: facts.messages.failed,
        not_available: calendar::LINES.iter().filter(|line| !line.built).map(|line| line.name.to_owned()).collect(),
    })
}

struct Facts {
    figures: BTreeMap<groundskeeper_core::SystemId, Vec<Figure>>,
    readings: BTreeMap<groundskeeper_core::SystemId, (u64, u64)>,
    tracks: Vec<(groundskeeper_core::lifecycle::Track, Option<Timestamp>)>,
    entries: Vec<record::Entry>,
    runs: Vec<Run>,
    ignored: Vec<record::Ignored>,
    messages: record::MessageCounts,
}

fn systems(shop: &Shop, facts: &Facts) -> Vec<SystemReport> {
    let report = |system: &groundskeeper_core::SystemId| {
        let (answered, readings) = facts.readings.get(system).copied().unwrap_or_default();
        let mut figures: Vec<Figure> = facts.figures.get(system).cloned().unwrap_or_default();
        figures.retain(|figure| {
            let is_of_statement = figure.metric.starts_with("statement_");
            !is_of_statement
                && !matches!(
                    figure.metric.as_str(),
                    "up" | "status"
                        | "disk_total"
                        | "memory_total"
                        | "memory_max"
                        | "table_dead_rows"
                        | "table_rows"
                        | "load_1m"
                )
        });
        let mut tables: Vec<f64> =
            figures.iter().filter(|figure| figure.metric == "table_size").map(|figure| figure.last).collect();
        tables.sort_by(|a, b| b.total_cmp(a));
        let least = tables.get(TABLES_SHOWN).copied().unwrap_or(0.0);
        figures.retain(|figure| figure.metric != "table_size" || figure.last > least);
        SystemReport { system: system.clone(), answered, readings, figures }
    };
    shop.stack.ids().map(report).collect()
}

fn findings(facts: &Facts) -> Vec<FindingLine> {
    let mut lines: Vec<FindingLine> = facts
        .tracks
        .iter()
        .map(|(track, ended)| {
            let seen = view::finding(track.clone(), *ended, &facts.ignored);
            FindingLine {
                fingerprint: track.finding.fingerprint.clone(),
                check: track.finding.check.clone(),
                system: track.finding.system.clone(),
                severity: track.finding.severity,
                summary: track.finding.summary.clone(),
                opened: track.opened.unwrap_or(track.first_seen),
                resolved: *ended,
                ignored: seen.ignored.is_some(),
            }
        })
        .collect();
    lines.sort_by_key(|line| (line.resolved.is_some(), std::cmp::Reverse(line.severity), line.opened));
    lines
}

fn actions(facts: &Facts) -> Vec<ActionLine> {
    facts
        .entries
        .iter()
        .map(|entry| {
            let shown = view::action(Applied::Done(Box::new(entry.clone())));
            ActionLine {
                at: entry.intended,
                remedy: shown.remedy,
                class: shown.class,
                statement: shown.statement,
                outcome: entry.outcome,
                detail: entry.detail.clone(),
                by: shown.by,
            }
        })
        .collect()
}

fn runs(runs: &[Run]) -> Vec<RunLine> {
    let mut lines: Vec<RunLine> = Vec::new();
    for run in runs {
        let failed = u64::from(run.outcome == "failed" || run.outcome == "interrupted");
        if let Some(line) = lines.iter_mut().find(|line| line.task == run.task) {
            line.runs += 1;
            line.failed += failed;
            line.last = run.started;
            if !run.summary.is_empty() {
                line.last_summary.clone_from(&run.summary);
            }
        } else {
            lines.push(RunLine {
                task: run.task.clone(),
                runs: 1,
                failed,
                last: run.started,
                last_summary: run.summary.clone(),
            });
        }
    }
    lines
}
