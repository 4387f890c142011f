//! A running service, asked over HTTP.

use super::output::Stop;
use clap::Args;
use reqwest::{Client, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use url::Url;

const TIMEOUT: Duration = Duration::from_mins(2);
const CONNECT: Duration = Duration::from_secs(10);
/// A refused or failed request is sent again so often.
const TRIES: u32 = 6;
const LONGEST_WAIT: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Args)]
pub(super) struct RemoteArgs {
    /// Ask the service that runs there instead of the database
    #[arg(long, env = "DOCRAG_URL", value_name = "URL")]
    url: Option<Url>,
    /// An API key for it; better in the environment than on the command line
    #[arg(long, env = "DOCRAG_KEY", hide_env_values = true, value_name = "KEY", requires = "url")]
    key: Option<SecretString>,
}

pub(super) struct Remote {
    client: Client,
    base: Url,
    key: SecretString,
}

impl Remote {
    /// `None` when no URL was given.
    pub(super) fn of(args: &RemoteArgs) -> Result<Option<Self>, Stop> {
        let Some(base) = args.url.clone() else { return Ok(None) };
        let key = args.key.clone().ok_or_else(|| {
            Stop::usage("--url needs a key: set DOCRAG_KEY to one that `docrag key create` has printed")
        })?;
        let client = Client::builder().timeout(TIMEOUT).connect_timeout(CONNECT).build();
        let client = client.map_err(|error| Stop::unknown(format!("no HTTP client: {error}")))?;
        Ok(Some(Self { client, base, key }))
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
                Err(error) if attempt >= TRIES => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    return Err(Stop::unknown(format!(
                        "{url} does not answer: {error}: {cause}; does `docrag serve` run there?"
                    )));
                }
                Err(_) => {}
            }
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
            wait *= 2;
        }
        Err(Stop::unknown(format!("{url} was not asked")))
    }
}

/// What the service said, in its own words.
async fn refusal(url: &Url, status: StatusCode, response: reqwest::Response) -> Stop {
    let problem: serde_json::Value = response.json().await.unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("no reason was given");
    let next = match status {
        StatusCode::UNAUTHORIZED => "; make a new key with `docrag key create`",
        StatusCode::NOT_FOUND => "; is this the address of Doc-RAG?",
        _ => "",
    };
    let message = format!("{} answered {}: {detail}{next}", url.path(), status.as_u16());
    if status.is_client_error() { Stop::failed(message) } else { Stop::unknown(message) }
}
