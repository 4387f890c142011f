//! The façade.

use crate::error::{Error, Result};
use crate::place::Place;
use crate::progress::Progress;
use crate::proof::Probe;
use crate::prune::Retention;
use crate::repository::{Lock, Repository, StoredSet, Unlocked, glance};
use crate::restore::Order;
use crate::wal;
use crate::wal::seal::Seal;
use crate::{drill, make, plan, restore, verify};
use groundskeeper_core::SystemId;
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Receipt, Rung, SetId, Statements};
use groundskeeper_systems::postgres::Endpoint;
use jiff::Timestamp;
use secrecy::SecretString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use crate::key::KeySource;

/// Where sets go, what goes into them, and where they are proven.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the repository is.
    pub place: Place,
    pub key: KeySource,
    pub postgres: Vec<PostgresSource>,
    pub redis: Vec<RedisSource>,
    pub files: Vec<FileSource>,
    pub qdrant: Vec<QdrantSource>,
    /// Where drills restore to; a folder of our own is made in it and removed.
    pub scratch: PathBuf,
    /// Bytes of the scratch folder's disk that a drill never fills.
    pub leave_free: u64,
    /// Folders with programs of Postgres (`pg_ctl`, `pg_verifybackup`) and Redis; besides them, where packages put them is
    /// searched.
    pub programs: Vec<PathBuf>,
    /// Whom scratch servers run as when we are root; `postgres` otherwise.
    pub run_as: String,
    /// How WAL is streamed between the sets; None: it is not.
    pub wal: Option<wal::Settings>,
    /// What a drill asks of what it restored.
    pub probes: Vec<Probe>,
}

#[derive(Debug, Clone)]
pub struct PostgresSource {
    pub system: SystemId,
    pub endpoint: Endpoint,
    /// Whether its data directory is read in place where that can be: the keeper is beside it and may read it.
    pub reads_files: bool,
}

#[derive(Debug, Clone)]
pub struct RedisSource {
    pub system: SystemId,
    pub endpoint: groundskeeper_systems::redis::Endpoint,
}

/// A Qdrant: one node, or those of a cluster.
#[derive(Debug, Clone)]
pub struct QdrantSource {
    /// Of its part in a set: `qdrant.main`.
    pub name: String,
    pub nodes: Vec<groundskeeper_systems::qdrant::Endpoint>,
    /// What its points are made from.
    pub chunks: Option<ChunkSource>,
}

/// Where the chunks are that a Qdrant has as points.
#[derive(Debug, Clone)]
pub struct ChunkSource {
    /// The name of the Postgres's part in a set: `postgres.main`.
    pub postgres: String,
    pub endpoint: Endpoint,
    pub database: String,
    /// The collection with the points, or an alias that leads to it.
    pub collection: String,
    pub statements: Statements,
}

/// A folder that is backed up with all below it.
#[derive(Debug, Clone)]
pub struct FileSource {
    /// Of its part in a set: `files.srv-docs`.
    pub name: String,
    pub path: PathBuf,
    /// Whether file systems that are mounted in it are entered.
    pub other_filesystems: bool,
}

/// Something of the keeper's own that goes into the set's folder `groundskeeper`: the copy of its store, the head of its
/// audit chain.
#[derive(Debug, Clone)]
pub struct Own {
    pub name: String,
    pub content: Content,
}

#[derive(Debug, Clone)]
pub enum Content {
    File(PathBuf),
    Text(String),
}

/// A key of the repository, without what is secret.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct KeyInfo {
    pub id: String,
    pub made: Option<Timestamp>,
    pub host: Option<String>,
    /// The one that the configuration gives.
    pub in_use: bool,
}

/// What a restore did.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Restored {
    pub set: SetId,
    pub parts: Vec<RestoredPart>,
    pub took: f64,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct RestoredPart {
    pub name: String,
    pub folder: PathBuf,
    pub entries: u64,
    pub bytes: u64,
    /// Where that is now what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<PathBuf>,
    /// What a person does next, one sentence each.
    pub next: Vec<String>,
}

/// The backups of one installation.
#[derive(Debug, Clone)]
pub struct Vault {
    settings: Arc<Settings>,
    retention: Arc<Retention>,
    progress: Progress,
    /// What the key has opened last.
    unlocked: Arc<Mutex<Option<Unlocked>>>,
}

