//! A node and the client that asks it, made once.

use crate::deadline::timed_out;
use crate::trust::{self, AuthorityError};
use groundskeeper_core::observation::{Failure, FailureKind};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::time::Duration;
use url::Url;

/// Of what a server says in its refusal.
const QUOTED: usize = 300;

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("this is no address of Qdrant's REST interface ({0}); write http://host:6333")]
    NotAUrl(String),
    #[error("the API key has a character that HTTP does not allow")]
    Key,
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[source] reqwest::Error),
}

/// One node. Cheap to clone: the client is shared. `Debug` does not show the key.
#[derive(Clone)]
pub struct Endpoint {
    base: Url,
    client: reqwest::Client,
    address: String,
}

impl Endpoint {
    /// `authorities` is PEM of private authorities that are trusted besides those of the machine.
    pub fn new(url: &str, key: Option<&SecretString>, authorities: Option<&[u8]>) -> Result<Self, EndpointError> {
        let mut base = Url::parse(url).map_err(|error| EndpointError::NotAUrl(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(EndpointError::NotAUrl(format!("the scheme is `{}`", base.scheme())));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(EndpointError::NotAUrl("it has a user or a password; Qdrant knows an `api_key`".to_owned()));
        }
        base.set_query(None);
        base.set_fragment(None);
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let mut value = HeaderValue::from_str(key.expose_secret()).map_err(|_| EndpointError::Key)?;
            value.set_sensitive(true);
            headers.insert("api-key", value);
        }
        let tls = ClientConfig::builder_with_provider(trust::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trust::authorities(authorities)?)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            // A key does not travel to where a redirect leads.
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers)
            .user_agent(concat!("groundskeeper/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| EndpointError::Client(error.without_url()))?;
        let address = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self { base, client, address })
    }

    /// Its URL.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A path of which each part is escaped.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// Sends a request, and gives an answer that is no refusal; its body is still to be read.
    pub(super) async fn send(&self, method: Method, path: &[&str], within: Duration) -> Result<Response, Failure> {
        self.send_with(method, path, None, within).await
    }

    async fn send_with(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
        within: Duration,
    ) -> Result<Response, Failure> {
        let mut request = self.client.request(method, self.url(path));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer =
            tokio::time::timeout(within, request.send()).await.map_err(|_| timed_out(within, &self.address))?;
        let answer = answer.map_err(|error| self.failed(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = tokio::time::timeout(within, answer.text()).await.ok().and_then(Result::ok).unwrap_or_default();
        let kind = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::Denied,
            StatusCode::NOT_FOUND => FailureKind::Missing,
            status if status.is_server_error() => FailureKind::NotReady,
            _ => FailureKind::Protocol,
        };
        let hint = if kind == FailureKind::Denied {
            "; set `api_key` to a key that may write: it makes snapshots"
        } else {
            ""
        };
        Err(self.failure(kind, format!("{status} to /{}: {}{hint}", path.join("/"), said(&body))))
    }

    /// The `result` of Qdrant's JSON.
    pub(super) async fn ask(&self, method: Method, path: &[&str], within: Duration) -> Result<Value, Failure> {
        self.ask_with(method, path, None, within).await
    }

    /// The same with a body.
    pub(super) async fn ask_with(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
        within: Duration,
    ) -> Result<Value, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            result: Value,
        }
        let answer = self.send_with(method, path, body, within).await?;
        let read = tokio::time::timeout(within, answer.bytes()).await.map_err(|_| timed_out(within, &self.address))?;
        let body = read.map_err(|error| self.failed(&error))?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| self.nonsense(path))?;
        Ok(answer.result)
    }

    pub(super) fn nonsense(&self, path: &[&str]) -> Failure {
        self.failure(FailureKind::Protocol, format!("the answer to /{} is not that of a Qdrant", path.join("/")))
    }

    pub(super) fn failure(&self, kind: FailureKind, message: impl Into<String>) -> Failure {
        let message = message.into().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Failure { kind, message, address: self.address.clone() }
    }

    pub(super) fn failed(&self, error: &reqwest::Error) -> Failure {
        let kind = if error.is_timeout() {
            FailureKind::Timeout
        } else if error.is_connect() {
            FailureKind::Refused
        } else {
            FailureKind::Interrupted
        };
        // What reqwest says first is only that it was a request; the cause is at the end.
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        self.failure(kind, cause.to_string())
    }
}

/// `{"status":{"error":"…"}}`, or what else it is.
fn said(body: &str) -> String {
    let error = serde_json::from_str::<Value>(body).ok();
    let error = error.and_then(|body| Some(body.pointer("/status/error")?.as_str()?.to_owned()));
    error.unwrap_or_else(|| body.to_owned()).chars().take(QUOTED).collect()
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_escaped_and_no_key_shows() {
        let key = SecretString::from("hunter2");
        let endpoint = Endpoint::new("https://vectors.example:6333/base/", Some(&key), None).unwrap();
        assert_eq!(
            endpoint.url(&["collections", "a b?"]).as_str(),
            "https://vectors.example:6333/base/collections/a%20b%3F"
        );
        assert_eq!(endpoint.address(), "https://vectors.example:6333/base");
        assert!(!format!("{endpoint:?}").contains("hunter2"));
        for url in ["", "vectors:6333", "grpc://vectors", "http://me:secret@vectors"] {
            let error = Endpoint::new(url, None, None).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(said(r#"{"status":{"error":"Not found"},"time":0.1}"#), "Not found");
        assert_eq!(said("plain"), "plain");
    }
}
