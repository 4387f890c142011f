//! Messages that arrive once, whatever happens on the way.

use groundskeeper::clock::Clock;
use groundskeeper::config::{EmailSettings, HeartbeatSettings, NotifySettings, WebhookForm, WebhookSettings};
use groundskeeper::notify::{Delivered, Heartbeat, Pipeline};
use groundskeeper::record::{Record, Store};
use groundskeeper_core::finding::{Draft, Finding, Fingerprint};
use groundskeeper_core::lifecycle::{Change, Event, Track};
use groundskeeper_core::{Severity, SystemId, SystemKind, Value};
use groundskeeper_testing::{BlackHole, MailSink, WebhookSink};
use jiff::Timestamp;
use secrecy::SecretString;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// So fast that a back-off of ten seconds is over in ten milliseconds.
const SPEED: f64 = 1000.0;
const HOUR: Duration = Duration::from_hours(1);

struct Bench {
    folder: TempDir,
    clock: Clock,
    record: Record,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::compressed("2026-11-21T02:00:00Z".parse().unwrap(), SPEED);
        let record = Record::new(Store::open(folder.path(), clock.now()).unwrap());
        Self { folder, clock, record }
    }

    fn pipeline(&self, settings: NotifySettings) -> Pipeline {
        Pipeline::new(settings, self.record.clone(), self.clock.clone()).unwrap()
    }

    /// As after a restart: everything from the disk again.
    fn restarted(self) -> Self {
        drop(self.record);
        let record = Record::new(Store::open(self.folder.path(), self.clock.now()).unwrap());
        Self { record, ..self }
    }

    fn change(&self, event: Event, subject: &str, severity: Severity) -> Change {
        let draft = Draft::new(severity, format!("Redis {subject} refuses connections"))
            .saw("failure", Value::text("Connection refused"), "connect to 10.0.0.7:6379")
            .fix("start Redis");
        let finding = Finding::from_draft("redis.unreachable", &SystemId::new(SystemKind::Redis, subject), draft);
        let now = self.clock.now();
        Change {
            event,
            track: Track { finding, first_seen: now, last_seen: now, opened: Some(now), clear_since: None },
        }
    }

    fn opened(&self, subject: &str, severity: Severity) -> Change {
        self.change(Event::Opened, subject, severity)
    }
}

fn ended(change: &Change) -> Change {
    Change { event: Event::Resolved, track: change.track.clone() }
}

fn webhook(url: &str, form: WebhookForm) -> NotifySettings {
    let team = WebhookSettings {
        name: "team".into(),
        url: SecretString::from(url.to_owned()),
        form,
        headers: vec![("authorization".into(), SecretString::from("Bearer t0ken"))],
        minimum: Severity::Warning,
    };
    NotifySettings { webhooks: vec![team], emails: Vec::new(), repeat: HOUR }
}

fn json(sink: &WebhookSink) -> NotifySettings {
    webhook(&sink.url(), WebhookForm::Json)
}

fn email(server: String) -> EmailSettings {
    EmailSettings {
        name: "oncall".into(),
        server,
        user: None,
        password: None,
        from: "Keeper <keeper@example.com>".into(),
        to: vec!["one@example.com".into(), "two@example.com".into()],
        minimum: Severity::Warning,
    }
}

/// Passes until nothing is left, at most so many.
async fn deliver(pipeline: &Pipeline, bench: &Bench) -> Delivered {
    let mut all = Delivered::default();
    for _ in 0..20 {
        let pass = pipeline.deliver_due().await.unwrap();
        all.sent += pass.sent;
        all.failed += pass.failed;
        bench.clock.sleep(Duration::from_mins(1)).await;
    }
    all
}