impl Vault {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Arc::new(settings),
            retention: Arc::default(),
            progress: Progress::default(),
            unlocked: Arc::default(),
        }
    }

    /// How far the work on the repository is that this vault, or a clone of it, does.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The same with other rules for what is kept than [`Retention::default`].
    #[must_use]
    pub fn keeping(self, retention: Retention) -> Self {
        Self { retention: Arc::new(retention), ..self }
    }

    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs work that may block, apart from the runtime.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Settings) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let settings = Arc::clone(&self.settings);
        let ended = tokio::task::spawn_blocking(move || work(&settings)).await;
        ended.map_err(|ended| Error::Worker(ended.to_string()))?
    }

    /// The same with the repository open.
    pub(crate) async fn opened<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Settings, &Arc<Repository>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (progress, unlocked) = (self.progress.clone(), Arc::clone(&self.unlocked));
        self.blocking(move |settings| {
            let key = settings.key.read()?;
            let before = unlocked.lock().unwrap_or_else(PoisonError::into_inner).take();
            let repository = Repository::open_again(&settings.place, &key, before)?;
            *unlocked.lock().unwrap_or_else(PoisonError::into_inner) = repository.unlocked(&key);
            work(settings, &Arc::new(repository.watched(progress)))
        })
        .await
    }

    /// Makes the repository. One that is already there, and opens with our key, is left as it is: then false.
    pub async fn init(&self) -> Result<bool> {
        self.blocking(|settings| {
            let key = settings.key.read()?;
            if Repository::is_there(&settings.place)? {
                Repository::open(&settings.place, &key)?;
                return Ok(false);
            }
            Repository::init(&settings.place, &key)
        })
        .await
    }

    /// Makes one set of everything and gives its receipt, with rung 1 climbed. A system that could not be read is in
    /// `missing`; when none could, it is an error and there is no set.
    pub async fn make(&self, own: Vec<Own>, now: Timestamp) -> Result<Receipt> {
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.place, repository, now)?;
            // Otherwise a plan of retention would keep a set for a restore that is dead.
            if let Err(error) = repository.sweep_holds(&settings.place, now) {
                tracing::warn!(%error, "what dead restores left stays for now");
            }
            make::make(settings, repository, own, now)
        })
        .await
    }

    /// Every set in the repository, newest first. A set whose receipt is lost has one without climbs; one whose snapshot is
    /// damaged, and cannot be restored, has failed the first rung.
    pub async fn receipts(&self) -> Result<Vec<Receipt>> {
        self.opened(|_, repository| receipts(repository)).await
    }

    /// Rungs 1 and 2 of a set (the newest without a name); reads back only packs that were not yet verified.
    pub async fn verify(&self, set: Option<&SetId>, now: Timestamp) -> Result<Receipt> {
        self.verify_within(set, Duration::MAX, now).await
    }

    /// The same; what is not read back within `budget` is not tried, and the next time goes on with it.
    pub async fn verify_within(&self, set: Option<&SetId>, budget: Duration, now: Timestamp) -> Result<Receipt> {
        let wanted = set.cloned();
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.place, repository, now)?;
            verify::verify(repository, wanted.as_ref(), budget, now)
        })
        .await
    }

    /// Rungs 3 to 6: restores every system of the set into the scratch place, boots it, asks it, removes it.
    /// What is not done within `budget` is not tried. The rungs below come first when nobody has tried them: a ladder
    /// that lacks one is not climbed.
    pub async fn drill(&self, set: Option<&SetId>, budget: Duration, now: Timestamp) -> Result<Receipt> {
        let wanted = set.cloned();
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.place, repository, now)?;
            let set = repository.set(wanted.as_ref())?;
            with_lower_rungs(repository, &set, budget, now)?;
            drill::drill(settings, repository, Some(&set.id), None, budget, now)
        })
        .await
    }

    /// Restores a set, or one part of it, into folders of their own inside of `into`. Nothing that is there is touched.
    pub async fn restore(&self, set: Option<&SetId>, only: Option<&str>, into: &Path) -> Result<Restored> {
        let (wanted, only, into) = (set.cloned(), only.map(str::to_owned), into.to_owned());
        self.opened(move |settings, repository| {
            let order = Order { wanted: wanted.as_ref(), only: only.as_deref(), target: None, into: &into, over: None };
            restore::restore(settings, repository, &order)
        })
        .await
    }

    /// The same where something is: it is moved aside (and [`RestoredPart::replaced`] says where to), unless a Postgres runs
    /// on it or it is a mount point.
    pub async fn restore_over(
        &self,
        set: Option<&SetId>,
        only: Option<&str>,
        into: &Path,
        now: Timestamp,
    ) -> Result<Restored> {
        let (wanted, only, into) = (set.cloned(), only.map(str::to_owned), into.to_owned());
        self.opened(move |settings, repository| {
            let (wanted, only, over) = (wanted.as_ref(), only.as_deref(), Some(now));
            restore::restore(settings, repository, &Order { wanted, only, target: None, into: &into, over })
        })
        .await
    }

    /// Of the folders that a restore of these parts would write, those that have something in them.
    pub async fn taken(&self, parts: &[String], into: &Path) -> Result<Vec<PathBuf>> {
        let folders: Vec<PathBuf> = parts.iter().map(|part| into.join(part)).collect();
        self.blocking(move |_| restore::taken(folders)).await
    }

    /// The [recovery plan](crate::plan) of this installation, as Markdown.
    pub async fn recovery_plan(&self, now: Timestamp) -> Result<String> {
        let receipts = self.receipts().await?;
        Ok(plan::plan(&self.settings, &receipts, &self.streamed(&receipts).await?, now))
    }

    /// Writes it beside the sets, for whoever finds them.
    pub async fn keep_plan(&self, now: Timestamp) -> Result<()> {
        let text = self.recovery_plan(now).await?;
        self.opened(move |_, repository| repository.keep_plan(text)).await
    }

    /// Reads the key and opens the repository with it. Writes nothing.
    pub async fn try_key(&self) -> Result<()> {
        self.opened(|_, _| Ok(())).await
    }

    pub async fn keys(&self) -> Result<Vec<KeyInfo>> {
        self.opened(|_, repository| repository.keys()).await
    }

    pub async fn add_key(&self, key: &SecretString) -> Result<KeyInfo> {
        let key = key.clone();
        self.opened(move |_, repository| {
            let added = repository.add_key(&key)?;
            if let Some(seal) = Seal::find(repository)? {
                seal.share(repository, &added.id, &key)?;
            }
            Ok(added)
        })
        .await
    }

    /// By its id or the first digits of it. The key in use is refused, so that one always opens.
    pub async fn remove_key(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.opened(move |_, repository| {
            let removed = repository.remove_key(&id)?;
            Seal::unshare(repository, &removed)
        })
        .await
    }

    /// The disk that the repository lies on. None for an object store: it does not tell.
    pub async fn space(&self) -> Result<Option<Space>> {
        self.blocking(|settings| {
            let Some(folder) = settings.place.folder() else { return Ok(None) };
            let found = rustix::fs::statvfs(folder)
                .map_err(|error| Error::Place { place: settings.place.to_string(), why: error.to_string() })?;
            Ok(Some(Space { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize }))
        })
        .await
    }

    /// Whether an object store has the repository, and with `listed` a number for what it holds. Asks for no key, and
    /// does not wait long.
    pub(crate) async fn glance(&self, listed: bool) -> Result<Option<u64>> {
        self.blocking(move |settings| glance(&settings.place, listed)).await
    }
}

