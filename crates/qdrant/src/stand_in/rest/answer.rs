//! The envelope of every answer, and how bodies are read.

use std::time::Instant;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Rest;
use crate::stand_in::engine::store::Store;
use crate::stand_in::error::{Error, Result};

#[derive(Serialize)]
struct Envelope<T> {
    result: T,
    status: &'static str,
    time: f64,
}

pub(super) fn refusal(error: &Error, time: f64) -> Response {
    let status = match error {
        Error::BadInput(_) | Error::BadRequest(_) | Error::Format(_) => StatusCode::BAD_REQUEST,
        Error::AlreadyExists(_) => StatusCode::CONFLICT,
        Error::NotFound(_) | Error::NoSuchPoint(_) => StatusCode::NOT_FOUND,
        Error::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // A body that cannot be read never reaches the server's clock.
    let time = if matches!(error, Error::Format(_)) { 0.0 } else { time };
    let body = json!({ "status": { "error": error.to_string() }, "time": time });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

impl Rest {
    /// Runs `work` off the async threads and answers with its result.
    pub(super) async fn answer<T: Serialize + Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Response {
        let started = Instant::now();
        let result = self.run(work).await;
        let time = started.elapsed().as_secs_f64();
        match result
            .and_then(|result| serde_json::to_string(&Envelope { result, status: "ok", time }).map_err(Error::internal))
        {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => refusal(&error, time),
        }
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(Error::internal)?
    }
}

/// Reads a body in one go, so that errors tell the place, as they do where the server does the same.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::Format(error.to_string()))
}

/// Reads a body in two steps: what is no JSON is told with its place, what does not fit without.
pub(super) fn loose_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let value: Value = body(bytes)?;
    serde_json::from_value(value).map_err(|error| Error::Format(error.to_string()))
}

pub(super) fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

pub(super) fn bytes(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}
