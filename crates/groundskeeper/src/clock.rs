//! Where the keeper's time comes from.
//!
//! Everything that schedules or records asks a [`Clock`]. The real one follows the wall clock; the compressed one runs
//! faster from a chosen start (the demo plays a day in minutes), and both sleep on tokio's timer, so that a test with
//! paused time plays a year in a moment.

use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Wall time can jump (suspend, a corrected clock), so nobody sleeps longer than this without looking again.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct Clock {
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Wall,
    /// `stepped`: by how much it was set since.
    Compressed {
        origin: Timestamp,
        started: Instant,
        speed: f64,
        stepped: Arc<watch::Sender<SignedDuration>>,
    },
}

impl Clock {
    pub fn wall() -> Self {
        Self { kind: Kind::Wall }
    }

    /// Starts at `origin` now and runs `speed` times as fast as the world. Speed 1 with tokio's paused time is the
    /// clock of the scheduler's tests.
    pub fn compressed(origin: Timestamp, speed: f64) -> Self {
        Self {
            kind: Kind::Compressed {
                origin,
                started: Instant::now(),
                speed,
                stepped: Arc::new(watch::Sender::new(SignedDuration::ZERO)),
            },
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        match &self.kind {
            Kind::Wall => Timestamp::now(),
            Kind::Compressed { origin, started, speed, stepped } => {
                let elapsed = SignedDuration::from_secs_f64(started.elapsed().as_secs_f64() * speed);
                origin.checked_add(elapsed.saturating_add(*stepped.borrow())).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// How long it takes in the world until the clock shows `at`; nothing when it is past that.
    pub fn left_until(&self, at: Timestamp) -> Duration {
        let left = at.duration_since(self.now()).as_secs_f64().max(0.0);
        let speed = if let Kind::Compressed { speed, .. } = &self.kind { *speed } else { 1.0 };
        Duration::try_from_secs_f64(left / speed).unwrap_or(Duration::MAX)
    }

    /// Sleeps until the clock shows `at`.
    pub async fn sleep_until(&self, at: Timestamp) {
        while self.now() < at {
            self.sleep_towards(at).await;
        }
    }

    /// Sleeps once: until the clock should show `at`, and on a wall clock not longer than 30 s. For those who must notice
    /// that the clock was set.
    pub async fn sleep_towards(&self, at: Timestamp) {
        let left = || at.duration_since(self.now()).as_secs_f64();
        match &self.kind {
            Kind::Wall => nap(left(), LONGEST_SLEEP).await,
            // Compressed time jumps by `step` only, and that wakes the sleeper.
            Kind::Compressed { speed, stepped, .. } => {
                let mut steps = stepped.subscribe();
                tokio::select! {
                    () = nap(left() / speed, Duration::from_secs(u64::from(u32::MAX))) => {}
                    _ = steps.changed() => {}
                }
            }
        }
    }

    /// Sets a compressed clock forward or back, as people and time servers do with that of a machine. A wall clock does
    /// not listen.
    pub fn step(&self, by: SignedDuration) {
        if let Kind::Compressed { stepped, .. } = &self.kind {
            stepped.send_modify(|stepped| *stepped = stepped.saturating_add(by));
        }
    }

    /// Sleeps for so long by this clock.
    pub async fn sleep(&self, amount: Duration) {
        let amount = SignedDuration::try_from(amount).unwrap_or(SignedDuration::MAX);
        self.sleep_until(self.now().checked_add(amount).unwrap_or(Timestamp::MAX)).await;
    }
}

async fn nap(seconds: f64, longest: Duration) {
    if seconds > 0.0 {
        // A millisecond more than needed, so that the clock is past the moment and not a rounding error before it.
        let seconds = Duration::try_from_secs_f64(seconds + 0.001).unwrap_or(longest);
        tokio::time::sleep(seconds.min(longest)).await;
    }
}
