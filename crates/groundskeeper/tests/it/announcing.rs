//! What people are told, and what they are not: it follows from what is open and what they have heard.

use crate::notify::{Bench, HOUR, deliver, json, webhook};
use crate::scene::Place;
use groundskeeper::config::WebhookForm;
use groundskeeper::notify::{Delivered, Pipeline};
use groundskeeper::record::Ignored;
use groundskeeper_core::Severity;
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::lifecycle::{Change, Event};
use groundskeeper_testing::{HttpTarget, WebhookSink};
use jiff::SignedDuration;

/// The number of messages that a round brings.
async fn told(pipeline: &Pipeline) -> usize {
    pipeline.announce().await.unwrap()
}

/// Everything that arrived: (event, severity).
async fn heard(sink: &WebhookSink) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let received = sink.received().await;
    let lines = received.iter().flat_map(|message| message.body["lines"].as_array().unwrap());
    lines.map(|line| (text(&line["event"]), text(&line["severity"]))).collect()
}

fn line(event: &str, severity: &str) -> (String, String) {
    (event.to_owned(), severity.to_owned())
}

async fn ignore(bench: &Bench, fingerprint: &Fingerprint, amount: i64) {
    let now = bench.clock.now();
    let until = now + SignedDuration::from_hours(amount);
    let ignored = Ignored { fingerprint: fingerprint.clone(), reason: "x".into(), who: "me".into(), until };
    bench.record.with(move |store| store.ignore(&ignored, now)).await.unwrap();
}

#[tokio::test]
async fn a_finding_is_announced_once_when_it_opens_and_once_when_it_resolves() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let open = bench.open("cache", Severity::Critical).await;
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (1, 0));
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 0 });
    bench.end(&open).await;
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (1, 0));
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 1, failed: 0 });

    assert_eq!(heard(&sink).await, [line("opened", "critical"), line("resolved", "critical")]);
    let received = sink.received().await;
    assert_eq!(received[0].body["headline"], "critical: redis.cache: Redis cache refuses connections");
    assert_eq!(received[0].body["product"], "groundskeeper");
    assert_eq!(received[1].body["lines"][0]["summary"], "Redis cache refuses connections");
    assert!(received[1].body["lines"][0]["duration"].as_f64().unwrap() > 0.0);
    assert_eq!(received[0].headers["authorization"], "Bearer t0ken");
    assert!(!received[0].headers["groundskeeper-delivery"].is_empty());
}

#[tokio::test]
async fn an_ignored_finding_is_not_announced_until_its_time_is_over() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let open = bench.open("cache", Severity::Critical).await;
    let fingerprint = open.track.finding.fingerprint.clone();
    ignore(&bench, &fingerprint, 10).await;
    assert_eq!(told(&pipeline).await, 0);
    ignore(&bench, &fingerprint, -1).await;
    assert_eq!(told(&pipeline).await, 1);
    // It resolves while it is ignored again: nobody hears of that, and its next opening is news.
    ignore(&bench, &fingerprint, 10).await;
    bench.end(&open).await;
    assert_eq!(told(&pipeline).await, 0);
    ignore(&bench, &fingerprint, -1).await;
    assert_eq!(told(&pipeline).await, 0);
    bench.open("cache", Severity::Critical).await;
    assert_eq!(told(&pipeline).await, 1);
}

#[tokio::test]
async fn a_resolve_is_announced_only_where_the_opening_was() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let mut settings = json(&sink);
    settings.webhooks[0].minimum = Severity::Critical;
    let pipeline = bench.pipeline(settings);
    let quiet = bench.open("quiet", Severity::Warning).await;
    assert_eq!(told(&pipeline).await, 0, "below the minimum");
    bench.end(&quiet).await;
    assert_eq!(told(&pipeline).await, 0);

    let loud = bench.open("loud", Severity::Critical).await;
    assert_eq!(told(&pipeline).await, 1);
    // It eases to a warning first; who heard that it opened must still hear that it is over.
    bench.turn(&loud, Severity::Warning).await;
    assert_eq!(told(&pipeline).await, 0);
    bench.end(&loud).await;
    assert_eq!(told(&pipeline).await, 1);

    let rising = bench.open("rising", Severity::Warning).await;
    assert_eq!(told(&pipeline).await, 0);
    bench.turn(&rising, Severity::Critical).await;
    assert_eq!(told(&pipeline).await, 1);
}

#[tokio::test]
async fn a_critical_finding_is_announced_again_after_the_repeat_time_and_a_warning_is_not() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let loud = bench.open("loud", Severity::Critical).await;
    bench.open("mild", Severity::Warning).await;
    assert_eq!(told(&pipeline).await, 1);
    bench.clock.step(SignedDuration::from_mins(30));
    assert_eq!(told(&pipeline).await, 0);
    bench.clock.sleep(HOUR).await;
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (1, 0));
    deliver(&pipeline, &bench).await;
    let heard = heard(&sink).await;
    assert_eq!(heard[2..], [line("still_open", "critical")]);
    // A finding that is about to resolve is not repeated.
    bench.clock.sleep(HOUR * 2).await;
    let mut clearing = Change { event: Event::Clearing, ..loud };
    clearing.track.clear_since = Some(bench.clock.now());
    bench.keep(clearing).await;
    assert_eq!(told(&pipeline).await, 0);
}

