//! The façade: every surface calls it and nothing below.

use crate::answer::Answers;
use crate::cache::Cache;
use crate::embed::{EmbedError, Embedder};
use crate::index::follower::Following;
use crate::index::lexical::LexicalIndex;
use crate::index::memory::MemoryIndex;
use crate::index::pgvector::PgvectorIndex;
use crate::index::qdrant::QdrantIndex;
use crate::index::{DenseIndex, IndexError};
use crate::ingest;
use crate::metrics::Metrics;
use crate::settings::{IndexKind, Settings};
use crate::store::documents::{Cursor, DocumentList, DocumentRecord, DocumentState, Page};
use crate::store::locks::SessionLocks;
use crate::store::{Store, StoreError};
use background::Wakes;
use model::PATIENTLY;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

mod background;
mod model;
mod reindex;
mod status;

pub use background::Background;
pub(crate) use status::{CROWDED, stored_status};
pub use status::{CorpusStatus, FailureStatus, IndexStatus, Status};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub tenant: String,
    /// `key:<id>`, `session:<id>` or `cli`, as in the audit log.
    pub actor: String,
    pub scopes: Scopes,
    pub request_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes {
    pub read: bool,
    pub write: bool,
    pub admin: bool,
}

impl Scopes {
    pub const ALL: Self = Self { read: true, write: true, admin: true };

    pub fn names(self) -> Vec<String> {
        let all = [("read", self.read), ("write", self.write), ("admin", self.admin)];
        all.iter().filter(|(_, has)| *has).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// Names that are not known give nothing.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Self {
        let has = |name: &str| names.iter().any(|own| own.as_ref() == name);
        Self { read: has("read"), write: has("write"), admin: has("admin") }
    }
}

impl Serialize for Scopes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from_names(&Vec::<String>::deserialize(deserializer)?))
    }
}

#[derive(Debug, Clone)]
pub struct NewDocument {
    pub corpus: String,
    /// The caller's own name of the document; the same name again means a new content of the same document.
    pub source: String,
    pub title: Option<String>,
    /// As declared by the sender.
    pub media_type: Option<String>,
    pub metadata: serde_json::Map<String, serde_json::Value>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Created,
    Updated,
    Unchanged,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    pub id: Uuid,
    /// Counts the contents of this document.
    pub version: i64,
    pub outcome: Outcome,
}

/// Whether the model that runs is the one that the vectors were made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    Serving {
        fingerprint: String,
        generation: i64,
    },
    /// Dense search is off until `docrag reindex --re-embed`, or until the right model is back.
    Differs {
        known: String,
        seen: String,
    },
    /// Dense search is off until the model answers.
    Unavailable {
        reason: String,
    },
}

/// The reason of [`ModelState::Unavailable`] between a switch to another model and the last of its vectors.
pub(crate) const EMBEDDED_AGAIN: &str = "the documents are being embedded again";
/// Another reason: the model is the right one, and the index does not hold its vectors yet.
pub(crate) const INDEX_REBUILT: &str = "the index is being rebuilt for the model";
/// How long opening waits for an endpoint; it is asked again in the background.
const MODEL_ANSWERS: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DependencyState {
    /// `postgres`, `redis`, `index`, `embedder`, `loading`.
    pub name: String,
    pub ok: bool,
    /// Without it the service cannot answer at all; the others make it slower or poorer.
    pub required: bool,
    pub detail: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("{0}")]
    Invalid(String),
    #[error("there is no {0}")]
    NotFound(String),
    #[error("this key may not {0}")]
    Forbidden(&'static str),
    #[error("more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("{0}")]
    Internal(String),
}

impl ServiceError {
    /// The HTTP status that fits.
    pub fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) | Self::Index(IndexError::FilterTooWide { .. }) => 422,
            Self::NotFound(_) => 404,
            Self::Forbidden(_) => 403,
            Self::TooLarge { .. } => 413,
            Self::TimedOut(_) => 504,
            Self::Store(error) if error.can_retry() => 503,
            Self::Embed(_) | Self::Index(_) => 503,
            Self::Store(_) | Self::Internal(_) => 500,
        }
    }

    /// The last part of the problem's type URI.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::NotFound(_) => "not-found",
            Self::Forbidden(_) => "forbidden",
            Self::TooLarge { .. } => "too-large",
            Self::TimedOut(_) => "timed-out",
            Self::Store(error) if error.can_retry() => "database-unavailable",
            Self::Store(_) => "database-error",
            Self::Embed(_) => "embedder-unavailable",
            Self::Index(IndexError::FilterTooWide { .. }) => "filter-too-wide",
            Self::Index(_) => "index-unavailable",
            Self::Internal(_) => "internal",
        }
    }
}

/// How a rebuild gets on, for progress bars: chunks done, and all that there are to do.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// The running service; cheap to clone.
#[derive(Clone)]
pub struct Service {
    inside: Arc<Inside>,
}

