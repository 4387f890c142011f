//! Where the repository's files lie: restic's layout over `object_store`.
//!
//! `rustic_core` is synchronous and calls from threads of its own; each call waits for the runtime that the store was
//! opened on. A file appears under its name only when it is whole and on the disk.

use crate::error::{Error, Result as OurResult};
use crate::place::{Left, Limiter, Load, Patience, Place, is_beyond_the_end, told};
use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::path::Path as Key;
use object_store::{
    Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The files of one repository.
#[derive(Clone)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    limiter: Arc<Limiter>,
    runtime: Handle,
    /// For messages.
    place: String,
    /// Whether failures come from an object store, which answers in its own way.
    remote: bool,
    /// The last time that the store could not do what it was asked, in a sentence. That something is not there is an
    /// answer.
    failure: Arc<Mutex<Option<String>>>,
    left: Left,
    /// The lock that is held, where that is an object.
    lease: Arc<OnceLock<Lease>>,
    /// Why nothing may be written any more.
    revoked: Arc<OnceLock<String>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Store {
    /// A folder has to exist. To be called on the runtime.
    pub(super) fn open(place: &Place, patience: Patience) -> OurResult<Self> {
        let objects = place.objects(patience)?;
        let remote = place.folder().is_none();
        Ok(Self { limiter: place.limiter(), left: place.left(), remote, ..Self::of(objects, &place.to_string()) })
    }

    /// Of objects that are at hand.
    pub(super) fn of(objects: Arc<dyn ObjectStore>, place: &str) -> Self {
        Self {
            objects,
            limiter: Place::of_folder(place).limiter(),
            runtime: Handle::current(),
            place: place.to_owned(),
            remote: false,
            failure: Arc::default(),
            left: Left::default(),
            lease: Arc::default(),
            revoked: Arc::default(),
        }
    }

    /// As a later opening by the same process has it.
    #[cfg(test)]
    pub(super) fn again(&self) -> Self {
        Self { lease: Arc::default(), revoked: Arc::default(), ..self.clone() }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Waits on a thread that is none of the runtime's.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }

    /// What went wrong, in a sentence.
    pub(super) fn told(&self, error: &StoreError) -> String {
        match error {
            StoreError::Generic { store: REVOKED, source } => source.to_string(),
            error if self.remote => told(error),
            error => error.to_string(),
        }
    }

    pub(super) fn refused(&self, error: &StoreError) -> Error {
        Error::Place { place: self.place.clone(), why: self.told(error) }
    }

    /// The last failure of an object store, in a sentence: what followed from it is not the fault of what is stored.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this lock is held, until this store goes: one is taken for one opening of a repository.
    pub(super) fn hold(&self, lease: Lease) {
        // Nobody takes a second one.
        let _ = self.lease.set(lease);
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.get()
    }

    /// A lock that could not be taken away.
    pub(super) fn leave(&self, id: &str) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    pub(super) fn was_left(&self, id: &str) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// From now on nothing is written.
    pub(super) fn revoke(&self, why: &str) {
        // The first reason is the one that counts.
        if self.revoked.set(why.to_owned()).is_ok() {
            tracing::error!(place = self.place, why, "nothing is written into the repository any more");
        }
    }

    /// Every way of changing something asks this first.
    fn may_write(&self) -> Result<(), StoreError> {
        if self.lease().is_some_and(Lease::is_over) {
            self.revoke(OVER);
        }
        match self.revoked.get() {
            None => Ok(()),
            Some(why) => Err(StoreError::Generic { store: REVOKED, source: why.clone().into() }),
        }
    }

    pub(super) fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        self.wait(self.find(name)).map(|found| found.content)
    }

    /// An object with what tells it from an earlier one of the same name.
    pub(super) async fn find(&self, name: &str) -> Result<Found, StoreError> {
        let key = Key::from(name);
        let reading = async {
            let found = self.objects.get(&key).await?;
            let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            let written = time_of(&found.meta);
            Ok::<_, StoreError>(Found { content: found.bytes().await?, version, written })
        };
        let found = self.limiter.pass(Load::Down(0), reading).await?;
        self.limiter.downloaded(found.content.len() as u64);
        Ok(found)
    }

    /// What time it is by the clock of the store, which is the only one that all machines share.
    pub(super) async fn clock(&self) -> Result<Timestamp, StoreError> {
        self.put_mode(CLOCK, Vec::new(), PutMode::Overwrite).await?;
        let key = Key::from(CLOCK);
        Ok(time_of(&self.limiter.pass(Load::Nothing, self.objects.head(&key)).await?))
    }

    pub(super) fn put(&self, name: &str, content: impl Into<PutPayload>) -> Result<(), StoreError> {
        self.wait(self.put_mode(name, content, PutMode::Overwrite)).map(|_| ())
    }

    pub(super) async fn put_mode(
        &self,
        name: &str,
        content: impl Into<PutPayload>,
        mode: PutMode,
    ) -> Result<UpdateVersion, StoreError> {
        self.may_write()?;
        let (key, content) = (Key::from(name), content.into());
        let load = Load::Up(content.content_length() as u64);
        let options = PutOptions::from(mode);
        let put = self.limiter.pass(load, self.objects.put_opts(&key, content, options)).await?;
        Ok(UpdateVersion { e_tag: put.e_tag, version: put.version })
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let key = Key::from(name);
        self.limiter.pass(Load::Nothing, self.objects.delete(&key)).await
    }

    /// Everything below a folder, in no order.
    pub(super) fn objects_in(&self, folder: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let key = Key::from(folder);
        self.wait(self.limiter.pass(Load::Nothing, self.objects.list(Some(&key)).try_collect()))
    }

    /// Fails with [`StoreError::AlreadyExists`] when there is one of this name.
    pub(super) fn put_first(&self, name: &str, content: impl Into<PutPayload>) -> Result<(), StoreError> {
        self.wait(self.put_mode(name, content, PutMode::Create)).map(|_| ())
    }

    /// Everything below a folder, with its whole name.
    pub(super) fn list_below(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let listed = self.objects_in(folder)?.into_iter().map(|object| Listed {
            at: time_of(&object),
            name: object.location.to_string(),
            size: object.size,
        });
        Ok(listed.collect())
    }

    pub(super) fn names(&self, folder: &str) -> Result<Vec<(String, u64)>, StoreError> {
        let objects = self.objects_in(folder)?;
        let named =
            objects.into_iter().filter_map(|object| Some((object.location.filename()?.to_owned(), object.size)));
        Ok(named.collect())
    }

    /// What is not there is removed already.
    pub(super) fn erase(&self, name: &str) -> Result<(), StoreError> {
        self.may_write()?;
        match self.wait(self.delete(name)) {
            Err(StoreError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// The names below the top as far as they are `known`; None when something else is there, too.
    pub(super) fn all_known(&self, known: impl Fn(&str) -> bool) -> Result<Option<Vec<String>>, StoreError> {
        let looking = async {
            let (mut objects, mut names) = (self.objects.list(None), Vec::new());
            while let Some(object) = objects.try_next().await? {
                let name = object.location.to_string();
                if !known(&name) {
                    return Ok(None);
                }
                names.push(name);
            }
            Ok(Some(names))
        };
        self.wait(self.limiter.pass(Load::Nothing, looking))
    }

    pub(super) fn exists(&self, name: &str) -> Result<bool, StoreError> {
        let key = Key::from(name);
        match self.wait(self.limiter.pass(Load::Nothing, self.objects.head(&key))) {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn failed(&self, doing: &str, name: &str, error: StoreError) -> Box<RusticError> {
        let why = self.told(&error);
        if self.remote && !matches!(error, StoreError::NotFound { .. }) {
            let sentence = format!("{doing} `{name}` failed: {why}");
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence);
        }
        // The answer of an object store may repeat what is secret.
        let failed = if self.remote {
            RusticError::new(ErrorKind::Backend, "{doing} `{name}` in `{place}` failed: {why}")
        } else {
            RusticError::with_source(ErrorKind::Backend, "{doing} `{name}` in `{place}` failed", error)
        };
        failed
            .attach_context("doing", doing)
            .attach_context("name", name)
            .attach_context("place", self.place.clone())
            .attach_context("why", why)
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

/// Marks an error of our own.
const REVOKED: &str = "the lock";
const OVER: &str = "its lock could not be renewed in time, as after a sleep of this machine; run it again";
/// Written to see what time the store says it was. Empty.
pub(super) const CLOCK: &str = "groundskeeper.clock";

/// When the store says that it was written.
pub(super) fn time_of(object: &ObjectMeta) -> Timestamp {
    Timestamp::from_microsecond(object.last_modified.timestamp_micros()).unwrap_or_default()
}

/// The lock that is held, for as long as nobody else may believe that it is nobody's.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: String,
    /// By [`since_boot`].
    ends: Mutex<Duration>,
}

impl Lease {
    pub(super) fn new(id: &str, ends: Duration) -> Self {
        Self { id: id.to_owned(), ends: Mutex::new(ends) }
    }

    pub(super) fn prolong(&self, ends: Duration) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    pub(super) fn is_over(&self) -> bool {
        since_boot() > *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes on while the machine sleeps, unlike [`std::time::Instant`], and cannot be set.
pub(super) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// An object as it was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) content: Bytes,
    pub(super) version: UpdateVersion,
    pub(super) written: Timestamp,
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
            let found = self.exists("config").map_err(|error| self.failed("looking for", "config", error))?;
            return Ok(if found { vec![(Id::default(), 0)] } else { Vec::new() });
        }
        let listed = self.names(tpe.dirname()).map_err(|error| self.failed("listing", tpe.dirname(), error))?;
        // Whatever else lies there (a half-written file of a dead process) is none of the repository's.
        let ids = listed.into_iter().filter_map(|(name, size)| Some((name.parse().ok()?, u32::try_from(size).ok()?)));
        Ok(ids.collect())
    }

    fn read_full(&self, tpe: FileType, id: &Id) -> RusticResult<Bytes> {
        let name = name(tpe, id);
        self.get(&name).map_err(|error| self.failed("reading", &name, error))
    }

    fn read_partial(&self, tpe: FileType, id: &Id, _cacheable: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        let name = name(tpe, id);
        let range = u64::from(offset)..u64::from(offset) + u64::from(length);
        let key = Key::from(name.as_str());
        match self.wait(self.limiter.pass(Load::Down(u64::from(length)), self.objects.get_range(&key, range))) {
            Ok(read) if read.len() == length as usize => return Ok(read),
            Ok(_) => {}
            Err(error) if self.remote && is_beyond_the_end(&error) => {}
            Err(error) => return Err(self.failed("reading", &name, error)),
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
        self.put(&name, payload).map_err(|error| self.failed("writing", &name, error))
    }

    fn remove(&self, tpe: FileType, id: &Id, _cacheable: bool) -> RusticResult<()> {
        let name = name(tpe, id);
        self.may_write()
            .and_then(|()| self.wait(self.delete(&name)))
            .map_err(|error| self.failed("removing", &name, error))
    }
}
