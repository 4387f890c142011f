//! Any OpenAI-compatible `POST /v1/embeddings`.

use super::{EmbedError, unit};
use crate::provider::{Endpoint, EndpointOptions, ProviderError};
use crate::settings::EmbeddingSettings;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const RETRIES: usize = 3;
const BREAKER_FAILURES: u32 = 5;
const BREAKER_OPEN: Duration = Duration::from_secs(30);
/// A number takes up to 25 bytes as JSON; and something around them.
const BYTES_PER_NUMBER: usize = 32;
const BYTES_AROUND: usize = 64 << 10;

pub(super) struct Remote {
    endpoint: Endpoint,
    model: String,
    dimension: usize,
    batch: usize,
    tokens: AtomicU64,
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    total_tokens: u64,
}

impl Remote {
    pub(super) fn open(url: &str, settings: &EmbeddingSettings) -> Result<Self, EmbedError> {
        let options = EndpointOptions {
            url,
            api_key: settings.api_key.clone(),
            timeout: Duration::from_secs(settings.timeout_seconds.max(1)),
            retries: RETRIES,
            breaker_failures: BREAKER_FAILURES,
            breaker_open: BREAKER_OPEN,
        };
        let endpoint = Endpoint::new(options).map_err(|error| EmbedError::Model(error.to_string()))?;
        let (model, dimension, batch) = (settings.model.clone(), settings.dimension, settings.batch.max(1));
        Ok(Self { endpoint, model, dimension, batch, tokens: AtomicU64::new(0) })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// As billed; about so when the endpoint does not say.
    pub(super) fn tokens_used(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    pub(super) async fn query(&self, text: &str, deadline: Duration) -> Result<Vec<f32>, EmbedError> {
        let text = [text.to_owned()];
        let vectors = tokio::time::timeout(deadline, self.batch(&text)).await;
        let vectors = vectors.unwrap_or_else(|_| {
            self.endpoint.breaker().waited_in_vain();
            Err(EmbedError::Deadline(deadline))
        })?;
        vectors.into_iter().next().ok_or(EmbedError::Dimension { got: 0, expected: self.dimension })
    }

    pub(super) async fn passages(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(self.batch) {
            vectors.extend(self.batch(batch).await?);
        }
        Ok(vectors)
    }

    async fn batch(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let request = Request { model: &self.model, input: texts, encoding_format: "float" };
        let limit = texts.len() * self.dimension * BYTES_PER_NUMBER * 2 + BYTES_AROUND;
        let answer: Answer = self.endpoint.post_json("embeddings", &request, limit).await.map_err(told)?;
        let counted = answer.usage.as_ref().map_or(0, |usage| usage.total_tokens.max(usage.prompt_tokens));
        let about = || texts.iter().map(|text| super::TokenCounter::approximate().count(text) as u64).sum();
        self.tokens.fetch_add(if counted > 0 { counted } else { about() }, Ordering::Relaxed);
        self.in_order(answer.data, texts.len())
    }

    /// The specification lets the answer come in any order.
    fn in_order(&self, items: Vec<Item>, expected: usize) -> Result<Vec<Vec<f32>>, EmbedError> {
        let unusable = |cause: String| EmbedError::Remote { endpoint: self.endpoint.name().to_owned(), cause };
        let mut vectors: Vec<Option<Vec<f32>>> = vec![None; expected];
        for Item { index, embedding } in items {
            if embedding.len() != self.dimension {
                return Err(EmbedError::Dimension { got: embedding.len(), expected: self.dimension });
            }
            let vector = unit(embedding).ok_or_else(|| unusable(format!("vector {index} has no direction")))?;
            let place = vectors.get_mut(index).filter(|place| place.is_none());
            *place.ok_or_else(|| unusable(format!("vector {index} came twice or was not asked for")))? = Some(vector);
        }
        let got = vectors.iter().flatten().count();
        let all: Option<Vec<_>> = vectors.into_iter().collect();
        all.ok_or_else(|| unusable(format!("{got} vectors came for {expected} texts")))
    }
}

fn told(error: ProviderError) -> EmbedError {
    match error {
        ProviderError::BreakerOpen { endpoint, retry_in } => EmbedError::BreakerOpen { endpoint, retry_in },
        // The endpoint is well and does not want these texts; all other refusals (a wrong key …) are not the texts' fault.
        ProviderError::Status { endpoint, status: status @ (400 | 413 | 422), said, .. } => {
            EmbedError::Refused { endpoint, status, said }
        }
        ProviderError::Status { endpoint, status: status @ (408 | 429 | 503), retry_after, said } => {
            EmbedError::Busy { endpoint, status, retry_after, said }
        }
        ProviderError::Unreachable { endpoint, cause } => {
            EmbedError::Remote { endpoint, cause: format!("it cannot be reached: {cause}") }
        }
        ProviderError::TimedOut { endpoint, after } => {
            EmbedError::Remote { endpoint, cause: format!("no answer within {after:?}") }
        }
        ProviderError::Status { endpoint, status, said, .. } => {
            EmbedError::Remote { endpoint, cause: format!("it answered {status}: {said}") }
        }
        ProviderError::Answer { endpoint, cause } => EmbedError::Remote { endpoint, cause },
        ProviderError::Configuration { url, cause } => EmbedError::Model(format!("{url}: {cause}")),
    }
}
