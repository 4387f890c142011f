//! What is searched: one dense index behind one seam, and one lexical index. Both follow the outbox.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

pub mod follower;
pub mod lexical;
pub mod memory;
mod ordinals;
pub mod pgvector;
pub mod qdrant;
mod sketch;

/// What a shared index serves that nothing was filled into yet: every later build was filled from Postgres.
pub(crate) const FIRST_BUILD: i64 = 0;

/// A vector as an index holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub id: Uuid,
    pub doc_id: Uuid,
    pub tenant: String,
    pub corpus: String,
    pub chunk_hash: Vec<u8>,
    pub model_fingerprint: String,
    /// Of the model, as in Postgres.
    pub generation: i64,
    /// Of length 1.
    pub vector: Vec<f32>,
}

/// Nothing is ever searched across tenants or corpora.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    pub tenant: String,
    pub corpus: String,
}

/// Only these documents, when there are some.
pub type Allowed = Option<Arc<HashSet<Uuid>>>;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    pub id: Uuid,
    pub doc_id: Uuid,
    /// Cosine for dense hits, BM25 for lexical ones: higher is better, and the two cannot be compared.
    pub score: f32,
}

/// What an index says it holds, to be compared with Postgres.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    pub id: Uuid,
    pub chunk_hash: Vec<u8>,
}

#[derive(Debug, Clone)]
pub enum Change {
    Upsert(Point),
    Delete { id: Uuid, scope: Scope },
}

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("{index} does not answer: {cause}")]
    Unreachable { index: &'static str, cause: String },
    #[error("{index} refused: {cause}")]
    Refused { index: &'static str, cause: String },
    #[error("the filter matches more than {limit} documents, which {index} cannot be asked for; narrow it")]
    FilterTooWide { index: &'static str, limit: usize },
}

/// The last change of each point: what is to be there, and what is not. Stores that take batches may order them freely.
fn latest(changes: Vec<Change>) -> (Vec<Point>, Vec<Uuid>) {
    let mut latest: HashMap<Uuid, Option<Point>> = HashMap::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Upsert(point) => latest.insert(point.id, Some(point)),
            Change::Delete { id, .. } => latest.insert(id, None),
        };
    }
    let (mut points, mut deleted) = (Vec::new(), Vec::new());
    for (id, point) in latest {
        match point {
            Some(point) => points.push(point),
            None => deleted.push(id),
        }
    }
    (points, deleted)
}

/// The dense index in use.
pub enum DenseIndex {
    Memory(memory::MemoryIndex),
    Qdrant(qdrant::QdrantIndex),
    Pgvector(pgvector::PgvectorIndex),
}

impl DenseIndex {
    /// `memory`, `qdrant` or `pgvector`: the index's name in table `followers`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Qdrant(_) => "qdrant",
            Self::Pgvector(_) => "pgvector",
        }
    }

    /// Whether all replicas of the service share it; otherwise each process has its own, filled at start.
    pub fn is_shared(&self) -> bool {
        !matches!(self, Self::Memory(_))
    }

    /// Makes all changes visible and durable (as durable as the index is) before it returns. Applying twice is harmless.
    pub async fn apply(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        match self {
            Self::Memory(index) => index.apply(changes),
            Self::Qdrant(index) => index.apply(changes).await,
            Self::Pgvector(index) => index.apply(changes).await,
        }
    }

    /// The nearest `limit` points by cosine. `exact` asks for no approximation, for measuring recall.
    pub async fn search(
        &self,
        scope: &Scope,
        allowed: &Allowed,
        vector: &[f32],
        limit: usize,
        exact: bool,
    ) -> Result<Vec<Hit>, IndexError> {
        match self {
            Self::Memory(index) => index.search(scope, allowed, vector, limit, exact),
            Self::Qdrant(index) => index.search(scope, allowed, vector, limit, exact).await,
            Self::Pgvector(index) => index.search(scope, allowed, vector, limit, exact).await,
        }
    }

    /// Everything it holds of this tenant, or of all of them, sorted by id.
    pub async fn held(&self, tenant: Option<&str>) -> Result<Vec<Held>, IndexError> {
        match self {
            Self::Memory(index) => Ok(index.held(tenant)),
            Self::Qdrant(index) => index.held(tenant).await,
            Self::Pgvector(index) => index.held(tenant).await,
        }
    }

    /// How many points it holds.
    pub async fn count(&self) -> Result<u64, IndexError> {
        match self {
            Self::Memory(index) => Ok(index.count()),
            Self::Qdrant(index) => index.count().await,
            Self::Pgvector(index) => index.count().await,
        }
    }

    /// Whether it holds no point.
    pub(crate) async fn is_empty(&self) -> Result<bool, IndexError> {
        match self {
            Self::Memory(index) => Ok(index.count() == 0),
            Self::Qdrant(index) => Ok(index.count().await? == 0),
            Self::Pgvector(index) => index.is_empty().await,
        }
    }

    /// The number of the build that a shared index serves; nothing when it serves none of ours.
    pub(crate) async fn served_build(&self) -> Result<Option<i64>, IndexError> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::Qdrant(index) => index.served_build().await,
            Self::Pgvector(index) => index.served_build().await,
        }
    }

    /// Begins the next build beside the one that is served (a new collection, table or map); returns its number.
    /// What an interrupted rebuild left is removed first.
    pub async fn begin_build(&self, build: i64) -> Result<(), IndexError> {
        match self {
            Self::Memory(index) => {
                index.begin_build();
                Ok(())
            }
            Self::Qdrant(index) => index.begin_build(build).await,
            Self::Pgvector(index) => index.begin_build(build).await,
        }
    }

    /// As `apply`, to the build that was begun and is not yet served.
    pub async fn fill_build(&self, build: i64, changes: Vec<Change>) -> Result<(), IndexError> {
        match self {
            Self::Memory(index) => index.fill_build(changes),
            Self::Qdrant(index) => index.fill_build(build, changes).await,
            Self::Pgvector(index) => index.fill_build(build, changes).await,
        }
    }

    /// Serves the build from now on, at once for every searcher, and removes the one before.
    pub async fn switch_build(&self, build: i64) -> Result<(), IndexError> {
        match self {
            Self::Memory(index) => index.switch_build(),
            Self::Qdrant(index) => index.switch_build(build).await,
            Self::Pgvector(index) => index.switch_build(build).await,
        }
    }
}
