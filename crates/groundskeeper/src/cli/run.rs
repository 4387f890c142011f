//! `run`: the daemon in the foreground.

use super::{Desk, FINE, Outcome, Stop};
use crate::app;
use crate::clock::Clock;
use tokio::signal::unix::{SignalKind, signal};

pub(super) async fn run(desk: &mut Desk) -> Outcome {
    let settings = desk.settings()?;
    let listen = |kind| signal(kind).map_err(|error| Stop::unknown(format!("cannot listen for signals: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    app::run(settings, Clock::wall(), shutdown).await?;
    Ok(FINE)
}
