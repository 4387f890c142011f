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
//!
//! Everything here is synchronous and must be called from threads that may block.

mod beside;
mod crypt;
pub(crate) mod feed;
mod lock;
mod reader;
mod receipts;
mod store;
mod tree;
mod writer;

pub(crate) use lock::Lock;
pub(crate) use reader::StoredSet;
pub(crate) use writer::SetWriter;

use crate::error::{Error, Result};
use crate::vault::KeyInfo;
use bytesize::ByteSize;
use crypt::Crypt;
use rustic_core::repofile::{Chunker, KeyFile, KeyId, MasterKey};
use rustic_core::{
    ConfigOptions, Credentials, FileType, KeyOptions, OpenStatus, ReadBackend, RepositoryBackends, RepositoryOptions,
    RusticError,
};
use secrecy::{ExposeSecret, SecretString};
use std::path::Path;
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
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes a repository in a folder that is empty, or not there yet.
    pub(crate) fn init(folder: &Path, key: &SecretString) -> Result<Self> {
        let place = folder.display().to_string();
        let refused = |error: std::io::Error| Error::Place { place: place.clone(), why: error.to_string() };
        make_private(folder).map_err(refused)?;
        let foreign = std::fs::read_dir(folder).map_err(refused)?.next().is_some();
        if foreign {
            let why = "the folder is not empty; a repository wants one of its own".to_owned();
            return Err(Error::Place { place, why });
        }
        let store = open_store(folder)?;
        let opened = rustic(&store)?
            .init(&Credentials::password(key.expose_secret()), &described(), &settings())
            .map_err(|error| store_error(&store, &error))?;
        Ok(Self::opened(store, &opened))
    }

    /// Opens a repository; the key is tried on every key file, which takes a tenth of a second each on purpose.
    pub(crate) fn open(folder: &Path, key: &SecretString) -> Result<Self> {
        if !Self::is_there(folder)? {
            return Err(Error::NoRepository { place: folder.display().to_string() });
        }
        let store = open_store(folder)?;
        let opened = rustic(&store)?.open(&Credentials::password(key.expose_secret())).map_err(|error| {
            if error.is_incorrect_password() {
                Error::WrongKey { place: store.place().to_owned() }
            } else {
                store_error(&store, &error)
            }
        })?;
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
        Self { store, crypt, master, key: *opened.key_id() }
    }

    pub(crate) fn place(&self) -> &str {
        self.store.place()
    }

    /// A fresh view of the repository: what others wrote since is in it.
    fn rustic(&self) -> Result<Rustic<OpenStatus>> {
        rustic(&self.store)?.open(&Credentials::Masterkey(self.master.clone())).map_err(|error| self.error(&error))
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

fn rustic(store: &Store) -> Result<Rustic<()>> {
    let backends = RepositoryBackends::new(Arc::new(store.clone()), None);
    // A cache would hold what the repository holds on the same disk.
    let options = RepositoryOptions::default().no_cache(true);
    Rustic::new(&options, &backends).map_err(|error| store_error(store, &error))
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

/// Makes a folder for our user only.
pub(crate) fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn store_error(store: &Store, error: &RusticError) -> Error {
    let why = plain(error);
    Error::Place { place: store.place().to_owned(), why }
}

/// What `rustic_core` says, without its advice to report a bug to its makers.
fn plain(error: &RusticError) -> String {
    error.display_log()
}
