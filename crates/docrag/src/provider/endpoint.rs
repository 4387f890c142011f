//! An OpenAI-compatible endpoint: where it is, the key, and requests under the rules of this module.

use super::{Breaker, Permit, ProviderError, retrying};
use futures_util::stream::{self, Stream};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use url::{Host, Url};

const CONNECT: Duration = Duration::from_secs(10);
const MOST_REDIRECTS: usize = 3;
/// Of an error's body: enough to say why, too little to flood a log.
const SAID_BYTES: usize = 4_096;
const SAID_CHARACTERS: usize = 300;

#[derive(Debug, Clone)]
pub struct EndpointOptions<'a> {
    /// The base URL (`https://…/v1`); a query (`?api-version=…`) stays on every request.
    pub url: &'a str,
    /// Sent as `Authorization: Bearer …`.
    pub api_key: Option<SecretString>,
    /// Until the answer's head, and again until its end when it is read as a whole.
    pub timeout: Duration,
    /// After the first try.
    pub retries: usize,
    /// See [`Breaker::new`].
    pub breaker_failures: u32,
    pub breaker_open: Duration,
}

/// Cheap to clone; clones share connections and the breaker.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inside: Arc<Inside>,
}

#[derive(Debug)]
struct Inside {
    client: Client,
    base: Url,
    name: String,
    api_key: Option<SecretString>,
    timeout: Duration,
    retries: usize,
    breaker: Arc<Breaker>,
}

/// A successful answer whose body has not been read yet.
#[derive(Debug)]
pub struct Opened {
    response: Response,
    permit: Permit,
    endpoint: Endpoint,
}

impl Endpoint {
    pub fn new(options: EndpointOptions<'_>) -> Result<Self, ProviderError> {
        let (base, name) = checked(options.url)?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // The program does this at its start; a test has no such place. A race is lost to the same provider.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut builder = Client::builder()
            .connect_timeout(CONNECT)
            .redirect(Policy::custom(stay_on_origin))
            .user_agent(concat!("docrag/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // Without TLS a machine without certificates must do.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| ProviderError::Configuration {
            url: name.clone(),
            cause: format!("no HTTP client: {}", chain(&error.without_url())),
        })?;
        let breaker = Breaker::new(options.breaker_failures, options.breaker_open);
        let (api_key, timeout, retries) = (options.api_key, options.timeout, options.retries);
        Ok(Self { inside: Arc::new(Inside { client, base, name, api_key, timeout, retries, breaker }) })
    }

    /// As it may be shown: without query.
    pub fn name(&self) -> &str {
        &self.inside.name
    }

    pub fn breaker(&self) -> &Arc<Breaker> {
        &self.inside.breaker
    }

    /// Posts once and waits for the answer's head. An answer that is read as a stream: begin with `retrying(retries, || …)`
    /// around this and around waiting for the first piece, for after that nothing can be tried again.
    pub async fn post<B: Serialize + ?Sized>(&self, path: &str, body: &B) -> Result<Opened, ProviderError> {
        let permit = self.admit()?;
        let mut request = self.inside.client.post(self.url(path)).json(body);
        if let Some(key) = &self.inside.api_key {
            request = request.bearer_auth(key.expose_secret());
        }
        let answered = match tokio::time::timeout(self.inside.timeout, request.send()).await {
            Ok(Ok(response)) => self.accepted(response).await,
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(self.timed_out()),
        };
        match answered {
            Ok(response) => Ok(Opened { response, permit, endpoint: self.clone() }),
            Err(error) => {
                if error.is_retryable() {
                    permit.failed();
                } else {
                    permit.succeeded();
                }
                Err(error)
            }
        }
    }

