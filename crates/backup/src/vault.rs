//! The façade.

use crate::error::{Error, Result};
use crate::repository::{Lock, Repository, StoredSet};
use crate::wal::seal::Seal;
use crate::wal::{self, Target};
use crate::{drill, make, restore, verify};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::WalGap;
use groundskeeper_core::receipt::{Receipt, SetId};
use groundskeeper_systems::postgres::Endpoint;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Where sets go, what goes into them, and where they are proven.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the repository.
    pub folder: PathBuf,
    pub key: KeySource,
    pub postgres: Vec<PostgresSource>,
    /// Where drills restore to; a folder of our own is made in it and removed.
    pub scratch: PathBuf,
    /// Folders with Postgres programs (`pg_ctl`, `pg_verifybackup`); besides them, where packages put them is searched.
    pub programs: Vec<PathBuf>,
    /// Whom scratch servers run as when we are root; `postgres` otherwise.
    pub run_as: String,
    /// How WAL is streamed between the sets; None: it is not.
    pub wal: Option<wal::Settings>,
}

#[derive(Debug, Clone)]
pub enum KeySource {
    Given(SecretString),
    /// Its first line.
    File(PathBuf),
    /// The first line that this command prints.
    Command(String),
}

#[derive(Debug, Clone)]
pub struct PostgresSource {
    pub system: SystemId,
    pub endpoint: Endpoint,
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
    /// What a person does next, one sentence each.
    pub next: Vec<String>,
}

/// The backups of one installation.
#[derive(Debug, Clone)]
pub struct Vault {
    settings: Arc<Settings>,
}

impl Vault {
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings) }
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
    async fn opened<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Settings, &Arc<Repository>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(|settings| work(settings, &Arc::new(open(settings)?))).await
    }

    /// Makes the repository. One that is already there, and opens with our key, is left as it is: then false.
    pub async fn init(&self) -> Result<bool> {
        self.blocking(|settings| {
            let key = settings.key.read()?;
            if Repository::is_there(&settings.folder)? {
                Repository::open(&settings.folder, &key)?;
                return Ok(false);
            }
            Repository::init(&settings.folder, &key)?;
            Ok(true)
        })
        .await
    }

    /// Makes one set of everything and gives its receipt, with rung 1 climbed. A system that could not be read is in
    /// `missing`; when none could, it is an error and there is no set.
    pub async fn make(&self, own: Vec<Own>, now: Timestamp) -> Result<Receipt> {
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.folder)?;
            make::make(settings, repository, own, now)
        })
        .await
    }

    /// Every set in the repository, newest first. A set whose receipt is lost has one without climbs.
    pub async fn receipts(&self) -> Result<Vec<Receipt>> {
        self.opened(|_, repository| {
            let sets = repository.sets()?;
            sets.iter().map(|set| receipt(repository, set)).collect()
        })
        .await
    }

    /// Rungs 1 and 2 of a set (the newest without a name); reads back only packs that were not yet verified.
    pub async fn verify(&self, set: Option<&SetId>, now: Timestamp) -> Result<Receipt> {
        let wanted = set.cloned();
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.folder)?;
            verify::verify(repository, wanted.as_ref(), now)
        })
        .await
    }

    /// Rungs 3 and 4: restores every Postgres of the set into the scratch place, boots it, asks it, removes it.
    /// What is not done within `budget` is not tried.
    pub async fn drill(&self, set: Option<&SetId>, budget: Duration, now: Timestamp) -> Result<Receipt> {
        let wanted = set.cloned();
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.folder)?;
            drill::drill(settings, repository, wanted.as_ref(), None, budget, now)
        })
        .await
    }

    /// The same with the WAL after the set replayed as far as `target` says. Without a name the newest set before that.
    pub async fn drill_to(
        &self,
        set: Option<&SetId>,
        target: Target,
        budget: Duration,
        now: Timestamp,
    ) -> Result<Receipt> {
        let wanted = set.cloned();
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.folder)?;
            let set = set_for(repository, wanted, target)?;
            drill::drill(settings, repository, set.as_ref(), Some(target), budget, now)
        })
        .await
    }

    /// Restores a set, or one part of it, into folders of their own inside of `into`. Nothing that is there is touched.
    pub async fn restore(&self, set: Option<&SetId>, only: Option<&str>, into: &Path) -> Result<Restored> {
        let (wanted, only, into) = (set.cloned(), only.map(str::to_owned), into.to_owned());
        self.opened(move |settings, repository| {
            restore::restore(settings, repository, wanted.as_ref(), only.as_deref(), None, &into)
        })
        .await
    }

    /// The same, with the WAL after the set beside it, and told to replay that as far as `target` says when it is
    /// started. Without a name the newest set before that.
    pub async fn restore_to(
        &self,
        set: Option<&SetId>,
        only: Option<&str>,
        target: Target,
        into: &Path,
    ) -> Result<Restored> {
        let (wanted, only, into) = (set.cloned(), only.map(str::to_owned), into.to_owned());
        self.opened(move |settings, repository| {
            let set = set_for(repository, wanted, target)?;
            restore::restore(settings, repository, set.as_ref(), only.as_deref(), Some(target), &into)
        })
        .await
    }

    /// Removes WAL that leads on from no set that is there; only counts it unless `apply`.
    pub async fn prune_wal(&self, apply: bool) -> Result<wal::Pruned> {
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.folder)?;
            let sets = repository.sets()?;
            let receipts: Vec<Receipt> = sets.iter().map(|set| receipt(repository, set)).collect::<Result<_>>()?;
            // A set whose receipt was lost may need any of it.
            if receipts.iter().any(|receipt| receipt.parts.is_empty()) {
                return Ok(wal::Pruned::default());
            }
            wal::prune::prune(repository, &receipts, apply)
        })
        .await
    }

    /// WAL that is missing in the repository, of any cluster.
    pub async fn wal_gaps(&self, now: Timestamp) -> Result<Vec<WalGap>> {
        self.opened(move |_, repository| wal::archive::gaps(repository, now)).await
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

    /// The disk that the repository lies on.
    pub async fn space(&self) -> Result<Space> {
        self.blocking(|settings| {
            let found = rustix::fs::statvfs(&settings.folder).map_err(|error| Error::Place {
                place: settings.folder.display().to_string(),
                why: error.to_string(),
            })?;
            Ok(Space { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize })
        })
        .await
    }
}

