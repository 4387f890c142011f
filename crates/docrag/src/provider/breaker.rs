//! A circuit breaker: after some failures in a row nobody is asked for a while; then one request tries, and its outcome
//! decides.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
pub struct Breaker {
    failures: u32,
    open_for: Duration,
    now: Mutex<Inside>,
}

#[derive(Debug, Clone, Copy)]
enum Inside {
    Closed {
        failures: u32,
    },
    /// Until then; from then on the next request is the probe.
    Open {
        until: Instant,
    },
    Probing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open {
        retry_in: Duration,
    },
    /// The time is over: one request is or will be let through.
    HalfOpen,
}

/// The right to ask once. Dropped without a verdict (the caller went away), it counts as nothing.
#[derive(Debug)]
#[must_use = "say whether it succeeded"]
pub struct Permit {
    breaker: Arc<Breaker>,
    probe: bool,
    settled: bool,
}

impl Breaker {
    /// Opens for `open_for` after `failures` in a row (at least one).
    pub fn new(failures: u32, open_for: Duration) -> Arc<Self> {
        Arc::new(Self { failures: failures.max(1), open_for, now: Mutex::new(Inside::Closed { failures: 0 }) })
    }

    /// Whether to ask; if not, how long to wait.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Duration> {
        let mut now = self.lock();
        let probe = match *now {
            Inside::Closed { .. } => false,
            Inside::Open { until } => {
                let wait = until.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    return Err(wait);
                }
                *now = Inside::Probing;
                true
            }
            // The probe's own time limit ends it; nobody knows when.
            Inside::Probing => return Err(Duration::from_secs(1).min(self.open_for)),
        };
        drop(now);
        Ok(Permit { breaker: Arc::clone(self), probe, settled: false })
    }

    /// A request was dropped because its caller had waited too long, and its permit with it: that is a failure too, else
    /// an endpoint which hangs would never be spared.
    pub fn waited_in_vain(self: &Arc<Self>) {
        if let Ok(permit) = self.admit() {
            permit.failed();
        }
    }

    pub fn state(&self) -> BreakerState {
        match *self.lock() {
            Inside::Closed { .. } => BreakerState::Closed,
            Inside::Probing => BreakerState::HalfOpen,
            Inside::Open { until } => match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => BreakerState::HalfOpen,
                retry_in => BreakerState::Open { retry_in },
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Every change is one assignment: what a panicking thread left is whole.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> Inside {
        Inside::Open { until: Instant::now() + self.open_for }
    }
}

impl Permit {
    pub fn succeeded(mut self) {
        self.settled = true;
        let mut now = self.breaker.lock();
        // A request from before the breaker opened says nothing about now; only the probe closes it.
        if self.probe || matches!(*now, Inside::Closed { .. }) {
            *now = Inside::Closed { failures: 0 };
        }
    }

    pub fn failed(mut self) {
        self.settled = true;
        let mut now = self.breaker.lock();
        match *now {
            Inside::Closed { failures } if failures + 1 < self.breaker.failures => {
                *now = Inside::Closed { failures: failures + 1 };
            }
            Inside::Open { .. } | Inside::Probing if !self.probe => {}
            Inside::Closed { .. } | Inside::Open { .. } | Inside::Probing => *now = self.breaker.opened(),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            // The next request may try at once.
            *self.breaker.lock() = Inside::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(30);

    fn broken() -> Arc<Breaker> {
        let breaker = Breaker::new(2, OPEN_FOR);
        breaker.admit().unwrap().failed();
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.admit().unwrap().failed();
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let breaker = Breaker::new(2, OPEN_FOR);
        for _ in 0..3 {
            breaker.admit().unwrap().failed();
            breaker.admit().unwrap().succeeded();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(broken().state(), BreakerState::Open { retry_in: OPEN_FOR });
        assert_eq!(broken().admit().unwrap_err(), OPEN_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_pause_one_probe_decides() {
        let breaker = broken();
        tokio::time::advance(OPEN_FOR).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err(), "two probes at once");
        probe.failed();
        assert_eq!(breaker.state(), BreakerState::Open { retry_in: OPEN_FOR });

        tokio::time::advance(OPEN_FOR).await;
        breaker.admit().unwrap().succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.admit().unwrap().failed();
        assert_eq!(breaker.state(), BreakerState::Closed, "old failures were forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_given_up_lets_the_next_one_try() {
        let breaker = broken();
        tokio::time::advance(OPEN_FOR).await;
        drop(breaker.admit().unwrap());
        breaker.admit().unwrap().succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_from_before_neither_closes_nor_prolongs_it() {
        let breaker = Breaker::new(1, OPEN_FOR);
        let (late_success, late_failure) = (breaker.admit().unwrap(), breaker.admit().unwrap());
        breaker.admit().unwrap().failed();
        tokio::time::advance(OPEN_FOR / 2).await;
        late_success.succeeded();
        late_failure.failed();
        assert_eq!(breaker.state(), BreakerState::Open { retry_in: OPEN_FOR / 2 });
    }
}