    /// Posts, with retries, and reads the whole answer of at most `limit` bytes.
    pub async fn post_json<B, T>(&self, path: &str, body: &B, limit: usize) -> Result<T, ProviderError>
    where
        B: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        retrying(self.inside.retries, || async { self.post(path, body).await?.json(limit).await }).await
    }

    fn admit(&self) -> Result<Permit, ProviderError> {
        let endpoint = || self.inside.name.clone();
        self.inside.breaker.admit().map_err(|retry_in| ProviderError::BreakerOpen { endpoint: endpoint(), retry_in })
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.inside.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}", path.trim_start_matches('/')));
        url
    }

    async fn accepted(&self, response: Response) -> Result<Response, ProviderError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let said = if status.is_redirection() {
            "a redirect to another address, which is not followed; configure the final address".to_owned()
        } else {
            let body = tokio::time::timeout(self.inside.timeout, beginning(response)).await.unwrap_or_default();
            self.without_key(&said(&body))
        };
        Err(ProviderError::Status { endpoint: self.inside.name.clone(), status: status.as_u16(), retry_after, said })
    }

    /// Some endpoints repeat the key that they refuse.
    fn without_key(&self, said: &str) -> String {
        match &self.inside.api_key {
            Some(key) if !key.expose_secret().is_empty() => said.replace(key.expose_secret(), "(the key)"),
            _ => said.to_owned(),
        }
    }

    fn failed(&self, error: reqwest::Error) -> ProviderError {
        if error.is_timeout() && !error.is_connect() {
            return self.timed_out();
        }
        // A body that breaks off is an error of decoding to the client, though nothing is decoded here.
        let (endpoint, unusable) = (self.inside.name.clone(), error.is_builder());
        let cause = self.without_key(&chain(&error.without_url()));
        if unusable {
            ProviderError::Answer { endpoint, cause }
        } else {
            ProviderError::Unreachable { endpoint, cause }
        }
    }

    fn timed_out(&self) -> ProviderError {
        ProviderError::TimedOut { endpoint: self.inside.name.clone(), after: self.inside.timeout }
    }

    fn unusable(&self, cause: String) -> ProviderError {
        ProviderError::Answer { endpoint: self.inside.name.clone(), cause }
    }

    fn too_long(&self, limit: usize) -> ProviderError {
        self.unusable(format!("it is longer than {limit} bytes"))
    }
}

impl Opened {
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The whole body, within the endpoint's time limit.
    pub async fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, ProviderError> {
        let Self { response, permit, endpoint } = self;
        let read = tokio::time::timeout(endpoint.inside.timeout, whole(&endpoint, response, limit));
        let body = read.await.unwrap_or_else(|_| Err(endpoint.timed_out()));
        match body {
            Ok(body) => {
                permit.succeeded();
                serde_json::from_slice(&body)
                    .map_err(|error| endpoint.unusable(endpoint.without_key(&error.to_string())))
            }
            Err(error) => {
                if error.is_retryable() {
                    permit.failed();
                }
                Err(error)
            }
        }
    }

    /// The body piece by piece, at most `limit` bytes in all. Time limits are the caller's. The permit is for the caller to
    /// settle: a stream that breaks off is a failure, one that the caller leaves is nothing.
    pub fn pieces(
        self,
        limit: usize,
    ) -> (impl Stream<Item = Result<impl AsRef<[u8]> + use<>, ProviderError>> + Send, Permit) {
        let Self { response, permit, endpoint } = self;
        let pieces = stream::unfold(Some((response, 0_usize)), move |state| {
            let endpoint = endpoint.clone();
            async move {
                let (mut response, so_far) = state?;
                match response.chunk().await {
                    Ok(None) => None,
                    Ok(Some(piece)) if so_far + piece.len() > limit => Some((Err(endpoint.too_long(limit)), None)),
                    Ok(Some(piece)) => {
                        let so_far = so_far + piece.len();
                        Some((Ok(piece), Some((response, so_far))))
                    }
                    Err(error) => Some((Err(endpoint.failed(error)), None)),
                }
            }
        });
        (pieces, permit)
    }
}

