//! Texts in, vectors out: from the local model or from an OpenAI-compatible endpoint. Queries go before passages.
//!
//! Vectors have length 1, so that a dot product is the cosine.

mod identity;
mod local;
mod queue;
mod remote;
mod tokens;
mod wordpiece;

pub use identity::{PROBES, SAME, fingerprint, same_model};
pub(crate) use local::MOST_TOKENS as LOCAL_MOST_TOKENS;
pub use tokens::TokenCounter;

use crate::provider::Endpoint;
use crate::settings::EmbeddingSettings;
use local::Local;
use remote::Remote;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// As people call it: `all-MiniLM-L6-v2-int8`, `text-embedding-3-small` …
    pub name: String,
    pub dimension: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("no embedding within {0:?}")]
    Deadline(Duration),
    #[error("the embedding model cannot be loaded: {0}")]
    Model(String),
    #[error("the embedding model failed on a text: {0}")]
    Inference(String),
    #[error("the embedding endpoint {endpoint} failed: {cause}")]
    Remote { endpoint: String, cause: String },
    /// It is well and has no time for us: too many requests, or too much to do.
    #[error("the embedding endpoint {endpoint} has no time for this now: it answered {status}: {said}")]
    Busy { endpoint: String, status: u16, retry_after: Option<Duration>, said: String },
    #[error("the embedding endpoint {endpoint} refuses a text with {status}: {said}")]
    Refused { endpoint: String, status: u16, said: String },
    #[error("the embedding endpoint {endpoint} is not asked for another {retry_in:?}: it failed too often")]
    BreakerOpen { endpoint: String, retry_in: Duration },
    #[error(
        "the model gave {got} numbers where {expected} were expected; set embedding.dimension to what the model has"
    )]
    Dimension { got: usize, expected: usize },
    #[error("the embedder has stopped")]
    Stopped,
}

impl EmbedError {
    /// Whether the same texts may succeed later.
    pub fn can_retry(&self) -> bool {
        matches!(
            self,
            Self::Deadline(_) | Self::Remote { .. } | Self::Busy { .. } | Self::BreakerOpen { .. } | Self::Stopped
        )
    }
}

/// The embedding model in use; cheap to clone. Its threads end with the last clone.
#[derive(Clone)]
pub struct Embedder {
    inside: Arc<Inside>,
}

struct Inside {
    identity: ModelIdentity,
    model: Model,
}

enum Model {
    Local(Local),
    Remote(Remote),
}

impl Embedder {
    /// The endpoint when one is configured (it is not asked yet), else the local model, whose files are checked.
    pub async fn open(settings: &EmbeddingSettings) -> Result<Self, EmbedError> {
        if let Some(url) = &settings.endpoint {
            let identity = ModelIdentity { name: settings.model.clone(), dimension: settings.dimension };
            let model = Model::Remote(Remote::open(url, settings)?);
            return Ok(Self { inside: Arc::new(Inside { identity, model }) });
        }
        let (folder, threads) = (settings.model_dir.clone(), settings.threads);
        let opened = tokio::task::spawn_blocking(move || Local::open(&folder, threads)).await;
        let model = Model::Local(opened.map_err(|error| EmbedError::Model(error.to_string()))??);
        let identity = ModelIdentity { name: local::NAME.to_owned(), dimension: local::DIMENSION };
        Ok(Self { inside: Arc::new(Inside { identity, model }) })
    }

    pub fn identity(&self) -> &ModelIdentity {
        &self.inside.identity
    }

    pub fn counter(&self) -> TokenCounter {
        match &self.inside.model {
            Model::Local(local) => local.counter(),
            Model::Remote(_) => TokenCounter::approximate(),
        }
    }

    /// A query's vector, before any passage that is waiting. What has not begun by the deadline is not computed.
    pub async fn query(&self, text: &str, deadline: Duration) -> Result<Vec<f32>, EmbedError> {
        match &self.inside.model {
            Model::Local(local) => local.query(text, deadline).await,
            Model::Remote(remote) => remote.query(text, deadline).await,
        }
    }

    /// The passages' vectors, in their order. Dropped midway, what has not begun is not computed.
    pub async fn passages(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbedError> {
        match &self.inside.model {
            Model::Local(local) => local.passages(texts).await,
            Model::Remote(remote) => remote.passages(&texts).await,
        }
    }

    /// Vectors of the pinned texts: what this model is recognised by.
    pub async fn probes(&self) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.passages(PROBES.map(str::to_owned).to_vec()).await
    }

    /// Tokens that were embedded since the start: of the local model, or as billed by the endpoint.
    pub fn tokens_used(&self) -> u64 {
        match &self.inside.model {
            Model::Local(local) => local.tokens_used(),
            Model::Remote(remote) => remote.tokens_used(),
        }
    }

    /// The local model has none.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.inside.model {
            Model::Local(_) => None,
            Model::Remote(remote) => Some(remote.endpoint()),
        }
    }
}

/// The vector at length 1; none when it has no direction or is not of numbers.
fn unit(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    for value in &mut vector {
        *value = (f64::from(*value) / length) as f32;
    }
    Some(vector)
}
