//! When a finding opens, changes and resolves: `for`, hysteresis and identity, as pure state transitions.
//!
//! The rules: a condition must hold for `open_after` before anyone hears of it, and be gone for `clear_after` before it
//! counts as resolved; *unknown* moves nothing in either direction, because not being able to look is neither good news
//! nor bad news about the condition; a finding that comes back while it is clearing stays the same finding. What was not
//! seen for long (the keeper was down, the system did not answer) has not held: its wait begins anew, and so it does when
//! the clock was set back to before it began.

use crate::check::{Hold, Judgement, Status};
use crate::finding::{Finding, Fingerprint};
use crate::quantity::seconds_between;
use crate::severity::Severity;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A finding and where it stands; what the record keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    pub finding: Finding,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// When it had held for long enough; none while it is pending.
    pub opened: Option<Timestamp>,
    /// Since when the condition has been gone; none while it holds.
    pub clear_since: Option<Timestamp>,
}

impl Track {
    pub fn is_open(&self) -> bool {
        self.opened.is_some()
    }
}

/// What happened to a track in one judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Seen, but not for long enough.
    Pending,
    Opened,
    /// Open, and its severity rose.
    Escalated,
    /// Open, and its severity fell.
    Eased,
    /// Still there, with fresh evidence.
    Updated,
    /// Gone, but not for long enough.
    Clearing,
    Resolved,
    /// Gone before it ever opened.
    Forgotten,
}

impl Event {
    /// Whether the track is over.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Resolved | Self::Forgotten)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub event: Event,
    pub track: Track,
}

/// A condition that was not seen for longer than this has not held, unless its `for` or the rhythm of looking is longer.
const LONGEST_GAP_SECONDS: f64 = 600.0;

/// Moves the tracks of one check on one system on by one judgement. `tracks` holds exactly the tracks of that check and
/// system that have not ended; `interval` is the number of seconds between two looks.
pub fn advance(judgement: &Judgement, tracks: &[Track], hold: Hold, interval: f64, now: Timestamp) -> Vec<Change> {
    let findings: &[Finding] = match &judgement.status {
        Status::Unknown(_) => return Vec::new(),
        Status::Ok => &[],
        Status::Failing { findings } => findings,
    };
    let seen = findings.iter().map(|finding| {
        let earlier = tracks.iter().find(|track| track.finding.fingerprint == finding.fingerprint);
        hold_on(finding, earlier, hold, interval, now)
    });
    let still_there = |fingerprint: &Fingerprint| findings.iter().any(|finding| finding.fingerprint == *fingerprint);
    let gone =
        tracks.iter().filter(|track| !still_there(&track.finding.fingerprint)).map(|track| let_go(track, hold, now));
    seen.chain(gone).collect()
}

fn hold_on(finding: &Finding, earlier: Option<&Track>, hold: Hold, interval: f64, now: Timestamp) -> Change {
    // One look may be missed.
    let longest_gap = hold.open_after.max(LONGEST_GAP_SECONDS).max(interval * 2.5);
    let has_held = |track: &&Track| {
        track.is_open()
            || (0.0..=longest_gap).contains(&seconds_between(track.last_seen, now)) && track.first_seen <= now
    };
    let first_seen = earlier.filter(has_held).map_or(now, |track| track.first_seen);
    let mut track = Track { finding: finding.clone(), first_seen, last_seen: now, opened: None, clear_since: None };
    let before: Option<Severity> = earlier.filter(|track| track.is_open()).map(|track| track.finding.severity);
    let event = if let Some(severity) = before {
        track.opened = earlier.and_then(|track| track.opened);
        match finding.severity.cmp(&severity) {
            std::cmp::Ordering::Greater => Event::Escalated,
            std::cmp::Ordering::Less => Event::Eased,
            std::cmp::Ordering::Equal => Event::Updated,
        }
    } else if seconds_between(first_seen, now) >= hold.open_after {
        track.opened = Some(now);
        Event::Opened
    } else {
        Event::Pending
    };
    Change { event, track }
}

