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
    _folder: tempfile::TempDir,
}

impl Play {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(folder.path(), utc("2026-01-01T00:00:00Z")).unwrap());
        Self { record, _folder: folder }
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

#[test]
fn a_cron_line_that_is_none_says_why() {
    for line in ["", "9", "61 * * * *", "* * * * monkeys"] {
        assert!(Schedule::cron(line, TimeZone::UTC).unwrap_err().contains("is no cron line"));
    }
}
