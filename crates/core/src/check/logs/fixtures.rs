//! A healthy folder, and what the checks say about it.

pub(super) use crate::check::verdicts::{failing, one, status};
use crate::check::{Judgement, Status, Tuning, judge_all};
use crate::observation::{Failure, FailureKind, LogFile, Logs, Observation, Reading};
use crate::quantity::after;
use crate::system::{SystemId, SystemKind};
use jiff::Timestamp;

fn now() -> Timestamp {
    "2026-03-02T09:00:00Z".parse().unwrap()
}

pub(super) fn file(path: &str, bytes: u64, rotated: bool) -> LogFile {
    LogFile { path: path.into(), bytes, modified: Some(now()), rotated }
}

pub(super) fn healthy() -> Logs {
    Logs {
        folder: "/var/log/app".into(),
        files: 9,
        bytes: 300 << 20,
        rotated_bytes: 200 << 20,
        largest: vec![
            file("/var/log/app/app.log", 100 << 20, false),
            file("/var/log/app/app.log.1", 90 << 20, true),
            file("/var/log/app/app.log.2.gz", 20 << 20, true),
        ],
        unreadable: Vec::new(),
        truncated: false,
    }
}

fn judge(before: Option<Logs>, outcome: Result<Logs, Failure>) -> Vec<Judgement> {
    let read = |at, outcome| Observation::Logs(Reading { at, latency: 0.001, took: 0.01, outcome });
    let before = before.map(|earlier| read(after(now(), -60.0), Ok(earlier)));
    let system = SystemId::new(SystemKind::Logs, "app");
    judge_all(&system, &read(now(), outcome), before.as_ref(), &Tuning::default(), now())
}

/// What all checks say of `seen`, a minute after `before`.
pub(super) fn judged(before: Option<Logs>, seen: Logs) -> Vec<Judgement> {
    judge(before, Ok(seen))
}

pub(super) fn first(seen: Logs) -> Vec<Judgement> {
    judge(None, Ok(seen))
}

pub(super) fn unreached(kind: FailureKind) -> Vec<Judgement> {
    judge(Some(healthy()), Err(Failure { kind, message: "it failed".into(), address: "/var/log/app".into() }))
}

#[test]
fn a_healthy_folder_is_ok_in_every_check() {
    for judgement in judged(Some(healthy()), healthy()) {
        assert_eq!(judgement.status, Status::Ok, "{}", judgement.check);
    }
}