fn let_go(earlier: &Track, hold: Hold, now: Timestamp) -> Change {
    let mut track = earlier.clone();
    if !track.is_open() {
        return Change { event: Event::Forgotten, track };
    }
    // One that lies ahead is of a clock that was set back since.
    let since = track.clear_since.filter(|since| *since <= now).unwrap_or(now);
    track.clear_since = Some(since);
    let event = if seconds_between(since, now) >= hold.clear_after { Event::Resolved } else { Event::Clearing };
    Change { event, track }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Unknown, UnknownKind};
    use crate::finding::{Draft, Target};
    use crate::quantity::after;
    use crate::system::{SystemId, SystemKind};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const INTERVAL: f64 = 30.0;
    const HOLD: Hold = Hold { open_after: 60.0, clear_after: 30.0 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn judgement(status: Status) -> Judgement {
        Judgement { check: "redis.x".into(), system: SystemId::new(SystemKind::Redis, "a"), status }
    }

    fn failing(severity: Severity) -> Judgement {
        let system = SystemId::new(SystemKind::Redis, "a");
        let finding = Finding::from_draft("redis.x", &system, Draft::new(severity, "x"));
        judgement(Status::Failing { findings: vec![finding] })
    }

    fn unknown() -> Judgement {
        judgement(Status::Unknown(Unknown { kind: UnknownKind::NoAnswer, reason: "x".into() }))
    }

    /// Plays judgements at moments and gives the events in order.
    fn play(script: &[(i64, Judgement)], hold: Hold) -> Vec<Vec<Event>> {
        let mut tracks: Vec<Track> = Vec::new();
        script
            .iter()
            .map(|(second, judgement)| {
                let changes = advance(judgement, &tracks, hold, INTERVAL, at(*second));
                if !matches!(judgement.status, Status::Unknown(_)) {
                    tracks = changes.iter().filter(|c| !c.event.is_end()).map(|c| c.track.clone()).collect();
                }
                changes.into_iter().map(|change| change.event).collect()
            })
            .collect()
    }

    use Event::*;

    #[test]
    fn a_finding_opens_after_its_for_and_resolves_after_its_hysteresis() {
        let events = play(
            &[
                (0, failing(Severity::Warning)),
                (30, failing(Severity::Warning)),
                (60, failing(Severity::Warning)),
                (90, failing(Severity::Critical)),
                (100, failing(Severity::Warning)),
                (120, judgement(Status::Ok)),
                (140, failing(Severity::Warning)),
                (150, judgement(Status::Ok)),
                (180, judgement(Status::Ok)),
            ],
            HOLD,
        );
        assert_eq!(
            events.concat(),
            [Pending, Pending, Opened, Escalated, Eased, Clearing, Updated, Clearing, Resolved]
        );
    }

    #[test]
    fn a_short_blip_is_forgotten_and_unknown_moves_nothing() {
        assert_eq!(
            play(&[(0, failing(Severity::Warning)), (30, judgement(Status::Ok))], HOLD).concat(),
            [Pending, Forgotten]
        );
        let open = [(0, failing(Severity::Critical)), (10, unknown()), (100, unknown()), (110, judgement(Status::Ok))];
        assert_eq!(play(&open, Hold::NONE).concat(), [Opened, Resolved]);
    }

    #[test]
    fn what_was_not_seen_for_long_begins_its_wait_anew() {
        let seen = |second| (second, failing(Severity::Warning));
        let down = play(&[seen(0), seen(3600), seen(3630), seen(3660)], HOLD).concat();
        assert_eq!(down, [Pending, Pending, Pending, Opened], "the hour in which nobody looked is not counted");
        let short = play(&[seen(0), seen(300)], HOLD).concat();
        assert_eq!(short, [Pending, Opened]);
        let long = Hold { open_after: 7200.0, clear_after: 0.0 };
        assert_eq!(play(&[seen(0), seen(3600), seen(7200)], long).concat(), [Pending, Pending, Opened]);
        let open = play(&[seen(0), seen(60), seen(86_400)], HOLD).concat();
        assert_eq!(open, [Pending, Opened, Updated], "what is open stays open");
    }

    #[test]
    fn a_slow_rhythm_is_no_gap() {
        let hourly = |track: &[Track], second| advance(&failing(Severity::Warning), track, HOLD, 3600.0, at(second));
        let pending = hourly(&[], 0).remove(0);
        let opened = hourly(&[pending.track], 3600).remove(0);
        assert_eq!((pending.event, opened.event), (Pending, Opened));
    }

    #[test]
    fn a_clock_that_is_set_back_delays_neither_an_opening_nor_an_end() {
        let seen = |second| (second, failing(Severity::Warning));
        let gone = |second| (second, judgement(Status::Ok));
        let script = [seen(3600), seen(0), seen(60), gone(3000), gone(100), gone(130)];
        assert_eq!(play(&script, HOLD).concat(), [Pending, Pending, Opened, Clearing, Clearing, Resolved]);
    }

    fn subject(number: u8) -> Target {
        Target::Database { name: format!("d{number}") }
    }

    /// Any judgement about up to three subjects, each at most once.
    fn any_judgement() -> impl Strategy<Value = Judgement> {
        let one = (0_u8..3, prop::sample::select(Severity::ALL.to_vec()));
        let failing = prop::collection::vec(one, 1..4).prop_map(|list| {
            let system = SystemId::new(SystemKind::Redis, "a");
            let findings =
                list.into_iter().collect::<BTreeMap<u8, Severity>>().into_iter().map(|(number, severity)| {
                    Finding::from_draft("redis.x", &system, Draft::new(severity, "x").about(subject(number)))
                });
            judgement(Status::Failing { findings: findings.collect() })
        });
        prop_oneof![3 => failing, 3 => Just(judgement(Status::Ok)), 1 => Just(unknown())]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_track_opens_at_most_once_and_resolves_only_after_its_hysteresis(
            steps in prop::collection::vec((0_i64..40, any_judgement()), 0..40),
            open_after in 0.0..90.0, clear_after in 0.0..90.0,
        ) {
            let hold = Hold { open_after, clear_after };
            let mut now = at(0);
            let mut tracks: BTreeMap<Fingerprint, Track> = BTreeMap::new();
            // When each condition began and when it was last seen, by this test's own book.
            let (mut begun, mut seen_at) = (BTreeMap::new(), BTreeMap::new());
            for (wait, judgement) in steps {
                now = after(now, wait as f64);
                let live: Vec<Track> = tracks.values().cloned().collect();
                let changes = advance(&judgement, &live, hold, INTERVAL, now);
                if matches!(judgement.status, Status::Unknown(_)) {
                    prop_assert!(changes.is_empty());
                    continue;
                }
                let names: BTreeSet<_> = changes.iter().map(|change| &change.track.finding.fingerprint).collect();
                prop_assert_eq!(names.len(), changes.len());
                for Change { event, track } in changes {
                    let name = track.finding.fingerprint.clone();
                    let earlier = tracks.remove(&name);
                    let was_open = earlier.as_ref().is_some_and(Track::is_open);
                    let is_seen = !matches!(event, Clearing | Resolved | Forgotten);
                    if is_seen {
                        begun.entry(name.clone()).or_insert(now);
                        seen_at.insert(name.clone(), now);
                    }
                    match event {
                        Opened => {
                            prop_assert!(!was_open);
                            prop_assert!(seconds_between(begun[&name], now) >= open_after);
                        }
                        Pending | Forgotten => prop_assert!(!was_open),
                        Escalated | Eased | Updated | Clearing => prop_assert!(was_open),
                        Resolved => {
                            prop_assert!(was_open);
                            prop_assert!(seconds_between(seen_at[&name], now) >= clear_after);
                        }
                    }
                    if let (true, Some(earlier)) = (was_open, &earlier) {
                        prop_assert_eq!(track.opened, earlier.opened);
                    }
                    if event.is_end() {
                        begun.remove(&name);
                    } else {
                        tracks.insert(name, track);
                    }
                }
            }
        }
    }
}
