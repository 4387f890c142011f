//! What one channel should hear now, from what is open and what it has heard.
//!
//! No event is needed for that, so none can be lost: not by a crash, not by a round of another task, not when a system
//! leaves the configuration. An opening is known by the moment at which it opened, compared for equality only, so that a
//! clock that jumps makes nothing new.

use super::notice::{News, NoticeLine};
use crate::record::Heard;
use groundskeeper_core::Severity;
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::lifecycle::Track;
use groundskeeper_core::quantity::seconds_between;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a message told that was given up is told again after this time: a channel that refuses everything is bothered
/// no more often.
const AGAIN_SECONDS: f64 = 3600.0;

/// The present, for every channel alike.
pub(super) struct Scene {
    /// Tracks that have not ended.
    pub(super) live: Vec<Track>,
    pub(super) ignored: BTreeSet<Fingerprint>,
    pub(super) repeat: Duration,
    pub(super) now: Timestamp,
}

/// What a channel should hear.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// What is open.
    pub(super) open: Vec<(Fingerprint, NoticeLine)>,
    pub(super) resolved: Vec<NoticeLine>,
    /// What the channel heard of and what is over now, also where that is not told.
    pub(super) over: Vec<Fingerprint>,
}

impl Scene {
    pub(super) fn telling(&self, minimum: Severity, heard: &BTreeMap<Fingerprint, Heard>) -> Telling {
        let mut telling = Telling::default();
        for track in &self.live {
            let fingerprint = &track.finding.fingerprint;
            let before = heard.get(fingerprint).and_then(Before::read).filter(|before| before.is_of(track));
            let is_silent = self.ignored.contains(fingerprint) || track.finding.severity < minimum;
            if let (false, Some(news)) = (is_silent, self.news(track, before.as_ref())) {
                telling.open.push((fingerprint.clone(), NoticeLine::new(news, track)));
            }
        }
        for (fingerprint, heard) in heard {
            let before = Before::read(heard);
            let is_live = |before: &Before| {
                self.live.iter().any(|track| track.finding.fingerprint == *fingerprint && before.is_of(track))
            };
            // What opened again takes the place of the earlier opening.
            let is_told = telling.open.iter().any(|(told, _)| told == fingerprint);
            if is_told || before.as_ref().is_some_and(is_live) {
                continue;
            }
            telling.over.push(fingerprint.clone());
            if let Some(before) =
                before.filter(|before| !before.is_opening_lost() && !self.ignored.contains(fingerprint))
            {
                telling.resolved.push(before.line.resolved(self.now));
            }
        }
        telling
    }

    /// What is new about an open finding for a channel that has heard this about it.
    fn news(&self, track: &Track, before: Option<&Before>) -> Option<News> {
        // Pending, or gone and perhaps about to resolve.
        if !track.is_open() || track.clear_since.is_some() {
            return None;
        }
        let Some(before) = before else { return Some(News::Opened) };
        // The line has the highest severity that was told: nothing less is told while it is open.
        let is_worse = track.finding.severity > before.line.severity;
        // In both directions: the clock may have been set back.
        let passed = |since: Timestamp| seconds_between(since, self.now).abs();
        if let Some(lost) = before.lost {
            let same = if is_worse && before.line.event != News::Opened { News::Escalated } else { before.line.event };
            return (is_worse || passed(lost) >= AGAIN_SECONDS).then_some(same);
        }
        if is_worse {
            return Some(News::Escalated);
        }
        let is_due = !self.repeat.is_zero() && passed(before.at) >= self.repeat.as_secs_f64();
        (track.finding.severity == Severity::Critical && is_due).then_some(News::StillOpen)
    }
}

/// What a channel heard last of a finding.
struct Before {
    line: NoticeLine,
    at: Timestamp,
    lost: Option<Timestamp>,
}

impl Before {
    /// None when another version wrote it; then it is told anew.
    fn read(heard: &Heard) -> Option<Self> {
        Some(Self { line: serde_json::from_str(&heard.line).ok()?, at: heard.at, lost: heard.lost })
    }

    /// Whether it was about this opening. The record keeps milliseconds.
    fn is_of(&self, track: &Track) -> bool {
        track.opened.is_some_and(|opened| opened.as_millisecond() == self.line.since.as_millisecond())
    }

    /// Whether the channel does not even know that it opened.
    fn is_opening_lost(&self) -> bool {
        self.lost.is_some() && self.line.event == News::Opened
    }
}
