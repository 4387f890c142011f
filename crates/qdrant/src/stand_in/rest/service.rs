//! What the server says of itself.

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::{Rest, answer, metrics, telemetry};
use crate::stand_in::{TITLE, VERSION};

pub(super) async fn title() -> Response {
    axum::Json(json!({ "title": TITLE, "version": VERSION })).into_response()
}

pub(super) async fn healthz() -> Response {
    answer::text(StatusCode::OK, "healthz check passed")
}

pub(super) async fn readyz() -> Response {
    answer::text(StatusCode::OK, "all shards are ready")
}

pub(super) async fn cluster(State(rest): State<Rest>) -> Response {
    rest.answer(|_| Ok(json!({ "status": "disabled" }))).await
}

pub(super) async fn issues(State(rest): State<Rest>) -> Response {
    rest.answer(|_| Ok(json!({ "issues": [] }))).await
}

#[derive(Debug, Deserialize)]
pub(super) struct Level {
    #[serde(default)]
    details_level: usize,
}

pub(super) async fn telemetry(State(rest): State<Rest>, Query(level): Query<Level>) -> Response {
    let traffic = rest.traffic.tallies();
    rest.answer(move |store| Ok(telemetry::telemetry(store, &traffic, level.details_level))).await
}

pub(super) async fn metrics(State(rest): State<Rest>) -> Response {
    let traffic = rest.traffic.tallies();
    match rest.run(move |store| Ok(metrics::metrics(store, &traffic))).await {
        Ok(text) => answer::text(StatusCode::OK, Bytes::from(text)),
        Err(error) => answer::refusal(&error, 0.0),
    }
}
