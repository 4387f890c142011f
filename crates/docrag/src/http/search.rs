//! Searching and asking.

use super::App;
use super::auth::Reader;
use super::extract::Json;
use super::problem::{Answer, Trouble};
use crate::answer::{AskEvent, AskRequest, Citation, Done, NumberedPassage};
use crate::search::{SearchRequest, SearchResponse};
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;
use utoipa::ToSchema;

/// Shorter than the idle limit of common proxies, 60 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A whole answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub(super) struct AskResponse {
    /// `[n]` means the passage with that number.
    answer: String,
    passages: Vec<NumberedPassage>,
    citations: Vec<Citation>,
    #[serde(flatten)]
    done: Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Events,
    Json,
}

/// Finds passages
#[utoipa::path(
    post,
    path = "/v1/search",
    tag = "search",
    operation_id = "search",
    request_body = SearchRequest,
    responses((status = 200, description = "The best passages first; `degraded` says when less was done than asked for",
               body = SearchResponse))
)]
pub(super) async fn search(
    State(app): State<App>,
    Reader(caller): Reader,
    Json(request): Json<SearchRequest>,
) -> Answer<axum::Json<SearchResponse>> {
    Ok(axum::Json(app.service.search(&caller, request).await?))
}

/// Answers a question from the documents
///
/// As server-sent events: `passages` (those that the answer is made from), `token` (the next piece of the answer), `citation`,
/// and last `done` or `error`. With `Accept: application/json` the whole answer comes at once.
#[utoipa::path(
    post,
    path = "/v1/ask",
    tag = "search",
    operation_id = "ask",
    request_body = AskRequest,
    responses((status = 200, description = "The answer", content(
        (AskResponse = "application/json"),
        (String = "text/event-stream")
    )))
)]
pub(super) async fn ask(
    State(app): State<App>,
    Reader(caller): Reader,
    headers: HeaderMap,
    Json(request): Json<AskRequest>,
) -> Answer<Response> {
    let form = wanted(&headers)?;
    let events = app.service.ask(&caller, request).await?;
    match form {
        Form::Json => Ok(axum::Json(collected(events).await?).into_response()),
        Form::Events => {
            let events =
                events.map(|event| Ok::<_, Infallible>(Event::default().event(event.name()).data(event.data())));
            Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
        }
    }
}

/// What the client accepts; events unless it names JSON first.
fn wanted(headers: &HeaderMap) -> Answer<Form> {
    let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else { return Ok(Form::Events) };
    let ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    for range in ranges {
        match range.as_str() {
            "application/json" | "application/*" => return Ok(Form::Json),
            "text/event-stream" | "text/*" | "*/*" => return Ok(Form::Events),
            _ => {}
        }
    }
    let detail = "accept text/event-stream or application/json";
    Err(Trouble::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", detail))
}

async fn collected(events: impl Stream<Item = AskEvent>) -> Answer<AskResponse> {
    let mut events = pin!(events);
    let mut whole = AskResponse::default();
    while let Some(event) = events.next().await {
        match event {
            AskEvent::Passages { passages } => whole.passages = passages,
            AskEvent::Token { text } => whole.answer.push_str(&text),
            AskEvent::Citation(citation) => whole.citations.push(citation),
            AskEvent::Done(done) => whole.done = done,
            AskEvent::Error { problem } => return Err(Trouble::of_answer(problem)),
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_comes_in_the_form_that_is_accepted_first() {
        let wants = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            wanted(&headers).map_err(|trouble| trouble.status.as_u16())
        };
        assert_eq!(wants("application/json"), Ok(Form::Json));
        assert_eq!(wants("text/html, application/json;q=0.9, */*;q=0.8"), Ok(Form::Json));
        assert_eq!(wants("*/*"), Ok(Form::Events));
        assert_eq!(wants("text/event-stream"), Ok(Form::Events));
        assert_eq!(wants("image/png"), Err(406));
        assert_eq!(wanted(&HeaderMap::new()).ok(), Some(Form::Events));
    }
}