struct Inside {
    settings: Settings,
    store: Store,
    embedder: Embedder,
    dense: Arc<DenseIndex>,
    lexical: Arc<LexicalIndex>,
    cache: Cache,
    metrics: Metrics,
    answers: Answers,
    locks: Arc<SessionLocks>,
    following: Arc<Following>,
    wakes: Wakes,
    model: RwLock<ModelState>,
    probes: tokio::sync::Mutex<Option<Vec<Vec<f32>>>>,
    /// Whether this process works in the background.
    started: AtomicBool,
}

impl Service {
    /// Connects, brings the schema up to date, loads the model and opens the index. An endpoint that does not answer soon
    /// is not waited for. Nothing runs in the background before [`Service::start`]; until then the indexes that live in
    /// memory are empty.
    pub async fn open(settings: Settings) -> Result<Self, ServiceError> {
        let store = Store::open(&settings.database).await?;
        store.migrate().await?;
        store.ensure_audit_partitions().await?;
        let embedder = Embedder::open(&settings.embedding).await?;
        let dimension = embedder.identity().dimension;
        let dense = Arc::new(match settings.index.kind {
            IndexKind::Memory => DenseIndex::Memory(MemoryIndex::new(dimension)),
            IndexKind::Qdrant => DenseIndex::Qdrant(QdrantIndex::open(&settings.index.qdrant, dimension).await?),
            IndexKind::Pgvector => DenseIndex::Pgvector(
                PgvectorIndex::open(store.pool().clone(), &settings.index.pgvector, dimension).await?,
            ),
        });
        let lexical = Arc::new(LexicalIndex::new()?);
        let locks = Arc::new(SessionLocks::new(store.clone()));
        let following = Arc::new(Following::new(
            store.clone(),
            Arc::clone(&locks),
            Arc::clone(&dense),
            Arc::clone(&lexical),
            settings.index.clone(),
            dimension,
        ));
        let service = Self {
            inside: Arc::new(Inside {
                cache: Cache::open(&settings).await,
                metrics: Metrics::new(),
                answers: Answers::new(&settings.answer),
                model: RwLock::new(ModelState::Unavailable { reason: "the model was not asked yet".to_owned() }),
                probes: tokio::sync::Mutex::new(None),
                wakes: Wakes::default(),
                started: AtomicBool::new(false),
                settings,
                store,
                embedder,
                dense,
                lexical,
                locks,
                following,
            }),
        };
        let within = if service.inside.is_remote() { MODEL_ANSWERS } else { PATIENTLY };
        service.recognise_again(within).await?;
        Ok(service)
    }

    /// Spawns the ingest workers, the followers and the housekeeping. Call it once, on the runtime that is to run them.
    pub fn start(&self) -> Background {
        self.inside.started.store(true, Ordering::Release);
        Background::start(self)
    }

    /// What the service needs, one by one.
    pub async fn ready(&self) -> Vec<DependencyState> {
        status::ready(self).await
    }

    /// Whether dense search makes sense now: the model that runs made the vectors that this process searches, and all of
    /// them.
    pub fn model_state(&self) -> ModelState {
        match self.embedding_state() {
            ModelState::Serving { .. } if !self.following().followed.complete() => {
                ModelState::Unavailable { reason: EMBEDDED_AGAIN.to_owned() }
            }
            state => state,
        }
    }

    /// Whether vectors can be made now: as for search, but it does not wait for what is still to be made.
    pub(crate) fn embedding_state(&self) -> ModelState {
        let state = self.recognised();
        let held = self.following().followed.generation();
        match state {
            ModelState::Serving { generation, .. }
                if self.following().followed.dense_loaded() && held != Some(generation) =>
            {
                ModelState::Unavailable { reason: INDEX_REBUILT.to_owned() }
            }
            state => state,
        }
    }

    /// Which state of the indexes this process searches for this tenant. It changes whenever anything of this tenant's
    /// changed there.
    pub fn index_version(&self, tenant: &str) -> String {
        let model = match self.model_state() {
            ModelState::Serving { fingerprint, .. } => short(&fingerprint),
            ModelState::Differs { .. } => "differs".to_owned(),
            ModelState::Unavailable { .. } => "none".to_owned(),
        };
        self.following().followed.version(&model, &self.following().replica, tenant)
    }

    /// Takes a document in. When it returns, the document survives everything; the stages follow in the background.
    pub async fn accept(&self, caller: &Caller, document: NewDocument) -> Result<Accepted, ServiceError> {
        if !caller.scopes.write {
            return Err(ServiceError::Forbidden("write"));
        }
        let limit = self.settings().limits.body_bytes;
        let accepted = ingest::accept::accept(self.store(), caller, document, limit).await?;
        self.wake_workers().await?;
        Ok(accepted)
    }

    /// Deletes a document of the caller's tenant. Searches find it no longer as soon as the indexes have followed.
    pub async fn delete(&self, caller: &Caller, id: Uuid) -> Result<(), ServiceError> {
        if !caller.scopes.write {
            return Err(ServiceError::Forbidden("write"));
        }
        if self.store().delete_document(caller, id).await? {
            self.inside.wakes.followers();
            return Ok(());
        }
        Err(ServiceError::NotFound(format!("document {id}")))
    }

