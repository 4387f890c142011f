//! The page, the probes and the metrics: what the keeper knows, for eyes and for scrapers. Read-only.
//!
//! | listener | serves |
//! |---|---|
//! | `web.listen` (loopback only) | the page `/`, `/report`, `/api/status`, and all below |
//! | `web.probes` (any address) | `/livez`, `/readyz`, `/metrics` |
//!
//! Nothing here can change anything: there is no route that is not a GET. The page has no login yet, so it binds to
//! loopback only, and [`guard`] refuses requests that a foreign web site sends there through a visitor's browser.
//! Rendering is pure: the values of `app` in, text out.

mod assets;
mod backups;
mod chart;
mod exposition;
mod guard;
mod metrics;
mod moment;
mod page;
mod probes;
mod sections;
mod sentence;

use crate::app::api::StatusView;
use crate::app::{App, CallError};
use crate::config::WebSettings;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, middleware};
use groundskeeper_core::report::DayReport;
use groundskeeper_core::sample::Sample;
use serde::Deserialize;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Answers under way at the stop get this long.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error(
        "the page will not listen on {0}: it has no login, so other machines must not reach it; \
         set `listen` in [web] to 127.0.0.1 and use an SSH tunnel (`ssh -L 7070:127.0.0.1:7070 HOST`)"
    )]
    NotLoopback(SocketAddr),
    #[error(
        "cannot listen on {address} for the {what}: another program uses that port; \
         stop it, or set `{key}` in [web] to another port or to \"off\""
    )]
    Taken { address: SocketAddr, what: &'static str, key: &'static str },
    #[error("cannot listen on {address} for the {what}: {cause}; set `{key}` in [web] to an address of this machine")]
    Listen { address: SocketAddr, what: &'static str, key: &'static str, cause: io::Error },
}

/// Where the values come from: the façade, or a fixture in tests and in the example.
pub trait Source: Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = Result<StatusView, CallError>> + Send;
    fn report(&self, day: Option<String>) -> impl Future<Output = Result<DayReport, CallError>> + Send;
    fn latest_samples(&self) -> impl Future<Output = Vec<Sample>> + Send;
}

impl Source for App {
    async fn status(&self) -> Result<StatusView, CallError> {
        Self::status(self).await
    }

    async fn report(&self, day: Option<String>) -> Result<DayReport, CallError> {
        Self::report(self, day).await
    }

    async fn latest_samples(&self) -> Vec<Sample> {
        Self::latest_samples(self).await
    }
}

/// The listeners, while they serve.
#[derive(Debug)]
pub struct Serving {
    page: Option<SocketAddr>,
    probes: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

impl Serving {
    pub fn page(&self) -> Option<SocketAddr> {
        self.page
    }

    pub fn probes(&self) -> Option<SocketAddr> {
        self.probes
    }

    /// Waits until both listeners have ended; answers under way get a moment. To be called after the shutdown signal.
    pub async fn finished(self) {
        for mut task in self.tasks {
            if tokio::time::timeout(GRACE, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Binds the configured listeners and serves until `shutdown` says true (or its sender is gone).
pub async fn serve<S: Source>(
    source: Arc<S>,
    settings: &WebSettings,
    shutdown: watch::Receiver<bool>,
) -> Result<Serving, WebError> {
    let mut serving = Serving { page: None, probes: None, tasks: Vec::new() };
    let page = match settings.listen {
        Some(address) if !address.ip().is_loopback() => return Err(WebError::NotLoopback(address)),
        Some(address) => Some(bind(address, "page", "listen").await?),
        None => None,
    };
    let probes = match settings.probes {
        Some(address) => Some(bind(address, "probes", "probes").await?),
        None => None,
    };
    if let Some((listener, address)) = page {
        serving.page = Some(address);
        serving.tasks.push(spawn(listener, page_router(Arc::clone(&source)), shutdown.clone()));
    }
    if let Some((listener, address)) = probes {
        serving.probes = Some(address);
        serving.tasks.push(spawn(listener, probe_router(source), shutdown));
    }
    Ok(serving)
}

async fn bind(
    address: SocketAddr,
    what: &'static str,
    key: &'static str,
) -> Result<(TcpListener, SocketAddr), WebError> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => WebError::Taken { address, what, key },
        _ => WebError::Listen { address, what, key, cause },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn spawn(listener: TcpListener, router: Router, mut shutdown: watch::Receiver<bool>) -> JoinHandle<()> {
    let stopped = async move {
        // An error means that the sender is gone, and then nobody can ask for the stop any more.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "the web listener ended");
        }
    })
}

fn probe_router<S: Source>(source: Arc<S>) -> Router {
    let common = probe_routes::<S>().fallback(nowhere).with_state(source);
    common.layer(middleware::map_response(guard::no_sniffing))
}

fn page_router<S: Source>(source: Arc<S>) -> Router {
    probe_routes::<S>()
        .route("/", get(whole_page::<S>))
        .route("/fragment", get(fragment::<S>))
        .route("/report", get(report::<S>))
        .route("/api/status", get(status::<S>))
        .route("/assets/{name}", get(assets::serve))
        .fallback(nowhere)
        .with_state(source)
        .layer(middleware::map_response(guard::security_headers))
        .layer(middleware::from_fn(guard::only_local_names))
}

fn probe_routes<S: Source>() -> Router<Arc<S>> {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics_text::<S>))
}

async fn whole_page<S: Source>(State(source): State<Arc<S>>) -> Response {
    match source.status().await {
        Ok(status) => html(page::whole(&status)),
        Err(error) => trouble(&error),
    }
}

async fn fragment<S: Source>(State(source): State<Arc<S>>) -> Response {
    match source.status().await {
        Ok(status) => html(page::fragment(&status)),
        Err(error) => trouble(&error),
    }
}

async fn status<S: Source>(State(source): State<Arc<S>>) -> Response {
    match source.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => trouble(&error),
    }
}

#[derive(Debug, Deserialize)]
struct Day {
    day: Option<String>,
}

async fn report<S: Source>(State(source): State<Arc<S>>, Query(Day { day }): Query<Day>) -> Response {
    match source.report(day).await {
        Ok(report) => html(page::report(&report)),
        Err(error) => trouble(&error),
    }
}

async fn readyz<S: Source>(State(source): State<Arc<S>>) -> Response {
    let (code, sentence) = match source.status().await {
        Ok(status) => probes::ready(&status),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.message),
    };
    (code, sentence + "\n").into_response()
}

async fn metrics_text<S: Source>(State(source): State<Arc<S>>) -> Response {
    match source.status().await {
        Ok(status) => {
            let samples = source.latest_samples().await;
            let text = metrics::render(&status, &samples, probes::resident_bytes());
            ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => trouble(&error),
    }
}

async fn nowhere() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "There is nothing at this address.\n")
}

fn html(rendered: askama::Result<String>) -> Response {
    match rendered {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the page could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "The page could not be rendered; the log says why.\n").into_response()
        }
    }
}

fn trouble(error: &CallError) -> Response {
    let code = if error.exit == 2 { StatusCode::BAD_REQUEST } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{error}\n")).into_response()
}
