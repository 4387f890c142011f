//! What a search has to do without, in words for the caller and in a word for the metrics.

use crate::embed::EmbedError;
use crate::index::IndexError;
use crate::service::{EMBEDDED_AGAIN, INDEX_REBUILT, ModelState, ServiceError};

/// Why there is no dense list, or no lexical one.
#[derive(Debug)]
pub(super) enum Missing {
    Embedding(EmbedError),
    ModelDiffers { known: String, seen: String },
    ModelAway(String),
    EmbeddedAgain,
    Dense(IndexError),
    DenseLoading,
    Lexical(IndexError),
    LexicalLoading,
}

impl Missing {
    pub(super) fn from_model(state: ModelState) -> Option<Self> {
        match state {
            ModelState::Serving { .. } => None,
            ModelState::Differs { known, seen } => Some(Self::ModelDiffers { known, seen }),
            ModelState::Unavailable { reason } if reason == EMBEDDED_AGAIN => Some(Self::EmbeddedAgain),
            ModelState::Unavailable { reason } if reason == INDEX_REBUILT => Some(Self::DenseLoading),
            ModelState::Unavailable { reason } => Some(Self::ModelAway(reason)),
        }
    }

    /// For the caller. Addresses and causes are for the log: the caller can do nothing about them.
    pub(super) fn words(&self) -> &'static str {
        match self {
            Self::Embedding(EmbedError::Deadline(_)) => "the embedder missed its deadline; searched by keywords only",
            Self::Embedding(_) | Self::ModelAway(_) => "the embedder does not answer; searched by keywords only",
            Self::ModelDiffers { .. } => {
                "the embedding model is not the one that the vectors were made with; searched by keywords only"
            }
            Self::EmbeddedAgain => "the documents are being embedded again; searched by keywords only",
            Self::Dense(_) => "the vector index does not answer; searched by keywords only",
            Self::DenseLoading => "the vector index is still being loaded; searched by keywords only",
            Self::Lexical(_) => "the keyword index failed; searched by meaning only",
            Self::LexicalLoading => "the keyword index is still being loaded; searched by meaning only",
        }
    }

    /// The label in `docrag_search_degraded_total`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Embedding(EmbedError::Deadline(_)) => "deadline",
            Self::Embedding(_) | Self::ModelAway(_) => "embedder",
            Self::ModelDiffers { .. } | Self::EmbeddedAgain => "model",
            Self::Dense(_) => "index",
            Self::Lexical(_) => "lexical",
            Self::DenseLoading | Self::LexicalLoading => "loading",
        }
    }

    /// When there is nothing left to search with.
    pub(super) fn into_error(self) -> ServiceError {
        let loading = |index| IndexError::Unreachable { index, cause: "it is still being loaded".to_owned() };
        match self {
            Self::Embedding(error) => ServiceError::Embed(error),
            Self::ModelAway(reason) => ServiceError::Embed(EmbedError::Model(reason)),
            Self::EmbeddedAgain => ServiceError::Embed(EmbedError::Model(EMBEDDED_AGAIN.to_owned())),
            Self::ModelDiffers { known, seen } => {
                ServiceError::Embed(EmbedError::Model(format!("it is {seen}, and the vectors are of {known}")))
            }
            Self::Dense(error) | Self::Lexical(error) => ServiceError::Index(error),
            Self::DenseLoading => ServiceError::Index(loading("the vector index")),
            Self::LexicalLoading => ServiceError::Index(loading("the keyword index")),
        }
    }
}
