//! A Qdrant to test against, on Qdrant's own engine.
//!
//! | module | what it is |
//! |---|---|
//! | [`engine`] | collections, points, aliases, snapshots, optimizers |
//! | [`rest`], [`grpc`] | the two surfaces; they translate and hold no state |
//!
//! It answers as the recorded server did and refuses what it does not know, so that a test which passes here does not
//! owe it to a fake's good will.

mod engine;
mod error;
mod grpc;
mod rest;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::server::TcpIncoming;

pub(crate) const TITLE: &str = "qdrant - vector search engine";
pub(crate) const VERSION: &str = "1.16.3";

/// Where to listen and to keep data.
#[derive(Debug, Clone)]
pub struct Options {
    pub http_port: u16,
    pub grpc_port: u16,
    pub storage: PathBuf,
}

/// Serves until the process is told to end. `on_ready` is called when both ports answer.
pub async fn run(options: Options, on_ready: impl FnOnce()) -> Result<()> {
    // Bound before the data is opened: who has lost a port should know at once.
    let http = listen(options.http_port).await?;
    let grpc = listen(options.grpc_port).await?;
    let storage = options.storage.clone();
    let store = tokio::task::block_in_place(|| engine::store::Store::open(&storage));
    let store = Arc::new(store.with_context(|| format!("cannot open the storage in {}", storage.display()))?);
    let rest = axum::serve(http, rest::router(store.clone()));
    let grpc = grpc::router(store).serve_with_incoming(TcpIncoming::from(grpc).with_nodelay(Some(true)));
    on_ready();
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = rest => ended.context("REST has ended"),
        ended = grpc => ended.context("gRPC has ended"),
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}