fn open(settings: &Settings) -> Result<Repository> {
    Repository::open(&settings.folder, &settings.key.read()?)
}

/// The set to begin with: the one that is wanted, if it was made before the time that is wanted.
fn set_for(repository: &Repository, wanted: Option<SetId>, target: Target) -> Result<Option<SetId>> {
    let Target::Time(at) = target else { return Ok(wanted) };
    let receipts: Vec<Receipt> =
        repository.sets()?.iter().map(|set| receipt(repository, set)).collect::<Result<Vec<Receipt>>>()?;
    let among = receipts.iter().filter(|receipt| wanted.as_ref().is_none_or(|wanted| receipt.set == *wanted));
    let among: Vec<Receipt> = among.cloned().collect();
    match (wal::newest_before(&among, at), wanted) {
        (Some(receipt), _) => Ok(Some(receipt.set.clone())),
        (None, Some(wanted)) => Err(Error::Wal(format!(
            "the set {wanted} was not finished at {at}, or has no Postgres; WAL leads on from a set, never back; choose an \
             earlier one"
        ))),
        (None, None) => {
            Err(Error::Wal(format!("no set with a Postgres in it was finished at {at}; choose a later time")))
        }
    }
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

impl KeySource {
    /// Reads the key, now: it may be changed while the keeper runs.
    pub fn read(&self) -> Result<SecretString> {
        let text = match self {
            Self::Given(key) => key.expose_secret().to_owned(),
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| Error::Key(format!("{}: {error}", path.display())))?
            }
            Self::Command(command) => printed(command)?,
        };
        match text.lines().next().map(str::trim_end) {
            Some(key) if !key.is_empty() => Ok(key.into()),
            _ => Err(Error::Key("it is empty".to_owned())),
        }
    }
}

/// What a command prints. What it complains of is told, what it prints never is.
fn printed(command: &str) -> Result<String> {
    let ran = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| Error::Key(format!("`{command}`: {error}")))?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        return Err(Error::Key(format!("`{command}` ended with {}: {}", ran.status, said.trim())));
    }
    String::from_utf8(ran.stdout).map_err(|_| Error::Key(format!("`{command}` printed what is no text")))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}
