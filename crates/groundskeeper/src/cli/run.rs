//! `run`: the daemon in the foreground.

use super::{Desk, FINE, Outcome, Stop};
use crate::app;
use crate::clock::Clock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

pub(super) async fn run(desk: &mut Desk) -> Outcome {
    let settings = desk.settings()?;
    let listen = |kind| signal(kind).map_err(|error| Stop::unknown(format!("cannot listen for signals: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let (count, counted) = watch::channel(0_u32);
    let counting = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    let ended = tokio::select! {
        ended = app::run(settings, Clock::wall(), signalled(counted.clone(), 1)) => ended.map_err(Stop::from),
        () = signalled(counted, 2) => Err(Stop::unknown(
            "stopped by a second signal before everything had ended; the next start settles what was under way",
        )),
    };
    counting.abort();
    ended.map(|()| FINE)
}

async fn signalled(mut counted: watch::Receiver<u32>, times: u32) {
    // An error means that nobody counts any more, which is the case at the end only.
    let _ = counted.wait_for(|count| *count >= times).await;
}
