//! A query in, passages out.
//!
//! The query's embedding and the search by words run at the same time; then the dense index is searched, both lists are
//! fused, and the winners' texts come from Postgres in one round trip, for the caller's tenant only: whatever an index
//! says, nothing of another tenant and nothing that was deleted is shown. What cannot be had in time is left out, and the
//! response says so.

use crate::service::{Caller, Service, ServiceError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

mod degradation;
pub mod fusion;
mod request;
mod stages;

pub(crate) use request::{check_corpus, check_filter, check_limit, check_text};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SearchMode {
    /// Dense and lexical, fused by reciprocal rank.
    Hybrid,
    /// By meaning: the query's embedding.
    Dense,
    /// By words: BM25.
    Lexical,
}

impl SearchMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::Dense => "dense",
            Self::Lexical => "lexical",
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchFilter {
    /// Only documents whose metadata has all of these keys with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// Only these documents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<Uuid>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    #[schema(min_length = 1)]
    pub query: String,
    #[serde(default = "default_corpus")]
    pub corpus: String,
    /// The corpus's own mode when it is left out.
    #[serde(default)]
    pub mode: Option<SearchMode>,
    #[serde(default = "default_limit")]
    #[schema(minimum = 1, maximum = 100)]
    pub limit: usize,
    #[serde(default)]
    pub filter: SearchFilter,
}

pub const DEFAULT_CORPUS: &str = "default";

pub fn default_corpus() -> String {
    DEFAULT_CORPUS.to_owned()
}

fn default_limit() -> usize {
    10
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Passage {
    pub chunk_id: Uuid,
    pub doc_id: Uuid,
    pub source: String,
    pub title: Option<String>,
    pub heading: String,
    pub content: String,
    pub metadata: serde_json::Value,
    /// Order within the document, from 0.
    pub position: i32,
    /// What the list is sorted by: the fused score, the cosine or BM25, by mode.
    pub score: f64,
    /// Cosine to the query, when the dense index found it.
    pub cosine: Option<f32>,
    /// BM25, when the lexical index found it.
    pub bm25: Option<f32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SearchResponse {
    /// How it was searched, which may be less than what was asked for: see `degraded`.
    pub mode: SearchMode,
    pub passages: Vec<Passage>,
    /// Why less was done than asked for: `embedder missed its deadline; searched by keywords only` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// Which state of the index this was found in; it changes whenever the index does.
    pub index_version: String,
    /// Milliseconds by stage: embed, dense, lexical, fuse, fetch.
    pub timings: BTreeMap<String, f64>,
}

impl Service {
    /// The passages that fit best, of the caller's own tenant.
    pub async fn search(&self, caller: &Caller, request: SearchRequest) -> Result<SearchResponse, ServiceError> {
        if !caller.scopes.read {
            return Err(ServiceError::Forbidden("read"));
        }
        request::check(&request, &self.settings().search)?;
        self.search_in_time(caller, request, self.settings().search.depth).await
    }

    /// As deep and with as many passages as evaluation needs, whatever requests may ask for.
    pub(crate) async fn search_to_depth(
        &self,
        caller: &Caller,
        request: SearchRequest,
        depth: usize,
    ) -> Result<SearchResponse, ServiceError> {
        request::check_text("query", &request.query, self.settings().search.max_query_bytes)?;
        self.search_in_time(caller, request, depth).await
    }

    async fn search_in_time(
        &self,
        caller: &Caller,
        request: SearchRequest,
        depth: usize,
    ) -> Result<SearchResponse, ServiceError> {
        let limit = Duration::from_millis(self.settings().search.timeout_milliseconds);
        match tokio::time::timeout(limit, self.search_stages(&caller.tenant, request, depth)).await {
            Ok(found) => found,
            Err(_) => Err(ServiceError::TimedOut(limit)),
        }
    }
}
