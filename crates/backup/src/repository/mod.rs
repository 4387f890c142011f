//! One repository in the restic format: opened, written to, read from.
//!
//! | module | what it holds |
//! |---|---|
//! | `store` | the files, over `object_store` |
//! | `feed` | entries on their way in |
//! | `tree`, `crypt` | folders, written by us and why |
//! | `writer` | a set while it is made |
//! | `reader` | lists, restores, reads back |
//! | `receipts` | the proofs, beside restic's own files |
//! | `beside` | other files of ours there: the WAL |
//! | `lock` | one of us at a time |
//! | `hold` | sets that somebody restores |
//! | `prune` | sets are taken out |
//!
//! Everything here is synchronous and must be called from threads that may block.

mod beside;
mod crypt;
pub(crate) mod feed;
mod hold;
mod lock;
mod prune;
mod reader;
mod receipts;
mod store;
mod tree;
mod writer;

pub(crate) use hold::{Claim, Hold};
pub(crate) use lock::Lock;
pub(crate) use prune::Removal;
pub(crate) use reader::{StoredSet, Tally};
pub(crate) use store::Listed;
pub(crate) use writer::SetWriter;

use crate::error::{Error, Result};
use crate::progress::{Bars, Progress};
use crate::vault::KeyInfo;
use bytesize::ByteSize;
use crypt::Crypt;
use rustic_core::repofile::{Chunker, KeyFile, KeyId, MasterKey};
use rustic_core::{
    ConfigOptions, Credentials, FileType, KeyOptions, OpenStatus, ReadBackend, RepositoryBackends, RepositoryOptions,
    RusticError,
};
use secrecy::{ExposeSecret, SecretString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Store;

/// Postgres changes pages of 8 KiB in files that keep their length: chunks of a fixed size meet the same pages again.
/// 512 KiB is 2 million chunks for each TiB.
const CHUNK: u64 = 512 << 10;
/// Packs lie in memory until they are full, and several are under way.
const PACK: u64 = 16 << 20;
/// What a run has not finished.
const PENDING: &str = "pending";
/// What is a set of ours.
const SET: &str = "groundskeeper-set";

type Rustic<S> = rustic_core::Repository<S>;

/// An open repository.
pub(crate) struct Repository {
    store: Store,
    master: MasterKey,
    key: Option<KeyId>,
    crypt: Crypt,
    progress: Progress,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes a repository in a folder that is empty, or not there yet. One that somebody else has made meanwhile, and
    /// that opens with our key, is left as it is: then false.
    pub(crate) fn init(folder: &Path, key: &SecretString) -> Result<bool> {
        let place = || folder.display().to_string();
        let refused = |error: std::io::Error| Error::Place { place: place(), why: error.to_string() };
        make_private(folder).map_err(refused)?;
        // Before the lock, so that not even that is left in a folder of somebody else's.
        let is_free = left_by_init(folder).map_err(refused)?.is_some();
        if !is_free && !Self::is_there(folder)? {
            let why = "the folder is not empty; a repository wants one of its own".to_owned();
            return Err(Error::Place { place: place(), why });
        }
        let _lock = Lock::take(folder)?;
        if Self::is_there(folder)? {
            return Self::open(folder, key).map(|_| false);
        }
        for left in left_by_init(folder).map_err(refused)?.unwrap_or_default() {
            let removed = if left.is_dir() { std::fs::remove_dir_all(left) } else { std::fs::remove_file(left) };
            removed.map_err(refused)?;
        }
        let store = open_store(folder)?;
        let repository = rustic(&store, &Progress::default())?;
        let made = repository.init(&Credentials::password(key.expose_secret()), &described(), &settings());
        made.map(|_| true).map_err(|error| store_error(&store, &error))
    }

    /// Opens a repository; the key is tried on every key file, which takes a tenth of a second each on purpose.
    pub(crate) fn open(folder: &Path, key: &SecretString) -> Result<Self> {
        if !Self::is_there(folder)? {
            return Err(Error::NoRepository { place: folder.display().to_string() });
        }
        let store = open_store(folder)?;
        let opened = rustic(&store, &Progress::default())?.open(&Credentials::password(key.expose_secret())).map_err(
            |error| {
                if error.is_incorrect_password() {
                    Error::WrongKey { place: store.place().to_owned() }
                } else {
                    store_error(&store, &error)
                }
            },
        )?;
        Ok(Self::opened(store, &opened))
    }

    /// Whether the folder holds a repository.
    pub(crate) fn is_there(folder: &Path) -> Result<bool> {
        folder
            .join("config")
            .try_exists()
            .map_err(|error| Error::Place { place: folder.display().to_string(), why: error.to_string() })
    }

    fn opened(store: Store, opened: &Rustic<OpenStatus>) -> Self {
        let master = opened.key();
        let crypt = Crypt::new(&master);
        Self { store, crypt, master, key: *opened.key_id(), progress: Progress::default() }
    }

    /// The same, counting its work here.
    pub(crate) fn watched(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn place(&self) -> &str {
        self.store.place()
    }

    /// A fresh view of the repository: what others wrote since is in it.
    fn rustic(&self) -> Result<Rustic<OpenStatus>> {
        rustic(&self.store, &self.progress)?
            .open(&Credentials::Masterkey(self.master.clone()))
            .map_err(|error| self.error(&error))
    }

    fn error(&self, error: &RusticError) -> Error {
        store_error(&self.store, error)
    }

    pub(crate) fn keys(&self) -> Result<Vec<KeyInfo>> {
        let ids = self.store.list(FileType::Key).map_err(|error| self.error(&error))?;
        ids.into_iter().map(|id| self.key_info(KeyId::from(id))).collect()
    }

    fn key_info(&self, id: KeyId) -> Result<KeyInfo> {
        let content = self.store.read_full(FileType::Key, &id).map_err(|error| self.error(&error))?;
        let file: KeyFile = serde_json::from_slice(&content).map_err(|error| Error::Damaged {
            place: self.place().to_owned(),
            why: format!("the key file {id}: {error}"),
        })?;
        Ok(KeyInfo {
            id: id.to_hex().to_string(),
            made: file.created.map(|at| at.timestamp()),
            host: file.hostname,
            in_use: self.key == Some(id),
        })
    }

    pub(crate) fn add_key(&self, key: &SecretString) -> Result<KeyInfo> {
        let id = self.rustic()?.add_key(key.expose_secret(), &described()).map_err(|error| self.error(&error))?;
        self.key_info(id)
    }

    /// By the first digits of its id; gives the whole of it.
    pub(crate) fn remove_key(&self, digits: &str) -> Result<String> {
        let keys = self.keys()?;
        let alike: Vec<&KeyInfo> = keys.iter().filter(|key| key.id.starts_with(digits)).collect();
        let [key] = alike[..] else {
            let what = if alike.is_empty() { "no key" } else { "more than one key" };
            return Err(Error::Key(format!("{what} of {} begins with `{digits}`", self.place())));
        };
        if key.in_use {
            let why = "it is the key in use; open the repository with another one to remove it".to_owned();
            return Err(Error::Key(why));
        }
        let id: KeyId = key.id.parse().map_err(|error: Box<RusticError>| self.error(&error))?;
        self.rustic()?.delete_key(&id).map_err(|error| self.error(&error))?;
        Ok(key.id.clone())
    }
}

fn open_store(folder: &Path) -> Result<Store> {
    Store::folder(folder).map_err(|error| Error::Place { place: folder.display().to_string(), why: error.to_string() })
}

fn rustic(store: &Store, progress: &Progress) -> Result<Rustic<()>> {
    let backends = RepositoryBackends::new(Arc::new(store.clone()), None);
    // A cache would hold what the repository holds on the same disk.
    let options = RepositoryOptions::default().no_cache(true);
    Rustic::new_with_progress(&options, &backends, Bars(progress.clone())).map_err(|error| store_error(store, &error))
}

fn settings() -> ConfigOptions {
    ConfigOptions::default()
        .set_version(2_u32)
        .set_compression(crypt::LEVEL)
        .set_chunker(Chunker::FixedSize)
        .set_chunk_size(ByteSize::b(CHUNK))
        .set_datapack_size(ByteSize::b(PACK))
        .set_datapack_growfactor(0_u32)
        // Rung 2 decrypts, unpacks and hashes everything again; here it would cost each backup half of its time.
        .set_extra_verify(false)
}

fn described() -> KeyOptions {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    KeyOptions::default().hostname(host).with_created(true)
}

/// What a killed `init` has left in a folder without a repository: keys of nothing, and a `config` that is half written
/// under another name. None when the folder has anything else in it than that, our lock and what a disk has at its top.
fn left_by_init(folder: &Path) -> std::io::Result<Option<Vec<PathBuf>>> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_name().to_string_lossy().as_ref() {
            lock::NAME | "lost+found" => {}
            "keys" if entry.path().is_dir() && holds_keys_only(&entry.path())? => left.push(entry.path()),
            name if name.starts_with("config#") => left.push(entry.path()),
            _ => return Ok(None),
        }
    }
    Ok(Some(left))
}

