//! An OpenAI-compatible chat endpoint, answering as a stream.
//!
//! Time limits: `answer.first_token_seconds` until the first token and between any two, `answer.timeout_seconds` for the
//! whole with all tries. Until the first token a failed try is repeated; after it, what was shown cannot be taken back.

use super::prompt::Message;
use crate::provider::{Endpoint, EndpointOptions, Opened, Permit, ProviderError, retrying};
use crate::settings::AnswerSettings;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde::Deserialize;
use serde_json::json;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Of an answer with its framing: some hundred bytes a token.
const LONGEST_STREAM: usize = 16 << 20;
/// For the token counts, which come after the last token.
const AFTERWORD: Duration = Duration::from_secs(2);

pub(super) struct Chat {
    endpoint: Endpoint,
    model: String,
    max_tokens: u32,
    first_token: Duration,
    whole: Duration,
    retries: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Delta {
    Text(String),
    /// It works on something that is not shown.
    Thinking,
    /// `stop`, `length`, `content_filter` …
    Finished(String),
    Usage(Usage),
    /// Nothing follows.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) struct Usage {
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
}

/// An answer that has begun. Dropping it ends the request.
pub(super) struct Answering {
    first: Option<Delta>,
    deltas: BoxStream<'static, Result<Delta, ProviderError>>,
    permit: Option<Permit>,
    endpoint: String,
    pause: Duration,
    deadline: Instant,
    /// Something came.
    begun: bool,
    finished: bool,
}

impl Chat {
    /// `None` when no endpoint is configured.
    pub(super) fn new(settings: &AnswerSettings) -> Result<Option<Self>, ProviderError> {
        let Some(url) = &settings.endpoint else { return Ok(None) };
        let first_token = Duration::from_secs(settings.first_token_seconds);
        let endpoint = Endpoint::new(EndpointOptions {
            url,
            api_key: settings.api_key.clone(),
            timeout: first_token,
            retries: settings.retries,
            breaker_failures: settings.breaker_failures,
            breaker_open: Duration::from_secs(settings.breaker_seconds),
        })?;
        Ok(Some(Self {
            endpoint,
            model: settings.model.clone(),
            max_tokens: settings.max_tokens,
            first_token,
            whole: Duration::from_secs(settings.timeout_seconds),
            retries: settings.retries,
        }))
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Waits for the first token.
    pub(super) async fn ask(&self, messages: &[Message]) -> Result<Answering, ProviderError> {
        let body = json!({
            "model": self.model, "messages": messages, "max_tokens": self.max_tokens,
            "stream": true, "stream_options": {"include_usage": true},
        });
        let deadline = Instant::now() + self.whole;
        let begun = timeout_at(deadline, retrying(self.retries, || self.begin(&body, deadline))).await;
        begun.unwrap_or_else(|_| Err(timed_out(self.endpoint.name(), self.whole)))
    }

    async fn begin(&self, body: &serde_json::Value, deadline: Instant) -> Result<Answering, ProviderError> {
        let start = Instant::now();
        let opened = self.endpoint.post("chat/completions", body).await?;
        let (streams, endpoint) = (is_stream(&opened), self.endpoint.name().to_owned());
        let (pieces, permit) = opened.pieces(LONGEST_STREAM);
        let (deltas, pause) = if streams {
            (deltas(pieces, endpoint.clone()), self.first_token.saturating_sub(start.elapsed()))
        } else {
            (whole(pieces, endpoint.clone()), self.first_token)
        };
        let permit = Some(permit);
        let mut answering =
            Answering { first: None, deltas, permit, endpoint, pause, deadline, begun: false, finished: false };
        answering.first = answering.next().await.transpose()?;
        answering.pause = self.first_token;
        Ok(answering)
    }
}

impl Answering {
    /// `None` after the last one. After an error there is nothing more.
    pub(super) async fn next(&mut self) -> Option<Result<Delta, ProviderError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let pause = if self.finished { AFTERWORD.min(self.pause) } else { self.pause };
        let limit = self.deadline.min(Instant::now() + pause);
        let delta = match timeout_at(limit, self.deltas.next()).await {
            Ok(Some(Ok(Delta::End))) if self.begun => None,
            Ok(Some(Ok(Delta::End))) => Some(Err(said_nothing(&self.endpoint))),
            Ok(Some(Ok(delta))) => {
                self.begun = true;
                self.finished |= matches!(delta, Delta::Finished(_));
                return Some(Ok(delta));
            }
            // Everything was said: how it ends is of no interest.
            _ if self.finished => None,
            Ok(None) => Some(Err(broke_off(&self.endpoint))),
            Ok(Some(Err(error))) => Some(Err(error)),
            Err(_) => Some(Err(timed_out(&self.endpoint, pause))),
        };
        let permit = self.permit.take();
        match &delta {
            Some(Err(error)) if error.is_retryable() => permit.into_iter().for_each(Permit::failed),
            _ => permit.into_iter().for_each(Permit::succeeded),
        }
        delta
    }
}

fn timed_out(endpoint: &str, after: Duration) -> ProviderError {
    ProviderError::TimedOut { endpoint: endpoint.to_owned(), after }
}

fn broke_off(endpoint: &str) -> ProviderError {
    ProviderError::Unreachable { endpoint: endpoint.to_owned(), cause: "the answer broke off".to_owned() }
}

fn said_nothing(endpoint: &str) -> ProviderError {
    ProviderError::Unreachable { endpoint: endpoint.to_owned(), cause: "the answer ended before it began".to_owned() }
}

fn is_stream(opened: &Opened) -> bool {
    let kind = opened.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    !kind.to_ascii_lowercase().starts_with("application/json")
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    delta: Option<Said>,
    /// Instead of `delta` in an answer that is no stream.
    message: Option<Said>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

impl Completion {
    fn deltas(self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        if let Some(choice) = self.choices.into_iter().next() {
            let said = choice.delta.or(choice.message).unwrap_or_default();
            match said.content.filter(|text| !text.is_empty()) {
                Some(text) => deltas.push(Delta::Text(text)),
                None if said.reasoning_content.or(said.reasoning).is_some_and(|text| !text.is_empty()) => {
                    deltas.push(Delta::Thinking);
                }
                None => {}
            }
            deltas.extend(choice.finish_reason.map(Delta::Finished));
        }
        deltas.extend(self.usage.map(Delta::Usage));
        deltas
    }
}

/// What the events of the stream say.
fn deltas<B: AsRef<[u8]> + Send + 'static>(
    pieces: impl futures_util::Stream<Item = Result<B, ProviderError>> + Send + 'static,
    endpoint: String,
) -> BoxStream<'static, Result<Delta, ProviderError>> {
    let read = move |event: Result<Event, EventStreamError<ProviderError>>| {
        let deltas = match event {
            Ok(event) if event.data.trim().is_empty() => Ok(Vec::new()),
            Ok(event) if event.data.trim() == "[DONE]" => Ok(vec![Delta::End]),
            Ok(event) => read_event(event.data.as_bytes(), &endpoint),
            Err(EventStreamError::Transport(error)) => Err(error),
            Err(error) => Err(unusable(&endpoint, error.to_string())),
        };
        one_by_one(deltas)
    };
    pieces.eventsource().flat_map(read).boxed()
}

