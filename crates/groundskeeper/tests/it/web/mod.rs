//! The page, the probes and the metrics, over HTTP, from made-up days.

mod exposition;
mod fixtures;

use fixtures::{Fixture, empty, healthy, now, samples, sick};
use groundskeeper::app::api::StatusView;
use groundskeeper::config::WebSettings;
use groundskeeper::web::{Serving, WebError, serve};
use jiff::SignedDuration;
use reqwest::{Client, Response, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

struct Site {
    serving: Serving,
    stop: watch::Sender<bool>,
    client: Client,
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn site(status: Option<StatusView>) -> Site {
    let source = Arc::new(Fixture { status, samples: samples() });
    let (stop, stopped) = watch::channel(false);
    let settings = WebSettings { listen: Some(local()), probes: Some(local()) };
    let serving = serve(source, &settings, stopped).await.unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    Site { serving, stop, client: Client::builder().no_proxy().tls_certs_only([]).build().unwrap() }
}

impl Site {
    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("http://{}{path}", self.serving.page().unwrap())).send().await.unwrap()
    }

    async fn probe(&self, path: &str) -> Response {
        self.client.get(format!("http://{}{path}", self.serving.probes().unwrap())).send().await.unwrap()
    }
}

/// The page of that day, without tags' line breaks.
async fn page(status: StatusView) -> String {
    let answer = site(Some(status)).await.get("/").await;
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

#[tokio::test]
async fn a_fine_day_says_so_in_one_sentence() {
    let text = page(healthy()).await;
    for part in [
        "<h1>All five systems are fine.</h1>",
        "Nothing is wrong as far as the checks can tell.",
        "title=\"2026-11-21 03:11:53 CET\">12 s ago</time>",
        "10.0.0.5:5432/docrag",
        "24 checks are fine",
        "Autonomy <strong>assist</strong>",
        "Not yet available in this version: 2",
        "in 5 h",
        "switched off",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(!text.contains("critical"), "{text}");
}

#[tokio::test]
async fn a_bad_day_says_the_worst_first_and_everything_else_below() {
    let text = page(sick()).await;
    for part in [
        "<title>✕ 3 open · Groundskeeper</title>",
        "<h1>1 critical finding on redis.cache: Redis at 10.0.0.7:6379 refuses connections: Connection refused (os error 111).</h1>",
        "systemctl start redis-server",
        "connect to 10.0.0.7:6379",
        "41,204",
        "20,050",
        "table docrag.public.chunks",
        "Not seen any more; it resolves if it stays away.",
        "opens if it stays",
        "Ignored: 1",
        "rotation comes with the next release &#60;b&#62;soon&#60;/b&#62;",
        "All actions are paused by ada until 2026-11-21 05:42:05 CET (in 2 h): index migration until noon",
        "webhook.team: 3 messages were not delivered",
        "Without an answer: 2",
        "pg_stat_statements is not installed",
        "did not help",
        "not done",
        "outside the maintenance window",
        "not read yet",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(!text.contains("<b>soon"), "foreign words are escaped");
    let (critical, warning) = (text.find("redis-server"), text.find("public.chunks;"));
    assert!(critical < warning);
}

#[tokio::test]
async fn an_empty_keeper_has_a_sentence_everywhere() {
    let text = page(empty()).await;
    for part in [
        "No system is under care yet.",
        "Not looked yet.",
        "Nothing has been checked yet.",
        "groundskeeper init",
        "Nothing is on the calendar.",
        "Nothing has been changed.",
        "No task but the watch has run yet.",
        "No backup is configured.",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[tokio::test]
async fn backups_are_shown_with_their_ladder_in_marks_and_in_words() {
    let text = page(healthy()).await;
    for part in [
        "120 GiB free of 200 GiB",
        "recovery took 40 s",
        "postgres.main, 2 GiB at the source, 35 MiB added in 12 s; restored and answering in 40 s",
        "<span class=\"heard\"> stored: proven 4 h ago: all 1,234 files</span>",
        "<span class=\"heard\"> intact: not tried yet</span>",
        "Kept: 7 daily. 1 set is to go; `groundskeeper backup prune --apply` removes them.",
        "Is to go: no rule keeps it: newer sets fill every one.",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let text = page(sick()).await;
    for part in [
        "postgres.reports is missing: no &#60;b&#62;answer&#60;/b&#62;",
        "rung 2 (intact) failed: 1 of 40 packs is damaged",
        "<span class=\"heard\"> restored: could not be tried 4 h ago: no room</span>",
        "Never shown to restore yet.",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let mut unread = healthy();
    let backup = unread.backup.as_mut().unwrap();
    (backup.sets, backup.failure) = (Vec::new(), Some("the key cannot be read".into()));
    assert!(page(unread).await.contains("The sets are not known: the key cannot be read"));
}

#[tokio::test]
async fn measured_recovery_is_a_chart_a_sentence_and_a_table() {
    let text = page(healthy()).await;
    assert_eq!(text.matches("<svg ").count(), 3, "recovery time, the stream, the sets");
    for part in [
        "<title id=\"chart-recovery-title\">Recovery time</title>",
        "<desc id=\"chart-recovery-words\">It took 40 s in the last drill, 36.5 s to 44.9 s over the last 12.</desc>",
        "aria-labelledby=\"chart-risk-postgres.main-title chart-risk-postgres.main-words\"",
        "<p>A disaster would have taken at most the last 3 h 1 min on the worst of 27 measured days.</p>",
        "<p>A disaster would have taken at most the last 2 d on the worst of 27 measured days.</p>",
        // The scales, with their units and dates.
        "dy=\"0.32em\">0 s</text>",
        "dy=\"0.32em\">45 s</text>",
        "dy=\"0.32em\">4 h</text>",
        "dy=\"0.32em\">3 d</text>",
        "y=\"160\">21 Nov</text>",
        "y=\"160\">12 Sep</text>",
        // The oldest drill and the last one.
        "<circle cx=\"62\" cy=\"38.2\" r=\"2.6\"><title>2026-09-05 00:02:05 CEST: 36.5 s</title></circle>",
        "<title>2026-11-20 23:02:05 CET: 40 s</title>",
        "<summary>In figures: 12</summary>",
        "<time datetime=\"2026-11-20T22:02:05Z\">2026-11-20 23:02:05 CET</time></th><td>40 s</td>",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    // The drills are one line; the days of the other two have a gap.
    assert_eq!(text.matches("<polyline ").count(), 1 + 2 + 2);

    let text = page(sick()).await;
    assert!(!text.contains("<svg ") && !text.contains("class=\"charts\""), "no empty chart is drawn: {text}");
    for part in [
        "How long a recovery takes was not measured in the last 90 days; `groundskeeper backup drill` does it now.",
        "How much a disaster would take is not known yet",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let mut none = sick();
    none.backup.as_mut().unwrap().sets.clear();
    assert!(!page(none).await.contains("not measured"), "without a set there is nothing to drill");
}

#[tokio::test]
async fn a_page_that_may_be_out_of_date_never_says_fine() {
    let mut late = healthy();
    late.watched = Some(now() - SignedDuration::from_mins(12));
    let text = page(late).await;
    assert!(text.contains("the last look was too long ago") && text.contains("may be out of date"), "{text}");
    let mut unread = healthy();
    unread.systems[1].ok = 0;
    assert!(page(unread).await.contains("redis.cache has not been read; nothing else is wrong."));
    let mut unknown = healthy();
    unknown.systems[0].unknown.push(("postgres.x".into(), "no grant".into()));
    assert!(page(unknown).await.contains("All five systems are fine; 1 check has no answer yet."));
}

#[tokio::test]
async fn the_fragment_is_the_page_without_its_frame() {
    let site = site(Some(sick())).await;
    let fragment = site.get("/fragment").await.text().await.unwrap();
    assert!(fragment.starts_with("<title>"), "{fragment}");
    assert!(fragment.contains("1 critical finding") && !fragment.contains("<body"), "{fragment}");
    for asset in ["style.css", "page.js", "htmx.min.js", "icon.svg"] {
        let answer = site.get(&format!("/assets/{asset}")).await;
        assert_eq!(
            (answer.status(), &answer.headers()["x-content-type-options"]),
            (StatusCode::OK, &"nosniff".parse().unwrap())
        );
    }
    let whole = site.get("/").await.text().await.unwrap();
    assert!(!whole.contains("http://") || !whole.contains("src=\"http"), "nothing comes from elsewhere");
    assert!(!whole.contains("style=\"") && !whole.contains("onclick"), "nothing is inline: the policy forbids it");
}

#[tokio::test]
async fn the_report_and_the_status_can_be_read() {
    let site = site(Some(healthy())).await;
    let report = site.get("/report?day=2026-11-19").await.text().await.unwrap();
    assert!(report.contains("Report of 2026-11-19 (Europe/Berlin)"), "{report}");
    assert!(report.contains("/report?day=2026-11-18") && report.contains("/report?day=2026-11-20"), "{report}");
    assert!(!site.get("/report").await.text().await.unwrap().contains("2026-11-22"), "there is no tomorrow");
    let wrong = site.get("/report?day=yesterday").await;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert!(wrong.text().await.unwrap().contains("is no day"));
    let status: StatusView = site.get("/api/status").await.json().await.unwrap();
    assert_eq!(status.systems.len(), 5);
}

#[tokio::test]
async fn metrics_are_well_formed_and_complete() {
    let site = site(Some(sick())).await;
    let answer = site.get("/metrics").await;
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let series = exposition::parse(&answer.text().await.unwrap());
    let redis = &sick().findings[0].finding.fingerprint.0;
    for (name, value) in [
        ("groundskeeper_build_info{version=0.1.0}", 1.0),
        ("groundskeeper_system_up{kind=postgres,system=postgres.main}", 1.0),
        ("groundskeeper_system_up{kind=redis,system=redis.cache}", 0.0),
        ("groundskeeper_checks{status=unknown,system=postgres.main}", 2.0),
        ("groundskeeper_checks{status=failing,system=redis.cache}", 1.0),
        ("groundskeeper_postgres_database_size_bytes{subject=docrag,system=postgres.main}", 1.9e9),
        ("groundskeeper_postgres_database_size_bytes{subject=od\"d\\na\nme,system=postgres.main}", 8e6),
        ("groundskeeper_postgres_cache_hit_rate_percent{subject=,system=postgres.main}", 99.3),
        ("groundskeeper_http_response_time_seconds{subject=,system=http.api}", 0.038),
        ("groundskeeper_backup_set_age_seconds{subject=,system=backup.main}", 3_600.0),
        ("groundskeeper_backup_recovery_time_seconds{subject=,system=backup.main}", 40.0),
        ("groundskeeper_backup_repository_free_bytes{subject=,system=backup.main}", 1.2e11),
        ("groundskeeper_task_last_run_ok{task=daily-health}", 1.0),
        ("groundskeeper_watch_age_seconds", 12.0),
        ("groundskeeper_paused{scope=actions}", 1.0),
        ("groundskeeper_notices", 1.0),
        (
            &format!(
                "groundskeeper_finding_open{{check=redis.unreachable,fingerprint={redis},ignored=false,\
                 severity=critical,system=redis.cache}}"
            ),
            1.0,
        ),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name} in {series:#?}");
    }
    assert_eq!(
        series.keys().filter(|name| name.starts_with("groundskeeper_finding_open")).count(),
        4,
        "not the pending"
    );
    assert!(series["process_resident_memory_bytes"] > 0.0);
    let same = exposition::parse(&site.probe("/metrics").await.text().await.unwrap());
    assert_eq!(same.len(), series.len());
}

#[tokio::test]
async fn the_probes_tell_alive_from_ready() {
    let ready = site(Some(healthy())).await;
    assert_eq!(ready.probe("/livez").await.status(), 200);
    assert_eq!(ready.probe("/readyz").await.status(), 200);
    assert_eq!(ready.get("/readyz").await.status(), 200);
    assert_eq!(ready.probe("/").await.status(), 404, "the probes have no page");
    assert_eq!(ready.probe("/api/status").await.status(), 404);

    let first = site(Some(empty())).await;
    assert_eq!(first.probe("/livez").await.status(), 200);
    let answer = first.probe("/readyz").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.text().await.unwrap(), "not ready: the first watch has not finished yet\n");

    let mut late = healthy();
    late.watched = Some(now() - SignedDuration::from_secs(121));
    assert_eq!(site(Some(late.clone())).await.probe("/readyz").await.status(), 503);
    let mut ahead = healthy();
    ahead.watched = Some(now() + SignedDuration::from_secs(3600));
    let answer = site(Some(ahead.clone())).await.probe("/readyz").await;
    assert_eq!(answer.status(), 503);
    let said = answer.text().await.unwrap();
    assert!(said.contains("1 h in the future; the clock was set back"), "{said}");
    ahead.watched = Some(now() + SignedDuration::from_secs(2));
    assert_eq!(site(Some(ahead)).await.probe("/readyz").await.status(), 200);
    late.calendar[0].schedule = "every 5 min".into();
    assert_eq!(site(Some(late)).await.probe("/readyz").await.status(), 200, "three intervals of five minutes");

    let broken = site(None).await;
    assert_eq!(broken.probe("/livez").await.status(), 200);
    let answer = broken.probe("/readyz").await;
    assert_eq!(
        (answer.status(), answer.text().await.unwrap().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "the store failed: disk I/O error\n")
    );
    assert_eq!(broken.get("/").await.status(), 503);
}

#[tokio::test]
async fn only_local_names_and_only_reading_are_answered() {
    let site = site(Some(healthy())).await;
    let address = site.serving.page().unwrap();
    let url = format!("http://{address}/api/status");
    for (host, status) in
        [("localhost", 200), ("[::1]:7070", 200), ("evil.example", 403), ("127.0.0.1.evil.example:80", 403)]
    {
        let answer = site.client.get(&url).header("host", host).send().await.unwrap();
        assert_eq!(answer.status(), status, "{host}");
    }
    assert_eq!(site.client.post(&url).send().await.unwrap().status(), 405);
    assert_eq!(site.client.head(&url).send().await.unwrap().status(), 200);
    assert_eq!(site.get("/nowhere").await.status(), 404);
    let answer = site.get("/").await;
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert!(header("content-security-policy").starts_with("default-src 'self'"));
    assert_eq!((header("x-frame-options"), header("x-content-type-options")), ("DENY".into(), "nosniff".into()));
}

#[tokio::test]
async fn a_public_page_and_a_taken_port_are_refused_with_what_to_do() {
    let source = Arc::new(Fixture { status: None, samples: Vec::new() });
    let (_stop, stopped) = watch::channel(false);
    let public = WebSettings { listen: Some("0.0.0.0:0".parse().unwrap()), probes: None };
    let error = serve(Arc::clone(&source), &public, stopped.clone()).await.unwrap_err();
    assert!(matches!(error, WebError::NotLoopback(_)) && error.to_string().contains("ssh -L"), "{error}");
    let other = site(None).await;
    let taken = WebSettings { listen: other.serving.page(), probes: None };
    let error = serve(source, &taken, stopped).await.unwrap_err().to_string();
    assert!(error.contains(&other.serving.page().unwrap().to_string()) && error.contains("another program"), "{error}");
}

#[tokio::test]
async fn a_stop_ends_both_listeners() {
    let site = site(Some(healthy())).await;
    let (page, probes) = (site.serving.page().unwrap(), site.serving.probes().unwrap());
    site.get("/").await.text().await.unwrap();
    site.stop.send(true).unwrap();
    site.serving.finished().await;
    for address in [page, probes] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
}
