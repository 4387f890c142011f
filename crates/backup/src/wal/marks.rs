//! How much a disaster would take: for how long what was written is not yet safe.

use groundskeeper_core::quantity::seconds_between;
use groundskeeper_core::receipt::Lsn;
use jiff::Timestamp;
use std::collections::VecDeque;

/// The worst is remembered for an hour.
const REMEMBERED_SECONDS: f64 = 3_600.0;
/// Positions that were heard of within so many seconds count as one, of the earlier time.
const FINE_SECONDS: f64 = 0.05;

#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Where the server's WAL ended and when that was heard, as far as it is not safe. Oldest first.
    waiting: VecDeque<(Lsn, Timestamp)>,
    /// The worst that came after each, worst first.
    worst: VecDeque<(Timestamp, f64)>,
}

impl Marks {
    /// The server has written up to `at`.
    pub(crate) fn written(&mut self, at: Lsn, durable: Lsn, now: Timestamp) {
        if at <= durable || self.waiting.back().is_some_and(|(known, _)| *known >= at) {
            return;
        }
        match self.waiting.back_mut() {
            Some((known, heard)) if (0.0..FINE_SECONDS).contains(&seconds_between(*heard, now)) => *known = at,
            _ => self.waiting.push_back((at, now)),
        }
    }

    /// Up to `durable` all is safe.
    pub(crate) fn safe(&mut self, durable: Lsn, now: Timestamp) {
        let oldest = self.waiting.front().map(|(_, heard)| *heard);
        let before = self.waiting.len();
        while self.waiting.front().is_some_and(|(at, _)| *at <= durable) {
            self.waiting.pop_front();
        }
        if let Some(oldest) = oldest.filter(|_| self.waiting.len() < before) {
            self.note(seconds_between(oldest, now).max(0.0), now);
        }
    }

    fn note(&mut self, seconds: f64, now: Timestamp) {
        while self.worst.back().is_some_and(|(_, known)| *known <= seconds) {
            self.worst.pop_back();
        }
        self.worst.push_back((now, seconds));
        while self.worst.front().is_some_and(|(at, _)| seconds_between(*at, now) > REMEMBERED_SECONDS) {
            self.worst.pop_front();
        }
    }

    /// All that was written by then is safe; `heard` is when the server last said how far it is.
    pub(crate) fn safe_until(&self, heard: Timestamp) -> Timestamp {
        self.waiting.front().map_or(heard, |(_, at)| *at)
    }

    pub(crate) fn worst(&self) -> Option<f64> {
        self.worst.front().map(|(_, seconds)| *seconds)
    }

    /// The connection begins anew. What was not safe before is not safe since `since`.
    pub(crate) fn begin(&mut self, written: Lsn, durable: Lsn, since: Timestamp) {
        self.waiting.clear();
        if written > durable {
            self.waiting.push_back((written, since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::quantity::after;

    fn at(seconds: f64) -> Timestamp {
        after("2026-03-02T09:00:00Z".parse().unwrap(), seconds)
    }

    #[test]
    fn what_is_written_is_safe_only_once_it_is_stored() {
        let mut marks = Marks::default();
        marks.written(Lsn(10), Lsn(0), at(0.0));
        marks.written(Lsn(10), Lsn(0), at(1.0));
        marks.written(Lsn(20), Lsn(0), at(1.5));
        assert_eq!(marks.safe_until(at(2.0)), at(0.0));
        marks.safe(Lsn(10), at(2.0));
        assert_eq!((marks.safe_until(at(2.0)), marks.worst()), (at(1.5), Some(2.0)));
        marks.safe(Lsn(20), at(3.0));
        assert_eq!(marks.safe_until(at(3.0)), at(3.0));
        assert_eq!(marks.worst(), Some(2.0), "the later one was better");
        marks.written(Lsn(30), Lsn(20), at(4_000.0));
        marks.safe(Lsn(30), at(4_001.0));
        assert_eq!(marks.worst(), Some(1.0), "an hour later the bad one is forgotten");
    }

    #[test]
    fn half_of_what_was_written_at_a_time_is_not_all_of_it() {
        let mut marks = Marks::default();
        marks.written(Lsn(10), Lsn(0), at(0.0));
        marks.written(Lsn(15), Lsn(0), at(0.01));
        marks.safe(Lsn(12), at(1.0));
        assert_eq!((marks.safe_until(at(1.0)), marks.worst()), (at(0.0), None));
        marks.begin(Lsn(40), Lsn(12), at(-60.0));
        marks.safe(Lsn(40), at(2.0));
        assert_eq!(marks.worst(), Some(62.0), "the time in which nobody streamed counts");
    }
}