/// Some servers know no streams and answer as a whole.
fn whole<B: AsRef<[u8]> + Send + 'static>(
    pieces: impl futures_util::Stream<Item = Result<B, ProviderError>> + Send + 'static,
    endpoint: String,
) -> BoxStream<'static, Result<Delta, ProviderError>> {
    stream::once(read_whole(pieces, endpoint)).flat_map(one_by_one).boxed()
}

async fn read_whole<B: AsRef<[u8]>>(
    pieces: impl futures_util::Stream<Item = Result<B, ProviderError>>,
    endpoint: String,
) -> Result<Vec<Delta>, ProviderError> {
    let mut pieces = pin!(pieces);
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(piece?.as_ref());
    }
    let mut deltas = read_event(&body, &endpoint)?;
    deltas.push(Delta::End);
    Ok(deltas)
}

fn one_by_one(
    deltas: Result<Vec<Delta>, ProviderError>,
) -> stream::Iter<std::vec::IntoIter<Result<Delta, ProviderError>>> {
    stream::iter(match deltas {
        Ok(deltas) => deltas.into_iter().map(Ok).collect::<Vec<_>>(),
        Err(error) => vec![Err(error)],
    })
}

fn read_event(data: &[u8], endpoint: &str) -> Result<Vec<Delta>, ProviderError> {
    let read: Completion = serde_json::from_slice(data).map_err(|error| unusable(endpoint, error.to_string()))?;
    match read.error {
        None => Ok(read.deltas()),
        // An error after a good head, as providers send it when they are overloaded.
        Some(error) => {
            let code = error.get("code").and_then(serde_json::Value::as_u64);
            let status = code.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
            let said = error.get("message").unwrap_or(&error).as_str().unwrap_or("an error").to_owned();
            Err(ProviderError::Status {
                endpoint: endpoint.to_owned(),
                status: status.unwrap_or(502),
                retry_after: None,
                said,
            })
        }
    }
}

