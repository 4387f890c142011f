//! Messages that arrive once, whatever happens on the way. What is told at all is next door.

use groundskeeper::clock::Clock;
use groundskeeper::config::{EmailSettings, HeartbeatSettings, NotifySettings, WebhookForm, WebhookSettings};
use groundskeeper::notify::{Delivered, Heartbeat, Pipeline};
use groundskeeper::record::{Record, Store};
use groundskeeper_core::finding::{Draft, Finding};
use groundskeeper_core::lifecycle::{Change, Event, Track};
use groundskeeper_core::{Severity, SystemId, SystemKind, Value};
use groundskeeper_testing::{BlackHole, MailSink, WebhookSink};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// So fast that a back-off of ten seconds is over in ten milliseconds.
const SPEED: f64 = 1000.0;
pub(crate) const HOUR: Duration = Duration::from_hours(1);

pub(crate) struct Bench {
    folder: TempDir,
    pub(crate) clock: Clock,
    pub(crate) record: Record,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::compressed("2026-11-21T02:00:00Z".parse().unwrap(), SPEED);
        let record = Record::new(Store::open(folder.path(), clock.now()).unwrap());
        Self { folder, clock, record }
    }

    pub(crate) fn pipeline(&self, settings: NotifySettings) -> Pipeline {
        Pipeline::new(settings, self.record.clone(), self.clock.clone()).unwrap()
    }

    /// As after a restart: everything from the disk again.
    pub(crate) fn restarted(self) -> Self {
        drop(self.record);
        let record = Record::new(Store::open(self.folder.path(), self.clock.now()).unwrap());
        Self { record, ..self }
    }

    pub(crate) fn change(&self, event: Event, subject: &str, severity: Severity) -> Change {
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

    /// As a round that finds it.
    pub(crate) async fn open(&self, subject: &str, severity: Severity) -> Change {
        let change = self.change(Event::Opened, subject, severity);
        self.keep(change.clone()).await;
        change
    }

    /// As a round that finds it gone for good.
    pub(crate) async fn end(&self, change: &Change) {
        self.keep(Change { event: Event::Resolved, ..change.clone() }).await;
    }

    /// As a round that finds it with another severity.
    pub(crate) async fn turn(&self, change: &Change, severity: Severity) {
        let mut turned = Change { event: Event::Updated, ..change.clone() };
        turned.track.finding.severity = severity;
        self.keep(turned).await;
    }

    pub(crate) async fn keep(&self, change: Change) {
        let now = self.clock.now();
        self.record.with(move |store| store.keep_round(&[], &[change], now)).await.unwrap();
    }
}

pub(crate) fn webhook(url: &str, form: WebhookForm) -> NotifySettings {
    let team = WebhookSettings {
        name: "team".into(),
        url: SecretString::from(url.to_owned()),
        form,
        headers: vec![("authorization".into(), SecretString::from("Bearer t0ken"))],
        minimum: Severity::Warning,
    };
    NotifySettings { webhooks: vec![team], emails: Vec::new(), repeat: HOUR }
}

pub(crate) fn json(sink: &WebhookSink) -> NotifySettings {
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
pub(crate) async fn deliver(pipeline: &Pipeline, bench: &Bench) -> Delivered {
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
async fn everything_of_one_round_is_one_message() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    for number in 0..5 {
        bench.open(&format!("cache{number}"), Severity::Warning).await;
    }
    assert_eq!(pipeline.announce().await.unwrap(), 1);
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
    bench.open("cache", Severity::Critical).await;
    pipeline.announce().await.unwrap();
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 2 });
    assert_eq!((sink.received().await.len(), sink.attempts()), (1, 3));
}

#[tokio::test]
async fn a_refusal_for_good_and_a_removed_channel_are_given_up_at_once() {
    let bench = Bench::new();
    let target = groundskeeper_testing::HttpTarget::start().await.unwrap();
    target.set_status(404);
    let pipeline = bench.pipeline(webhook(&target.url(), WebhookForm::Json));
    bench.open("cache", Severity::Critical).await;
    pipeline.announce().await.unwrap();
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 0, failed: 1 });
    bench.open("other", Severity::Critical).await;
    pipeline.announce().await.unwrap();
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
    bench.open("cache", Severity::Critical).await;
    pipeline.announce().await.unwrap();
    bench.open("other", Severity::Critical).await;
    pipeline.announce().await.unwrap();
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
    bench.open("cache", Severity::Critical).await;
    bench.open("other", Severity::Warning).await;
    pipeline.announce().await.unwrap();
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
    bench.open("<!channel>&co", Severity::Critical).await;
    pipeline.announce().await.unwrap();
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
    bench.open("cache", Severity::Critical).await;
    pipeline.announce().await.unwrap();
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
    clock.step(SignedDuration::from_hours(-3));
    heartbeat.beat().await.unwrap();
    heartbeat.beat().await.unwrap();
    assert_eq!(sink.received().await.len(), 3, "a clock that is set back does not silence it");
}

#[tokio::test]
async fn a_retry_does_not_wait_for_a_clock_that_was_set_back() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    sink.fail_first(1);
    let pipeline = bench.pipeline(json(&sink));
    bench.open("cache", Severity::Critical).await;
    pipeline.announce().await.unwrap();
    assert_eq!(pipeline.deliver_due().await.unwrap(), Delivered { sent: 0, failed: 1 });
    bench.clock.step(SignedDuration::from_hours(-24));
    assert_eq!(pipeline.deliver_due().await.unwrap(), Delivered { sent: 1, failed: 0 });
}
