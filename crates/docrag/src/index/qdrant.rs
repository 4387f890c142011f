//! The dense index in Qdrant, over gRPC.
//!
//! What is searched and written to is an alias (`index.qdrant.collection`); the collection behind it has the number of
//! its build in its name. A rebuild fills the next collection and moves the alias, which Qdrant does at once for
//! everybody. Collections of our name that the alias does not point to are leftovers of an interrupted rebuild. Build 0 is
//! what an alias points to that was missing: empty, and to be filled from Postgres.
//!
//! The server may be away when the service starts: then the first call after it is back makes sure of the collection.

mod wire;

use super::{Allowed, Change, FIRST_BUILD, Held, Hit, IndexError, Scope, latest};
use crate::settings::QdrantSettings;
use qdrant_client::Qdrant;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{
    CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder,
    DeletePointsBuilder, Distance, FieldType, KeywordIndexParamsBuilder, PointId, PointsIdsList, QueryPointsBuilder,
    ScrollPointsBuilder, SearchParamsBuilder, UpsertPointsBuilder, VectorParamsBuilder,
};
use secrecy::ExposeSecret;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wire::{failed, refused};

/// Points in one request: 800 kB at 1,536 dimensions.
const POINTS_PER_REQUEST: usize = 128;
const IDS_PER_REQUEST: usize = 1_000;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

pub struct QdrantIndex {
    client: Qdrant,
    alias: String,
    dimension: usize,
    ef: u64,
    fits: AtomicBool,
}