fn unusable(endpoint: &str, cause: String) -> ProviderError {
    ProviderError::Answer { endpoint: endpoint.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(pieces: &[&[u8]]) -> Vec<Result<Delta, String>> {
        let pieces: Vec<Result<Vec<u8>, ProviderError>> = pieces.iter().map(|piece| Ok(piece.to_vec())).collect();
        let deltas = deltas(stream::iter(pieces), "http://model".to_owned());
        deltas.map(|delta| delta.map_err(|error| error.to_string())).collect().await
    }

    #[tokio::test]
    async fn a_stream_is_read_however_it_is_cut() {
        let stream = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n: ping\n\n\
                      data: {\"choices\":[{\"delta\":{\"content\":\"Größe [1]\"},\"finish_reason\":null}],\"usage\":null}\n\n\
                      data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n\
                      data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}\n\n\
                      data: [DONE]\n\n";
        let usage = Usage { prompt_tokens: 7, completion_tokens: 3 };
        let expected =
            [Delta::Text("Größe [1]".into()), Delta::Finished("stop".into()), Delta::Usage(usage), Delta::End].map(Ok);
        assert_eq!(read(&[stream.as_bytes()]).await, expected);
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes).await, expected);
    }

    #[tokio::test]
    async fn rubbish_and_errors_in_the_stream_are_errors() {
        assert!(read(&[b"data: {\"choices\":[{\n\n"]).await[0].as_ref().unwrap_err().contains("http://model"));
        let overloaded = read(&[b"data: {\"error\":{\"message\":\"overloaded\",\"code\":529}}\n\n"]).await;
        assert!(overloaded[0].as_ref().unwrap_err().contains("529"), "{overloaded:?}");
    }

    #[tokio::test]
    async fn an_answer_as_a_whole_is_read_and_so_is_an_error_in_its_place() {
        let read = async |body: &'static str| {
            let pieces = body.as_bytes().chunks(7).map(Ok::<_, ProviderError>);
            let deltas = whole(stream::iter(pieces), "http://model".to_owned());
            deltas.map(|delta| delta.map_err(|error| error.to_string())).collect::<Vec<_>>().await
        };
        let said = read(r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"error":null}"#).await;
        assert_eq!(said, [Delta::Text("Hi".into()), Delta::Finished("stop".into()), Delta::End].map(Ok));
        for (body, expected) in [
            (r#"{"error":{"message":"overloaded","code":529}}"#, "529: overloaded"),
            (r#"{"error":"no such model"}"#, "502: no such model"),
            ("<h1>Hello</h1>", "cannot be used"),
        ] {
            let failed = read(body).await;
            assert!(failed.len() == 1 && failed[0].as_ref().unwrap_err().contains(expected), "{failed:?}");
        }
    }
}
