//! The HTTP adapter, and its checks, against a real server.

use groundskeeper_core::check::judge_all;
use groundskeeper_core::observation::{Expected, FailureKind, Http, Observation, Reading};
use groundskeeper_core::{Status, SystemId, SystemKind, check::Tuning};
use groundskeeper_systems::http::{Endpoint, Options, observe};
use groundskeeper_testing::{BlackHole, Closer, Garbage, HttpTarget, TlsOptions};
use jiff::Timestamp;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);

fn any() -> Expected {
    Expected { statuses: Vec::new(), body_contains: None }
}

async fn read(endpoint: &Endpoint) -> Reading<Http> {
    observe(endpoint, Timestamp::now(), DEADLINE).await
}

fn failing(now: Reading<Http>) -> Vec<String> {
    let system = SystemId::new(SystemKind::Http, "api");
    let at = now.at;
    judge_all(&system, &Observation::Http(now), None, &Tuning::default(), at)
        .into_iter()
        .filter(|judgement| matches!(judgement.status, Status::Failing { .. }))
        .map(|judgement| judgement.check)
        .collect()
}

fn trusting(target: &HttpTarget, headers: &[(&str, &str)]) -> Endpoint {
    let options = Options {
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect(),
        authorities: target.ca_pem().map(|pem| pem.as_bytes().to_vec()),
    };
    Endpoint::with(&target.url(), any(), &options).unwrap()
}

#[tokio::test]
async fn a_good_answer_is_read_and_raises_nothing() {
    let target = HttpTarget::start().await.unwrap();
    let expected = Expected { statuses: vec![200], body_contains: Some("ok".into()) };
    let endpoint = Endpoint::new(&format!("{}/health?token=secret", target.url()), expected).unwrap();
    let reading = read(&endpoint).await;
    let seen = reading.outcome.clone().unwrap();
    assert_eq!((seen.status, seen.body_start.as_str(), seen.body_bytes), (200, "ok", 2));
    assert_eq!((seen.body_matches, seen.tls.is_none()), (Some(true), true));
    assert!(seen.first_byte > 0.0 && seen.first_byte <= seen.total && seen.total <= reading.took);
    assert_eq!(seen.url, format!("{}/health", target.url()));
    assert_eq!(target.paths(), ["/health?token=secret"]);
    assert_eq!(failing(reading), [""; 0]);
}

#[tokio::test]
async fn a_wrong_status_or_body_is_exactly_one_finding() {
    let target = HttpTarget::start().await.unwrap();
    let expected = Expected { statuses: Vec::new(), body_contains: Some("ok".into()) };
    let endpoint = Endpoint::new(&target.url(), expected).unwrap();
    target.set_body("maintenance");
    assert_eq!(failing(read(&endpoint).await), ["http.body_unexpected"]);
    target.set_status(500);
    assert_eq!(failing(read(&endpoint).await), ["http.status_unexpected"]);
}

#[tokio::test]
async fn a_slow_answer_is_measured() {
    let target = HttpTarget::start().await.unwrap();
    target.set_delay(Duration::from_millis(1_100));
    assert_eq!(failing(read(&Endpoint::new(&target.url(), any()).unwrap()).await), ["http.slow"]);
}

#[tokio::test]
async fn a_long_body_is_read_to_its_bound() {
    let target = HttpTarget::start().await.unwrap();
    target.set_body("é".repeat(2 << 20));
    let seen = read(&Endpoint::new(&target.url(), any()).unwrap()).await.outcome.unwrap();
    assert_eq!((seen.body_bytes, seen.body_start.chars().count()), (1 << 20, 200));
}

#[tokio::test]
async fn failures_are_told_apart() {
    let (closer, garbage) = (Closer::start().await.unwrap(), Garbage::start().await.unwrap());
    let mut target = HttpTarget::start().await.unwrap();
    target.stop().await.unwrap();
    let plain = HttpTarget::start().await.unwrap();
    for (url, kind) in [
        (target.url(), FailureKind::Refused),
        ("http://no-such-host.invalid/?key=secret".into(), FailureKind::UnknownHost),
        (format!("http://{}/", closer.address()), FailureKind::Interrupted),
        (format!("http://me:secret@{}/", garbage.address()), FailureKind::Protocol),
        (format!("https://{}/", plain.address()), FailureKind::Tls),
    ] {
        let failure = read(&Endpoint::new(&url, any()).unwrap()).await.outcome.unwrap_err();
        assert_eq!(failure.kind, kind, "{url}: {failure:?}");
        assert!(!format!("{failure:?}").contains("secret"));
        assert!(failure.message.len() > 4, "{failure:?}");
    }
}

