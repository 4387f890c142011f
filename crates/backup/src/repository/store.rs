//! Where the repository's files lie: restic's layout over `object_store`.
//!
//! `rustic_core` is synchronous and calls from threads of its own; each call waits for the runtime that the store was
//! opened on. A file appears under its name only when it is whole and on the disk.

use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;

/// The files of one repository.
#[derive(Clone)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    runtime: Handle,
    /// For messages.
    place: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Store {
    /// A folder that exists. To be called on the runtime.
    pub(super) fn folder(folder: &Path) -> Result<Self, StoreError> {
        let objects = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self { objects: Arc::new(objects), runtime: Handle::current(), place: folder.display().to_string() })
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Waits on a thread that is none of the runtime's.
    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(super) fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        self.wait(async { self.objects.get(&Key::from(name)).await?.bytes().await })
    }

    pub(super) fn put(&self, name: &str, content: impl Into<PutPayload>) -> Result<(), StoreError> {
        self.wait(self.objects.put(&Key::from(name), content.into())).map(|_| ())
    }

    /// Fails with [`StoreError::AlreadyExists`] when there is one of this name.
    pub(super) fn put_first(&self, name: &str, content: impl Into<PutPayload>) -> Result<(), StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.wait(self.objects.put_opts(&Key::from(name), content.into(), options)).map(|_| ())
    }

    /// Everything below a folder, with its whole name.
    pub(super) fn list_below(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let key = Key::from(folder);
        let objects: Vec<_> = self.wait(self.objects.list(Some(&key)).try_collect())?;
        let listed = objects.into_iter().map(|object| Listed {
            name: object.location.to_string(),
            size: object.size,
            at: Timestamp::from_second(object.last_modified.timestamp()).unwrap_or_default(),
        });
        Ok(listed.collect())
    }

    pub(super) fn names(&self, folder: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let key = Key::from(folder);
        let objects: Vec<_> = self.wait(self.objects.list(Some(&key)).try_collect())?;
        let named =
            objects.into_iter().filter_map(|object| Some((object.location.filename()?.to_owned(), object.size)));
        Ok(named.collect())
    }

    /// What is not there is removed already.
    pub(super) fn erase(&self, name: &str) -> Result<(), StoreError> {
        match self.wait(self.objects.delete(&Key::from(name))) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    pub(super) fn exists(&self, name: &str) -> Result<bool, StoreError> {
        match self.wait(self.objects.head(&Key::from(name))) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn failure(&self, doing: &str, name: &str, error: StoreError) -> Box<RusticError> {
        RusticError::with_source(ErrorKind::Backend, "{doing} `{name}` in `{place}` failed", error)
            .attach_context("doing", doing)
            .attach_context("name", name)
            .attach_context("place", self.place.clone())
    }
}

/// A file beside restic's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// From the top of the repository.
    pub(crate) name: String,
    pub(crate) size: u64,
    /// When it was put there.
    pub(crate) at: Timestamp,
}

/// restic's name of a file: packs lie in folders by the first two digits.
pub(super) fn name(tpe: FileType, id: &Id) -> String {
    let hex = id.to_hex();
    match tpe {
        FileType::Config => "config".to_owned(),
        FileType::Pack => format!("data/{}/{}", &hex[..2], &hex[..]),
        _ => format!("{}/{}", tpe.dirname(), &hex[..]),
    }
}

impl ReadBackend for Store {
    fn location(&self) -> String {
        self.place.clone()
    }

    fn list_with_size(&self, tpe: FileType) -> RusticResult<Vec<(Id, u32)>> {
        if tpe == FileType::Config {
            let found = self.exists("config").map_err(|error| self.failure("looking for", "config", error))?;
            return Ok(if found { vec![(Id::default(), 0)] } else { Vec::new() });
        }
        let listed = self.names(tpe.dirname()).map_err(|error| self.failure("listing", tpe.dirname(), error))?;
        // Whatever else lies there (a half-written file of a dead process) is none of the repository's.
        let ids = listed.into_iter().filter_map(|(name, size)| Some((name.parse().ok()?, u32::try_from(size).ok()?)));
        Ok(ids.collect())
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        let name = name(tpe, id);
        self.get(&name).map_err(|error| self.failure("reading", &name, error))
    }

    fn read_partial(&self, tpe: FileType, id: &Id, _cacheable: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        let name = name(tpe, id);
        let range = u64::from(offset)..u64::from(offset) + u64::from(length);
        let read = self
            .wait(self.objects.get_range(&Key::from(name.as_str()), range))
            .map_err(|error| self.failure("reading", &name, error))?;
        if read.len() == length as usize {
            return Ok(read);
        }
        let short = RusticError::new(ErrorKind::Verification, "`{name}` in `{place}` is shorter than it was written");
        Err(short.attach_context("name", name).attach_context("place", self.place.clone()))
    }

    fn warmup_path(&self, tpe: FileType, id: &Id) -> String {
        name(tpe, id)
    }
}

impl WriteBackend for Store {
    fn write_bytes(&self, tpe: FileType, id: &Id, _cacheable: bool, content: BytesList) -> RusticResult<()> {
        let name = name(tpe, id);
        let payload: PutPayload = content.into_vec().into_iter().collect();
        self.put(&name, payload).map_err(|error| self.failure("writing", &name, error))
    }

    fn remove(&self, tpe: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        let name = name(tpe, id);
        self.wait(self.objects.delete(&Key::from(name.as_str())))
            .map_err(|error| self.failure("removing", &name, error))
    }
}