/// By their names, also when one is half written (`#1` at its end): nobody else's folder of this name is removed.
fn holds_keys_only(folder: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let id = name.split('#').next().unwrap_or_default();
        if id.len() != 64 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a folder for our user only.
pub(crate) fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn store_error(store: &Store, error: &RusticError) -> Error {
    let (place, why) = (store.place().to_owned(), plain(error));
    if is_damage(error) { Error::Damaged { place, why } } else { Error::Place { place, why } }
}

/// What `rustic_core` calls its errors when what it has read makes no sense. It shows the kind of an error in its text
/// only.
const DAMAGE: [&str; 5] =
    ["cryptographic operations", "internal operations", "unsupported operations", "verification", "a key"];

/// Whether the bytes are at fault, and not the place that should have given or taken them.
fn is_damage(error: &RusticError) -> bool {
    let mut causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
    let is_of_the_place =
        |cause: &(dyn std::error::Error + 'static)| cause.is::<object_store::Error>() || cause.is::<io::Error>();
    let text = error.display_log();
    !causes.any(is_of_the_place) && DAMAGE.iter().any(|kind| text.contains(&format!("(kind: related to {kind}")))
}

/// What `rustic_core` says in one line. One of its errors inside of another is shown as a page, with a backtrace.
fn plain(error: &RusticError) -> String {
    let text = error.display_log();
    let line = text.lines().next().unwrap_or_default();
    let (what, _) = line.split_once(": caused by: `rustic_core` experienced").unwrap_or((line, ""));
    what.trim_start_matches("Error: ").to_owned()
}
