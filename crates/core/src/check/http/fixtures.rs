//! A healthy endpoint, and what the checks say about it.

pub(super) use crate::check::verdicts::{failing, one};
use crate::check::{Judgement, Status, Tuning, judge_all};
use crate::observation::{Expected, Failure, FailureKind, Http, Observation, Reading, Tls};
use crate::quantity::after;
use crate::system::{SystemId, SystemKind};
use jiff::Timestamp;

pub(super) fn now() -> Timestamp {
    "2026-03-02T09:00:00Z".parse().unwrap()
}

pub(super) fn healthy() -> Http {
    Http {
        url: "https://api.example.com/health".into(),
        status: 200,
        first_byte: 0.04,
        total: 0.05,
        body_bytes: 15,
        body_start: r#"{"status":"ok"}"#.into(),
        expected: Expected { statuses: Vec::new(), body_contains: Some("ok".into()) },
        body_matches: Some(true),
        tls: Some(Tls {
            not_before: after(now(), -20.0 * 86_400.0),
            not_after: after(now(), 70.0 * 86_400.0),
            subject: "CN=api.example.com".into(),
            issuer: "C=US, O=Let's Encrypt, CN=R11".into(),
            untrusted: None,
        }),
    }
}

fn judge(outcome: Result<Http, Failure>) -> Vec<Judgement> {
    let read = |at, outcome| Observation::Http(Reading { at, latency: 0.04, took: 0.05, outcome });
    let before = read(after(now(), -30.0), Ok(healthy()));
    let system = SystemId::new(SystemKind::Http, "api");
    judge_all(&system, &read(now(), outcome), Some(&before), &Tuning::default(), now())
}

pub(super) fn judged(seen: Http) -> Vec<Judgement> {
    judge(Ok(seen))
}

pub(super) fn unreached(kind: FailureKind) -> Vec<Judgement> {
    judge(Err(Failure { kind, message: "it failed".into(), address: "https://api.example.com/health".into() }))
}

#[test]
fn a_healthy_endpoint_is_ok_in_every_check() {
    for judgement in judged(healthy()) {
        assert_eq!(judgement.status, Status::Ok, "{}", judgement.check);
    }
}
