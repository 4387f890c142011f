//! The present for the page and `status`, the findings, and the calendar.

use super::api::{BackupView, CalendarEntry, CalendarState, FindingView, StatusView};
use super::measured::Recorded;
use super::{App, CallError, view};
use crate::present::Seen;
use crate::record::Store;
use crate::tasks::{self, Shop, calendar};
use groundskeeper_core::quantity::{after, seconds_between};
use groundskeeper_core::{Severity, Status, SystemId, SystemKind, UnknownKind};
use jiff::Timestamp;

/// Days of resolved findings in `findings --all`.
const HISTORY_DAYS: f64 = 30.0;
const RUNS_SHOWN: u32 = 15;
const ACTIONS_SHOWN: u32 = 10;
/// A part that cannot be read for so long is no passing trouble.
const BLIND_SECONDS: f64 = 900.0;

impl App {
    pub async fn status(&self) -> Result<StatusView, CallError> {
        let shop = &self.shop;
        let now = shop.clock.now();
        let findings = self.findings(false).await?;
        let calendar = self.calendar().await?;
        let (pauses, runs, mut notices, since) = shop
            .record
            .with(move |store| {
                Ok((store.pauses(now)?, store.recent_runs(RUNS_SHOWN)?, notices(store, now)?, store.statuses()?))
            })
            .await?;
        for id in shop.stack.ids() {
            notices.extend(shop.present.get(id).and_then(|seen| long_blind(id, &seen, &since, now)));
        }
        notices.extend(shop.present.broken_audit().map(|broken| format!("The audit chain is broken: {broken}.")));
        let systems = shop
            .stack
            .ids()
            .map(|id| {
                let open = open_severities(&findings, id);
                view::system(id, shop.stack.address(id), shop.present.get(id).as_ref(), &open)
            })
            .collect();
        Ok(StatusView {
            now,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            zone: shop.settings.zone_name.clone(),
            autonomy: shop.settings.policy.autonomy,
            pauses: pauses.into_iter().map(view::pause).collect(),
            notices,
            systems,
            findings,
            runs: runs.into_iter().map(view::run).collect(),
            calendar,
            actions: self.actions(ACTIONS_SHOWN).await?,
            backup: backups(shop).await,
            watched: shop.present.watched(),
        })
    }

    /// Open ones, the worst first and the ignored last; with `all` also the pending and the resolved of 30 days.
    pub async fn findings(&self, all: bool) -> Result<Vec<FindingView>, CallError> {
        let now = self.shop.clock.now();
        let mut findings = self
            .shop
            .record
            .with(move |store| {
                let ignored = store.ignored(now)?;
                let mut tracks: Vec<_> = store.live_tracks()?.into_iter().map(|track| (track, None)).collect();
                if all {
                    let past = store.tracks_between(after(now, -HISTORY_DAYS * 86_400.0), now)?;
                    tracks.extend(past.into_iter().filter(|(_, ended)| ended.is_some()));
                } else {
                    tracks.retain(|(track, _)| track.is_open());
                }
                Ok(tracks.into_iter().map(|(track, ended)| view::finding(track, ended, &ignored)).collect::<Vec<_>>())
            })
            .await?;
        findings.sort_by_key(|found| {
            let severity = std::cmp::Reverse(found.finding.severity);
            (found.resolved.is_some(), found.opened.is_none(), found.ignored.is_some(), severity, found.first_seen)
        });
        Ok(findings)
    }

