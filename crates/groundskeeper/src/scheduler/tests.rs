//! The calendar under paused time: a year passes in a moment.

use super::*;
use crate::record::Store;
use jiff::tz::TimeZone;
use std::sync::Mutex as StdMutex;
use std::time::Duration;

/// Notes when it ran, and how long a run takes.
struct Noted {
    clock: Clock,
    ran: Arc<StdMutex<Vec<Timestamp>>>,
    takes: Duration,
}

impl Job for Noted {
    type Yield = ();

    fn run(&self, _mode: Mode) -> BoxFuture<'_, End<()>> {
        Box::pin(async {
            self.ran.lock().unwrap().push(self.clock.now());
            self.clock.sleep(self.takes).await;
            End { ok: true, summary: "noted".into(), found: () }
        })
    }
}

fn utc(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

struct Play {
    record: Record,
    folder: tempfile::TempDir,
}

impl Play {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(folder.path(), utc("2026-01-01T00:00:00Z")).unwrap());
        Self { record, folder }
    }

    /// Drives one task from one moment to another; gives the moments at which it ran, to the second.
    async fn drive(&self, schedule: &Schedule, from: &str, to: &str, takes: Duration) -> Vec<String> {
        let clock = Clock::compressed(utc(from), 1.0);
        let ran = Arc::new(StdMutex::new(Vec::new()));
        let job = Arc::new(Noted { clock: clock.clone(), ran: Arc::clone(&ran), takes });
        let (stop, stopped) = watch::channel(false);
        let entry = Entry::new("noted", schedule.clone(), job);
        let driver = tokio::spawn(drive(vec![entry], self.record.clone(), clock.clone(), stopped));
        clock.sleep_until(utc(to)).await;
        stop.send(true).unwrap();
        driver.await.unwrap();
        let ran = ran.lock().unwrap();
        ran.iter().map(|at| at.strftime("%Y-%m-%dT%H:%M:%S").to_string()).collect()
    }
}

