//! Whether it lives, whether it can answer, and its figures. Open to everybody who reaches the port; nothing of a tenant
//! is in here.

use super::App;
use super::problem::{Answer, Trouble};
use crate::provider::{BreakerState, Endpoint};
use crate::service::DependencyState;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Serialize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use utoipa::ToSchema;

/// Probes give up after a second or a few; an answer that comes later is none.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize, ToSchema)]
pub(super) struct Live {
    /// Always `alive`.
    status: &'static str,
    version: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Readiness {
    Ready,
    /// It answers, slower or poorer than it could.
    Degraded,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    status: Readiness,
    dependencies: Vec<DependencyState>,
}

/// The process runs
#[utoipa::path(get, path = "/health/live", tag = "operations", operation_id = "live", security(()),
    responses((status = 200, description = "It lives", body = Live)))]
pub(super) async fn live() -> Json<Live> {
    Json(Live { status: "alive", version: env!("CARGO_PKG_VERSION") })
}

/// The service can answer
///
/// 503 when it cannot, with the same list of dependencies. What only makes it slower or poorer is `degraded`.
#[utoipa::path(get, path = "/health/ready", tag = "operations", operation_id = "ready", security(()),
    responses(
        (status = 200, description = "It answers", body = Ready),
        (status = 503, description = "It does not; `dependencies` says why", body = super::Problem,
            content_type = "application/problem+json")
    ))]
pub(super) async fn ready(State(app): State<App>) -> Answer<Json<Ready>> {
    let not_ready = |detail: String| Trouble::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail).retry_after(1);
    if app.draining.load(Ordering::Relaxed) {
        return Err(not_ready("the service is shutting down".to_owned()).with("dependencies", serde_json::json!([])));
    }
    let Ok(dependencies) = tokio::time::timeout(PATIENCE, Box::pin(app.service.ready())).await else {
        return Err(not_ready(format!("the dependencies did not answer within {PATIENCE:?}")));
    };
    let missing: Vec<String> = dependencies
        .iter()
        .filter(|state| state.required && !state.ok)
        .map(|state| format!("{}: {}", state.name, state.detail))
        .collect();
    if missing.is_empty() {
        let fine = dependencies.iter().all(|state| state.ok);
        let status = if fine { Readiness::Ready } else { Readiness::Degraded };
        return Ok(Json(Ready { status, dependencies }));
    }
    let list = serde_json::to_value(&dependencies).unwrap_or_default();
    Err(not_ready(missing.join("; ")).with("dependencies", list))
}

/// Figures for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operations", operation_id = "metrics", security(()),
    responses((status = 200, description = "In Prometheus' text form", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let pool = app.service.store().pool();
    let (all, idle) = (u64::from(pool.size()), pool.num_idle() as u64);
    app.service.metrics().pool(idle, all.saturating_sub(idle));
    embedding(&app);
    breakers(&app);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.service.metrics().render())
}

/// The embedder counts for itself and knows no metrics; its figures are taken when somebody asks.
fn embedding(app: &App) {
    let (embedder, metrics) = (app.service.embedder(), app.service.metrics());
    // The local model costs nothing.
    let price = embedder.endpoint().map_or(0.0, |_| app.service.settings().embedding.price_per_million_tokens);
    metrics.embedding_used(embedder.tokens_used(), price);
}

fn breakers(app: &App) {
    let endpoints = [app.service.embedder().endpoint(), app.service.answers().endpoint()];
    let is_open = |endpoint: &Endpoint| matches!(endpoint.breaker().state(), BreakerState::Open { .. });
    for endpoint in endpoints.into_iter().flatten() {
        // Embeddings and answers may come from the same address; each has its own breaker.
        let open = endpoints.into_iter().flatten().any(|other| other.name() == endpoint.name() && is_open(other));
        app.service.metrics().breaker(endpoint.name(), open);
    }
}
