//! The stages of one search.

use super::degradation::Missing;
use super::fusion::{Fused, by_bm25, by_cosine, fuse, ranked};
use super::{DEFAULT_CORPUS, Passage, SearchFilter, SearchMode, SearchRequest, SearchResponse};
use crate::index::{Allowed, Hit, IndexError, Scope};
use crate::service::{Service, ServiceError};
use crate::store::passages::StoredPassage;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Documents that a filter by metadata may match.
const WIDEST_FILTER: usize = 100_000;

/// One search, and how long its stages took.
struct Search<'a> {
    service: &'a Service,
    scope: Scope,
    query: String,
    /// How deep each list is read.
    depth: usize,
    timings: BTreeMap<String, f64>,
}

/// The lists of one search; a list that was not asked for is empty.
struct Lists {
    dense: Result<Vec<Hit>, Missing>,
    lexical: Result<Vec<Hit>, Missing>,
}

impl Service {
    pub(super) async fn search_stages(
        &self,
        tenant: &str,
        request: SearchRequest,
        depth: usize,
    ) -> Result<SearchResponse, ServiceError> {
        let mode = self.mode_of(tenant, &request.corpus, request.mode).await?;
        // Before the search: what is found is at least as new as the version says.
        let index_version = self.index_version(tenant);
        let scope = Scope { tenant: tenant.to_owned(), corpus: request.corpus };
        let mut search = Search { service: self, scope, query: request.query, depth, timings: BTreeMap::new() };
        let Some(lists) = search.lists(mode, &request.filter).await? else {
            let timings = search.timings;
            return Ok(SearchResponse { mode, passages: Vec::new(), degraded: None, index_version, timings });
        };
        let (mode, mut fused, missing) = search.fused(mode, lists)?;
        fused.truncate(request.limit);
        let passages = search.passages(&fused).await?;
        if let Some(missing) = &missing {
            tracing::debug!(?missing, "a search did less than was asked for");
            self.metrics().search_degraded(missing.label());
        }
        let degraded = missing.map(|missing| missing.words().to_owned());
        Ok(SearchResponse { mode, passages, degraded, index_version, timings: search.timings })
    }

    /// How to search this corpus; an error when there is none of this name.
    pub(crate) async fn mode_of(
        &self,
        tenant: &str,
        corpus: &str,
        asked: Option<SearchMode>,
    ) -> Result<SearchMode, ServiceError> {
        if let Some(known) = self.cache().mode(tenant, corpus) {
            return Ok(asked.unwrap_or(known));
        }
        match self.store().corpus(tenant, corpus).await? {
            Some(record) => {
                self.cache().put_mode(tenant, corpus, record.search_mode);
                Ok(asked.unwrap_or(record.search_mode))
            }
            // It is there as soon as a document is; before, it is empty.
            None if corpus == DEFAULT_CORPUS => Ok(asked.unwrap_or(SearchMode::Hybrid)),
            None => Err(ServiceError::NotFound(format!("corpus {corpus:?}"))),
        }
    }
}

