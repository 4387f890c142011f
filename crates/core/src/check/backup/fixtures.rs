//! Healthy backups, and what the checks say about them.

pub(super) use crate::check::verdicts::{failing, one, status};
use crate::check::{Judgement, Status, Tuning, judge_all};
use crate::observation::{Backup, Failure, FailureKind, LastRun, Observation, Reading, Space};
use crate::quantity::after;
use crate::receipt::{Climb, ClimbOutcome, Missing, Part, Receipt, Rung, SetId};
use crate::system::{SystemId, SystemKind};
use jiff::Timestamp;

pub(super) const HOUR: f64 = 3_600.0;

fn now() -> Timestamp {
    "2026-03-02T09:00:00Z".parse().unwrap()
}

pub(super) fn ago(seconds: f64) -> Timestamp {
    after(now(), -seconds)
}

/// A whole set that was made so many hours ago, and of which nothing was tried yet.
pub(super) fn set(hours: f64) -> Receipt {
    let made = ago(hours * HOUR);
    let part = |name: &str, bytes| Part { name: name.into(), entries: 900, bytes, ..Part::default() };
    Receipt {
        set: SetId::new(made, 0x3fa2_b1c9),
        made,
        took: 12.0,
        parts: vec![part("postgres.main", 2 << 30), part("groundskeeper", 1 << 20)],
        missing: Vec::new(),
        added: 30 << 20,
        climbs: Vec::new(),
    }
}

/// A rung that was climbed so many hours ago.
pub(super) fn climbed(rung: Rung, hours: f64) -> Climb {
    let outcome = ClimbOutcome::Proven { shown: "all of it".into(), not_covered: Vec::new() };
    Climb { rung, at: ago(hours * HOUR), took: 20.0, outcome }
}

pub(super) fn missing(system: &str) -> Missing {
    Missing { system: system.parse().unwrap(), why: "no answer".into() }
}

/// A set of this night, one of the night before that was proven yesterday, and one older.
pub(super) fn healthy() -> Backup {
    let mut sets = vec![set(8.0), set(32.0), set(56.0)];
    sets[0].climbs = vec![climbed(Rung::Stored, 8.0)];
    sets[1].climbs = Rung::ALL.map(|rung| climbed(rung, 11.0)).into();
    Backup {
        repository: "/var/backups/groundskeeper".into(),
        receipts: Ok(sets),
        space: Ok(Space { total: 200 << 30, free: 120 << 30 }),
        key: Ok(()),
        last_run: Some(LastRun { at: ago(8.0 * HOUR), failed: None }),
        wal: Vec::new(),
    }
}

fn judge(outcome: Result<Backup, Failure>) -> Vec<Judgement> {
    let reading = Observation::Backup(Reading { at: now(), latency: 0.001, took: 0.01, outcome });
    judge_all(&SystemId::new(SystemKind::Backup, "main"), &reading, None, &Tuning::default(), now())
}

/// What all checks say of `seen`.
pub(super) fn judged(seen: Backup) -> Vec<Judgement> {
    judge(Ok(seen))
}

pub(super) fn unreached(kind: FailureKind) -> Vec<Judgement> {
    judge(Err(Failure { kind, message: "it failed".into(), address: "/var/backups/groundskeeper".into() }))
}

#[test]
fn healthy_backups_are_ok_in_every_check() {
    for judgement in judged(healthy()) {
        assert_eq!(judgement.status, Status::Ok, "{}", judgement.check);
    }
}