#[tokio::test]
async fn a_finding_is_announced_once_when_it_opens_and_once_when_it_resolves() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let open = bench.opened("cache", Severity::Critical);
    let live = [open.track.clone()];
    assert_eq!(pipeline.announce(std::slice::from_ref(&open), &live, &[]).await.unwrap(), 1);
    // The following rounds see the same finding, and once the very same change again.
    assert_eq!(pipeline.announce(std::slice::from_ref(&open), &live, &[]).await.unwrap(), 0);
    let updated = Change { event: Event::Updated, ..open.clone() };
    assert_eq!(pipeline.announce(&[updated], &live, &[]).await.unwrap(), 0);
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 0 });
    assert_eq!(pipeline.announce(&[ended(&open)], &[], &[]).await.unwrap(), 1);
    assert_eq!(pipeline.announce(&[ended(&open)], &[], &[]).await.unwrap(), 0);
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 0 });

    let received = sink.received().await;
    let events: Vec<_> = received.iter().map(|one| one.body["lines"][0]["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["opened", "resolved"]);
    assert_eq!(received[0].body["headline"], "critical: redis.cache: Redis cache refuses connections");
    assert_eq!(received[0].body["product"], "groundskeeper");
    assert!(received[1].body["lines"][0]["duration"].as_f64().unwrap() > 0.0);
    assert_eq!(received[0].headers["authorization"], "Bearer t0ken");
    assert!(!received[0].headers["groundskeeper-delivery"].is_empty());
}

#[tokio::test]
async fn everything_of_one_round_is_one_message() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let changes: Vec<Change> = (0..5).map(|n| bench.opened(&format!("cache{n}"), Severity::Warning)).collect();
    assert_eq!(pipeline.announce(&changes, &[], &[]).await.unwrap(), 1);
    deliver(&pipeline, &bench).await;
    let received = sink.received().await;
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].body["lines"].as_array().unwrap().len(), 5);
    assert!(received[0].body["headline"].as_str().unwrap().ends_with("(+4)"));
}

#[tokio::test]
async fn a_channel_that_fails_twice_gets_the_message_exactly_once() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    sink.fail_first(2);
    let pipeline = bench.pipeline(json(&sink));
    pipeline.announce(&[bench.opened("cache", Severity::Critical)], &[], &[]).await.unwrap();
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 2 });
    assert_eq!((sink.received().await.len(), sink.attempts()), (1, 3));
}

#[tokio::test]
async fn an_ignored_finding_is_not_announced_until_its_time_is_over() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let open = bench.opened("cache", Severity::Critical);
    let ignored: Vec<Fingerprint> = vec![open.track.finding.fingerprint.clone()];
    let live = [open.track.clone()];
    assert_eq!(pipeline.announce(std::slice::from_ref(&open), &live, &ignored).await.unwrap(), 0);
    assert_eq!(pipeline.announce(&[], &live, &ignored).await.unwrap(), 0);
    assert_eq!(pipeline.announce(&[], &live, &[]).await.unwrap(), 1);
    // It resolves while it is ignored again: nobody hears of that, and its next opening is news.
    assert_eq!(pipeline.announce(&[ended(&open)], &[], &ignored).await.unwrap(), 0);
    assert_eq!(pipeline.announce(&[bench.opened("cache", Severity::Critical)], &[], &[]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_resolve_is_announced_only_where_the_opening_was() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let mut settings = json(&sink);
    settings.webhooks[0].minimum = Severity::Critical;
    let pipeline = bench.pipeline(settings);
    let quiet = bench.opened("quiet", Severity::Warning);
    assert_eq!(pipeline.announce(std::slice::from_ref(&quiet), &[], &[]).await.unwrap(), 0, "below the minimum");
    assert_eq!(pipeline.announce(&[ended(&quiet)], &[], &[]).await.unwrap(), 0);

    let loud = bench.opened("loud", Severity::Critical);
    assert_eq!(pipeline.announce(std::slice::from_ref(&loud), &[], &[]).await.unwrap(), 1);
    // It eases to a warning first; who heard that it opened must still hear that it is over.
    let mut eased = ended(&loud);
    eased.track.finding.severity = Severity::Warning;
    assert_eq!(pipeline.announce(&[eased], &[], &[]).await.unwrap(), 1);

    let mut rising = bench.opened("rising", Severity::Warning);
    assert_eq!(pipeline.announce(std::slice::from_ref(&rising), &[], &[]).await.unwrap(), 0);
    rising.event = Event::Escalated;
    rising.track.finding.severity = Severity::Critical;
    assert_eq!(pipeline.announce(&[rising], &[], &[]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_critical_finding_is_announced_again_after_the_repeat_time_and_a_warning_is_not() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let (loud, mild) = (bench.opened("loud", Severity::Critical), bench.opened("mild", Severity::Warning));
    let live = [loud.track.clone(), mild.track.clone()];
    assert_eq!(pipeline.announce(&[loud.clone(), mild], &live, &[]).await.unwrap(), 1);
    bench.clock.sleep(HOUR / 2).await;
    assert_eq!(pipeline.announce(&[], &live, &[]).await.unwrap(), 0);
    bench.clock.sleep(HOUR).await;
    assert_eq!(pipeline.announce(&[], &live, &[]).await.unwrap(), 1);
    assert_eq!(pipeline.announce(&[], &live, &[]).await.unwrap(), 0);
    deliver(&pipeline, &bench).await;
    let received = sink.received().await;
    let lines = received[1].body["lines"].as_array().unwrap();
    assert_eq!((lines.len(), lines[0]["event"].as_str()), (1, Some("still_open")));
    // A finding that is about to resolve is not repeated.
    bench.clock.sleep(HOUR * 2).await;
    let mut clearing = loud.track;
    clearing.clear_since = Some(bench.clock.now());
    assert_eq!(pipeline.announce(&[], &[clearing], &[]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_restart_delivers_what_was_left_and_announces_what_a_crash_swallowed() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let (first, second) = (bench.opened("first", Severity::Critical), bench.opened("second", Severity::Critical));
    bench.pipeline(json(&sink)).announce(std::slice::from_ref(&first), &[], &[]).await.unwrap();
    let bench = bench.restarted();
    let pipeline = bench.pipeline(json(&sink));
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 0 });
    // `second` was judged and kept, and then the process died before it was announced.
    assert_eq!(pipeline.announce(&[], &[first.track, second.track], &[]).await.unwrap(), 1);
    deliver(&pipeline, &bench).await;
    let received = sink.received().await;
    assert_eq!(received.len(), 2);
    assert_eq!(received[1].body["lines"].as_array().unwrap().len(), 1);
    assert_eq!(received[1].body["lines"][0]["system"], "redis.second");
}

#[tokio::test]
async fn a_refusal_for_good_and_a_removed_channel_are_given_up_at_once() {
    let bench = Bench::new();
    let target = groundskeeper_testing::HttpTarget::start().await.unwrap();
    target.set_status(404);
    let pipeline = bench.pipeline(webhook(&target.url(), WebhookForm::Json));
    pipeline.announce(&[bench.opened("cache", Severity::Critical)], &[], &[]).await.unwrap();
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 0, failed: 1 });
    pipeline.announce(&[bench.opened("other", Severity::Critical)], &[], &[]).await.unwrap();
    let without = bench.pipeline(NotifySettings { webhooks: Vec::new(), emails: Vec::new(), repeat: HOUR });
    assert_eq!(deliver(&without, &bench).await, Delivered { sent: 0, failed: 1 });
    let failing = bench.record.with(|store| store.failing_channels(Timestamp::UNIX_EPOCH)).await.unwrap();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0].1, 2);
}

