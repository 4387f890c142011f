//! From the record and the readings to the values that surfaces show. Nothing here decides anything.

use super::api::{
    ActionResult, ActionView, BackupView, FindingState, FindingView, IgnoreView, LastProof, PauseView, RetentionView,
    RunView, SystemState, SystemView,
};
use super::measured::{Recorded, measured};
use crate::config::KeepSettings;
use crate::present::Seen;
use crate::record::{Ignored, Pause, Run};
use crate::remediation::Applied;
use groundskeeper_core::check::Status;
use groundskeeper_core::lifecycle::Track;
use groundskeeper_core::observation::{self, Observation, Reading};
use groundskeeper_core::quantity::{format_bytes, format_count, format_number, format_seconds, seconds_between};
use groundskeeper_core::receipt::{Receipt, Rung};
use groundskeeper_core::retention::{Known, judge};
use groundskeeper_core::{Severity, SystemId, Unit};
use jiff::Timestamp;

/// So many of the newest sets are shown at a glance; `backup list` has them all.
const SETS_SHOWN: usize = 10;

pub(crate) fn action(applied: Applied) -> ActionView {
    match applied {
        Applied::Skipped { item, reason, .. } => ActionView {
            entry: None,
            at: Timestamp::UNIX_EPOCH,
            ended: None,
            remedy: item.remedy,
            class: item.class,
            subject: item.step.subject(),
            statement: item.statement,
            why: item.why,
            by: String::new(),
            result: ActionResult::Skipped { reason },
        },
        Applied::Done(entry) => ActionView {
            entry: Some(entry.id),
            at: entry.intended,
            ended: entry.ended,
            remedy: entry.remedy,
            class: entry.class,
            subject: entry.step.subject(),
            statement: entry.step.statement(),
            why: entry.why,
            by: entry.who,
            result: ActionResult::Ended { outcome: entry.outcome, detail: entry.detail },
        },
    }
}

pub(crate) fn run(run: Run) -> RunView {
    RunView {
        id: run.id,
        task: run.task,
        trigger: run.cause,
        due: run.due,
        started: run.started,
        ended: run.ended,
        outcome: run.outcome,
        summary: run.summary,
    }
}

pub(crate) fn pause(pause: Pause) -> PauseView {
    PauseView { task: pause.task, reason: pause.reason, by: pause.who, since: pause.since, until: pause.until }
}

pub(crate) fn ignored(ignored: Ignored) -> IgnoreView {
    IgnoreView { fingerprint: ignored.fingerprint, reason: ignored.reason, until: ignored.until, by: ignored.who }
}

pub(crate) fn finding(track: Track, ended: Option<Timestamp>, ignored_ones: &[Ignored]) -> FindingView {
    let state = match (ended, track.opened, track.clear_since) {
        (Some(_), _, _) => FindingState::Resolved,
        (None, None, _) => FindingState::Pending,
        (None, Some(_), Some(_)) => FindingState::Clearing,
        (None, Some(_), None) => FindingState::Open,
    };
    let by = ignored_ones.iter().find(|ignored| ignored.fingerprint == track.finding.fingerprint);
    FindingView {
        ignored: by.cloned().map(ignored),
        state,
        first_seen: track.first_seen,
        last_seen: track.last_seen,
        opened: track.opened,
        resolved: ended,
        finding: track.finding,
    }
}

