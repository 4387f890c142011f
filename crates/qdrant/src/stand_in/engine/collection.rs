//! One collection: an engine shard, the journal of what it has not flushed, and its optimizer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use qdrant_edge::internal::SnapshotManifest;
use qdrant_edge::{
    CountRequest, EdgeShard, FacetRequest, FacetResponse, PointId, PointOperations, Record, ScoredPoint, ScrollRequest,
    ShardInfo, UpdateOperation, WalOptions, WithPayloadInterface, WithVector,
};

use super::journal::Journal;
use super::optimizer::{Colour, Optimizer, work_is_pending};
use super::query::QueryRequest;
use super::settings::{CollectionConfig, UpdateCollection};
use crate::stand_in::error::{Error, Result};

pub(crate) const CONFIG: &str = "config.json";
const JOURNAL: &str = "journal";
pub(crate) const SHARD: &str = "shard";
/// The file that makes a folder a collection.
pub(crate) const NAME: &str = "name";
/// The engine's log is never read back (see [`super::journal`]), so it need not be large.
const WAL_CAPACITY: usize = 4 * 1024 * 1024;

/// What `GET /collections/{name}` tells.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) colour: Colour,
    pub(crate) shard: ShardInfo,
    pub(crate) config: CollectionConfig,
}

#[derive(Debug)]
pub(crate) struct Collection {
    name: String,
    folder: PathBuf,
    config: RwLock<CollectionConfig>,
    shard: EdgeShard,
    /// Held by whoever changes points: the engine's log panics when two flush or write at once.
    journal: Mutex<Journal>,
    /// Held while segments are rebuilt, and by whoever needs them to stay: the engine's flush panics during the switch.
    segments_stay: Mutex<()>,
    pub(crate) optimizer: Arc<Optimizer>,
    /// How many snapshots of it this process has made.
    snapshots_made: AtomicU64,
    /// Last, so that the files outlive the engine.
    remains: Remains,
}

/// Removes the folder of a dropped collection when its last reader is gone: the engine writes by path until then.
#[derive(Debug)]
struct Remains {
    folder: PathBuf,
    abandoned: AtomicBool,
}

impl Drop for Remains {
    fn drop(&mut self) {
        if self.abandoned.load(Ordering::Relaxed) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        // So that the task which waits for calls notices.
        self.optimizer.called.notify_one();
    }
}

impl Collection {
    /// Makes the files of a new collection in `folder`, which must not exist.
    pub(crate) fn create(folder: &Path, config: &CollectionConfig) -> Result<()> {
        fs::create_dir_all(folder)?;
        save(&folder.join(CONFIG), config)?;
        let shard = folder.join(SHARD);
        fs::create_dir(&shard)?;
        let engine = EdgeShard::new(&shard, with_small_log(config))?;
        // The real server's first point has version 1.
        engine.update(UpdateOperation::PointOperation(PointOperations::DeletePoints { ids: Vec::new() }))?;
        drop(engine);
        // The engine starts with one segment, the server with as many as it means to keep.
        for _ in 1..config.engine_optimizers().get_number_segments() {
            let spare = folder.join("spare");
            fs::create_dir(&spare)?;
            drop(EdgeShard::new(&spare, with_small_log(config))?);
            for segment in fs::read_dir(spare.join("segments"))?.flatten() {
                fs::rename(segment.path(), shard.join("segments").join(segment.file_name()))?;
            }
            fs::remove_dir_all(&spare)?;
        }
        Ok(())
    }

