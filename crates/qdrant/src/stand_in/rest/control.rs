//! `/stand-in/…`: what on a real server takes a fault, or luck with the time.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::{Rest, answer};
use crate::stand_in::error::Error;

/// By which a test knows that the server which answers is its own.
pub(super) async fn process() -> String {
    std::process::id().to_string()
}

/// `hold`: rebuilds wait. `release`: they go on. `forget`: nothing has called for any, as after a restart.
pub(super) async fn optimizers(State(rest): State<Rest>, Path((name, what)): Path<(String, String)>) -> Response {
    let collection = match rest.run(move |store| store.collection(&name)).await {
        Ok(collection) => collection,
        Err(error @ Error::NotFound(_)) => return answer::refusal(&error, 0.0),
        Err(error) => return answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    match what.as_str() {
        "hold" => collection.optimizer.hold(),
        "release" => collection.optimizer.release(),
        "forget" => collection.optimizer.forget(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    }
    answer::text(StatusCode::OK, format!("{what}\n"))
}