/// A system as its latest judgement leaves it. `open` are its open findings that are not ignored.
pub(crate) fn system(id: &SystemId, address: String, seen: Option<&Seen>, open: &[Severity]) -> SystemView {
    let Some(seen) = seen else {
        return SystemView {
            system: id.clone(),
            address,
            state: SystemState::Waiting,
            read: None,
            took: None,
            ok: 0,
            failing: 0,
            unknown: Vec::new(),
            facts: Vec::new(),
        };
    };
    let mut view = SystemView {
        system: id.clone(),
        address,
        state: SystemState::Ok,
        read: Some(seen.observation.at()),
        took: Some(seen.observation.took()),
        ok: 0,
        failing: 0,
        unknown: Vec::new(),
        facts: facts(&seen.observation),
    };
    for judgement in &seen.judgements {
        match &judgement.status {
            Status::Ok => view.ok += 1,
            Status::Failing { .. } => view.failing += 1,
            Status::Unknown(unknown) => view.unknown.push((judgement.check.clone(), unknown.reason.clone())),
        }
    }
    let troubled = seen
        .judgements
        .iter()
        .any(|judgement| matches!(&judgement.status, Status::Unknown(unknown) if unknown.kind.is_trouble()));
    view.state = match open.iter().max() {
        Some(Severity::Critical) => SystemState::Critical,
        Some(Severity::Warning) => SystemState::Warning,
        Some(Severity::Info) => SystemState::Info,
        None if troubled => SystemState::Unknown,
        None => SystemState::Ok,
    };
    view
}

/// What the system calls its version.
pub(crate) fn version(observation: &Observation) -> Option<String> {
    match observation {
        Observation::Postgres(reading) => reading.outcome.as_ref().ok().map(|seen| seen.server.version.clone()),
        Observation::Redis(reading) => reading.outcome.as_ref().ok().map(|seen| seen.version.clone()),
        _ => None,
    }
}

/// A few key numbers, ready to show.
pub(crate) fn facts(observation: &Observation) -> Vec<(String, String)> {
    match observation {
        Observation::Postgres(reading) => reading.outcome.as_ref().map(postgres).unwrap_or_default(),
        Observation::Redis(reading) => reading.outcome.as_ref().map(redis).unwrap_or_default(),
        Observation::Http(reading) => reading.outcome.as_ref().map(http).unwrap_or_default(),
        Observation::Host(reading) => reading.outcome.as_ref().map(host).unwrap_or_default(),
        Observation::Logs(reading) => reading.outcome.as_ref().map(logs).unwrap_or_default(),
        Observation::Backup(reading) => {
            reading.outcome.as_ref().map(|seen| backup(seen, reading.at)).unwrap_or_default()
        }
    }
}

/// The backups as last read; `reading` is none before the first look.
pub(crate) fn backups(
    repository: String,
    reading: Option<&Reading<observation::Backup>>,
    keep: &KeepSettings,
    recorded: &Recorded,
    now: Timestamp,
) -> BackupView {
    let seen = reading.and_then(|reading| reading.outcome.as_ref().ok());
    let failure = reading.and_then(|reading| match &reading.outcome {
        Ok(seen) => seen.receipts.as_ref().err().map(|gap| gap.reason.clone()),
        Err(failure) => Some(failure.message.clone()),
    });
    let receipts = seen.and_then(|seen| seen.receipts.as_deref().ok()).unwrap_or_default();
    let proven = observation::last_proven(receipts);
    BackupView {
        repository,
        read: reading.map(|reading| reading.at),
        failure,
        sets: receipts.iter().take(SETS_SHOWN).cloned().collect(),
        last_proof: proven.and_then(|receipt| {
            let at = receipt.proven_at(Rung::Alive)?;
            Some(LastProof { set: receipt.set.clone(), at, recovery_seconds: receipt.recovery_time() })
        }),
        space: seen.and_then(|seen| seen.space.as_ref().ok()).copied(),
        measured: measured(receipts, seen.map(|seen| seen.wal.as_slice()).unwrap_or_default(), recorded, now),
        wal: seen.map(|seen| seen.wal.clone()).unwrap_or_default(),
        retention: seen.map(|_| retention(receipts, keep, now)),
    }
}

/// From receipts alone: whether a set is being restored only the repository knows.
fn retention(receipts: &[Receipt], keep: &KeepSettings, now: Timestamp) -> RetentionView {
    let known: Vec<Known> =
        receipts.iter().map(|receipt| Known::of(&receipt.set, receipt.made, Some(receipt), false)).collect();
    let judged = judge(&keep.retention.keep, &keep.retention.zone, &known, now);
    let going = judged.into_iter().filter(|judged| judged.verdict.is_removed());
    RetentionView {
        rules: keep.retention.keep.to_string(),
        applies: keep.apply,
        going: going.map(|judged| (judged.set, judged.verdict.why())).collect(),
    }
}

