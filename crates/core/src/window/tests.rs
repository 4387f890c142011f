//! Windows as they are written, and the nights on which the clocks change.

use super::*;
use crate::quantity::after;
use proptest::prelude::*;
use rstest::rstest;

fn utc(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn windows_are_read_and_know_their_hours() {
    let sunday: Window = "Sun 02:00-05:00".parse().unwrap();
    assert!(sunday.contains(utc("2026-11-22T02:00:00Z"), &TimeZone::UTC));
    assert!(!sunday.contains(utc("2026-11-22T05:00:00Z"), &TimeZone::UTC));
    assert!(!sunday.contains(utc("2026-11-21T03:00:00Z"), &TimeZone::UTC));
    assert_eq!(sunday.next_open(utc("2026-11-22T06:00:00Z"), &TimeZone::UTC), Some(utc("2026-11-29T02:00:00Z")));

    let night: Window = "Mon-Fri 22:00-02:00".parse().unwrap();
    assert!(night.contains(utc("2026-11-21T01:00:00Z"), &TimeZone::UTC), "Friday night reaches into Saturday");
    assert!(!night.contains(utc("2026-11-22T01:00:00Z"), &TimeZone::UTC), "Saturday night is not in it");

    let all_day: Window = "sat,sun 00:00-24:00".parse().unwrap();
    assert!(all_day.contains(utc("2026-11-22T23:59:59Z"), &TimeZone::UTC));
    assert!("Sunday 01:00-04:00".parse::<Window>().is_ok());
}

#[test]
fn a_window_follows_the_wall_clock_of_its_zone() {
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let daily: Window = "daily 03:00-04:00".parse().unwrap();
    assert!(daily.contains(utc("2026-07-01T01:30:00Z"), &berlin));
    assert!(daily.contains(utc("2026-12-01T02:30:00Z"), &berlin));
    assert!(!daily.contains(utc("2026-12-01T01:30:00Z"), &berlin));
}

#[test]
fn nonsense_is_refused_with_an_example() {
    for text in ["", "Sun", "Sonntag 02:00-05:00", "Sun 2-5", "Sun 02:00", "Sun 25:00-26:00", "monkey 01:00-02:00"] {
        let error = text.parse::<Window>().unwrap_err();
        assert!(error.contains("for example"), "{error}");
    }
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// In 2026 the clocks go forward on 29 March at 02:00 in Berlin and on 8 March at 02:00 in New York, and back on
/// 25 October at 03:00 and on 1 November at 02:00.
#[rstest]
#[case::the_start_is_skipped("daily 02:30-05:00", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z")]
#[case::the_whole_window_is_skipped(
    "daily 02:00-03:00",
    "Europe/Berlin",
    "2026-03-29T00:00:00Z",
    "2026-03-30T00:00:00Z"
)]
#[case::a_weekly_one_is_skipped("Sun 02:00-02:30", "Europe/Berlin", "2026-03-23T00:00:00Z", "2026-04-05T00:00:00Z")]
#[case::it_happens_twice("daily 02:30-03:00", "Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z")]
#[case::it_opens_again_when_the_clock_goes_back(
    "daily 01:00-02:30",
    "Europe/Berlin",
    "2026-10-25T00:45:00Z",
    "2026-10-25T01:00:00Z"
)]
#[case::an_ordinary_night("Sun 02:00-05:00", "Europe/Berlin", "2026-11-21T12:00:00Z", "2026-11-22T01:00:00Z")]
#[case::new_york_skips("daily 02:15-02:45", "America/New_York", "2026-03-08T05:00:00Z", "2026-03-09T06:15:00Z")]
#[case::new_york_skips_the_start(
    "daily 02:15-04:00",
    "America/New_York",
    "2026-03-08T05:00:00Z",
    "2026-03-08T07:00:00Z"
)]
#[case::new_york_repeats("Sun 01:30-02:00", "America/New_York", "2026-11-01T06:05:00Z", "2026-11-01T06:30:00Z")]
fn the_next_opening_on_a_night_when_the_clocks_change(
    #[case] window: &str,
    #[case] place: &str,
    #[case] now: &str,
    #[case] opens: &str,
) {
    let window: Window = window.parse().unwrap();
    assert_eq!(window.next_open(utc(now), &zone(place)), Some(utc(opens)));
}