fn receipts(repository: &Repository) -> Result<Vec<Receipt>> {
    let sets = repository.sets()?;
    let mut receipts: Vec<Receipt> = sets.iter().map(|set| receipt(repository, set)).collect::<Result<_>>()?;
    for (lost, why) in repository.lost()? {
        let Some(mut theirs) = repository.receipt(&lost)? else { continue };
        if theirs.failed().all(|(rung, _)| rung != Rung::Stored) {
            let at = theirs.made;
            theirs.climbs.push(Climb { rung: Rung::Stored, at, took: 0.0, outcome: ClimbOutcome::Failed { why } });
        }
        receipts.push(theirs);
    }
    receipts.sort_by(|one, other| other.set.cmp(&one.set));
    Ok(receipts)
}

/// Climbs the rungs below a drill when nobody has tried them.
pub(crate) fn with_lower_rungs(
    repository: &Repository,
    set: &StoredSet,
    budget: Duration,
    now: Timestamp,
) -> Result<()> {
    let known = receipt(repository, set)?;
    if [Rung::Stored, Rung::Intact].into_iter().any(|rung| known.last(rung).is_none()) {
        verify::verify(repository, Some(&set.id), budget, now)?;
    }
    Ok(())
}

/// What is known of a set.
pub(crate) fn receipt(repository: &Repository, set: &StoredSet) -> Result<Receipt> {
    let known = repository.receipt(&set.id)?;
    Ok(known.unwrap_or_else(|| Receipt {
        set: set.id.clone(),
        made: set.made,
        took: 0.0,
        parts: Vec::new(),
        missing: Vec::new(),
        added: 0,
        climbs: Vec::new(),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}
