//! `run`: the calendar, the page and the socket, until it is told to stop.

use super::{App, CallError, socket};
use crate::clock::Clock;
use crate::config::Settings;
use crate::scheduler;
use crate::tasks;
use crate::web;
use groundskeeper_backup::wal::keep_streaming;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Between two looks into the box of messages.
const DELIVERY: Duration = Duration::from_secs(5);

/// What is under way when the keeper is told to stop has so long to end by itself. Systemd waits for 90 seconds and
/// Kubernetes for 30 before they kill.
const GRACE: Duration = Duration::from_secs(20);

/// A running keeper; the demo and the tests hold one in their own process.
pub struct Daemon {
    pub app: Arc<App>,
    /// Where the page is, when there is one.
    pub page: Option<SocketAddr>,
    pub probes: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
    delivery: JoinHandle<()>,
    socket: JoinHandle<()>,
    /// One for each server whose WAL is streamed.
    streams: JoinSet<()>,
    serving: web::Serving,
}

/// Opens the store, settles what a crash left, and starts everything.
pub async fn start(settings: Settings, clock: Clock) -> Result<Daemon, CallError> {
    let app = Arc::new(App::open(settings, clock).await?);
    let shop = Arc::clone(&app.shop);
    app.retire().await?;
    for entry in shop.executor.recover().await? {
        tracing::warn!(action = entry.id, outcome = ?entry.outcome, detail = %entry.detail, "settled an action from before the last stop");
    }
    let (stop, stopped) = watch::channel(false);
    let listener = socket::bind(&shop.settings.state_dir).map_err(|error| {
        CallError::usage(format!("cannot make the socket in {}: {error}", shop.settings.state_dir.display()))
    })?;
    let serving = web::serve(Arc::clone(&app), &shop.settings.web, stopped.clone())
        .await
        .map_err(|error| CallError::usage(error.to_string()))?;
    let entries: Vec<_> =
        app.entries.iter().filter(|entry| tasks::is_enabled(&shop.settings, entry.name)).cloned().collect();
    let driver = tokio::spawn(scheduler::drive(entries, shop.record.clone(), shop.clock.clone(), stopped.clone()));
    let delivery = tokio::spawn(deliver(Arc::clone(&app), stopped.clone()));
    let streams = wal_streams(&app, &stopped);
    let socket = tokio::spawn(socket::serve(listener, Arc::clone(&app), stopped));
    Ok(Daemon { page: serving.page(), probes: serving.probes(), app, stop, driver, delivery, socket, streams, serving })
}

/// WAL streams beside the calendar, for as long as the keeper runs. No pause and no window stops it: while nobody takes
/// it, it piles up at the server.
fn wal_streams(app: &App, stopped: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut streams = JoinSet::new();
    let Some(lookout) = app.shop.stack.lookout() else { return streams };
    let Some(board) = lookout.board().filter(|_| tasks::is_enabled(&app.shop.settings, "wal")) else { return streams };
    for source in &lookout.vault().settings().postgres {
        let (vault, clock) = (lookout.vault().clone(), app.shop.clock.clone());
        let stop = stopped.clone();
        streams.spawn(keep_streaming(vault, source.clone(), board.clone(), move || clock.now(), stop));
    }
    streams
}

/// Carries messages out of the box, apart from the watch: a channel that hangs must not delay the next look.
async fn deliver(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        if let Err(error) = app.shop.pipeline.deliver_due().await {
            tracing::error!(%error, "messages could not be taken from the record");
        }
        tokio::select! {
            () = tokio::time::sleep(DELIVERY) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
}

impl Daemon {
    /// Finishes the runs under way, as far as that does not take long, and ends.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        // A run or a request may wait for an action, so both have to hear of the stop at the same time.
        let _ = tokio::join!(self.app.shop.executor.stop(GRACE), self.driver, self.socket, self.delivery);
        while let Some(ended) = self.streams.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a stream of WAL ended in a bug");
            }
        }
        self.app.shop.executor.idle().await;
        // The last news: what the runs that were just finished have found.
        if let Err(error) = self.app.shop.pipeline.deliver_due().await {
            tracing::error!(%error, "messages could not be taken from the record; the next start sends them");
        }
        self.serving.finished().await;
        let _ = std::fs::remove_file(socket::path(&self.app.shop.settings.state_dir));
    }
}

/// Runs until `shutdown` completes.
pub async fn run(settings: Settings, clock: Clock, shutdown: impl Future<Output = ()>) -> Result<(), CallError> {
    if settings.systems.is_empty() {
        return Err(CallError::usage("no system is configured; `groundskeeper init` writes a configuration"));
    }
    let systems: Vec<String> = settings.systems.iter().map(|system| system.id.to_string()).collect();
    let daemon = start(settings, clock).await?;
    tracing::info!(systems = %systems.join(", "), page = ?daemon.page, "groundskeeper keeps watch");
    shutdown.await;
    tracing::info!("stopping: what is under way may end first; another signal ends it at once");
    daemon.stop().await;
    Ok(())
}
