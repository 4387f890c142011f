//! How much of the line, and how many requests at a time, a repository may take.
//!
//! All that is opened at one place shares one [`Limiter`]. A transfer books its time on the line before it begins, and
//! begins when what was booked before is over: over time the line carries no more than it may, while a single file goes as
//! fast as it can. Files are at most a pack long, 16 MiB. Rejected: slowing down the bytes of a request on their way. Its
//! timeout would have to know how slow it was made.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// So many requests at a time are enough to fill a line, and not so many that a store pushes back.
const CONNECTIONS: u32 = 4;

/// Bytes a second, and requests at a time. None: as many as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub upload: Option<u64>,
    pub download: Option<u64>,
    pub connections: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { upload: None, download: None, connections: Some(CONNECTIONS) }
    }
}

/// What went over the line since the place was opened first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    /// Bytes of contents, without what a protocol adds.
    pub uploaded: u64,
    pub downloaded: u64,
    /// The most requests that were under way at the same time.
    pub at_once: u32,
    /// How long transfers were held up, all of them together.
    pub held_up: Duration,
}

#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    turns: Option<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    upload: Line,
    download: Line,
    under_way: u32,
    traffic: Traffic,
}

/// One direction.
#[derive(Debug, Default)]
struct Line {
    free_at: Option<Instant>,
}

impl Line {
    /// Books the time that `bytes` take; gives how long to wait for its beginning.
    fn book(&mut self, now: Instant, bytes: u64, rate: Option<u64>) -> Duration {
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return Duration::ZERO };
        let begins = self.free_at.map_or(now, |free| free.max(now));
        self.free_at = Some(begins + Duration::from_secs_f64(bytes as f64 / rate as f64));
        begins - now
    }
}

/// What a request is about to carry, in bytes; the size of what is read may not be known before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    Nothing,
    Up(u64),
    Down(u64),
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        let turns = limits.connections.map(|most| Semaphore::new(most.max(1) as usize));
        Self { limits, turns, state: Mutex::default() }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the next statement, whoever panicked beside it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` when it is its turn.
    pub(crate) async fn pass<T>(&self, load: Load, work: impl Future<Output = T>) -> T {
        // It is never closed.
        let _turn = match &self.turns {
            Some(turns) => turns.acquire().await.ok(),
            None => None,
        };
        let wait = self.begin(load, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let under_way = UnderWay::new(self);
        let done = work.await;
        drop(under_way);
        done
    }

    /// Adds what was read and could not be known before; the next transfer waits for it.
    pub(crate) fn downloaded(&self, bytes: u64) {
        let mut state = self.state();
        state.download.book(Instant::now(), bytes, self.limits.download);
        state.traffic.downloaded += bytes;
    }

    fn begin(&self, load: Load, now: Instant) -> Duration {
        let mut state = self.state();
        state.traffic.requests += 1;
        let wait = match load {
            Load::Nothing => Duration::ZERO,
            Load::Up(bytes) => {
                state.traffic.uploaded += bytes;
                state.upload.book(now, bytes, self.limits.upload)
            }
            Load::Down(bytes) => {
                state.traffic.downloaded += bytes;
                state.download.book(now, bytes, self.limits.download)
            }
        };
        state.traffic.held_up += wait;
        wait
    }
}

/// One more request is under way, for as long as this lives.
struct UnderWay<'a>(&'a Limiter);

impl<'a> UnderWay<'a> {
    fn new(limiter: &'a Limiter) -> Self {
        let mut state = limiter.state();
        state.under_way += 1;
        state.traffic.at_once = state.traffic.at_once.max(state.under_way);
        drop(state);
        Self(limiter)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: u64 = 1_000_000;

    fn limits(upload: Option<u64>, connections: Option<u32>) -> Limits {
        Limits { upload, download: Some(2 * MEGABYTE), connections }
    }

    #[test]
    fn transfers_follow_one_another_as_fast_as_the_line_may_go() {
        let limiter = Limiter::new(limits(Some(4 * MEGABYTE), None));
        let start = Instant::now();
        let millis = |load, after: u64| limiter.begin(load, start + Duration::from_secs(after)).as_millis();
        let waits = [
            millis(Load::Up(8 * MEGABYTE), 0),
            millis(Load::Up(8 * MEGABYTE), 0),
            millis(Load::Down(4 * MEGABYTE), 0),
            millis(Load::Down(MEGABYTE), 0),
            millis(Load::Nothing, 0),
            // Time that nobody used is not saved up.
            millis(Load::Up(MEGABYTE), 60),
            millis(Load::Up(MEGABYTE), 60),
        ];
        assert_eq!(waits, [0, 2_000, 0, 2_000, 0, 0, 250]);
        let Traffic { requests, uploaded, downloaded, held_up, .. } = limiter.traffic();
        assert_eq!((requests, uploaded, downloaded), (7, 18 * MEGABYTE, 5 * MEGABYTE));
        assert_eq!(held_up, Duration::from_millis(4_250));
    }

    #[test]
    fn a_line_without_a_limit_holds_nobody_up() {
        let limiter = Limiter::new(limits(None, None));
        let start = Instant::now();
        assert_eq!([0; 3].map(|_| limiter.begin(Load::Up(u64::MAX / 4), start)), [Duration::ZERO; 3]);
    }

    #[tokio::test]
    async fn no_more_requests_than_allowed_are_under_way() {
        let limiter = Limiter::new(limits(None, Some(3)));
        let request = || limiter.pass(Load::Nothing, tokio::task::yield_now());
        futures_util::future::join_all((0..50).map(|_| request())).await;
        assert_eq!((limiter.traffic().requests, limiter.traffic().at_once), (50, 3));
    }
}