#[tokio::test]
async fn a_channel_that_never_answers_does_not_stop_the_others() {
    let (bench, sink, dead) = (Bench::new(), WebhookSink::start().await.unwrap(), BlackHole::start().await.unwrap());
    let mut settings = json(&sink);
    let mut silent = settings.webhooks[0].clone();
    silent.name = "silent".into();
    silent.url = SecretString::from(format!("http://{}/T0KEN", dead.address()));
    settings.webhooks.insert(0, silent);
    let pipeline = bench.pipeline(settings);
    pipeline.announce(&[bench.opened("cache", Severity::Critical)], &[], &[]).await.unwrap();
    pipeline.announce(&[bench.opened("other", Severity::Critical)], &[], &[]).await.unwrap();
    let started = Instant::now();
    let pass = tokio::spawn(async move { pipeline.deliver_due().await });
    sink.wait_for(2, Duration::from_secs(5)).await.unwrap();
    assert_eq!(pass.await.unwrap().unwrap(), Delivered { sent: 2, failed: 2 });
    assert!(started.elapsed() < Duration::from_secs(15), "two messages, and only one was waited for");
}

#[tokio::test]
async fn a_mail_says_what_is_wrong_and_what_to_do() {
    let (bench, sink) = (Bench::new(), MailSink::start().await.unwrap());
    let settings = NotifySettings { webhooks: Vec::new(), emails: vec![email(sink.url())], repeat: HOUR };
    let pipeline = bench.pipeline(settings);
    assert_eq!(pipeline.channels(), ["email.oncall"]);
    let changes = [bench.opened("cache", Severity::Critical), bench.opened("other", Severity::Warning)];
    pipeline.announce(&changes, &[], &[]).await.unwrap();
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 0 });
    let mails = sink.received().await;
    assert_eq!(mails[0].from, "keeper@example.com");
    assert_eq!(mails[0].to, ["one@example.com", "two@example.com"]);
    // Quoted-printable breaks long lines softly; headers are folded.
    let data = mails[0].data.replace("=\n", "").replace("\n ", " ");
    assert!(
        data.contains("Subject: [groundskeeper] critical: redis.cache: Redis cache refuses connections (+1)"),
        "{data}"
    );
    for part in [
        "From: Keeper <keeper@example.com>",
        "Date: Sat, 21 Nov 2026",
        "Auto-Submitted: auto-generated",
        "CRITICAL (new)  redis.cache",
        "failure: Connection refused   (connect to 10.0.0.7:6379)",
        "Next step: start Redis",
        "groundskeeper explain redis.unreachable",
    ] {
        assert!(data.contains(part), "{part:?} is missing in {data}");
    }
}

