//! Where the keeper's time comes from.
//!
//! Everything that schedules or records asks a [`Clock`]. The real one follows the wall clock; the compressed one runs
//! faster from a chosen start (the demo plays a day in minutes), and both sleep on tokio's timer, so that a test with
//! paused time plays a year in a moment.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
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
    Compressed { origin: Timestamp, started: Instant, speed: f64 },
}

impl Clock {
    pub fn wall() -> Self {
        Self { kind: Kind::Wall }
    }

    /// Starts at `origin` now and runs `speed` times as fast as the world. Speed 1 with tokio's paused time is the
    /// clock of the scheduler's tests.
    pub fn compressed(origin: Timestamp, speed: f64) -> Self {
        Self { kind: Kind::Compressed { origin, started: Instant::now(), speed } }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        match &self.kind {
            Kind::Wall => Timestamp::now(),
            Kind::Compressed { origin, started, speed } => {
                let elapsed = started.elapsed().as_secs_f64() * speed;
                origin.checked_add(SignedDuration::from_secs_f64(elapsed)).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Sleeps until the clock shows `at`.
    pub async fn sleep_until(&self, at: Timestamp) {
        loop {
            let left = at.duration_since(self.now()).as_secs_f64();
            if left <= 0.0 {
                return;
            }
            let (real, longest) = match &self.kind {
                Kind::Wall => (left, LONGEST_SLEEP),
                // Compressed time cannot jump; one sleep is exact.
                Kind::Compressed { speed, .. } => (left / speed, Duration::from_secs(u64::from(u32::MAX))),
            };
            // A millisecond more than needed, so that the clock is past `at` and not a rounding error before it.
            tokio::time::sleep(Duration::from_secs_f64(real + 0.001).min(longest)).await;
        }
    }

    /// Sleeps for so long by this clock.
    pub async fn sleep(&self, amount: Duration) {
        let amount = SignedDuration::try_from(amount).unwrap_or(SignedDuration::MAX);
        self.sleep_until(self.now().checked_add(amount).unwrap_or(Timestamp::MAX)).await;
    }
}