fn fact(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn postgres(seen: &observation::Postgres) -> Vec<(String, String)> {
    let mut facts = vec![fact("version", seen.server.version.split_whitespace().next().unwrap_or_default())];
    if let Ok(activity) = &seen.activity {
        facts.push(fact("connections", format!("{} of {}", activity.total, seen.server.max_connections)));
    }
    if let Ok(databases) = &seen.databases
        && let Some(size) = databases.iter().find(|d| d.name == seen.server.database).and_then(|d| d.size)
    {
        facts.push(fact("size", format_bytes(size as f64)));
    }
    if let Ok(tables) = &seen.tables {
        facts.push(fact("tables", format_count(tables.len() as f64)));
    }
    facts
}

fn redis(seen: &observation::Redis) -> Vec<(String, String)> {
    let mut facts = vec![fact("version", &seen.version)];
    if let Ok(memory) = &seen.memory {
        let limit =
            if memory.max == 0 { "no limit".to_owned() } else { format!("of {}", format_bytes(memory.max as f64)) };
        facts.push(fact("memory", format!("{} {limit}", format_bytes(memory.used as f64))));
    }
    if let Ok(keys) = &seen.keys {
        facts.push(fact("keys", format_count(keys.total as f64)));
    }
    if let Ok(clients) = &seen.clients {
        facts.push(fact("clients", format_count(clients.connected as f64)));
    }
    facts
}

fn http(seen: &observation::Http) -> Vec<(String, String)> {
    let mut facts = vec![fact("status", seen.status.to_string()), fact("answered in", format_seconds(seen.total))];
    if let Some(tls) = &seen.tls {
        facts.push(fact("certificate until", tls.not_after.strftime("%Y-%m-%d").to_string()));
    }
    facts
}

fn host(seen: &observation::Host) -> Vec<(String, String)> {
    let mut facts = vec![
        fact("load", format!("{:.2} on {} cores", seen.load[0], seen.cores)),
        fact("memory free", format_bytes(seen.memory.available as f64)),
    ];
    let fullest = seen.mounts.iter().filter(|mount| mount.total > 0).min_by(|a, b| {
        let free = |mount: &observation::Mount| mount.available as f64 / mount.total as f64;
        free(a).total_cmp(&free(b))
    });
    if let Some(mount) = fullest {
        let share = format_number(mount.available as f64 / mount.total as f64 * 100.0, Unit::Percent);
        facts.push(fact("fullest disk", format!("{} has {share} free", mount.path)));
    }
    facts
}

fn logs(seen: &observation::Logs) -> Vec<(String, String)> {
    let at_least = if seen.truncated { "at least " } else { "" };
    vec![
        fact("size", format!("{at_least}{}", format_bytes(seen.bytes as f64))),
        fact("files", format_count(seen.files as f64)),
    ]
}

fn backup(seen: &observation::Backup, now: Timestamp) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    if let Ok(receipts) = &seen.receipts {
        let ago = |at| format!("{} ago", format_seconds(seconds_between(at, now).max(0.0)));
        let newest = receipts.first().map_or_else(|| "none yet".to_owned(), |newest| ago(newest.made));
        facts.push(fact("newest set", newest));
        let proven = observation::last_proven(receipts).and_then(|receipt| receipt.proven_at(Rung::Alive));
        facts.push(fact("proven to restore", proven.map_or_else(|| "not yet".to_owned(), ago)));
    }
    for stream in &seen.wal {
        let behind = seconds_between(stream.safe_until.unwrap_or(stream.since), now).max(0.0).round();
        facts.push(fact(&format!("WAL of {} safe until", stream.system), format!("{} ago", format_seconds(behind))));
    }
    if let Ok(space) = &seen.space {
        facts
            .push(fact("free", format!("{} of {}", format_bytes(space.free as f64), format_bytes(space.total as f64))));
    }
    facts
}