#[tokio::test]
async fn slack_gets_text_and_blocks() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(webhook(&sink.url(), WebhookForm::Slack));
    pipeline.announce(&[bench.opened("<!channel>&co", Severity::Critical)], &[], &[]).await.unwrap();
    deliver(&pipeline, &bench).await;
    let body = &sink.received().await[0].body;
    assert!(body["text"].as_str().unwrap().contains("&lt;!channel&gt;&amp;co"), "{body}");
    assert!(!body.to_string().contains("<!channel>"));
    assert_eq!(body["blocks"][0]["type"], "section");
}

#[tokio::test]
async fn a_test_message_goes_to_the_named_channel_and_an_unknown_name_lists_the_known() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let mut settings = json(&sink);
    settings.emails.push(email("smtp://127.0.0.1:1".into()));
    let pipeline = bench.pipeline(settings);
    for name in ["webhook.team", "team"] {
        let views = pipeline.test(Some(name)).await;
        assert_eq!((views.len(), views[0].ok, views[0].channel.as_str()), (1, true, "webhook.team"));
    }
    assert_eq!(sink.received().await[0].body["test"], true);
    let views = pipeline.test(None).await;
    assert_eq!(views.iter().map(|view| view.ok).collect::<Vec<_>>(), [true, false]);
    assert!(views[1].detail.contains("127.0.0.1:1"), "{}", views[1].detail);
    let views = pipeline.test(Some("pager")).await;
    assert!(views[0].detail.contains("webhook.team, email.oncall"), "{}", views[0].detail);
}

#[tokio::test]
async fn a_secret_address_is_in_no_error() {
    let bench = Bench::new();
    let dead = "http://127.0.0.1:1/services/T0KEN?key=s3cret";
    let pipeline = bench.pipeline(webhook(dead, WebhookForm::Json));
    let beat = HeartbeatSettings { url: SecretString::from(dead), every: HOUR };
    let heartbeat = Heartbeat::new(beat, bench.clock.clone()).unwrap();
    pipeline.announce(&[bench.opened("cache", Severity::Critical)], &[], &[]).await.unwrap();
    pipeline.deliver_due().await.unwrap();
    let failing = bench.record.with(|store| store.failing_channels(Timestamp::UNIX_EPOCH)).await.unwrap();
    let broken = HeartbeatSettings { url: SecretString::from("s3cret T0KEN"), every: HOUR };
    let texts = [
        pipeline.test(None).await[0].detail.clone(),
        failing[0].2.clone(),
        heartbeat.beat().await.unwrap_err().to_string(),
        format!("{pipeline:?} {heartbeat:?}"),
        Heartbeat::new(broken, bench.clock.clone()).unwrap_err().to_string(),
    ];
    for text in &texts {
        assert!(!text.contains("T0KEN") && !text.contains("s3cret") && !text.contains("t0ken"), "{text}");
    }
    assert!(texts[0].contains("127.0.0.1:1") && texts[0].contains("refused"), "{}", texts[0]);
}

#[tokio::test]
async fn a_heartbeat_comes_at_most_once_per_its_time_and_a_failed_one_is_tried_again() {
    let sink = WebhookSink::start().await.unwrap();
    let clock = Clock::compressed("2026-11-21T02:00:00Z".parse().unwrap(), SPEED);
    let settings = HeartbeatSettings { url: SecretString::from(sink.url()), every: HOUR };
    let heartbeat = Heartbeat::new(settings, clock.clone()).unwrap();
    sink.fail_first(1);
    assert!(heartbeat.beat().await.unwrap_err().to_string().contains("500"));
    heartbeat.beat().await.unwrap();
    heartbeat.beat().await.unwrap();
    assert_eq!(sink.received().await.len(), 1);
    clock.sleep(HOUR).await;
    heartbeat.beat().await.unwrap();
    assert_eq!(sink.received().await.len(), 2);
    assert_eq!(sink.received().await[0].body["status"], "alive");
}
