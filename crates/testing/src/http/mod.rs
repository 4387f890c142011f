//! An HTTP or HTTPS target that answers every path as the test wants.

mod tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use tls::TlsOptions;
use tls::{Identity, TlsListener};

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    delay: Duration,
    body: String,
    paths: Vec<String>,
}

type Shared = Arc<Mutex<Answer>>;

/// Answers 200 and `ok` until told otherwise.
#[derive(Debug)]
pub struct HttpTarget {
    address: SocketAddr,
    answer: Shared,
    identity: Option<Identity>,
    serving: Option<Serving>,
}

impl HttpTarget {
    pub async fn start() -> Result<Self> {
        Self::start_as(None).await
    }

    pub async fn start_tls(options: TlsOptions) -> Result<Self> {
        Self::start_as(Some(Identity::new(&options)?)).await
    }

    async fn start_as(identity: Option<Identity>) -> Result<Self> {
        let answer = Answer { status: StatusCode::OK, delay: Duration::ZERO, body: "ok".to_owned(), paths: Vec::new() };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut target = Self { address, answer: Arc::new(Mutex::new(answer)), identity, serving: None };
        target.start_again().await?;
        Ok(target)
    }

    /// Starts a stopped target on the same port.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.serving.is_some() {
            bail!("the HTTP target already runs on {}", self.address);
        }
        let listener =
            TcpListener::bind(self.address).await.with_context(|| format!("cannot bind {}", self.address))?;
        self.address = listener.local_addr()?;
        let router = Router::new().fallback(respond).with_state(Arc::clone(&self.answer));
        self.serving = Some(match &self.identity {
            None => Serving::spawn(listener, router),
            Some(identity) => Serving::spawn(TlsListener::new(listener, identity)?, router),
        });
        Ok(())
    }

    /// Connections are refused from now on; idle ones are closed.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(serving) = self.serving.take() {
            serving.stop().await?;
        }
        Ok(())
    }

    /// Without a slash at its end. The certificate of an HTTPS target names `localhost` and `127.0.0.1`.
    pub fn url(&self) -> String {
        match self.identity {
            None => format!("http://{}", self.address),
            Some(_) => format!("https://localhost:{}", self.address.port()),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client must trust to accept an HTTPS target; a self-signed certificate is its own authority.
    pub fn ca_pem(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| identity.ca_pem.as_str())
    }

    pub fn set_status(&self, status: u16) {
        let Ok(status) = StatusCode::from_u16(status) else { panic!("{status} is not an HTTP status") };
        self.answer().status = status;
    }

    pub fn set_delay(&self, delay: Duration) {
        self.answer().delay = delay;
    }

    pub fn set_body(&self, body: impl Into<String>) {
        self.answer().body = body.into();
    }

    /// How many requests have arrived, also those that still wait for their answer.
    pub fn requests(&self) -> usize {
        self.answer().paths.len()
    }

    /// The path and query of each request, oldest first.
    pub fn paths(&self) -> Vec<String> {
        self.answer().paths.clone()
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        locked(&self.answer)
    }
}

fn locked(answer: &Shared) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn respond(State(answer): State<Shared>, uri: Uri) -> Response {
    let delay = {
        let mut answer = locked(&answer);
        answer.paths.push(uri.to_string());
        answer.delay
    };
    tokio::time::sleep(delay).await;
    // Read after the delay, so that a test can change its mind about a request that is on its way.
    let answer = locked(&answer);
    (answer.status, answer.body.clone()).into_response()
}

/// A running axum server. Dropping it stops accepting and closes idle connections.
#[derive(Debug)]
pub(crate) struct Serving {
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Serving {
    pub(crate) fn spawn<L>(listener: L, router: Router) -> Self
    where
        L: axum::serve::Listener,
        L::Addr: std::fmt::Debug,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async {
            // The sender being dropped is the usual way.
            let _ = stopped.await;
        };
        let task = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(until).await });
        Self { stop, task }
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        // Requests that are being answered slowly must not hold up a test that stops the server under them.
        let abort = self.task.abort_handle();
        if let Ok(ended) = tokio::time::timeout(Duration::from_secs(1), self.task).await {
            ended.context("the HTTP target panicked")??;
        }
        abort.abort();
        Ok(())
    }
}
