//! Keeping a deadline, whatever the other side does.

use groundskeeper_core::observation::{Failure, FailureKind};
use std::time::Duration;
use tokio::sync::oneshot;

/// The future's answer, or a [`FailureKind::Timeout`] about `address` once the deadline is over.
pub async fn within<T>(
    deadline: Duration,
    address: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| Err(timed_out(deadline, address)))
}

pub fn timed_out(deadline: Duration, address: &str) -> Failure {
    Failure {
        kind: FailureKind::Timeout,
        message: format!("no answer within {:.1} s", deadline.as_secs_f64()),
        address: address.to_owned(),
    }
}

/// Runs a system call that may hang for ever (a filesystem whose server is gone) on a thread of its own.
///
/// Not `spawn_blocking`: the runtime waits at its end for such tasks, and a hung call would hold the whole program up.
/// The answer is lost when the receiver is dropped; the thread ends whenever the call does.
pub fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<oneshot::Receiver<T>> {
    let (answer, receiver) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Nobody waits any more once the deadline is over; that is no error.
        let _ = answer.send(work());
    })?;
    Ok(receiver)
}