impl Search<'_> {
    /// Nothing when the filter matches no document.
    async fn lists(&mut self, mode: SearchMode, filter: &SearchFilter) -> Result<Option<Lists>, ServiceError> {
        let start = Instant::now();
        // The embedding takes longest, so it waits for nothing.
        let embedding = async {
            if mode == SearchMode::Lexical && lexical_loaded(self.service) {
                return (Ok(None), Duration::ZERO);
            }
            (self.embedding().await.map(Some), start.elapsed())
        };
        let words = async {
            let Some(allowed) = self.allowed(filter).await? else { return Ok(None) };
            let filtered = start.elapsed();
            let wanted = mode != SearchMode::Dense;
            let hits = if wanted { self.lexical(&allowed).await } else { Ok(Vec::new()) };
            Ok::<_, ServiceError>(Some((allowed, hits, filtered, start.elapsed().saturating_sub(filtered))))
        };
        let ((vector, embedded), words) = tokio::join!(embedding, words);
        let Some((allowed, mut lexical, filtered, by_words)) = words? else { return Ok(None) };
        if allowed.is_some() {
            self.took("filter", filtered);
        }
        if mode != SearchMode::Dense {
            self.took("lexical", by_words);
        }
        // Each mode falls back on the other index when its own fails.
        let (vector, embedded) = match vector {
            Ok(None) if lexical.is_err() => {
                let start = Instant::now();
                (self.embedding().await.map(Some), start.elapsed())
            }
            vector => (vector, embedded),
        };
        let dense = match vector {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(vector)) => {
                self.took("embed", embedded);
                self.dense(&allowed, &vector).await?
            }
            Err(missing) => Err(missing),
        };
        if mode == SearchMode::Dense && dense.is_err() {
            let start = Instant::now();
            lexical = self.lexical(&allowed).await;
            self.took("lexical", start.elapsed());
        }
        Ok(Some(Lists { dense, lexical }))
    }

    /// The documents that the filter leaves; nothing when it leaves none.
    async fn allowed(&self, filter: &SearchFilter) -> Result<Option<Allowed>, ServiceError> {
        let chosen: Option<HashSet<Uuid>> =
            (!filter.documents.is_empty()).then(|| filter.documents.iter().copied().collect());
        if filter.metadata.is_empty() {
            return Ok(Some(chosen.map(Arc::new)));
        }
        let metadata = filter.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let Scope { tenant, corpus } = &self.scope;
        let metadata = serde_json::Value::Object(metadata);
        let matching = self.service.store().matching_documents(tenant, corpus, &metadata, WIDEST_FILTER + 1).await?;
        if matching.len() > WIDEST_FILTER {
            return Err(IndexError::FilterTooWide { index: self.service.dense().name(), limit: WIDEST_FILTER }.into());
        }
        let both: HashSet<Uuid> =
            matching.into_iter().filter(|id| chosen.as_ref().is_none_or(|chosen| chosen.contains(id))).collect();
        Ok((!both.is_empty()).then(|| Some(Arc::new(both))))
    }

    async fn embedding(&self) -> Result<Vec<f32>, Missing> {
        if let Some(missing) = Missing::from_model(self.service.model_state()) {
            return Err(missing);
        }
        if !dense_loaded(self.service) {
            return Err(Missing::DenseLoading);
        }
        let deadline = self.service.settings().search.embed_deadline();
        self.service.embedder().query(&self.query, deadline).await.map_err(Missing::Embedding)
    }

    async fn dense(&mut self, allowed: &Allowed, vector: &[f32]) -> Result<Result<Vec<Hit>, Missing>, ServiceError> {
        let start = Instant::now();
        let hits = self.service.dense().search(&self.scope, allowed, vector, self.depth, false).await;
        self.took("dense", start.elapsed());
        match hits {
            Ok(hits) => Ok(Ok(ranked(hits))),
            // Not a degradation: it would be the same tomorrow.
            Err(error @ IndexError::FilterTooWide { .. }) => Err(error.into()),
            Err(error) => Ok(Err(Missing::Dense(error))),
        }
    }

    async fn lexical(&self, allowed: &Allowed) -> Result<Vec<Hit>, Missing> {
        if !lexical_loaded(self.service) {
            return Err(Missing::LexicalLoading);
        }
        let (index, scope) = (Arc::clone(self.service.lexical()), self.scope.clone());
        let (allowed, query, depth) = (allowed.clone(), self.query.clone(), self.depth);
        let searching = tokio::task::spawn_blocking(move || index.search(&scope, &allowed, &query, depth));
        let failed = |cause: tokio::task::JoinError| IndexError::Refused { index: "tantivy", cause: cause.to_string() };
        searching.await.unwrap_or_else(|cause| Err(failed(cause))).map(ranked).map_err(Missing::Lexical)
    }

    /// One list of what there is, how it was made, and what is missing.
    fn fused(
        &mut self,
        asked: SearchMode,
        lists: Lists,
    ) -> Result<(SearchMode, Vec<Fused>, Option<Missing>), ServiceError> {
        let start = Instant::now();
        let k = self.service.settings().search.rrf_k;
        let fused = match (asked, lists.dense, lists.lexical) {
            (_, Err(_), Err(missing)) => return Err(missing.into_error()),
            (_, Err(missing), Ok(lexical)) => (SearchMode::Lexical, by_bm25(&lexical), Some(missing)),
            (SearchMode::Hybrid | SearchMode::Lexical, Ok(dense), Err(missing)) => {
                (SearchMode::Dense, by_cosine(&dense), Some(missing))
            }
            (SearchMode::Dense, Ok(dense), _) => (SearchMode::Dense, by_cosine(&dense), None),
            (SearchMode::Lexical, Ok(_), Ok(lexical)) => (SearchMode::Lexical, by_bm25(&lexical), None),
            (SearchMode::Hybrid, Ok(dense), Ok(lexical)) => (SearchMode::Hybrid, fuse(&dense, &lexical, k), None),
        };
        self.took("fuse", start.elapsed());
        Ok(fused)
    }

    /// With their texts. What has gone meanwhile is left out.
    async fn passages(&mut self, fused: &[Fused]) -> Result<Vec<Passage>, ServiceError> {
        if fused.is_empty() {
            return Ok(Vec::new());
        }
        let start = Instant::now();
        let ids: Vec<Uuid> = fused.iter().map(|found| found.id).collect();
        let stored = self.service.store().passages(&self.scope.tenant, &ids).await?;
        let mut stored: HashMap<Uuid, StoredPassage> = stored.into_iter().map(|row| (row.chunk_id, row)).collect();
        self.took("fetch", start.elapsed());
        Ok(fused.iter().filter_map(|found| Some(passage(found, stored.remove(&found.id)?))).collect())
    }

    fn took(&mut self, stage: &'static str, time: Duration) {
        self.service.metrics().search_stage(stage, time);
        // Microseconds are as far as a difference means anything.
        self.timings.insert(stage.to_owned(), (time.as_secs_f64() * 1e6).round() / 1e3);
    }
}

fn passage(found: &Fused, row: StoredPassage) -> Passage {
    Passage {
        chunk_id: row.chunk_id,
        doc_id: row.doc_id,
        source: row.source,
        title: row.title,
        heading: row.heading,
        content: row.content,
        metadata: row.metadata,
        position: row.position,
        score: found.score,
        cosine: found.cosine,
        bm25: found.bm25,
    }
}

fn dense_loaded(service: &Service) -> bool {
    service.following().followed.dense_loaded()
}

fn lexical_loaded(service: &Service) -> bool {
    service.following().followed.lexical_loaded()
}