#[tokio::test]
async fn a_severity_that_wavers_is_announced_once() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    let wavering = bench.open("cache", Severity::Warning).await;
    let mut messages = vec![told(&pipeline).await];
    for severity in [Severity::Critical, Severity::Warning, Severity::Critical, Severity::Warning] {
        bench.turn(&wavering, severity).await;
        messages.push(told(&pipeline).await);
    }
    assert_eq!(messages, [1, 1, 0, 0, 0]);
    deliver(&pipeline, &bench).await;
    assert_eq!(heard(&sink).await, [line("opened", "warning"), line("escalated", "critical")]);
    // Another opening is another story.
    bench.end(&wavering).await;
    bench.clock.step(SignedDuration::from_secs(1));
    let again = bench.open("cache", Severity::Warning).await;
    told(&pipeline).await;
    bench.turn(&again, Severity::Critical).await;
    assert_eq!(told(&pipeline).await, 1);
}

#[tokio::test]
async fn what_happened_before_a_crash_is_announced_after_it() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let over = bench.open("over", Severity::Critical).await;
    let worse = bench.open("worse", Severity::Warning).await;
    told(&bench.pipeline(json(&sink))).await;
    // All this was judged and kept, and then the process died before it was announced.
    bench.end(&over).await;
    bench.turn(&worse, Severity::Critical).await;
    bench.open("fresh", Severity::Warning).await;
    let bench = bench.restarted();
    let pipeline = bench.pipeline(json(&sink));
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (1, 0));
    assert_eq!(deliver(&pipeline, &bench).await, Delivered { sent: 2, failed: 0 });
    let heard = heard(&sink).await;
    let expected = [line("escalated", "critical"), line("opened", "warning"), line("resolved", "critical")];
    assert_eq!(heard[2..], expected);
}

#[tokio::test]
async fn what_leaves_the_configuration_resolves() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(json(&sink));
    bench.open("cache", Severity::Critical).await;
    told(&pipeline).await;
    let now = bench.clock.now();
    bench.record.with(move |store| store.retire(|_, _| false, now)).await.unwrap();
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (1, 0));
    deliver(&pipeline, &bench).await;
    assert_eq!(heard(&sink).await, [line("opened", "critical"), line("resolved", "critical")]);
}

#[tokio::test]
async fn the_daily_health_check_tells_what_it_finds() {
    let sink = WebhookSink::start().await.unwrap();
    let place = Place::new(&format!(
        "[redis.cache]\nurl = \"redis://127.0.0.1:1\"\n[notify.webhook.team]\nurl = \"{}\"\n",
        sink.url()
    ));
    let app = place.app().await;
    assert!(app.task_run("daily-health", false, "ann").await.unwrap().ok);
    assert_eq!(heard(&sink).await, [line("opened", "critical")]);
    assert!(app.task_run("watch", false, "ann").await.unwrap().ok);
    assert_eq!(heard(&sink).await.len(), 1, "and the watch does not tell it again");
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_nothing_new() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let pipeline = bench.pipeline(webhook(&sink.url(), WebhookForm::Json));
    let open = bench.open("cache", Severity::Warning).await;
    assert_eq!(told(&pipeline).await, 1);
    bench.clock.step(SignedDuration::from_hours(-1));
    assert_eq!(told(&pipeline).await, 0);
    // It resolves and opens again before the moment at which the first opening was told.
    bench.end(&open).await;
    assert_eq!(told(&pipeline).await, 1);
    let again = bench.open("cache", Severity::Warning).await;
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (1, 0));
    bench.clock.step(SignedDuration::from_hours(-1));
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (0, 0), "no flood");
    bench.end(&again).await;
    assert_eq!(told(&pipeline).await, 1);
}

#[tokio::test]
async fn what_a_message_told_that_was_given_up_is_told_again_an_hour_later() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let target = HttpTarget::start().await.unwrap();
    target.set_status(404);
    let refused = bench.pipeline(webhook(&target.url(), WebhookForm::Json));
    let (open, brief) = (bench.open("cache", Severity::Warning).await, bench.open("brief", Severity::Warning).await);
    assert_eq!(told(&refused).await, 1);
    assert_eq!(refused.deliver_due().await.unwrap(), Delivered { sent: 0, failed: 1 });
    assert_eq!(told(&refused).await, 0, "not at once");
    bench.end(&brief).await;
    assert_eq!(told(&refused).await, 0, "nobody heard that it opened");
    bench.clock.step(SignedDuration::from_mins(61));
    assert_eq!((told(&refused).await, told(&refused).await), (1, 0));
    assert_eq!(refused.deliver_due().await.unwrap(), Delivered { sent: 0, failed: 1 });

    // The address is corrected.
    let pipeline = bench.pipeline(json(&sink));
    bench.clock.step(SignedDuration::from_mins(61));
    assert_eq!((told(&pipeline).await, told(&pipeline).await), (1, 0));
    bench.end(&open).await;
    assert_eq!(told(&pipeline).await, 1);
    deliver(&pipeline, &bench).await;
    assert_eq!(heard(&sink).await, [line("opened", "warning"), line("resolved", "warning")]);
}

#[tokio::test]
async fn a_repetition_that_was_given_up_does_not_unmake_the_opening() {
    let (bench, sink) = (Bench::new(), WebhookSink::start().await.unwrap());
    let target = HttpTarget::start().await.unwrap();
    target.set_status(404);
    let pipeline = bench.pipeline(json(&sink));
    let open = bench.open("cache", Severity::Critical).await;
    told(&pipeline).await;
    pipeline.deliver_due().await.unwrap();
    let refused = bench.pipeline(webhook(&target.url(), WebhookForm::Json));
    bench.clock.step(SignedDuration::from_mins(61));
    assert_eq!(told(&refused).await, 1);
    refused.deliver_due().await.unwrap();
    bench.end(&open).await;
    assert_eq!(told(&pipeline).await, 1);
    deliver(&pipeline, &bench).await;
    assert_eq!(heard(&sink).await, [line("opened", "critical"), line("resolved", "critical")]);
}
