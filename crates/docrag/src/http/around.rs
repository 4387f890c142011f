//! What happens around every request: its id, its time limit, its line in the log, its figures, the headers that browsers
//! are told to heed, and that errors are problems.

use super::App;
use super::problem::Trouble;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything comes from the page's own address; nothing is inline, nothing is framed, nothing is sent anywhere else.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; object-src 'none'";
/// Swagger UI writes styles into its own markup.
const DOCS_POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
                           base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// The id of a request, as the log, the audit log and problems name it.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Whose request it was, once that is known: for the log.
#[derive(Debug, Clone)]
pub(super) struct Tenant(pub(super) String);

/// The outermost layer.
pub(super) async fn observed(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = known_method(request.method());
    let path = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    write_problem(&mut response, &id);
    set_headers(response.headers_mut(), &id, &path);
    let took = began.elapsed();
    let status = response.status().as_u16();
    app.service.metrics().http(method, &path, status, took);
    let tenant = response.extensions().get::<Tenant>().map(|tenant| tenant.0.as_str());
    let ms = took.as_secs_f64() * 1_000.0;
    if is_probe(&path) && status < 500 {
        tracing::debug!(method, path, status, ms, request_id = id, "request");
    } else {
        tracing::info!(method, path, status, ms, request_id = id, tenant, "request");
    }
    response
}

/// Ends a request whose response has not begun in time.
pub(super) async fn in_time(State(app): State<App>, request: Request, next: Next) -> Response {
    let limit = Duration::from_secs(app.service.settings().limits.request_seconds);
    if let Ok(response) = tokio::time::timeout(limit, next.run(request)).await {
        response
    } else {
        let detail = format!("there was no answer within {} s", limit.as_secs());
        Trouble::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", detail).into_response()
    }
}

/// A handler that panicked broke this request and nothing else.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer asks for")]
pub(super) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("of unknown cause");
    tracing::error!(panic = text, "a handler panicked; please report this");
    Trouble::internal().into_response()
}

fn write_problem(response: &mut Response, id: &str) {
    let status = response.status();
    let noted = response.extensions_mut().remove::<Trouble>();
    if noted.is_none() && !(status.is_client_error() || status.is_server_error()) {
        return;
    }
    let (body, media_type) = noted.unwrap_or_else(|| Trouble::of_status(status)).written(id);
    *response.body_mut() = body;
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
}

fn set_headers(headers: &mut HeaderMap, id: &str, path: &str) {
    let policy = if path.starts_with("/docs") { DOCS_POLICY } else { POLICY };
    let fixed = [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What is of one tenant is kept by nobody; files of the page say for themselves how long they keep.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// The sender's own id if it can stand in a log line, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    sent.filter(sane).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Labels are a closed set, whatever a client calls its method.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn is_probe(path: &str) -> bool {
    path.starts_with("/health/") || path == "/metrics"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_senders_request_id_is_kept_only_when_a_log_can_bear_it() {
        let with = |id: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_static(id));
            request_id(&headers)
        };
        assert_eq!(with("trace-1.a:b_2"), "trace-1.a:b_2");
        for id in ["", "with space", "quote\"", "{json}"] {
            assert_ne!(with(id), id);
        }
        assert!(with("x").len() == 1 && request_id(&HeaderMap::new()).parse::<Uuid>().is_ok());
    }
}