    /// A document of the caller's tenant; deleted ones are not found.
    pub async fn document(&self, caller: &Caller, id: Uuid) -> Result<DocumentRecord, ServiceError> {
        if !caller.scopes.read {
            return Err(ServiceError::Forbidden("read"));
        }
        let document = self.store().document(&caller.tenant, id).await?;
        document
            .filter(|document| document.state != DocumentState::Deleted)
            .ok_or_else(|| ServiceError::NotFound(format!("document {id}")))
    }

    /// Documents of the caller's tenant, the last changed first.
    pub async fn documents(&self, caller: &Caller, list: DocumentList) -> Result<Page<DocumentRecord>, ServiceError> {
        if !caller.scopes.read {
            return Err(ServiceError::Forbidden("read"));
        }
        let wrong = || ServiceError::Invalid("cursor is not one that a list has given".to_owned());
        let after = list.cursor.as_deref().map(|text| Cursor::from_text(text).ok_or_else(wrong)).transpose()?;
        Ok(self.store().list_documents(&caller.tenant, &list, after).await?)
    }

    /// Counts by corpus and state, how far the indexes have followed, and the last failures. Of all tenants with `None`.
    pub async fn status(&self, tenant: Option<&str>) -> Result<Status, ServiceError> {
        status::status(self, tenant).await
    }

    /// Builds the index anew from Postgres beside the one that is served, and switches. With `re_embed`, the model that
    /// runs serves from now on, and makes all vectors that are not its own again. Returns when it is done.
    pub async fn reindex(&self, re_embed: bool, progress: Progress) -> Result<(), ServiceError> {
        reindex::reindex(self, re_embed, &progress).await
    }

    /// Waits until each of these documents is `indexed`, `failed` or deleted, and returns those that still are there.
    pub async fn wait_until_indexed(
        &self,
        tenant: &str,
        ids: &[Uuid],
        within: Duration,
    ) -> Result<Vec<DocumentRecord>, ServiceError> {
        status::wait_until_indexed(self, tenant, ids, within).await
    }

    /// Workers of this process by a signal, those of others (when this one has none) through Postgres.
    async fn wake_workers(&self) -> Result<(), StoreError> {
        if self.inside.started.load(Ordering::Acquire) {
            self.inside.wakes.documents.notify_one();
            return Ok(());
        }
        self.store().notify_workers().await
    }

    pub(crate) fn locks(&self) -> &SessionLocks {
        &self.inside.locks
    }

    pub(crate) fn following(&self) -> &Arc<Following> {
        &self.inside.following
    }

    pub(crate) fn wakes(&self) -> &Wakes {
        &self.inside.wakes
    }

    fn has_stopped(&self) {
        self.inside.started.store(false, Ordering::Release);
    }

    /// As when it was last asked, whatever the index holds.
    fn recognised(&self) -> ModelState {
        // What is in there is whole, also after a panic elsewhere.
        self.inside.model.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn recognise_again(&self, within: Duration) -> Result<(), StoreError> {
        let state = self.inside.recognise(within).await?;
        let before = self.recognised();
        if before != state {
            match &state {
                ModelState::Serving { fingerprint, generation } => {
                    tracing::info!(model = fingerprint, generation, "the embedding model serves");
                }
                ModelState::Differs { known, seen } => tracing::error!(
                    known,
                    seen,
                    "the vectors were made by another model; searching by keywords only until \
                     `docrag reindex --re-embed`, or until that model is back"
                ),
                ModelState::Unavailable { reason } => tracing::warn!(reason, "no embedding model; trying again"),
            }
        }
        *self.inside.model.write().unwrap_or_else(PoisonError::into_inner) = state.clone();
        if matches!(state, ModelState::Serving { .. }) && before != state {
            // What an interrupted switch of models left behind.
            let sent = self.store().requeue_stale().await?;
            if sent > 0 {
                tracing::info!(documents = sent, "documents without vectors of the serving model are embedded again");
            }
            self.inside.wakes.documents.notify_one();
        }
        Ok(())
    }

    pub fn settings(&self) -> &Settings {
        &self.inside.settings
    }

    pub fn store(&self) -> &Store {
        &self.inside.store
    }

    pub fn embedder(&self) -> &Embedder {
        &self.inside.embedder
    }

    pub fn dense(&self) -> &DenseIndex {
        &self.inside.dense
    }

    pub fn lexical(&self) -> &Arc<LexicalIndex> {
        &self.inside.lexical
    }

    pub fn cache(&self) -> &Cache {
        &self.inside.cache
    }

    pub fn metrics(&self) -> &Metrics {
        &self.inside.metrics
    }

    pub fn answers(&self) -> &Answers {
        &self.inside.answers
    }
}

/// The first eight of the hexadecimal digits behind the model's name.
fn short(fingerprint: &str) -> String {
    let hash = fingerprint.rsplit(':').next().unwrap_or(fingerprint);
    hash.chars().take(8).collect()
}
