//! What `docrag status` and `GET /v1/status` show.

use super::{DependencyState, EMBEDDED_AGAIN, ModelState, Service, ServiceError};
use crate::index::DenseIndex;
use crate::index::memory::MOST_CHUNKS;
use crate::store::Store;
use crate::store::documents::{DocumentRecord, DocumentState};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// `serving`, or why dense search is off.
    pub model: String,
    pub corpora: Vec<CorpusStatus>,
    pub indexes: Vec<IndexStatus>,
    /// The latest first, at most 20.
    pub failures: Vec<FailureStatus>,
    /// For how long the longest waiting document has been neither searchable nor failed; 0 when none waits.
    pub oldest_waiting_seconds: f64,
    /// The last entry that an index has to follow.
    pub outbox_seq: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CorpusStatus {
    pub tenant: String,
    pub corpus: String,
    pub state: DocumentState,
    pub documents: i64,
    pub chunks: i64,
}

/// How far one index has followed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IndexStatus {
    /// `memory`, `qdrant`, `pgvector` or `lexical`.
    pub index: String,
    /// `shared`, or the process that holds it in memory.
    pub replica: String,
    pub build: i64,
    pub applied_seq: i64,
    pub lag_entries: i64,
    /// Age of the oldest entry that is not applied.
    pub lag_seconds: f64,
    /// Since the process was last heard of.
    pub seen_seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureStatus {
    pub id: Uuid,
    pub tenant: String,
    pub corpus: String,
    pub source: String,
    pub state: DocumentState,
    pub error: String,
    pub attempts: i32,
}

const FAILURES: i64 = 20;
/// Every dependency is given so long to answer.
const ANSWER: Duration = Duration::from_secs(2);
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_millis(500);

/// Of an index in memory with more than [`MOST_CHUNKS`].
pub(crate) const CROWDED: &str = "the index in memory holds more than 200,000 chunks, up to which it was measured; set \
    index.kind to \"qdrant\" or \"pgvector\"";

pub(super) async fn status(service: &Service, tenant: Option<&str>) -> Result<Status, ServiceError> {
    let model = model_text(&service.model_state()).unwrap_or_else(|why| why);
    from_store(service.store(), tenant, model).await
}

/// As far as Postgres knows: whether the model that serves also runs, only a running service can tell.
pub(crate) async fn stored_status(store: &Store, tenant: Option<&str>) -> Result<Status, ServiceError> {
    let models = store.models().await?;
    let model = match (models.iter().find(|model| model.serving), store.serving_model().await?) {
        (Some(model), Some(serving)) => {
            let again = if serving.complete_seq.is_none() { format!("; {EMBEDDED_AGAIN}") } else { String::new() };
            format!("{} serves, as generation {}{again}", model.fingerprint, model.generation)
        }
        _ => "no embedding model serves yet".to_owned(),
    };
    from_store(store, tenant, model).await
}

async fn from_store(store: &Store, tenant: Option<&str>, model: String) -> Result<Status, ServiceError> {
    let (oldest_waiting_seconds, _) = store.backlog(tenant).await?;
    Ok(Status {
        model,
        corpora: store.corpus_states(tenant).await?,
        indexes: store.index_states().await?,
        failures: store.failures(tenant, FAILURES).await?,
        oldest_waiting_seconds,
        outbox_seq: store.outbox_head().await?,
    })
}

fn model_text(state: &ModelState) -> Result<String, String> {
    match state {
        ModelState::Serving { fingerprint, generation } => {
            Ok(format!("{fingerprint} serves, as generation {generation}"))
        }
        ModelState::Differs { known, seen } => Err(format!(
            "the vectors were made by {known}, but {seen} runs: put the right model back, or run \
             `docrag reindex --re-embed`"
        )),
        ModelState::Unavailable { reason } => Err(reason.clone()),
    }
}

pub(super) async fn ready(service: &Service) -> Vec<DependencyState> {
    let postgres = async {
        let ping = service.store().ping();
        in_time(async { ping.await.map(|()| "answers".to_owned()).map_err(|error| error.to_string()) }).await
    };
    let index = async {
        let count = Box::pin(service.dense().count());
        let told = |count| index_text(matches!(service.dense(), DenseIndex::Memory(_)), count);
        in_time(async { count.await.map(told).map_err(|error| error.to_string()) }).await
    };
    let redis = async {
        match tokio::time::timeout(ANSWER, service.cache().state()).await {
            Ok(None) => None,
            Ok(Some(Ok(()))) => Some(Ok("answers".to_owned())),
            Ok(Some(Err(error))) => Some(Err(error)),
            Err(_) => Some(Err(format!("no answer within {ANSWER:?}"))),
        }
    };
    let (postgres, index, redis) = tokio::join!(postgres, index, redis);
    // A shared index is not waited for: without it, keywords are searched.
    let followed = &service.following().followed;
    let loading = if followed.lexical_loaded() && (service.dense().is_shared() || followed.dense_loaded()) {
        Ok("the indexes in memory are filled".to_owned())
    } else {
        Err("the indexes in memory are being filled from Postgres".to_owned())
    };
    let mut states = vec![
        dependency("postgres", true, postgres),
        dependency("loading", true, loading),
        // Without them, keywords are searched.
        dependency("index", false, index),
        dependency("embedder", false, model_text(&service.model_state())),
    ];
    states.extend(redis.map(|redis| dependency("redis", false, redis)));
    states
}

fn index_text(in_memory: bool, count: u64) -> String {
    let crowded = if in_memory && count > MOST_CHUNKS { format!("; {CROWDED}") } else { String::new() };
    format!("{count} vectors{crowded}")
}

async fn in_time(ask: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    tokio::time::timeout(ANSWER, ask).await.unwrap_or_else(|_| Err(format!("no answer within {ANSWER:?}")))
}

fn dependency(name: &str, required: bool, answer: Result<String, String>) -> DependencyState {
    let ok = answer.is_ok();
    DependencyState { name: name.to_owned(), ok, required, detail: answer.unwrap_or_else(|why| why) }
}

pub(super) async fn wait_until_indexed(
    service: &Service,
    tenant: &str,
    ids: &[Uuid],
    within: Duration,
) -> Result<Vec<DocumentRecord>, ServiceError> {
    let wait = async {
        let mut look = FIRST_LOOK;
        loop {
            let documents = service.store().documents_by_id(tenant, ids).await?;
            if documents.iter().all(|document| is_settled(service, document)) {
                return Ok(documents.into_iter().filter(|one| one.state != DocumentState::Deleted).collect());
            }
            tokio::time::sleep(look).await;
            look = LAST_LOOK.min(look * 2);
        }
    };
    tokio::time::timeout(within, wait).await.unwrap_or(Err(ServiceError::TimedOut(within)))
}

/// Another process may have marked the document; here it counts only when this one has followed as well.
fn is_settled(service: &Service, document: &DocumentRecord) -> bool {
    let followed = &service.following().followed;
    let here = !followed.loaded() || followed.applied() >= document.outbox_seq;
    match document.state {
        DocumentState::Indexed | DocumentState::Deleted => here,
        DocumentState::Failed => true,
        DocumentState::Received | DocumentState::Chunked | DocumentState::Embedded => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_in_memory_that_holds_too_much_says_so() {
        assert_eq!(index_text(true, 200_000), "200000 vectors");
        assert_eq!(index_text(false, 200_001), "200001 vectors");
        assert_eq!(index_text(true, 200_001), format!("200001 vectors; {CROWDED}"));
    }
}
