//! Serves the page with made-up days, to look at: `cargo run -p groundskeeper --example page`.
//!
//! The days are a fine one, a bad one and the first one, on three ports in a row.

#[path = "../tests/it/web/fixtures.rs"]
mod fixtures;

use fixtures::{Fixture, empty, healthy, samples, sick};
use groundskeeper::config::WebSettings;
use groundskeeper::web;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;

const FIRST_PORT: u16 = 7090;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut serving = Vec::new();
    for (port, (name, status)) in (FIRST_PORT..).zip([("healthy", healthy()), ("sick", sick()), ("empty", empty())]) {
        let source = Arc::new(Fixture { status: Some(status), samples: samples() });
        let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        serving.push(web::serve(source, &WebSettings { listen, probes: None }, stopped.clone()).await?);
        println!("{name}: http://127.0.0.1:{port}/");
    }
    tokio::signal::ctrl_c().await?;
    stop.send(true)?;
    for serving in serving {
        serving.finished().await;
    }
    Ok(())
}