#[test]
fn a_night_window_is_an_hour_shorter_or_longer_when_the_clocks_change() {
    let berlin = zone("Europe/Berlin");
    let window: Window = "daily 01:00-04:00".parse().unwrap();
    let minutes = |from: &str| {
        let from = utc(from);
        (0..24 * 60).filter(|minute| window.contains(after(from, f64::from(*minute) * 60.0), &berlin)).count()
    };
    assert_eq!(minutes("2026-03-28T12:00:00Z"), 120);
    assert_eq!(minutes("2026-10-24T12:00:00Z"), 240);
    assert_eq!(minutes("2026-06-01T12:00:00Z"), 180);
}

#[rstest]
#[case::an_ordinary_night("Sun 02:00-05:00", "Europe/Berlin", "2026-11-22T01:30:00Z", Some("2026-11-22T04:00:00Z"))]
#[case::over_midnight("Mon-Fri 22:00-02:00", "UTC", "2026-11-21T01:00:00Z", Some("2026-11-21T02:00:00Z"))]
#[case::the_clock_is_put_forward_over_its_end(
    "daily 01:00-02:30",
    "Europe/Berlin",
    "2026-03-29T00:30:00Z",
    Some("2026-03-29T01:00:00Z")
)]
#[case::the_days_of_a_row_are_one("Fri,Sat 00:00-24:00", "UTC", "2026-11-20T12:00:00Z", Some("2026-11-22T00:00:00Z"))]
#[case::it_is_not_open("Sun 02:00-05:00", "UTC", "2026-11-21T12:00:00Z", None)]
#[case::it_never_closes("daily 00:00-24:00", "UTC", "2026-11-21T12:00:00Z", None)]
fn a_window_closes(#[case] window: &str, #[case] place: &str, #[case] now: &str, #[case] closes: Option<&str>) {
    let window: Window = window.parse().unwrap();
    assert_eq!(window.closes_at(utc(now), &zone(place)), closes.map(utc));
}

fn any_window() -> impl Strategy<Value = Window> {
    let days = prop::sample::select(vec!["daily", "Sun", "Mon-Fri", "Sat,Sun", "Fri-Mon", "wednesday"]);
    (days, 0..24, 0..60, 0..24, 0..60)
        .prop_map(|(days, h1, m1, h2, m2)| format!("{days} {h1:02}:{m1:02}-{h2:02}:{m2:02}").parse().unwrap())
}

fn any_zone() -> impl Strategy<Value = TimeZone> {
    let names =
        ["UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Asia/Kathmandu", "Australia/Lord_Howe"];
    prop::sample::select(names.to_vec()).prop_map(zone)
}

/// Any second of 2026, often one on a day when clocks change.
fn any_moment() -> impl Strategy<Value = Timestamp> {
    let nights = vec!["2026-03-29T00:00:00Z", "2026-10-25T00:00:00Z", "2026-03-08T00:00:00Z", "2026-11-01T00:00:00Z"];
    let night = (prop::sample::select(nights), -86_400..86_400).prop_map(|(day, by)| after(utc(day), f64::from(by)));
    prop_oneof![night, (0..31_536_000).prop_map(|by| after(utc("2026-01-01T00:00:00Z"), f64::from(by)))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_next_opening_is_open_not_past_and_nothing_opens_before_it(
        window in any_window(), zone in any_zone(), now in any_moment(), within in 0.0..1.0,
    ) {
        let opens = window.next_open(now, &zone).unwrap();
        prop_assert!(opens >= now);
        prop_assert!(window.contains(opens, &zone));
        // Any minute between is closed.
        let between = after(now, crate::quantity::seconds_between(now, opens) * within);
        prop_assert!(between >= opens || !window.contains(between, &zone));
    }

    #[test]
    fn a_window_is_open_until_it_closes_and_not_then(
        window in any_window(), zone in any_zone(), now in any_moment(), within in 0.0..1.0,
    ) {
        match window.closes_at(now, &zone) {
            None => prop_assert!(!window.contains(now, &zone) || window.to_string().starts_with("daily")),
            Some(closes) => {
                prop_assert!(closes > now);
                prop_assert!(!window.contains(closes, &zone));
                let between = after(now, crate::quantity::seconds_between(now, closes) * within);
                prop_assert!(between >= closes || window.contains(between, &zone));
            }
        }
    }

    #[test]
    fn a_window_is_the_same_after_being_written_down(window in any_window()) {
        prop_assert_eq!(window.to_string().parse::<Window>().unwrap(), window);
    }

    #[test]
    fn no_moment_is_too_early_or_too_late(window in any_window(), zone in any_zone(), late: bool, by in 0..1_000_000) {
        let now = if late { after(Timestamp::MAX, -f64::from(by)) } else { after(Timestamp::MIN, f64::from(by)) };
        if let Some(opens) = window.next_open(now, &zone) {
            prop_assert!(opens >= now);
        }
    }
}
