//! `docrag serve`.

use super::Context;
use super::output::Stop;
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Listen here; port 0 takes a free one. By default `listen` of docrag.toml, or 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Write the address that is listened on to this file, once requests are answered
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

pub(super) async fn run(args: &ServeArgs, context: &mut Context) -> Result<u8, Stop> {
    let asked = args.listen.unwrap_or(context.settings.listen);
    // Taken first: a port that is in use should be known before a model is loaded.
    let listener = TcpListener::bind(asked).await.map_err(|error| {
        Stop::usage(format!("{asked} cannot be listened on: {error}; choose another address with --listen"))
    })?;
    let address = listener.local_addr().unwrap_or(asked);
    let mut signals = Signals::listen()?;
    let service = tokio::select! {
        opened = Box::pin(context.open()) => opened?,
        // Whatever is waited for there, nothing has begun that would have to be ended.
        () = signals.next() => {
            tracing::info!("stopped before it had begun");
            return Ok(0);
        }
    };
    let background = service.start();
    if let Some(file) = &args.port_file {
        write_address(file, address)?;
    }
    tracing::info!(address = %address, version = env!("CARGO_PKG_VERSION"), "listening on http://{address}");
    let served = crate::http::serve(service, listener, signals.first()).await;
    background.stop().await;
    tracing::info!("stopped");
    served?;
    Ok(0)
}

/// In one step, so that whoever waits for the file never reads half an address.
fn write_address(file: &Path, address: SocketAddr) -> Result<(), Stop> {
    let beside = file.with_extension("new");
    let written = std::fs::write(&beside, format!("{address}\n")).and_then(|()| std::fs::rename(&beside, file));
    written.map_err(|error| Stop::usage(format!("{} cannot be written: {error}", file.display())))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Stop> {
        let on = |kind| signal(kind).map_err(|error| Stop::unknown(format!("signals cannot be listened to: {error}")));
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    /// Done with the first signal. A second one ends the process at once: somebody is impatient.
    async fn first(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(i32::from(super::FAILED));
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
