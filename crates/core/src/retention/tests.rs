//! What is kept, by example and for any sets.

use super::*;
use proptest::prelude::*;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn later(moment: Timestamp, seconds: i64) -> Timestamp {
    moment.checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

fn whole(made: Timestamp, number: u32) -> Known {
    let set = SetId::new(made, number);
    Known { set, made, standing: Standing::Whole, alive: false, in_use: false }
}

/// One whole set a day at 01:00 UTC, the newest first.
fn nights(newest: &str, count: u32) -> Vec<Known> {
    (0..count).map(|night| whole(later(at(newest), -DAY * i64::from(night)), night)).collect()
}

/// The days of the sets that stay.
fn kept(keep: &Keep, sets: &[Known], now: &str) -> Vec<String> {
    let judged = judge(keep, &TimeZone::UTC, sets, at(now));
    let stay = judged.iter().filter(|judged| !judged.verdict.is_removed());
    stay.map(|judged| judged.made.strftime("%m-%d").to_string()).collect()
}

fn verdict(keep: &Keep, sets: &[Known], set: &Known, now: &str) -> Verdict {
    let judged = judge(keep, &TimeZone::UTC, sets, at(now));
    judged.into_iter().find(|judged| judged.set == set.set).unwrap().verdict
}

#[test]
fn each_rule_keeps_the_newest_of_its_periods() {
    let (sets, now) = (nights("2026-03-02T01:00:00Z", 90), "2026-03-02T09:00:00Z");
    let one = |change: fn(&mut Keep)| {
        let mut keep = Keep::NOTHING;
        change(&mut keep);
        kept(&keep, &sets, now)
    };
    assert_eq!(one(|_| {}), ["03-02"], "the newest stays without any rule");
    assert_eq!(one(|keep| keep.last = 3), ["03-02", "03-01", "02-28"]);
    assert_eq!(one(|keep| keep.hourly = 2), ["03-02", "03-01"]);
    assert_eq!(one(|keep| keep.daily = 3), ["03-02", "03-01", "02-28"]);
    // 2026-03-02 is a Monday.
    assert_eq!(one(|keep| keep.weekly = 3), ["03-02", "03-01", "02-22"]);
    assert_eq!(one(|keep| keep.monthly = 3), ["03-02", "02-28", "01-31"]);
    assert_eq!(one(|keep| keep.yearly = 5), ["03-02", "12-31"]);
    assert_eq!(one(|keep| keep.within = SignedDuration::from_hours(48)), ["03-02", "03-01", "02-28"]);
    assert_eq!(kept(&Keep::default(), &sets, now).len(), 7 + 2 + 2);
}

#[test]
fn a_set_tells_every_reason_and_a_removed_one_why() {
    let sets = nights("2026-03-02T01:00:00Z", 30);
    let keep = Keep { last: 1, daily: 2, ..Keep::NOTHING };
    let now = "2026-03-02T09:00:00Z";
    let why = |set: &Known| verdict(&keep, &sets, set, now).why();
    assert_eq!(why(&sets[0]), "the newest set; the newest whole set; one of the last; daily 2026-03-02");
    assert_eq!(why(&sets[1]), "daily 2026-03-01");
    assert_eq!(why(&sets[2]), "no rule keeps it: newer sets fill every one");
    assert_eq!(Keep::default().to_string(), "the last 3, 7 daily, 4 weekly, 6 monthly");
    assert_eq!(Keep::NOTHING.to_string(), "nothing but the newest");
}

#[test]
fn days_are_those_of_the_configured_zone() {
    // Both are of the 2nd in Berlin, and of two days in UTC.
    let sets = [whole(at("2026-03-02T01:00:00Z"), 1), whole(at("2026-03-01T23:30:00Z"), 2)];
    let keep = Keep { daily: 2, ..Keep::NOTHING };
    let removed = |zone: &TimeZone| {
        let judged = judge(&keep, zone, &sets, at("2026-03-02T09:00:00Z"));
        judged.iter().filter(|judged| judged.verdict.is_removed()).count()
    };
    assert_eq!(removed(&TimeZone::UTC), 0);
    assert_eq!(removed(&TimeZone::get("Europe/Berlin").unwrap()), 1);
}

#[test]
fn the_hour_that_the_clocks_repeat_is_two_hours() {
    let sets = [whole(at("2026-10-25T00:30:00Z"), 1), whole(at("2026-10-25T01:30:00Z"), 2)];
    let keep = Keep { hourly: 2, ..Keep::NOTHING };
    let judged = judge(&keep, &TimeZone::get("Europe/Berlin").unwrap(), &sets, at("2026-10-26T00:00:00Z"));
    assert!(judged.iter().all(|judged| !judged.verdict.is_removed()), "{judged:?}");
}

#[test]
fn a_set_that_is_not_whole_stands_in_for_a_day_and_takes_nobodys_place() {
    let (mut sets, now) = (nights("2026-03-10T01:00:00Z", 8), "2026-03-10T09:00:00Z");
    let keep = Keep { daily: 3, ..Keep::NOTHING };
    sets[1].standing = Standing::Lacking;
    sets[6].standing = Standing::Failed;
    assert_eq!(kept(&keep, &sets, now), ["03-10", "03-09", "03-08", "03-07"]);
    let why = verdict(&keep, &sets, &sets[1], now).why();
    assert_eq!(why, "daily 2026-03-09, which has no whole set");
    // Later that day there is a whole one.
    sets.push(whole(at("2026-03-09T12:00:00Z"), 99));
    assert_eq!(verdict(&keep, &sets, &sets[1], now), Verdict::Removed { because: Dismissal::Lacking });
    assert_eq!(verdict(&keep, &sets, &sets[6], now), Verdict::Removed { because: Dismissal::Failed });
}

#[test]
fn what_nobody_may_lose_stays_without_any_rule() {
    let (mut sets, now) = (nights("2026-03-10T01:00:00Z", 8), "2026-03-10T09:00:00Z");
    sets[0].standing = Standing::Lacking;
    sets[3].alive = true;
    sets[4].alive = true;
    sets[5].in_use = true;
    sets[7].standing = Standing::Unknown;
    assert_eq!(kept(&Keep::NOTHING, &sets, now), ["03-10", "03-09", "03-07", "03-05", "03-03"]);
    let why = verdict(&Keep::NOTHING, &sets, &sets[7], now).why();
    assert_eq!(why, "its receipt is lost, so nobody knows what is in it");
}

#[test]
fn the_standing_of_a_set_is_read_from_its_receipt() {
    use crate::receipt::{Climb, ClimbOutcome, Missing, Part};
    let made = at("2026-03-02T01:00:00Z");
    let part = Part { name: "postgres.main".into(), entries: 1, bytes: 1, ..Part::default() };
    let receipt = Receipt {
        set: SetId::new(made, 1),
        made,
        took: 1.0,
        parts: vec![part],
        missing: Vec::new(),
        added: 1,
        climbs: Vec::new(),
    };
    let standing = |receipt: Option<&Receipt>| Known::of(&SetId::new(made, 1), made, receipt, false).standing;
    assert_eq!(standing(Some(&receipt)), Standing::Whole);
    assert_eq!(standing(None), Standing::Unknown);
    let missing = vec![Missing { system: "postgres.reports".parse().unwrap(), why: "gone".into() }];
    assert_eq!(standing(Some(&Receipt { missing, ..receipt.clone() })), Standing::Lacking);
    let failed = ClimbOutcome::Failed { why: "its receipt was lost".into() };
    let climbs = vec![Climb { rung: Rung::Stored, at: made, took: 1.0, outcome: failed }];
    let tried = Receipt { climbs, ..receipt };
    assert_eq!(standing(Some(&tried)), Standing::Failed);
    // What a verification writes where there was no receipt.
    assert_eq!(standing(Some(&Receipt { parts: Vec::new(), ..tried })), Standing::Unknown);
}

#[test]
fn while_the_clock_is_behind_nothing_is_removed() {
    let sets = nights("2026-03-10T01:00:00Z", 8);
    assert_eq!(kept(&Keep::NOTHING, &sets, "2026-03-09T23:00:00Z").len(), 8);
    let why = verdict(&Keep::NOTHING, &sets, &sets[5], "2026-03-09T23:00:00Z").why();
    assert_eq!(why, "the clock is behind the newest set");
    // One that runs ahead, by years, removes no more than one that is right.
    let keep = Keep { within: SignedDuration::from_hours(24), daily: 2, ..Keep::NOTHING };
    assert_eq!(kept(&keep, &sets, "2036-03-09T23:00:00Z"), kept(&keep, &sets, "2026-03-10T02:00:00Z"));
}

fn rules() -> impl Strategy<Value = Keep> {
    let few = 0_u32..5;
    let counts = (few.clone(), few.clone(), few.clone(), few.clone(), few.clone(), few);
    (counts, 0_i64..200).prop_map(|((last, hourly, daily, weekly, monthly, yearly), hours)| Keep {
        last,
        hourly,
        daily,
        weekly,
        monthly,
        yearly,
        within: SignedDuration::from_hours(hours),
    })
}

fn zone() -> impl Strategy<Value = TimeZone> {
    prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Pacific/Apia"), Just("America/St_Johns")]
        .prop_map(|name| TimeZone::get(name).unwrap())
}

fn sets() -> impl Strategy<Value = Vec<Known>> {
    let standing = prop_oneof![
        6 => Just(Standing::Whole),
        2 => Just(Standing::Lacking),
        1 => Just(Standing::Failed),
        1 => Just(Standing::Unknown),
    ];
    let set = (0_i64..500 * DAY, standing, prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    prop::collection::vec(set, 0..60).prop_map(|sets| {
        let begin = at("2025-01-01T00:00:00Z");
        let known = sets.into_iter().zip(0..).map(|((second, standing, alive, in_use), number)| {
            let made = later(begin, second);
            // Only a whole or lacking set can be alive: of the others the proof failed or is lost.
            let alive = alive && matches!(standing, Standing::Whole | Standing::Lacking);
            Known { set: SetId::new(made, number), made, standing, alive, in_use }
        });
        known.collect()
    })
}

fn stay(judged: &[Judged]) -> BTreeSet<SetId> {
    judged.iter().filter(|judged| !judged.verdict.is_removed()).map(|judged| judged.set.clone()).collect()
}

fn newest(sets: &[Known], of: fn(&Known) -> bool) -> Option<&SetId> {
    let found = sets.iter().filter(|known| of(known)).max_by_key(|known| (known.made, known.set.clone()));
    found.map(|known| &known.set)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_loses_what_cannot_be_had_again(
        keep in rules(), zone in zone(), sets in sets(), passed in -600 * DAY..600 * DAY,
    ) {
        let now = later(at("2026-05-16T00:00:00Z"), passed);
        let judged = judge(&keep, &zone, &sets, now);
        prop_assert_eq!(judged.len(), sets.len());
        let stay = stay(&judged);
        let precious = [
            newest(&sets, |_| true),
            newest(&sets, |known| known.standing == Standing::Whole),
            newest(&sets, |known| known.alive),
        ];
        prop_assert!(precious.into_iter().flatten().all(|set| stay.contains(set)));
        for known in &sets {
            if known.in_use || known.standing == Standing::Unknown || known.made > now {
                prop_assert!(stay.contains(&known.set), "{known:?}");
            }
        }
        if sets.iter().any(|known| known.made > now) {
            prop_assert_eq!(stay.len(), sets.len(), "the clock is behind");
        }
    }

    #[test]
    fn a_set_that_is_not_whole_displaces_none(keep in rules(), zone in zone(), sets in sets()) {
        let now = at("2030-01-01T00:00:00Z");
        let whole: Vec<Known> = sets.iter().filter(|known| known.standing == Standing::Whole).cloned().collect();
        let with_all = stay(&judge(&keep, &zone, &sets, now));
        for set in stay(&judge(&keep, &zone, &whole, now)) {
            // It may have been kept as the newest set of all that was alive, and a newer lacking one is that now.
            let alive = whole.iter().any(|known| known.set == set && known.alive);
            prop_assert!(alive || with_all.contains(&set), "{set}");
        }
    }

    #[test]
    fn what_was_kept_is_kept_again(keep in rules(), zone in zone(), sets in sets()) {
        let now = at("2030-01-01T00:00:00Z");
        let first = stay(&judge(&keep, &zone, &sets, now));
        let left: Vec<Known> = sets.into_iter().filter(|known| first.contains(&known.set)).collect();
        prop_assert_eq!(stay(&judge(&keep, &zone, &left, now)), first);
    }

    #[test]
    fn as_many_days_have_a_whole_set_as_were_asked_for(daily in 0_u32..20, zone in zone(), sets in sets()) {
        let keep = Keep { daily, ..Keep::NOTHING };
        let stay = stay(&judge(&keep, &zone, &sets, at("2030-01-01T00:00:00Z")));
        let days = |sets: &mut dyn Iterator<Item = &Known>| -> BTreeSet<String> {
            let whole = sets.filter(|known| known.standing == Standing::Whole);
            whole.map(|known| known.made.to_zoned(zone.clone()).date().to_string()).collect()
        };
        let all = days(&mut sets.iter());
        let kept = days(&mut sets.iter().filter(|known| stay.contains(&known.set)));
        let newest: BTreeSet<String> = all.iter().rev().take(daily as usize).cloned().collect();
        prop_assert!(newest.is_subset(&kept), "{newest:?} {kept:?}");
    }

    #[test]
    fn more_generous_rules_keep_no_less(keep in rules(), more in rules(), zone in zone(), sets in sets()) {
        let now = at("2030-01-01T00:00:00Z");
        let larger = Keep {
            last: keep.last + more.last,
            hourly: keep.hourly + more.hourly,
            daily: keep.daily + more.daily,
            weekly: keep.weekly + more.weekly,
            monthly: keep.monthly + more.monthly,
            yearly: keep.yearly + more.yearly,
            within: keep.within + more.within,
        };
        let (less, more) = (stay(&judge(&keep, &zone, &sets, now)), stay(&judge(&larger, &zone, &sets, now)));
        prop_assert!(less.is_subset(&more));
    }
}