const NO_TIME: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn a_daily_task_follows_the_wall_clock_over_both_changes_of_daylight_saving_time() {
    let nine = Schedule::cron("0 9 * * *", zone("Europe/Berlin")).unwrap();
    let spring = Play::new().drive(&nine, "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z", NO_TIME).await;
    assert_eq!(spring, ["2026-03-28T08:00:00", "2026-03-29T07:00:00", "2026-03-30T07:00:00"]);
    let autumn = Play::new().drive(&nine, "2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z", NO_TIME).await;
    assert_eq!(autumn, ["2026-10-24T07:00:00", "2026-10-25T08:00:00", "2026-10-26T08:00:00"]);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_does_not_exist_fires_at_the_next_that_does_and_a_doubled_one_fires_once() {
    let half_past_two = Schedule::cron("30 2 * * *", zone("Europe/Berlin")).unwrap();
    let spring = Play::new().drive(&half_past_two, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", NO_TIME).await;
    assert_eq!(spring, ["2026-03-29T01:00:00", "2026-03-30T00:30:00"], "03:00 summer time on the 29th");
    let autumn = Play::new().drive(&half_past_two, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z", NO_TIME).await;
    assert_eq!(autumn.len(), 2, "{autumn:?}");
}

#[tokio::test(start_paused = true)]
async fn a_monthly_task_runs_on_every_first_and_the_last_day_is_found_in_february() {
    let first = Schedule::cron("0 4 1 * *", TimeZone::UTC).unwrap();
    let runs = Play::new().drive(&first, "2027-12-15T00:00:00Z", "2028-03-02T00:00:00Z", NO_TIME).await;
    assert_eq!(runs, ["2028-01-01T04:00:00", "2028-02-01T04:00:00", "2028-03-01T04:00:00"]);
    let last = Schedule::cron("0 4 L * *", TimeZone::UTC).unwrap();
    let runs = Play::new().drive(&last, "2028-01-15T00:00:00Z", "2028-03-02T00:00:00Z", NO_TIME).await;
    assert_eq!(runs, ["2028-01-31T04:00:00", "2028-02-29T04:00:00"], "2028 is a leap year");
    let thirty_first = Schedule::cron("0 4 31 * *", TimeZone::UTC).unwrap();
    let runs = Play::new().drive(&thirty_first, "2027-01-15T00:00:00Z", "2027-04-15T00:00:00Z", NO_TIME).await;
    assert_eq!(runs, ["2027-01-31T04:00:00", "2027-03-31T04:00:00"]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_off_makes_up_once_and_a_new_one_has_missed_nothing() {
    let play = Play::new();
    let nine = Schedule::cron("0 9 * * *", TimeZone::UTC).unwrap();
    let fresh = play.drive(&nine, "2026-05-01T10:00:00Z", "2026-05-02T10:00:00Z", NO_TIME).await;
    assert_eq!(fresh, ["2026-05-02T09:00:00"], "a new installation makes up for nothing");
    let back = play.drive(&nine, "2026-05-06T15:00:00Z", "2026-05-07T10:00:00Z", NO_TIME).await;
    assert_eq!(back, ["2026-05-06T15:00:00", "2026-05-07T09:00:00"], "four misses, one run");
    let restart = play.drive(&nine, "2026-05-07T11:00:00Z", "2026-05-07T12:00:00Z", NO_TIME).await;
    assert!(restart.is_empty(), "{restart:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_fires_nothing_twice() {
    let play = Play::new();
    let nine = Schedule::cron("0 9 * * *", TimeZone::UTC).unwrap();
    play.drive(&nine, "2026-05-01T08:00:00Z", "2026-05-01T10:00:00Z", NO_TIME).await;
    let again = play.drive(&nine, "2026-05-01T08:30:00Z", "2026-05-02T10:00:00Z", NO_TIME).await;
    assert_eq!(again, ["2026-05-02T09:00:00"]);
}

#[tokio::test(start_paused = true)]
async fn a_rhythm_keeps_its_grid_and_skips_what_a_long_run_covered() {
    let every = Schedule::Every(Duration::from_secs(30));
    let runs = Play::new().drive(&every, "2026-05-01T00:00:10Z", "2026-05-01T00:02:05Z", NO_TIME).await;
    assert_eq!(runs, ["2026-05-01T00:00:30", "2026-05-01T00:01:00", "2026-05-01T00:01:30", "2026-05-01T00:02:00"]);
    let slow = Play::new().drive(&every, "2026-05-01T00:00:10Z", "2026-05-01T00:02:05Z", Duration::from_secs(40)).await;
    assert_eq!(slow, ["2026-05-01T00:00:30", "2026-05-01T00:01:30"]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_task_waits_and_makes_up_once_when_it_is_resumed() {
    let play = Play::new();
    let hourly = Schedule::cron("0 * * * *", TimeZone::UTC).unwrap();
    let pause = crate::record::Pause {
        task: Some("noted".into()),
        reason: "migration".into(),
        who: "me".into(),
        since: utc("2026-05-01T00:30:00Z"),
        until: Some(utc("2026-05-01T03:30:00Z")),
    };
    play.record.with(move |store| store.pause(&pause)).await.unwrap();
    let runs = play.drive(&hourly, "2026-05-01T00:30:00Z", "2026-05-01T05:30:00Z", NO_TIME).await;
    assert_eq!(runs.len(), 3, "{runs:?}");
    assert!(runs[0].starts_with("2026-05-01T03:30"), "{runs:?}");
    assert_eq!(runs[1..], ["2026-05-01T04:00:00", "2026-05-01T05:00:00"]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_stops_no_rhythm() {
    let play = Play::new();
    let clock = Clock::compressed(utc("2026-05-01T10:00:00Z"), 1.0);
    let every = Schedule::Every(Duration::from_secs(30));
    let ran = Arc::new(StdMutex::new(Vec::new()));
    let job = Arc::new(Noted { clock: clock.clone(), ran: Arc::clone(&ran), takes: NO_TIME });
    let (stop, stopped) = watch::channel(false);
    let driver =
        tokio::spawn(drive(vec![Entry::new("noted", every, job)], play.record.clone(), clock.clone(), stopped));
    clock.sleep_until(utc("2026-05-01T11:00:10Z")).await;
    assert_eq!(ran.lock().unwrap().len(), 120);
    // Back to moments that were all used before, and the next one that was waited for is an hour away now.
    clock.step(SignedDuration::from_hours(-1));
    tokio::time::sleep(Duration::from_mins(10)).await;
    let after = ran.lock().unwrap().len() - 120;
    assert!((19..=20).contains(&after), "{after} runs in ten minutes");
    stop.send(true).unwrap();
    driver.await.unwrap();
    let recorded = play.record.with(|store| store.runs_between(Timestamp::MIN, Timestamp::MAX)).await.unwrap();
    assert_eq!(recorded.len(), 120 + after);
    assert!(recorded.iter().all(|run| run.outcome == "ok"));
}

#[tokio::test(start_paused = true)]
async fn a_cron_line_counts_from_the_new_time_when_the_clock_is_corrected_by_years() {
    let play = Play::new();
    let clock = Clock::compressed(utc("2036-05-01T10:00:00Z"), 1.0);
    let nine = Schedule::cron("0 9 * * *", TimeZone::UTC).unwrap();
    let ran = Arc::new(StdMutex::new(Vec::new()));
    let job = Arc::new(Noted { clock: clock.clone(), ran: Arc::clone(&ran), takes: NO_TIME });
    let (stop, stopped) = watch::channel(false);
    let driver = tokio::spawn(drive(vec![Entry::new("noted", nine, job)], play.record.clone(), clock.clone(), stopped));
    clock.sleep(Duration::from_mins(5)).await;
    clock.step(SignedDuration::from_hours(-24 * 3650));
    tokio::time::sleep(Duration::from_hours(48)).await;
    assert_eq!(ran.lock().unwrap().len(), 2);
    stop.send(true).unwrap();
    driver.await.unwrap();
}

/// Panics at its first run.
struct Clumsy(Arc<StdMutex<u32>>);

impl Job for Clumsy {
    type Yield = ();

    fn run(&self, _mode: Mode) -> BoxFuture<'_, End<()>> {
        Box::pin(async {
            let run = {
                let mut runs = self.0.lock().unwrap();
                *runs += 1;
                *runs
            };
            assert!(run > 1, "stumbled in run {run}");
            End { ok: true, summary: "fine".into(), found: () }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_panics_has_failed_and_runs_again() {
    let play = Play::new();
    let clock = Clock::compressed(utc("2026-05-01T00:00:10Z"), 1.0);
    let (stop, stopped) = watch::channel(false);
    let runs = Arc::new(StdMutex::new(0));
    let entry = Entry::new("clumsy", Schedule::Every(Duration::from_secs(30)), Arc::new(Clumsy(Arc::clone(&runs))));
    let driver = tokio::spawn(drive(vec![entry.clone()], play.record.clone(), clock.clone(), stopped));
    clock.sleep_until(utc("2026-05-01T00:01:45Z")).await;
    stop.send(true).unwrap();
    driver.await.unwrap();
    let recorded = play.record.with(|store| store.runs_between(Timestamp::MIN, Timestamp::MAX)).await.unwrap();
    let ends: Vec<_> = recorded.iter().map(|run| (run.outcome.as_str(), run.summary.as_str())).collect();
    let stumbled = ("failed", "the task ended in a bug: stumbled in run 1");
    assert_eq!(ends, [stumbled, ("ok", "fine"), ("ok", "fine")]);
    // By hand too.
    *runs.lock().unwrap() = 0;
    assert!(!dry_run(&entry).await.ok);
    assert!(dry_run(&entry).await.ok);
}

/// The clock stands still between the two: nobody may be told that the millisecond was taken.
#[tokio::test(start_paused = true)]
async fn two_requests_by_hand_in_one_millisecond_are_two_runs() {
    let play = Play::new();
    let clock = Clock::compressed(utc("2026-05-01T00:00:10Z"), 1.0);
    let ran = Arc::new(StdMutex::new(Vec::new()));
    let job = Arc::new(Noted { clock: clock.clone(), ran: Arc::clone(&ran), takes: NO_TIME });
    let entry = Entry::new("noted", Schedule::cron("0 9 * * *", TimeZone::UTC).unwrap(), job);
    let (one, other) =
        tokio::join!(run_by_hand(&entry, &play.record, &clock), run_by_hand(&entry, &play.record, &clock));
    assert!(one.unwrap().ok && other.unwrap().ok);
    let ran = ran.lock().unwrap().clone();
    assert_eq!(ran.len(), 2);
    assert_eq!(ran[0].as_millisecond(), ran[1].as_millisecond(), "else this shows nothing");
    let recorded = play.record.with(|store| store.runs_between(Timestamp::MIN, Timestamp::MAX)).await.unwrap();
    assert!(recorded.len() == 2 && recorded.iter().all(|run| run.cause == "by hand" && run.outcome == "ok"));
}

/// A table that is not there under its name makes the store fail; the other way round heals it.
fn rename(play: &Play, from: &'static str, to: &'static str) {
    let sql = format!("ALTER TABLE {from} RENAME TO {to}");
    let file = play.folder.path().join("record.sqlite");
    rusqlite::Connection::open(file).unwrap().execute_batch(&sql).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_that_cannot_be_recorded_is_made_up_for_when_it_can() {
    let play = Play::new();
    let clock = Clock::compressed(utc("2026-05-01T08:00:00Z"), 1.0);
    let nine = Schedule::cron("0 9 * * *", TimeZone::UTC).unwrap();
    let ran = Arc::new(StdMutex::new(Vec::new()));
    let job = Arc::new(Noted { clock: clock.clone(), ran: Arc::clone(&ran), takes: NO_TIME });
    let (stop, stopped) = watch::channel(false);
    let driver = tokio::spawn(drive(vec![Entry::new("noted", nine, job)], play.record.clone(), clock.clone(), stopped));
    clock.sleep(Duration::from_mins(1)).await;
    rename(&play, "run", "gone");
    clock.sleep_until(utc("2026-05-01T09:30:00Z")).await;
    assert!(ran.lock().unwrap().is_empty());
    rename(&play, "gone", "run");
    clock.sleep_until(utc("2026-05-01T12:00:00Z")).await;
    stop.send(true).unwrap();
    driver.await.unwrap();
    let ran = ran.lock().unwrap();
    assert_eq!(ran.len(), 1, "{ran:?}");
    assert!(ran[0] < utc("2026-05-01T09:31:30Z"), "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_while_nobody_can_say_whether_it_is_paused() {
    let play = Play::new();
    let pause = crate::record::Pause {
        task: Some("noted".into()),
        reason: "migration".into(),
        who: "me".into(),
        since: utc("2026-05-01T00:00:00Z"),
        until: None,
    };
    play.record.with(move |store| store.pause(&pause)).await.unwrap();
    rename(&play, "pause", "gone");
    let every = Schedule::Every(Duration::from_secs(30));
    let runs = play.drive(&every, "2026-05-01T00:00:10Z", "2026-05-01T00:05:00Z", NO_TIME).await;
    assert!(runs.is_empty(), "{runs:?}");
    rename(&play, "gone", "pause");
    let runs = play.drive(&every, "2026-05-01T00:05:10Z", "2026-05-01T00:10:00Z", NO_TIME).await;
    assert!(runs.is_empty(), "{runs:?}");
}

#[test]
fn a_cron_line_that_is_none_says_why() {
    for line in ["", "9", "61 * * * *", "* * * * monkeys"] {
        assert!(Schedule::cron(line, TimeZone::UTC).unwrap_err().contains("is no cron line"));
    }
}
