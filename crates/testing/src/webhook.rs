//! A receiver of webhooks that records them, and can refuse the first ones.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::http::Serving;
use crate::inbox::Inbox;

/// One request that was accepted.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as JSON; null when it was none, see [`Self::raw`].
    pub body: Value,
    /// The body as it came, for signatures.
    pub raw: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    inbox: Inbox<Delivery>,
    attempts: AtomicUsize,
    failures_left: AtomicUsize,
}

/// Accepts every POST with 200; [`Self::fail_first`] answers 500 to some of them instead.
#[derive(Debug)]
pub struct WebhookSink {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: Serving,
}

impl WebhookSink {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared =
            Arc::new(Shared { inbox: Inbox::new(), attempts: AtomicUsize::new(0), failures_left: AtomicUsize::new(0) });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        Ok(Self { address, shared, _serving: Serving::spawn(listener, router) })
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The next `count` requests get a 500 and are not recorded.
    pub fn fail_first(&self, count: usize) {
        self.shared.failures_left.store(count, Ordering::SeqCst);
    }

    /// All requests, the refused ones too.
    pub fn attempts(&self) -> usize {
        self.shared.attempts.load(Ordering::SeqCst)
    }

    #[expect(clippy::unused_async, reason = "reads like its sibling `wait_for`, and may have to wait one day")]
    pub async fn received(&self) -> Vec<Delivery> {
        self.shared.inbox.all()
    }

    /// Everything received, once that is at least `count`; an error when `within` is over before.
    pub async fn wait_for(&self, count: usize, within: Duration) -> Result<Vec<Delivery>> {
        self.shared.inbox.wait_for(count, within).await
    }
}

async fn receive(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    shared.attempts.fetch_add(1, Ordering::SeqCst);
    let refuse = |left: usize| left.checked_sub(1);
    if shared.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    shared.inbox.push(Delivery {
        path: uri.to_string(),
        headers: headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        raw: body.to_vec(),
    });
    StatusCode::OK
}
