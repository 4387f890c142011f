//! One repository in the restic format: opened, written to, read from.
//!
//! | module | what it holds |
//! |---|---|
//! | `store` | the files, over `object_store` |
//! | `feed`, `chunks` | entries on their way in, packed by us and why |
//! | `packs`, `crypt` | what a pack and an index are |
//! | `tree` | folders, written by us and why |
//! | `writer` | a set while it is made |
//! | `reader` | lists, restores, reads back |
//! | `unpack` | the bytes of restored files, written by us and why |
//! | `receipts` | the proofs, beside restic's own files |
//! | `beside` | other files of ours there: the WAL, the exports of rows |
//! | `init` | makes one |
//! | `lock`, `lease` | one of us at a time: a file's lock, an object that says whose it is |
//! | `hold` | sets that somebody restores |
//! | `owner` | whose an object is, and when it is nobody's any more |
//! | `glance` | what has changed, without the key |
//! | `prune` | sets are taken out |
//!
//! Everything here is synchronous and must be called from threads that may block.

#[cfg(test)]
mod aged;
mod beside;
mod chunks;
mod crypt;
pub(crate) mod feed;
mod glance;
mod hold;
mod init;
mod lease;
mod lock;
mod owner;
mod packs;
mod prune;
mod reader;
mod receipts;
mod store;
mod tree;
mod unpack;
mod writer;

pub(crate) use glance::glance;
pub(crate) use hold::{Claim, Hold, Holds};
pub(crate) use lock::Lock;
pub(crate) use prune::Removal;
pub(crate) use reader::{StoredSet, Tally};
pub(crate) use store::Listed;
pub(crate) use writer::SetWriter;

use crate::error::{Error, Result};
use crate::place::{Patience, Place};
use crate::progress::{Bars, Progress};
use crate::source::qdrant::hexadecimal;
use crate::vault::KeyInfo;
use bytesize::ByteSize;
use crypt::Crypt;
use rustic_core::repofile::{Chunker, KeyFile, KeyId, MasterKey};
use rustic_core::{
    ConfigOptions, Credentials, FileType, KeyOptions, OpenStatus, ReadBackend, RepositoryBackends, RepositoryOptions,
    RusticError,
};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;
use std::sync::Arc;
use store::Store;

/// The file that makes a place a repository.
const CONFIG: &str = "config";
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

/// What a key was shown to open, so that it need not be stretched again.
#[derive(Clone)]
pub(crate) struct Unlocked {
    /// SHA-256 of the key.
    digest: [u8; 32],
    key: KeyId,
    master: MasterKey,
}

impl std::fmt::Debug for Unlocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unlocked").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Unlocked {
    fn digest(key: &SecretString) -> [u8; 32] {
        Sha256::digest(key.expose_secret()).into()
    }
}

impl Repository {
    /// Opens a repository; the key is tried on every key file, which takes a third of a second each on purpose.
    pub(crate) fn open(place: &Place, key: &SecretString) -> Result<Self> {
        Self::open_again(place, key, None)
    }

    /// The same, faster for a key that has opened it before and was not removed since.
    pub(crate) fn open_again(place: &Place, key: &SecretString, before: Option<Unlocked>) -> Result<Self> {
        if !Self::is_there(place)? {
            return Err(Error::NoRepository { place: place.to_string() });
        }
        let store = Store::open(place, Patience::Work)?;
        if let Some(Unlocked { digest, key: id, master }) = before
            && digest == Unlocked::digest(key)
            && is_whole(&store, id)
        {
            let opened = rustic(&store, &Progress::default())?.open(&Credentials::Masterkey(master));
            // Another repository may have taken its place: then the key is tried as on the first day.
            if let Ok(opened) = opened {
                return Ok(Self { key: Some(id), ..Self::opened(store, &opened) });
            }
        }
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

    /// Whether the place holds a repository.
    pub(crate) fn is_there(place: &Place) -> Result<bool> {
        if let Some(folder) = place.folder() {
            let looked = folder.join(CONFIG).try_exists();
            return looked.map_err(|error| Error::Place { place: place.to_string(), why: error.to_string() });
        }
        let store = Store::open(place, Patience::Work)?;
        store.exists(CONFIG).map_err(|error| store.refused(&error))
    }

    fn opened(store: Store, opened: &Rustic<OpenStatus>) -> Self {
        let master = opened.key();
        let crypt = Crypt::new(&master);
        Self { store, crypt, master, key: *opened.key_id(), progress: Progress::default() }
    }

    /// For [`Self::open_again`] with this key.
    pub(crate) fn unlocked(&self, key: &SecretString) -> Option<Unlocked> {
        Some(Unlocked { digest: Unlocked::digest(key), key: self.key?, master: self.master.clone() })
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

/// Whether a key file is there and is what it was: its name is the SHA-256 of its content. One that was damaged opens
/// nothing the next day, and has to be noticed today.
fn is_whole(store: &Store, key: KeyId) -> bool {
    let content = store.read_full(FileType::Key, &key);
    content.is_ok_and(|content| hexadecimal(&Sha256::digest(&content)) == key.to_hex().to_string())
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
        .set_chunk_size(ByteSize::b(feed::CHUNK as u64))
        .set_datapack_size(ByteSize::b(packs::PACK as u64))
        .set_datapack_growfactor(0_u32)
        // Rung 2 decrypts, unpacks and hashes everything again; here it would cost half of the time.
        .set_extra_verify(false)
}

fn described() -> KeyOptions {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    KeyOptions::default().hostname(host).with_created(true)
}

/// Makes a folder for our user only.
pub(crate) fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn store_error(store: &Store, error: &RusticError) -> Error {
    let place = store.place().to_owned();
    if let Some(why) = store.failure() {
        return Error::Place { place, why };
    }
    let why = plain(error);
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
