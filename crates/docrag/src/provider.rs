//! What talking to a remote model needs, embeddings and answers alike: time limits, retries, circuit breakers, limits on
//! what is read.
//!
//! Rules:
//! - A key never shows: not in an error, not in a log, and not on another host (redirects stay on their origin).
//! - Only what may pass is tried again: no connection, no answer in time, 408, 429 and 5xx; with exponential back-off and
//!   jitter, so that clients that failed together do not come back together. `Retry-After` is heeded, up to a limit.
//! - The breaker counts tries, not calls, so that retries do not hammer an endpoint that is down. An answer of the
//!   endpoint, also one that refuses the request, shows that it is up.

mod breaker;
mod endpoint;

pub use breaker::{Breaker, BreakerState, Permit};
pub use endpoint::{Endpoint, EndpointOptions, Opened};

use backon::{BackoffBuilder, ExponentialBuilder};
use std::time::Duration;

/// The longest that `Retry-After` can make us wait before one retry; somebody is waiting for the answer.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(8);

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("endpoint {url}: {cause}")]
    Configuration { url: String, cause: String },
    #[error("{endpoint} cannot be reached: {cause}")]
    Unreachable { endpoint: String, cause: String },
    #[error("{endpoint} did not answer within {after:?}")]
    TimedOut { endpoint: String, after: Duration },
    #[error("{endpoint} answered {status}: {said}")]
    Status { endpoint: String, status: u16, retry_after: Option<Duration>, said: String },
    #[error("{endpoint} gave an answer that cannot be used: {cause}")]
    Answer { endpoint: String, cause: String },
    #[error("{endpoint} is not asked for another {retry_in:?}: it failed too often")]
    BreakerOpen { endpoint: String, retry_in: Duration },
}

impl ProviderError {
    /// Whether the same request may succeed in a moment.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Configuration { .. } | Self::Answer { .. } | Self::BreakerOpen { .. } => false,
        }
    }

    /// What the endpoint asked us to wait, at most [`LONGEST_RETRY_AFTER`].
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => retry_after.map(|asked| asked.min(LONGEST_RETRY_AFTER)),
            _ => None,
        }
    }
}

/// Runs `attempt` until it succeeds, fails for good, or has been retried `retries` times.
pub async fn retrying<T, Attempt, Answer>(retries: usize, mut attempt: Attempt) -> Result<T, ProviderError>
where
    Attempt: FnMut() -> Answer,
    Answer: Future<Output = Result<T, ProviderError>>,
{
    let backoff = ExponentialBuilder::new().with_min_delay(FIRST_DELAY).with_max_delay(LONGEST_DELAY).with_jitter();
    let mut delays = backoff.with_max_times(retries).build();
    let mut earlier = None;
    loop {
        let error = match attempt().await {
            Ok(answer) => return Ok(answer),
            // The breaker opened because of our own tries: why they failed says more.
            Err(ProviderError::BreakerOpen { .. }) if earlier.is_some() => {
                return Err(earlier.take().expect("is some"));
            }
            Err(error) => error,
        };
        let Some(delay) = delays.next().filter(|_| error.is_retryable()) else { return Err(error) };
        tracing::debug!(%error, "trying again");
        tokio::time::sleep(error.retry_after().unwrap_or_default() + delay).await;
        earlier = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    fn status(status: u16, retry_after: Option<u64>) -> ProviderError {
        let retry_after = retry_after.map(Duration::from_secs);
        ProviderError::Status { endpoint: "http://models".to_owned(), status, retry_after, said: String::new() }
    }

    /// How often an endpoint is asked that always fails so, and how long that takes.
    async fn tries(retries: usize, error: impl Fn() -> ProviderError) -> (usize, Duration) {
        let (count, start) = (AtomicUsize::new(0), Instant::now());
        let failing = || {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err::<(), _>(error()))
        };
        retrying(retries, failing).await.unwrap_err();
        (count.into_inner(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_pass_is_tried_again() {
        for (code, expected) in [(400, 1), (401, 1), (404, 1), (408, 4), (429, 4), (500, 4), (503, 4)] {
            assert_eq!(tries(3, || status(code, None)).await.0, expected, "status {code}");
        }
        let timeout = || ProviderError::TimedOut { endpoint: String::new(), after: Duration::ZERO };
        assert_eq!(tries(2, timeout).await.0, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_heeded_but_not_forever() {
        let (_, waited) = tries(1, || status(429, Some(7))).await;
        assert!((7..9).contains(&waited.as_secs()), "{waited:?}");
        let (_, waited) = tries(1, || status(429, Some(86_400))).await;
        assert!((30..32).contains(&waited.as_secs()), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_that_opens_between_tries_does_not_hide_why() {
        let count = AtomicUsize::new(0);
        let error = retrying(3, || {
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            let open = ProviderError::BreakerOpen { endpoint: String::new(), retry_in: Duration::ZERO };
            std::future::ready(Err::<(), _>(if first { status(500, None) } else { open }))
        });
        let error = error.await.unwrap_err();
        assert!(matches!(error, ProviderError::Status { status: 500, .. }), "{error}");
        assert_eq!(count.into_inner(), 2);
    }
}
