//! An OpenAI-compatible chat endpoint that does what a test scripts.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the endpoint does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// Streams these pieces, then how many tokens they were.
    Says(Vec<&'static str>),
    /// The same, without counting.
    SaysUncounted(Vec<&'static str>),
    /// Knows no streams.
    SaysAtOnce(&'static str),
    /// Knows no streams, and puts its error into an answer of status 200.
    FailsAtOnce(u16),
    /// Reaches the limit of tokens.
    SaysHalf(Vec<&'static str>),
    Refuses(u16),
    /// Never answers.
    Silent,
    /// Begins, and then neither goes on nor ends.
    Hangs(Vec<&'static str>),
    /// Begins, and then the connection breaks.
    Breaks(Vec<&'static str>),
    /// Streams this as it is.
    Babbles(&'static str),
}

#[derive(Clone, Default)]
pub(crate) struct Chat {
    script: Arc<Mutex<VecDeque<Turn>>>,
    seen: Arc<Mutex<Vec<Value>>>,
    open: Arc<AtomicUsize>,
}

/// Counts a stream as open as long as somebody reads it.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Chat {
    /// With its base URL. After the script it goes on with 500.
    pub(crate) async fn start(script: impl IntoIterator<Item = Turn>) -> (Self, String) {
        let chat = Self { script: Arc::new(Mutex::new(script.into_iter().collect())), ..Self::default() };
        let router = Router::new().route("/v1/chat/completions", post(Self::answer)).with_state(chat.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (chat, url)
    }

    pub(crate) fn then(&self, turns: impl IntoIterator<Item = Turn>) {
        self.script.lock().unwrap().extend(turns);
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn last_request(&self) -> Value {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }

    /// Answers that are still being streamed.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    async fn answer(State(chat): State<Self>, Json(body): Json<Value>) -> Response {
        chat.seen.lock().unwrap().push(body);
        let turn = chat.script.lock().unwrap().pop_front().unwrap_or(Turn::Refuses(500));
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 1_000, "completion_tokens": 100}});
        match turn {
            Turn::Says(pieces) => chat.stream(events(&pieces, Some("stop"), &[usage]), End::Whole),
            Turn::SaysUncounted(pieces) => chat.stream(events(&pieces, Some("stop"), &[]), End::Whole),
            Turn::SaysHalf(pieces) => chat.stream(events(&pieces, Some("length"), &[usage]), End::Whole),
            Turn::SaysAtOnce(text) => Json(json!({
                "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1_000, "completion_tokens": 100},
            }))
            .into_response(),
            Turn::FailsAtOnce(code) => Json(json!({"error": {"code": code, "message": "overloaded"}})).into_response(),
            Turn::Refuses(status) => {
                let status = StatusCode::from_u16(status).unwrap();
                (status, [(header::RETRY_AFTER, "0")], Json(json!({"error": {"message": "no"}}))).into_response()
            }
            Turn::Silent => {
                tokio::time::sleep(Duration::from_secs(30)).await;
                StatusCode::GATEWAY_TIMEOUT.into_response()
            }
            Turn::Hangs(pieces) => chat.stream(events(&pieces, None, &[]), End::Never),
            Turn::Breaks(pieces) => chat.stream(events(&pieces, None, &[]), End::Broken),
            Turn::Babbles(text) => chat.stream(vec![text.to_owned()], End::Whole),
        }
    }

    fn stream(&self, pieces: Vec<String>, end: End) -> Response {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        let said = stream::iter(pieces).then(|piece| async move {
            // Apart, so that they do not arrive as one.
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, std::io::Error>(Bytes::from(piece))
        });
        let body = match end {
            End::Whole => said.boxed(),
            End::Never => said.chain(stream::pending()).boxed(),
            End::Broken => said.chain(stream::once(breaking())).boxed(),
        };
        let body = body.map(move |piece| {
            let _held = &open;
            piece
        });
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(body)).into_response()
    }
}

async fn breaking() -> std::io::Result<Bytes> {
    // What was not sent by then is lost with the connection.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Err(std::io::Error::other("on purpose"))
}

#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    Never,
    Broken,
}

fn events(pieces: &[&str], finish: Option<&str>, after: &[Value]) -> Vec<String> {
    let event = |data: &Value| format!("data: {data}\n\n");
    let mut events = vec![event(&json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))];
    let piece =
        |text: &&str| event(&json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}));
    events.extend(pieces.iter().map(piece));
    if let Some(finish) = finish {
        events.push(event(&json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})));
        events.extend(after.iter().map(event));
        events.push("data: [DONE]\n\n".to_owned());
    }
    events
}