    pub async fn calendar(&self) -> Result<Vec<CalendarEntry>, CallError> {
        let shop = &self.shop;
        let now = shop.clock.now();
        let (pauses, last) = shop
            .record
            .with(move |store| {
                let last: Vec<_> =
                    calendar::LINES.iter().map(|line| store.last_run(line.name)).collect::<Result<_, _>>()?;
                Ok((store.pauses(now)?, last))
            })
            .await?;
        let entry = |(line, last): (&calendar::Line, Option<crate::record::Run>)| {
            let schedule = tasks::schedule(&shop.settings, line);
            let state = if !line.built {
                CalendarState::NotAvailable
            } else if !tasks::is_configured(&shop.settings, line.name) {
                CalendarState::NotConfigured
            } else if !tasks::is_enabled(&shop.settings, line.name) {
                CalendarState::Disabled
            } else if pauses.iter().any(|pause| pause.task.as_deref() == Some(line.name)) {
                CalendarState::Paused
            } else {
                CalendarState::Scheduled
            };
            let zone = shop.settings.tasks.get(line.name).and_then(|task| task.zone.as_ref());
            CalendarEntry {
                task: line.name.to_owned(),
                what: line.what.to_owned(),
                schedule: schedule.as_ref().map_or_else(|| "always".to_owned(), ToString::to_string),
                zone: zone.and_then(|zone| zone.iana_name()).unwrap_or(&shop.settings.zone_name).to_owned(),
                next: schedule
                    .filter(|_| state == CalendarState::Scheduled)
                    .and_then(|schedule| schedule.next_after(now)),
                state,
                last: last.map(view::run),
            }
        };
        Ok(calendar::LINES.iter().zip(last).map(entry).collect())
    }
}

/// What the last reading of the repository tells.
async fn backups(shop: &Shop) -> Option<BackupView> {
    let system = shop.stack.ids().find(|id| id.kind == SystemKind::Backup)?;
    let now = shop.clock.now();
    let recorded = Recorded::read(&shop.settings.state_dir, system, now).await;
    let seen = shop.present.get(system);
    Some(view::backups(
        shop.stack.address(system),
        seen.as_ref().and_then(|seen| seen.observation.as_backup()),
        &shop.settings.keep,
        &recorded,
        now,
    ))
}

fn open_severities(findings: &[FindingView], system: &SystemId) -> Vec<Severity> {
    findings
        .iter()
        .filter(|found| found.finding.system == *system && found.ignored.is_none())
        .map(|found| found.finding.severity)
        .collect()
}

/// Checks that could not be answered for long although their system answers: a finding of theirs would go unseen.
fn long_blind(
    system: &SystemId,
    seen: &Seen,
    since: &[(String, String, String, Timestamp)],
    now: Timestamp,
) -> Option<String> {
    let name = system.to_string();
    let blind: Vec<(&str, &str)> = seen
        .judgements
        .iter()
        .filter_map(|judgement| match &judgement.status {
            Status::Unknown(unknown) if unknown.kind == UnknownKind::NotRead => {
                Some((judgement.check.as_str(), unknown.reason.as_str()))
            }
            _ => None,
        })
        .filter(|(check, _)| {
            since.iter().any(|(of, about, status, from)| {
                *of == name && about == check && status == "unknown" && seconds_between(*from, now) >= BLIND_SECONDS
            })
        })
        .collect();
    let (first, reason) = *blind.first()?;
    Some(format!("{} checks of {system} have had no answer for a while ({first}: {reason}).", blind.len()))
}

/// What a person must know about the keeper itself.
fn notices(store: &Store, now: Timestamp) -> crate::record::Result<Vec<String>> {
    let mut notices: Vec<String> = store
        .set_aside()
        .iter()
        .map(|path| {
            format!(
                "The store was damaged and set aside as {}; its history is missing here. Look into it (`sqlite3 FILE .recover`), then move the file away.",
                path.display()
            )
        })
        .collect();
    if store.is_full() {
        notices.push(format!(
            "The disk of the store is full: nothing is recorded, and nothing is done. Free some space under {}.",
            store.folder().display()
        ));
    }
    for (channel, number, error) in store.failing_channels(after(now, -86_400.0))? {
        notices.push(format!("{number} messages could not be delivered by {channel} in the last day: {error}"));
    }
    Ok(notices)
}