#[tokio::test]
async fn the_deadline_holds_before_and_within_the_answer() {
    let hole = BlackHole::start().await.unwrap();
    let slow = HttpTarget::start().await.unwrap();
    slow.set_delay(Duration::from_secs(20));
    for url in [format!("http://{}/", hole.address()), format!("https://{}/", hole.address()), slow.url()] {
        let endpoint = Endpoint::new(&url, any()).unwrap();
        let started = Instant::now();
        let reading = observe(&endpoint, Timestamp::now(), Duration::from_millis(300)).await;
        assert!(started.elapsed() < Duration::from_millis(600));
        assert_eq!(reading.outcome.unwrap_err().kind, FailureKind::Timeout);
    }
}

#[tokio::test]
async fn a_certificate_is_evidence_and_each_trouble_is_one_finding() {
    let options = |days_left| TlsOptions { days_left, ..TlsOptions::default() };
    let good = HttpTarget::start_tls(options(60)).await.unwrap();
    let reading = read(&trusting(&good, &[])).await;
    let tls = reading.outcome.clone().unwrap().tls.unwrap();
    assert_eq!(tls.untrusted, None);
    assert!(tls.subject.contains("localhost") && tls.issuer.contains("Groundskeeper test authority"));
    assert_eq!(failing(reading), [""; 0]);

    let soon = HttpTarget::start_tls(options(5)).await.unwrap();
    assert_eq!(failing(read(&trusting(&soon, &[])).await), ["http.certificate_expiring"]);

    let over = HttpTarget::start_tls(options(-2)).await.unwrap();
    let reading = read(&trusting(&over, &[])).await;
    assert_eq!(reading.outcome.as_ref().unwrap().status, 200);
    assert_eq!(failing(reading), ["http.certificate_expiring"]);

    let stranger = Endpoint::new(&good.url(), any()).unwrap();
    let reading = read(&stranger).await;
    let tls = reading.outcome.as_ref().unwrap().tls.clone().unwrap();
    assert!(tls.untrusted.unwrap().contains("issuer"));
    assert_eq!(failing(reading), ["http.certificate_untrusted"]);

    let self_signed = HttpTarget::start_tls(TlsOptions { self_signed: true, ..options(60) }).await.unwrap();
    let stranger = Endpoint::new(&self_signed.url(), any()).unwrap();
    assert_eq!(failing(read(&stranger).await), ["http.certificate_untrusted"]);

    let named = TlsOptions { names: vec!["other.example".into()], ..options(60) };
    let other = HttpTarget::start_tls(named).await.unwrap();
    let reading = read(&trusting(&other, &[])).await;
    let untrusted = reading.outcome.as_ref().unwrap().tls.clone().unwrap().untrusted.unwrap();
    assert!(untrusted.contains("another host name"), "{untrusted}");
    assert_eq!(failing(reading), ["http.certificate_untrusted"]);
}

#[tokio::test]
async fn the_certificate_is_that_of_this_reading() {
    let target = HttpTarget::start_tls(TlsOptions::default()).await.unwrap();
    let endpoint = trusting(&target, &[]);
    for round in 1..=3 {
        assert!(read(&endpoint).await.outcome.unwrap().tls.is_some());
        assert_eq!(target.requests(), round);
    }
}

#[tokio::test]
async fn credentials_go_only_to_a_server_that_is_trusted() {
    let target = HttpTarget::start_tls(TlsOptions::default()).await.unwrap();
    let headers = [("Authorization", "Bearer hunter2")];
    assert!(read(&trusting(&target, &headers)).await.outcome.is_ok());
    assert_eq!(target.requests(), 1);
    let options = Options { headers: vec![("Authorization".into(), "Bearer hunter2".into())], authorities: None };
    let stranger = Endpoint::with(&target.url(), any(), &options).unwrap();
    let failure = read(&stranger).await.outcome.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tls);
    assert!(!format!("{failure:?}").contains("hunter2"));
    assert_eq!(target.requests(), 1);
}