    /// Opens a collection's folder and replays what its last process had not flushed.
    pub(crate) fn open(name: &str, folder: &Path) -> Result<Arc<Self>> {
        let config: CollectionConfig =
            serde_json::from_slice(&fs::read(folder.join(CONFIG))?).map_err(Error::internal)?;
        let shard = EdgeShard::load(&folder.join(SHARD), Some(with_small_log(&config)))?;
        let (journal, pending) = Journal::open(&folder.join(JOURNAL))?;
        for operation in pending {
            // What was refused the first time is refused again.
            let _ = shard.update(operation);
        }
        let collection = Arc::new(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            config: RwLock::new(config),
            shard,
            journal: Mutex::new(journal),
            segments_stay: Mutex::default(),
            optimizer: Arc::default(),
            snapshots_made: AtomicU64::new(0),
            remains: Remains { folder: folder.to_owned(), abandoned: AtomicBool::new(false) },
        });
        collection.flush()?;
        collection.optimizer.opened();
        tokio::spawn(optimize_when_called(Arc::downgrade(&collection), collection.optimizer.clone()));
        tokio::spawn(flush_now_and_then(Arc::downgrade(&collection)));
        Ok(collection)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives up the files. A folder without a name is swept by the next start.
    pub(crate) fn abandon(&self) {
        let _ = fs::remove_file(self.folder.join(NAME));
        self.remains.abandoned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn config(&self) -> CollectionConfig {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn segments(&self) -> PathBuf {
        self.folder.join(SHARD).join("segments")
    }

    pub(crate) fn info(&self) -> Info {
        let (config, shard) = (self.config(), self.shard.info());
        let colour = self.optimizer.colour(work_is_pending(&config, &shard, &self.segments()).is_some());
        Info { colour, shard, config }
    }

    /// Whether the optimizers would find something to do.
    pub(crate) fn has_work(&self) -> bool {
        work_is_pending(&self.config(), &self.shard.info(), &self.segments()).is_some()
    }

    pub(crate) fn snapshots_made(&self) -> u64 {
        self.snapshots_made.load(Ordering::Relaxed)
    }

    pub(crate) fn count_snapshot(&self) {
        self.snapshots_made.fetch_add(1, Ordering::Relaxed);
    }

    /// Applies one operation and gives its number. It survives the process from here on.
    pub(crate) fn update(&self, operation: UpdateOperation) -> Result<u64> {
        let mut journal = lock(&self.journal);
        let number = journal.append(&operation)?;
        let result = self.shard.update(operation);
        drop(journal);
        self.optimizer.wake();
        result?;
        Ok(number)
    }

    pub(crate) fn configure(&self, update: UpdateCollection) -> Result<()> {
        let mut config = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = config.clone();
        changed.update(update)?;
        save(&self.folder.join(CONFIG), &changed)?;
        self.shard.set_hnsw_config(changed.hnsw_config)?;
        self.shard.set_optimizers_config(changed.engine_optimizers())?;
        *config = changed;
        drop(config);
        self.optimizer.wake();
        Ok(())
    }

    pub(crate) fn query(&self, request: QueryRequest) -> Result<Vec<ScoredPoint>> {
        let request = request.resolve(&self.shard)?;
        Ok(self.shard.query(request)?)
    }

    pub(crate) fn retrieve(
        &self,
        ids: &[PointId],
        payload: WithPayloadInterface,
        vector: WithVector,
    ) -> Result<Vec<Record>> {
        Ok(self.shard.retrieve(ids, Some(payload), Some(vector))?)
    }

    pub(crate) fn scroll(&self, request: ScrollRequest) -> Result<(Vec<Record>, Option<PointId>)> {
        Ok(self.shard.scroll(request)?)
    }

    pub(crate) fn count(&self, request: CountRequest) -> Result<usize> {
        Ok(self.shard.count(request)?)
    }

    pub(crate) fn facet(&self, request: FacetRequest) -> Result<FacetResponse> {
        Ok(self.shard.facet(request)?)
    }

    pub(crate) fn manifest(&self) -> Result<SnapshotManifest> {
        Ok(self.shard.snapshot_manifest()?)
    }

    fn flush(&self) -> Result<()> {
        self.while_flushed(|_| Ok(()))
    }

    /// Runs `work` on the collection's folder while everything is in its files and nothing changes them.
    pub(crate) fn while_flushed<T>(&self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let _stay = lock(&self.segments_stay);
        let mut journal = lock(&self.journal);
        if !journal.is_empty() {
            self.shard.flush();
            journal.restart()?;
        }
        work(&self.folder)
    }

    /// Lets the engine rebuild what it wants to, if it is its turn.
    fn optimize(&self) -> Result<()> {
        let _stay = lock(&self.segments_stay);
        let (config, info) = (self.config(), self.shard.info());
        let work = work_is_pending(&config, &info, &self.segments());
        if self.optimizer.begin(config.optimizer_config.max_optimization_threads != Some(0), work) {
            let result = self.shard.optimize();
            self.optimizer.end();
            result?;
        }
        Ok(())
    }
}

fn with_small_log(config: &CollectionConfig) -> qdrant_edge::EdgeConfig {
    let mut engine = config.engine();
    engine.wal_options = Some(WalOptions { segment_capacity: WAL_CAPACITY, ..WalOptions::default() });
    engine
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replaces a file as a whole, so that a kill leaves the old one or the new one.
pub(crate) fn save(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(value).map_err(Error::internal)?)?;
    fs::rename(&new, path)?;
    Ok(())
}

async fn optimize_when_called(collection: Weak<Collection>, optimizer: Arc<Optimizer>) {
    while let Some(current) = collection.upgrade() {
        let outcome = tokio::task::spawn_blocking(move || current.optimize()).await;
        if let Err(error) = outcome.map_err(Error::internal).flatten() {
            eprintln!("optimization failed: {error}");
        }
        optimizer.called.notified().await;
    }
}

async fn flush_now_and_then(collection: Weak<Collection>) {
    while let Some(current) = collection.upgrade() {
        let interval = current.config().optimizer_config.flush_interval_sec.max(1);
        drop(current);
        tokio::time::sleep(std::time::Duration::from_secs(interval)).await;
        let Some(current) = collection.upgrade() else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || current.flush()).await {
            eprintln!("flush failed: {error}");
        }
    }
}
