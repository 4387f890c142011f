//! One backup, verification or prune at a time.
//!
//! `rustic_core` takes no locks. In a folder ours is a file lock: it ends with the process that holds it, however that
//! ends. An object store knows no such thing; there it is an object, see `lease`.

use super::Repository;
use super::lease::{self, Held};
use super::store::Store;
use crate::error::{Error, Result};
use crate::place::Place;
use jiff::Timestamp;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

pub(super) const NAME: &str = "groundskeeper.lock";

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) enum Lock {
    File { _file: File },
    Object { _held: Box<Held> },
}

impl Lock {
    /// `place` is where `repository` is.
    pub(crate) fn take(place: &Place, repository: &Repository, now: Timestamp) -> Result<Self> {
        Self::over(place, &repository.store, Some(now))
    }

    /// Also where no repository is yet.
    pub(super) fn over(place: &Place, store: &Store, since: Option<Timestamp>) -> Result<Self> {
        match place.folder() {
            Some(folder) => of_file(folder).map(|file| Self::File { _file: file }),
            None => Held::take(store, since).map(|held| Self::Object { _held: Box::new(held) }),
        }
    }
}

impl Repository {
    /// Fails when the lock of an object store was lost: to be asked before what cannot be taken back.
    pub(super) fn confirm_lock(&self) -> Result<()> {
        lease::confirm(&self.store)
    }

    /// Fails where a lock in an object store keeps nobody out for sure.
    pub(crate) fn must_be_alone(&self) -> Result<()> {
        lease::must_be_obeyed(&self.store)
    }
}

fn of_file(folder: &Path) -> Result<File> {
    let refused = |error: std::io::Error| Error::Place { place: folder.display().to_string(), why: error.to_string() };
    let path = folder.join(NAME);
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who it is only helps to find it; that somebody holds it is known.
            let _ = file.read_to_string(&mut holder);
            return Err(Error::Busy(holder.trim().to_owned()));
        }
        Err(TryLockError::Error(error)) => return Err(refused(error)),
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(refused)?;
    writeln!(file, "{}", std::process::id()).map_err(refused)?;
    Ok(file)
}
