//! The REST surface, as the recorded server speaks it.
//!
//! Paths that are not here answer 404 with nothing in it, like those that Qdrant does not have. `/stand-in/…` is not
//! Qdrant's: through it a test brings about what on a real server takes a fault.

mod answer;
mod collections;
mod control;
mod metrics;
mod points;
mod service;
mod snapshots;
mod telemetry;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{delete, get, post, put};

use super::engine::store::Store;
use super::traffic::Traffic;

/// The largest body that is taken; the real server's default.
const LARGEST: usize = 32 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Rest {
    store: Arc<Store>,
    traffic: Arc<Traffic>,
}

pub(crate) fn router(store: Arc<Store>) -> Router {
    let rest = Rest { store, traffic: Arc::default() };
    Router::new()
        .merge(service_routes())
        .merge(collection_routes())
        .merge(snapshot_routes())
        .route_layer(axum::middleware::from_fn_with_state(rest.clone(), count))
        .merge(control_routes())
        .fallback(nothing_here)
        .method_not_allowed_fallback(nothing_here)
        .layer(DefaultBodyLimit::max(LARGEST))
        .with_state(rest)
}

async fn nothing_here() -> StatusCode {
    StatusCode::NOT_FOUND
}

async fn count(State(rest): State<Rest>, path: MatchedPath, request: Request, next: Next) -> Response {
    let (method, started) = (request.method().to_string(), Instant::now());
    let response = next.run(request).await;
    rest.traffic.record((method, path.as_str().to_owned(), response.status().as_u16()), started.elapsed());
    response
}

fn service_routes() -> Router<Rest> {
    Router::new()
        .route("/", get(service::title))
        .route("/healthz", get(service::healthz))
        .route("/livez", get(service::healthz))
        .route("/readyz", get(service::readyz))
        .route("/cluster", get(service::cluster))
        .route("/issues", get(service::issues))
        .route("/telemetry", get(service::telemetry))
        .route("/metrics", get(service::metrics))
}

fn collection_routes() -> Router<Rest> {
    Router::new()
        .route("/aliases", get(collections::all_aliases))
        .route("/collections", get(collections::list))
        .route("/collections/aliases", post(collections::change_aliases))
        .route(
            "/collections/{name}",
            get(collections::info)
                .put(collections::create)
                .patch(collections::update)
                .delete(collections::drop_collection),
        )
        .route("/collections/{name}/exists", get(collections::exists))
        .route("/collections/{name}/aliases", get(collections::aliases))
        .route("/collections/{name}/cluster", get(collections::cluster))
        .route("/collections/{name}/optimizations", get(collections::optimizations))
        .route("/collections/{name}/index", put(points::create_index))
        .route("/collections/{name}/index/{field_name}", delete(points::delete_index))
        .route("/collections/{name}/points", put(points::upsert).post(points::retrieve))
        .route("/collections/{name}/points/{id}", get(points::one))
        .route("/collections/{name}/points/delete", post(points::delete))
        .route("/collections/{name}/points/payload", post(points::set_payload).put(points::overwrite_payload))
        .route("/collections/{name}/points/scroll", post(points::scroll))
        .route("/collections/{name}/points/count", post(points::count))
        .route("/collections/{name}/points/query", post(points::query))
        .route("/collections/{name}/points/query/batch", post(points::query_batch))
        .route("/collections/{name}/facet", post(points::facet))
}

fn snapshot_routes() -> Router<Rest> {
    Router::new()
        .route("/snapshots", get(snapshots::list_full).post(snapshots::create_full))
        .route("/snapshots/{snapshot_name}", get(snapshots::download_full).delete(snapshots::delete_full))
        .route("/collections/{name}/snapshots", get(snapshots::list).post(snapshots::create))
        .route("/collections/{name}/snapshots/recover", put(snapshots::recover))
        .route("/collections/{name}/snapshots/{snapshot_name}", get(snapshots::download).delete(snapshots::delete))
        .route(
            "/collections/{collection}/shards/{shard}/snapshots",
            get(snapshots::list_of_shard).post(snapshots::create_of_shard),
        )
        .route(
            "/collections/{collection}/shards/{shard}/snapshots/{snapshot_name}",
            get(snapshots::download_of_shard).delete(snapshots::delete_of_shard),
        )
        .route("/collections/{collection}/shards/{shard}/snapshot", get(snapshots::stream_shard))
        .route("/collections/{collection}/shards/{shard}/snapshot/partial/manifest", get(snapshots::manifest))
}

fn control_routes() -> Router<Rest> {
    Router::new()
        .route("/stand-in/process", get(control::process))
        .route("/stand-in/collections/{name}/optimizers/{what}", post(control::optimizers))
}