impl QdrantIndex {
    /// Connects and makes sure that the served collection (an alias) is there. A server that does not answer is no error
    /// here (see above), and neither are vectors of another model: searching them is, until they are rebuilt.
    pub async fn open(settings: &QdrantSettings, dimension: usize) -> Result<Self, IndexError> {
        let timeout = Duration::from_secs(settings.timeout_seconds.max(1));
        let mut client = Qdrant::from_url(&settings.url)
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT_WITHIN))
            .keep_alive_while_idle()
            .skip_compatibility_check();
        if let Some(key) = &settings.api_key {
            client = client.api_key(key.expose_secret());
        }
        let client = client.build().map_err(|error| refused(format!("index.qdrant.url {}: {error}", settings.url)))?;
        let (alias, ef, fits) = (settings.collection.clone(), settings.ef, AtomicBool::new(false));
        let index = Self { client, alias, dimension, ef, fits };
        match index.misfit().await {
            Err(error @ IndexError::Unreachable { .. }) => tracing::warn!("{error}; dense search waits for it"),
            other => {
                if let Some(error) = other? {
                    tracing::error!("{error}");
                }
            }
        }
        Ok(index)
    }

    pub async fn apply(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        if let Some(error) = self.misfit().await?
            && changes.iter().any(|change| matches!(change, Change::Upsert(_)))
        {
            return Err(error);
        }
        self.write(&self.alias, changes).await
    }

    pub async fn search(
        &self,
        scope: &Scope,
        allowed: &Allowed,
        vector: &[f32],
        limit: usize,
        exact: bool,
    ) -> Result<Vec<Hit>, IndexError> {
        if limit == 0 || allowed.as_ref().is_some_and(|documents| documents.is_empty()) {
            return Ok(Vec::new());
        }
        if let Some(error) = self.misfit().await? {
            return Err(error);
        }
        // Fewer candidates than hits would be returned as fewer hits.
        let params = SearchParamsBuilder::default().hnsw_ef(self.ef.max(limit as u64)).exact(exact);
        let query = QueryPointsBuilder::new(&self.alias)
            .query(vector.to_vec())
            .filter(wire::filter(scope, allowed)?)
            .limit(limit as u64)
            .params(params)
            .with_payload(wire::only(wire::DOC_ID));
        let found = self.client.query(query).await.map_err(failed)?;
        Ok(found.result.iter().filter_map(wire::hit).collect())
    }

    pub async fn held(&self, tenant: Option<&str>) -> Result<Vec<Held>, IndexError> {
        self.misfit().await?;
        let (mut held, mut offset) = (Vec::new(), None::<PointId>);
        loop {
            let mut page = ScrollPointsBuilder::new(&self.alias)
                .limit(IDS_PER_REQUEST as u32)
                .with_payload(wire::only(wire::CHUNK_HASH));
            if let Some(offset) = offset.take() {
                page = page.offset(offset);
            }
            if let Some(tenant) = tenant {
                page = page.filter(wire::of_tenant(tenant));
            }
            let page = self.client.scroll(page).await.map_err(failed)?;
            held.extend(page.result.iter().filter_map(wire::held));
            let Some(next) = page.next_page_offset else { break };
            offset = Some(next);
        }
        held.sort_unstable();
        Ok(held)
    }

    pub async fn count(&self) -> Result<u64, IndexError> {
        self.misfit().await?;
        let counted = self.client.count(CountPointsBuilder::new(&self.alias).exact(true)).await.map_err(failed)?;
        counted.result.map(|result| result.count).ok_or_else(|| refused("a count without a number".to_owned()))
    }

    pub async fn begin_build(&self, build: i64) -> Result<(), IndexError> {
        self.misfit().await?;
        if self.served().await?.as_deref() == Some(&self.collection(build)) {
            return Err(refused(format!("build {build} is already served")));
        }
        self.remove_leftovers().await?;
        self.create(&self.collection(build)).await
    }

    pub async fn fill_build(&self, build: i64, changes: Vec<Change>) -> Result<(), IndexError> {
        self.write(&self.collection(build), changes).await
    }

    pub async fn switch_build(&self, build: i64) -> Result<(), IndexError> {
        self.point_alias_to(&self.collection(build)).await?;
        if let Err(error) = self.remove_leftovers().await {
            // The switch itself is done; the next rebuild removes them.
            tracing::warn!("the collection of the former build is still there: {error}");
        }
        Ok(())
    }

    /// Makes sure of a served collection; what is wrong when its vectors are not as long as the model's. Asked again until
    /// they are: another process may rebuild the index.
    async fn misfit(&self) -> Result<Option<IndexError>, IndexError> {
        if self.fits.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let collection = self.make_sure().await?;
        let got = self.dimension_of(&collection).await?;
        if got == Some(self.dimension as u64) {
            self.fits.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let got = got.map_or("named vectors".to_owned(), |got| format!("vectors of {got} numbers"));
        Ok(Some(refused(format!(
            "collection {collection} has {got}, the embedding model makes {}; put the former model back, or run \
             `docrag reindex --re-embed`",
            self.dimension
        ))))
    }

    async fn make_sure(&self) -> Result<String, IndexError> {
        if let Some(collection) = self.served().await? {
            return Ok(collection);
        }
        self.refuse_collection_of_the_aliases_name().await?;
        let first = self.collection(FIRST_BUILD);
        if !self.exists(&first).await? {
            self.create(&first).await?;
        }
        if let Some(collection) = self.served().await? {
            // Another replica was faster, and may have filled the next one already.
            return Ok(collection);
        }
        self.point_alias_to(&first).await?;
        Ok(first)
    }

    /// The number of the build that the alias points to.
    pub(super) async fn served_build(&self) -> Result<Option<i64>, IndexError> {
        Ok(self.served().await?.and_then(|collection| self.build_of(&collection)))
    }

    async fn refuse_collection_of_the_aliases_name(&self) -> Result<(), IndexError> {
        if self.exists(&self.alias).await? {
            let alias = &self.alias;
            return Err(refused(format!(
                "{alias} is a collection and cannot be an alias as well; choose another index.qdrant.collection"
            )));
        }
        Ok(())
    }

    fn collection(&self, build: i64) -> String {
        format!("{}_b{build}", self.alias)
    }

    fn build_of(&self, collection: &str) -> Option<i64> {
        collection.strip_prefix(&self.alias)?.strip_prefix("_b")?.parse().ok()
    }

    /// The collection that the alias points to.
    async fn served(&self) -> Result<Option<String>, IndexError> {
        let aliases = self.client.list_aliases().await.map_err(failed)?.aliases;
        Ok(aliases.into_iter().find(|alias| alias.alias_name == self.alias).map(|alias| alias.collection_name))
    }

    async fn exists(&self, collection: &str) -> Result<bool, IndexError> {
        let collections = self.client.list_collections().await.map_err(failed)?.collections;
        Ok(collections.iter().any(|found| found.name == collection))
    }

    async fn dimension_of(&self, collection: &str) -> Result<Option<u64>, IndexError> {
        let info = self.client.collection_info(collection).await.map_err(failed)?;
        let params = info.result.and_then(|info| info.config).and_then(|config| config.params);
        let vectors = params.and_then(|params| params.vectors_config).and_then(|vectors| vectors.config);
        Ok(match vectors {
            Some(Config::Params(params)) => Some(params.size),
            Some(Config::ParamsMap(_)) | None => None,
        })
    }

    async fn create(&self, collection: &str) -> Result<(), IndexError> {
        let vectors = VectorParamsBuilder::new(self.dimension as u64, Distance::Cosine);
        let create = CreateCollectionBuilder::new(collection).vectors_config(vectors);
        if let Err(error) = self.client.create_collection(create).await {
            // Another replica may have been faster.
            if !self.exists(collection).await? {
                return Err(failed(error));
            }
        }
        let tenant = KeywordIndexParamsBuilder::default().is_tenant(true);
        let indexes = [
            CreateFieldIndexCollectionBuilder::new(collection, wire::TENANT, FieldType::Keyword)
                .field_index_params(tenant),
            CreateFieldIndexCollectionBuilder::new(collection, wire::CORPUS, FieldType::Keyword),
            CreateFieldIndexCollectionBuilder::new(collection, wire::DOC_ID, FieldType::Uuid),
        ];
        for index in indexes {
            self.client.create_field_index(index.wait(true)).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Creating an alias that there is moves it, in one step.
    async fn point_alias_to(&self, collection: &str) -> Result<(), IndexError> {
        self.client.create_alias(CreateAliasBuilder::new(collection, &self.alias)).await.map_err(failed)?;
        Ok(())
    }

    async fn remove_leftovers(&self) -> Result<(), IndexError> {
        let served = self.served().await?;
        for found in self.client.list_collections().await.map_err(failed)?.collections {
            if self.build_of(&found.name).is_some() && served.as_deref() != Some(&found.name) {
                self.client.delete_collection(&found.name).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn write(&self, collection: &str, changes: Vec<Change>) -> Result<(), IndexError> {
        let (points, deleted) = latest(changes);
        let mut points = points.into_iter().map(wire::point).peekable();
        while points.peek().is_some() {
            let batch = points.by_ref().take(POINTS_PER_REQUEST).collect::<Vec<_>>();
            let upsert = UpsertPointsBuilder::new(collection, batch).wait(true);
            self.client.upsert_points(upsert).await.map_err(failed)?;
        }
        for ids in deleted.chunks(IDS_PER_REQUEST) {
            let ids = PointsIdsList { ids: ids.iter().map(|id| wire::point_id(*id)).collect() };
            let delete = DeletePointsBuilder::new(collection).points(ids).wait(true);
            self.client.delete_points(delete).await.map_err(failed)?;
        }
        Ok(())
    }
}
