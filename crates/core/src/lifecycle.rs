//! When a finding opens, changes and resolves: `for`, hysteresis and identity, as pure state transitions.
//!
//! The rules: a condition must hold for `open_after` before anyone hears of it, and be gone for `clear_after` before it
//! counts as resolved; *unknown* moves nothing in either direction, because not being able to look is neither good news
//! nor bad news about the condition; a finding that comes back while it is clearing stays the same finding.

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

    /// Whether people want to hear of it.
    pub fn is_news(self) -> bool {
        matches!(self, Self::Opened | Self::Escalated | Self::Resolved)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub event: Event,
    pub track: Track,
}

/// Moves the tracks of one check on one system on by one judgement. `tracks` holds exactly the tracks of that check and
/// system that have not ended.
pub fn advance(judgement: &Judgement, tracks: &[Track], hold: Hold, now: Timestamp) -> Vec<Change> {
    let findings: &[Finding] = match &judgement.status {
        Status::Unknown(_) => return Vec::new(),
        Status::Ok => &[],
        Status::Failing { findings } => findings,
    };
    let seen = findings.iter().map(|finding| {
        let earlier = tracks.iter().find(|track| track.finding.fingerprint == finding.fingerprint);
        hold_on(finding, earlier, hold, now)
    });
    let still_there = |fingerprint: &Fingerprint| findings.iter().any(|finding| finding.fingerprint == *fingerprint);
    let gone =
        tracks.iter().filter(|track| !still_there(&track.finding.fingerprint)).map(|track| let_go(track, hold, now));
    seen.chain(gone).collect()
}

fn hold_on(finding: &Finding, earlier: Option<&Track>, hold: Hold, now: Timestamp) -> Change {
    let first_seen = earlier.map_or(now, |track| track.first_seen);
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
    let since = *track.clear_since.get_or_insert(now);
    let event = if seconds_between(since, now) >= hold.clear_after { Event::Resolved } else { Event::Clearing };
    Change { event, track }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Unknown, UnknownKind};
    use crate::finding::Draft;
    use crate::system::{SystemId, SystemKind};

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
                let changes = advance(judgement, &tracks, hold, at(*second));
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
}
