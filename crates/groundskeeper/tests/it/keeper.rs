//! The keeper as a service: one per state folder, asked through its socket, telling people, ending when told to.

use crate::scene::{Place, eventually};
use groundskeeper::app::api::{CalendarEntry, CalendarState, FindingView, Request, StatusView};
use groundskeeper_testing::{BlackHole, HttpTarget, RedisServer, WebhookSink};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

/// A Redis where nobody listens.
const GONE: &str = "[redis.cache]\nurl = \"redis://127.0.0.1:1\"\n";

#[tokio::test]
async fn a_second_keeper_on_the_same_state_is_refused_in_one_sentence() {
    let place = Place::new(GONE);
    let mut first = place.keeper().await;
    let second = place.run(&["run"]).await;
    assert_eq!(second.code, 3, "{second:?}");
    let complaint = second.err.lines().last().unwrap();
    assert!(complaint.starts_with("error: the store ") && complaint.contains("is in use by another"), "{complaint}");
    assert!(first.runs());
    assert_eq!(place.run(&["status"]).await.code, 0, "the first one still answers");
    first.terminate().await;
}

#[tokio::test]
async fn commands_work_through_the_socket_and_without_a_keeper() {
    let sink = WebhookSink::start().await.unwrap();
    let place = Place::new(&format!("{GONE}[notify.webhook.team]\nurl = \"{}\"\n", sink.url()));
    for running in [false, true] {
        let keeper = if running { Some(place.keeper().await) } else { None };
        if running {
            let mode = std::fs::metadata(place.socket()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        for (arguments, expected) in [
            (&["task", "run", "watch"][..], "✓ watch: "),
            (&["status"], "redis.cache"),
            (&["calendar"], "daily-health"),
            (&["pause", "watch", "--reason", "release"], "Paused: watch until"),
            (&["calendar"], "paused"),
            (&["resume", "watch"], "The pause of watch is over."),
            (&["notify", "test"], "✓ webhook.team: delivered"),
            (&["doctor"], if running { "✓ daemon: answers" } else { "✓ daemon: does not run" }),
        ] {
            let said = place.run(arguments).await;
            assert!(said.out.contains(expected), "{arguments:?}: {said:?}");
        }
        let found = place.findings().await;
        assert_eq!(found.iter().map(|view| view.finding.check.as_str()).collect::<Vec<_>>(), ["redis.unreachable"]);
        assert_eq!(sink.received().await.last().unwrap().body["test"], true);
        if let Some(keeper) = keeper {
            keeper.terminate().await;
        }
    }
}

#[tokio::test]
async fn a_keeper_that_is_told_to_stop_finishes_what_runs_and_takes_its_socket_along() {
    let hole = BlackHole::start().await.unwrap();
    let place = Place::new(&format!("[redis.cache]\nurl = \"redis://{}\"\ndeadline = \"2s\"\n", hole.address()));
    let keeper = place.keeper().await;
    let by_hand = async { place.run(&["task", "run", "watch"]).await };
    let stop = async {
        eventually("the run has begun", async || {
            (place.count("SELECT count(*) FROM run WHERE cause = 'by hand'") > 0).then_some(())
        })
        .await;
        keeper.terminate().await
    };
    let (said, status) = tokio::join!(by_hand, stop);
    assert_eq!(said.code, 0, "the run by hand was carried to its end: {said:?}");
    assert_eq!(status.code(), Some(0));
    assert!(!place.socket().exists());
    assert_eq!(place.count("SELECT count(*) FROM run WHERE outcome <> 'ok'"), 0);
}

#[tokio::test]
async fn a_system_that_hangs_delays_no_other_systems_finding() {
    let (hole, mut http) = (BlackHole::start().await.unwrap(), HttpTarget::start().await.unwrap());
    http.stop().await.unwrap();
    let app = Place::new(&format!(
        "[postgres.main]\nurl = \"postgres://me@{}/app\"\ndeadline = \"3s\"\n[http.api]\nurl = \"{}\"\n",
        hole.address(),
        http.url()
    ))
    .app()
    .await;
    let started = Instant::now();
    let round = tokio::spawn({
        let app = app.clone();
        async move { app.task_run("watch", false, "ann").await }
    });
    let open = eventually("the stopped target is found", async || {
        Some(app.findings(false).await.unwrap()).filter(|open| !open.is_empty())
    })
    .await;
    assert!(started.elapsed() < Duration::from_millis(1500), "after {:?}", started.elapsed());
    assert_eq!(open.len(), 1, "the one that hangs is not judged yet");
    assert_eq!(open[0].finding.check, "http.unreachable");
    assert!(!round.is_finished());
    assert!(round.await.unwrap().unwrap().ok);
    assert_eq!(app.findings(false).await.unwrap().len(), 2, "and in the end both are known");
}

#[tokio::test]
async fn a_task_that_is_not_built_or_not_configured_says_so() {
    let place = Place::new(GONE);
    for (task, why, state, shown) in [
        (
            "logs",
            "the task logs is not yet available in this version",
            CalendarState::NotAvailable,
            "not in this version",
        ),
        ("wal", "no backup is configured; add a [backup] table", CalendarState::NotConfigured, "not configured"),
        ("backup", "no backup is configured; add a [backup] table", CalendarState::NotConfigured, "not configured"),
    ] {
        let said = place.run(&["task", "run", task]).await;
        assert_eq!(said.code, 2);
        assert!(said.err.starts_with(&format!("error: {why}")), "{}", said.err);
        let calendar: Vec<CalendarEntry> = place.json(&["calendar"]).await;
        let entry = calendar.iter().find(|entry| entry.task == task).unwrap();
        assert_eq!((entry.state, entry.next), (state, None));
        let listed = place.run(&["calendar"]).await.out;
        let line = listed.lines().find(|line| line.starts_with(&format!("{task} "))).unwrap();
        assert!(line.contains(shown), "{line}");
    }
}

#[tokio::test]
async fn a_stop_and_a_return_are_told_once_each_over_a_restart() {
    let (sink, heart) = (WebhookSink::start().await.unwrap(), WebhookSink::start().await.unwrap());
    let mut redis = RedisServer::start().await.unwrap();
    let place = Place::new(&format!(
        "[redis.cache]\nurl = \"{}\"\n[notify.webhook.team]\nurl = \"{}\"\n[heartbeat]\nurl = \"{}\"\n\
         [tasks.watch]\nevery = \"1s\"\n",
        redis.url(),
        sink.url(),
        heart.url()
    ));
    let watch = async || assert_eq!(place.run(&["task", "run", "watch"]).await.code, 0);
    let told = async || -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let received = sink.received().await;
        let lines = received.iter().flat_map(|message| message.body["lines"].as_array().unwrap());
        lines.map(|line| (text(&line["event"]), text(&line["check"]))).collect()
    };
    let pair = |event: &str| (event.to_owned(), "redis.unreachable".to_owned());

    let keeper = place.keeper().await;
    heart.wait_for(1, Duration::from_secs(10)).await.unwrap();
    watch().await;
    assert_eq!(told().await, []);
    redis.stop().await.unwrap();
    watch().await;
    assert_eq!(told().await, [pair("opened")]);
    keeper.kill().await;
    let keeper = place.keeper().await;
    watch().await;
    watch().await;
    assert_eq!(told().await, [pair("opened")]);
    redis.start_again().await.unwrap();
    watch().await;
    watch().await;
    assert_eq!(told().await, [pair("opened"), pair("resolved")]);
    assert_eq!(keeper.terminate().await.code(), Some(0));
    assert_eq!(told().await.len(), 2);
}

#[tokio::test]
async fn the_last_news_before_a_stop_is_still_told() {
    let (sink, hole) = (WebhookSink::start().await.unwrap(), BlackHole::start().await.unwrap());
    let place = Place::new(&format!(
        "[redis.cache]\nurl = \"redis://{}\"\ndeadline = \"2s\"\n[tasks.watch]\nevery = \"1s\"\n\
         [notify.webhook.team]\nurl = \"{}\"\n",
        hole.address(),
        sink.url()
    ));
    let keeper = place.keeper().await;
    eventually("the first round has begun", async || (place.count("SELECT count(*) FROM run") > 0).then_some(())).await;
    keeper.terminate().await;
    assert_eq!(place.count("SELECT count(*) FROM message"), 1, "the round was finished");
    assert_eq!(sink.received().await.len(), 1);
}

#[tokio::test]
async fn an_ignored_finding_is_silent_and_dim_until_its_time_is_over() {
    let sink = WebhookSink::start().await.unwrap();
    let mut redis = RedisServer::start().await.unwrap();
    let place = Place::new(&format!(
        "[redis.cache]\nurl = \"{}\"\n[notify.webhook.team]\nurl = \"{}\"\n",
        redis.url(),
        sink.url()
    ));
    let watch = async || assert_eq!(place.run(&["task", "run", "watch"]).await.code, 0);
    redis.stop().await.unwrap();
    watch().await;
    assert_eq!(sink.received().await.len(), 1);
    let fingerprint = place.findings().await[0].finding.fingerprint.short().to_owned();

    for reason in [&[][..], &["--reason", " "]] {
        let said = place.run(&[&["ignore", &fingerprint, "--for", "1h"], reason].concat()).await;
        assert!(said.code == 2 && said.err.contains("--reason"), "{said:?}");
    }
    let ignore = async |amount: &str| {
        let said = place.run(&["ignore", &fingerprint, "--for", amount, "--reason", "it moves house"]).await;
        assert_eq!(said.code, 0, "{said:?}");
    };
    ignore("1h").await;
    redis.start_again().await.unwrap();
    watch().await;
    redis.stop().await.unwrap();
    watch().await;
    assert_eq!(sink.received().await.len(), 1, "neither its end nor its return is told");
    let ignored = place.findings().await.remove(0).ignored.unwrap();
    assert_eq!(ignored.reason, "it moves house");
    let shown = place.run(&["findings", "--color", "always"]).await.out;
    let finding: Vec<&str> = shown.lines().take_while(|line| !line.is_empty()).collect();
    assert!(finding.len() > 3 && finding.iter().all(|line| line.contains("\x1b[2m")), "{shown}");
    assert!(!shown.contains("\x1b[1;31m"), "nothing about it is loud: {shown}");

    ignore("1s").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    watch().await;
    assert_eq!(sink.received().await.len(), 2, "its time is over, and it is still there");
    assert!(place.findings().await[0].ignored.is_none());
}

#[tokio::test]
async fn without_a_keeper_the_status_says_when_somebody_last_looked() {
    let place = Place::new(GONE);
    assert!(place.run(&["status"]).await.out.contains("not watched yet"));
    place.run(&["task", "run", "watch"]).await;
    let said = place.run(&["status"]).await;
    assert!(said.out.contains(" ago; `groundskeeper run` keeps watch"), "{}", said.out);
}

#[tokio::test]
async fn a_request_that_nobody_knows_is_refused_and_the_keeper_lives_on() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let place = Place::new(GONE);
    let mut keeper = place.keeper().await;
    let mut stream = BufReader::new(tokio::net::UnixStream::connect(place.socket()).await.unwrap());
    let mut answer = String::new();
    stream.write_all(b"{\"call\":\"flush_all\"}\n").await.unwrap();
    stream.read_line(&mut answer).await.unwrap();
    assert!(answer.contains("does not know this request"), "{answer}");
    stream.write_all(&[0xff, 0xfe, b'\n']).await.unwrap();
    assert!(keeper.runs());
    let status: StatusView = place.session().await.call(Request::Status).await.unwrap();
    assert_eq!(status.systems.len(), 1);
    let found: Vec<FindingView> = place.session().await.call(Request::Findings { all: true }).await.unwrap();
    assert!(found.len() <= 1);
    keeper.terminate().await;
}
