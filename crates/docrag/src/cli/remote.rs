//! A running service, asked over HTTP.

use super::Whose;
use super::output::Stop;
use crate::service::Caller;
use clap::Args;
use reqwest::{Client, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write as _;
use std::time::Duration;
use url::Url;

const TIMEOUT: Duration = Duration::from_mins(2);
const CONNECT: Duration = Duration::from_secs(10);
/// A refused request, or one that did not arrive, is sent so often.
const TRIES: u32 = 6;
const LONGEST_WAIT: Duration = Duration::from_mins(1);

// Whose documents, and who is asked for them.
#[derive(Debug, Clone, Args)]
pub(super) struct RemoteArgs {
    /// The tenant, by default the one called default; with a URL the key decides
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Ask the service that runs there instead of the database
    #[arg(long, env = "DOCRAG_URL", value_name = "URL")]
    url: Option<Url>,
    /// An API key for it; better in the environment than on the command line
    #[arg(long, env = "DOCRAG_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<SecretString>,
}

impl RemoteArgs {
    /// Who works on the database itself.
    pub(super) fn caller(&self) -> Caller {
        Whose { tenant: self.tenant.clone().unwrap_or_else(|| super::DEFAULT_TENANT.to_owned()) }.caller()
    }
}

pub(super) struct Remote {
    client: Client,
    base: Url,
    key: SecretString,
}

impl Remote {
    /// `None` when no URL was given. A key without one is for another time: it may always be in the environment.
    pub(super) fn of(args: &RemoteArgs) -> Result<Option<Self>, Stop> {
        let Some(base) = args.url.clone() else { return Ok(None) };
        if let Some(tenant) = &args.tenant {
            return Err(Stop::usage(format!(
                "--tenant {tenant} has no meaning with --url (or DOCRAG_URL): a key belongs to one tenant; leave \
                 --tenant out, and set DOCRAG_KEY to a key of that tenant"
            )));
        }
        let key = args.key.clone().ok_or_else(|| {
            Stop::usage("--url needs a key: set DOCRAG_KEY to one that `docrag key create` has printed")
        })?;
        Ok(Some(Self { client: client(TIMEOUT)?, base, key }))
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Stop> {
        let body = serde_json::to_vec(body).map_err(|error| Stop::unknown(error.to_string()))?;
        self.send(path, |url| self.client.post(url).header("content-type", "application/json").body(body.clone())).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Stop> {
        self.send(path, |url| self.client.get(url)).await
    }

    async fn send<T: DeserializeOwned>(&self, path: &str, make: impl Fn(Url) -> RequestBuilder) -> Result<T, Stop> {
        let url = self.base.join(path).map_err(|error| Stop::usage(format!("{}{path}: {error}", self.base)))?;
        let mut wait = Duration::from_millis(500);
        for attempt in 1.. {
            let request = make(url.clone()).bearer_auth(self.key.expose_secret()).header("accept", "application/json");
            match request.send().await {
                Ok(response) if response.status().is_success() => {
                    let read = response.json().await;
                    return read.map_err(|error| Stop::unknown(format!("{url}: {error}")));
                }
                Ok(response) => {
                    let status = response.status();
                    let asked = response.headers().get("retry-after").and_then(|text| text.to_str().ok()?.parse().ok());
                    let again = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
                    if !again || attempt >= TRIES {
                        return Err(refusal(&url, status, response).await);
                    }
                    wait = asked.map_or(wait, Duration::from_secs);
                }
                // It arrived, and may be worked on still: sent again, it would be done, and paid for, twice.
                Err(error) if error.is_timeout() && !error.is_connect() => {
                    return Err(Stop::unknown(format!(
                        "{url} took the request and did not answer in time; it was not sent again; look at \
                         /health/ready and the service's log"
                    )));
                }
                Err(error) if attempt >= TRIES => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    return Err(Stop::unknown(format!(
                        "{url} does not answer: {error}: {cause}; does `docrag serve` run there?"
                    )));
                }
                Err(_) => {}
            }
            if attempt == 1 {
                let _ = writeln!(std::io::stderr(), "waiting for {} …", self.base);
            }
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
            wait *= 2;
        }
        Err(Stop::unknown(format!("{url} was not asked")))
    }
}

fn client(timeout: Duration) -> Result<Client, Stop> {
    let client = Client::builder().timeout(timeout).connect_timeout(CONNECT).build();
    client.map_err(|error| Stop::unknown(format!("no HTTP client: {error}")))
}

/// What the service said, in its own words.
async fn refusal(url: &Url, status: StatusCode, response: reqwest::Response) -> Stop {
    let problem: serde_json::Value = response.json().await.unwrap_or_default();
    let (detail, next) = match problem["detail"].as_str() {
        Some(detail) if status == StatusCode::UNAUTHORIZED => (detail, "; make a new key with `docrag key create`"),
        Some(detail) => (detail, ""),
        // Doc-RAG always says why.
        None => ("no reason was given", "; is this the address of Doc-RAG?"),
    };
    let message = format!("{} answered {}: {detail}{next}", url.path(), status.as_u16());
    if status.is_client_error() { Stop::failed(message) } else { Stop::unknown(message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::post;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    async fn remote(routes: Router) -> Remote {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Remote { client: client(Duration::from_millis(300)).unwrap(), base, key: "dr_1".to_owned().into() }
    }

    async fn refused(remote: &Remote, path: &str) -> String {
        match remote.post::<Value>(path, &json!({})).await.unwrap_err() {
            Stop::Said { message, .. } => message,
            Stop::ReaderGone => panic!("nobody reads"),
        }
    }

    #[tokio::test]
    async fn what_took_too_long_is_not_asked_again_and_what_was_busy_is() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (slow, busy) = (Arc::clone(&asked), Arc::new(AtomicUsize::new(0)));
        let routes = Router::new()
            .route(
                "/slow",
                post(move || {
                    slow.fetch_add(1, Ordering::Relaxed);
                    std::future::pending::<()>()
                }),
            )
            .route(
                "/busy",
                post(move || {
                    let first = busy.fetch_add(1, Ordering::Relaxed) == 0;
                    let answer = if first { (StatusCode::SERVICE_UNAVAILABLE, "null") } else { (StatusCode::OK, "7") };
                    std::future::ready(answer)
                }),
            );
        let remote = remote(routes).await;
        assert!(refused(&remote, "/slow").await.contains("not sent again"));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(remote.post::<Value>("/busy", &json!({})).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn only_an_answer_that_is_none_of_ours_makes_the_address_suspect() {
        let problem = json!({"type": "/problems/not-found", "detail": "there is no corpus \"x\""}).to_string();
        let routes =
            Router::new().route("/v1/search", post(move || std::future::ready((StatusCode::NOT_FOUND, problem))));
        let remote = remote(routes).await;
        let message = refused(&remote, "/v1/search").await;
        assert!(message.contains("no corpus") && !message.contains("address"), "{message}");
        assert!(refused(&remote, "/v1/elsewhere").await.contains("is this the address of Doc-RAG?"));
    }

    #[test]
    fn a_tenant_and_a_url_contradict_each_other_and_a_key_may_always_be_there() {
        let args = |tenant: Option<&str>, url: Option<&str>| RemoteArgs {
            tenant: tenant.map(str::to_owned),
            url: url.map(|url| url.parse().unwrap()),
            key: Some("dr_1".to_owned().into()),
        };
        let Err(Stop::Said { message, exit }) = Remote::of(&args(Some("acme"), Some("http://rag"))) else {
            panic!("it was not refused");
        };
        assert!(message.contains("acme") && exit == 2, "{message}");
        let here = args(Some("acme"), None);
        assert!(Remote::of(&here).unwrap().is_none());
        assert_eq!((here.caller().tenant.as_str(), args(None, None).caller().tenant.as_str()), ("acme", "default"));
    }
}
