//! An OpenAI-compatible endpoint that computes nothing: vectors are hashes of the texts, and it remembers how often each
//! text was asked for.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) const DIMENSION: usize = 32;
/// A text with this word is refused, as one that is too long would be.
pub(crate) const POISON: &str = "poisonous";

#[derive(Default)]
struct Inside {
    asked: Mutex<HashMap<String, usize>>,
    /// Another number is another model.
    model: AtomicU64,
    away: AtomicBool,
    busy: AtomicBool,
    delay_milliseconds: AtomicU64,
}

/// Ends with this value.
pub(crate) struct FakeEndpoint {
    address: SocketAddr,
    inside: Arc<Inside>,
    task: JoinHandle<()>,
}

#[derive(Deserialize)]
struct Request {
    input: Vec<String>,
}

impl FakeEndpoint {
    pub(crate) async fn start() -> Self {
        let inside = Arc::new(Inside::default());
        let app = Router::new().route("/v1/embeddings", post(embeddings)).with_state(Arc::clone(&inside));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, inside, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// How often each text was embedded, but for those by which a model is recognised.
    pub(crate) fn asked(&self) -> HashMap<String, usize> {
        let mut asked = self.inside.asked.lock().unwrap().clone();
        asked.retain(|text, _| !docrag::embed::PROBES.contains(&text.as_str()));
        asked.remove("docrag");
        asked
    }

    /// How many texts were embedded.
    pub(crate) fn count(&self) -> usize {
        self.asked().values().sum()
    }

    pub(crate) fn forget(&self) {
        self.inside.asked.lock().unwrap().clear();
    }

    pub(crate) fn swap_model(&self) {
        self.inside.model.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.inside.away.store(away, Ordering::Relaxed);
    }

    /// Too many requests, but for the short one by which it is seen to be alive.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.inside.busy.store(busy, Ordering::Relaxed);
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.inside.delay_milliseconds.store(delay.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for FakeEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn embeddings(
    State(inside): State<Arc<Inside>>,
    Json(request): Json<Request>,
) -> Result<Json<Value>, StatusCode> {
    if inside.away.load(Ordering::Relaxed) {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    if inside.busy.load(Ordering::Relaxed) && request.input != ["docrag"] {
        return Err(StatusCode::TOO_MANY_REQUESTS);
    }
    if request.input.iter().any(|text| text.contains(POISON)) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let model = inside.model.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(inside.delay_milliseconds.load(Ordering::Relaxed))).await;
    let mut asked = inside.asked.lock().unwrap();
    let item = |(index, text): (usize, &String)| json!({"index": index, "embedding": vector(model, text)});
    let data: Vec<Value> = request.input.iter().enumerate().map(item).collect();
    for text in request.input {
        *asked.entry(text).or_default() += 1;
    }
    Ok(Json(json!({"data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})))
}

fn vector(model: u64, text: &str) -> Vec<f32> {
    let hash = Sha256::new().chain_update(model.to_le_bytes()).chain_update(text).finalize();
    hash.iter().take(DIMENSION).map(|byte| f32::from(*byte) - 127.5).collect()
}