async fn whole(endpoint: &Endpoint, mut response: Response, limit: usize) -> Result<Vec<u8>, ProviderError> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| endpoint.failed(error))? {
        if body.len() + piece.len() > limit {
            return Err(endpoint.too_long(limit));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        body.extend_from_slice(&piece[..piece.len().min(SAID_BYTES - body.len())]);
        if body.len() == SAID_BYTES {
            break;
        }
    }
    body
}

/// The message of an OpenAI-like error, else the body's beginning; on one line.
fn said(body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
    let places = ["/error/message", "/error", "/message", "/detail"];
    let message = places.iter().find_map(|place| json.pointer(place)?.as_str().map(str::to_owned));
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line: String = words.collect::<Vec<_>>().join(" ").chars().take(SAID_CHARACTERS).collect();
    if line.is_empty() { "nothing more".to_owned() } else { line }
}

/// Seconds or an HTTP date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let now = jiff::Timestamp::try_from(SystemTime::now()).ok()?;
    Duration::try_from(until.duration_since(now)).ok()
}

fn checked(url: &str) -> Result<(Url, String), ProviderError> {
    let refused = |shown: &str, cause: &str| {
        Err(ProviderError::Configuration {
            url: shown.to_owned(),
            cause: format!("{cause}; write it as https://host/v1"),
        })
    };
    // What cannot be read is not shown: it may hold a key.
    let Ok(mut base) = Url::parse(url.trim()) else { return refused("(as configured)", "this is no URL") };
    let mut shown = base.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
        return refused("(as configured)", "only http and https are spoken");
    }
    let credentials = !base.username().is_empty() || base.password().is_some();
    if credentials || base.query().is_some_and(|query| query.to_lowercase().contains("key")) {
        return refused(base.host_str().unwrap_or_default(), "a key belongs into api_key, not into the URL");
    }
    base.set_fragment(None);
    let name = shown.as_str().trim_end_matches('/').to_owned();
    Ok((base, name))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A redirect would take key and text to wherever the endpoint says.
fn stay_on_origin(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let same = attempt.previous().last().is_some_and(|previous| previous.origin() == attempt.url().origin());
    if same && attempt.previous().len() <= MOST_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

/// An error with its causes: reqwest's own text is only "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, ProviderError> {
        let second = Duration::from_secs(1);
        let (timeout, breaker_open) = (second, second);
        let options = EndpointOptions { url, api_key: None, timeout, retries: 0, breaker_failures: 5, breaker_open };
        Endpoint::new(options)
    }

    #[test]
    fn paths_are_joined_below_the_base_and_its_query_stays() {
        for base in ["http://models:8000/v1", "http://models:8000/v1/"] {
            assert_eq!(endpoint(base).unwrap().url("/embeddings").as_str(), "http://models:8000/v1/embeddings");
        }
        let azure = endpoint("http://models/openai?api-version=2024").unwrap();
        assert_eq!(azure.url("embeddings").as_str(), "http://models/openai/embeddings?api-version=2024");
        assert_eq!(azure.name(), "http://models/openai");
    }

    #[test]
    fn a_key_in_the_url_is_refused_and_not_repeated() {
        for url in ["http://me:s3cret@models/v1", "http://models/v1?key=s3cret", "s3cret", "file:///s3cret"] {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(!error.contains("s3cret") && error.contains("https://host/v1"), "{error}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let read = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-3"), None);
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), None, "past");
        let far = read("Fri, 21 Oct 2095 07:28:00 GMT").unwrap();
        assert!(far > Duration::from_hours(24 * 365), "{far:?}");
    }

    #[test]
    fn an_errors_body_is_one_short_line() {
        assert_eq!(said(br#"{"error":{"message":"no such\nmodel","code":5}}"#), "no such model");
        assert_eq!(said(b"<h1>Bad\r\nGateway\x1b[31m</h1>"), "<h1>Bad Gateway [31m</h1>");
        assert_eq!(said(b""), "nothing more");
        assert_eq!(said("ü".repeat(5_000).as_bytes()).chars().count(), SAID_CHARACTERS);
    }
}
