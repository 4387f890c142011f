//! Holds in a folder: a lock on a file of its own for each set, shared by those who restore the set, exclusive to who removes
//! it.
//!
//! Like [`super::super::Lock`] it ends with the process, however that ends. The files are empty and stay until their set goes.

use super::FOLDER;
use crate::error::{Error, Result};
use crate::repository::make_private;
use groundskeeper_core::receipt::SetId;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

/// Empty on a disk that cannot be written, where nobody removes anything either.
#[derive(Debug)]
pub(crate) struct Hold {
    _file: Option<File>,
}

impl Hold {
    /// Waits for who removes the set. A restore is worth more than its hold: where none can be had, it goes on without.
    pub(super) fn take(folder: &Path, set: &SetId) -> Self {
        let taken = open(folder, set).and_then(|file| file.lock_shared().map(|()| file));
        let taken = taken.inspect_err(|error| {
            tracing::warn!(%set, %error, "the set cannot be held; do not prune the repository while it is restored");
        });
        Self { _file: taken.ok() }
    }

    /// Whether somebody holds the set. Writes nothing.
    pub(super) fn is_on(folder: &Path, set: &SetId) -> Result<bool> {
        match File::open(path(folder, set)) {
            Ok(file) => is_locked(&file).map_err(|error| refused(folder, &error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(refused(folder, &error)),
        }
    }

    /// Whether somebody holds any set, also one that is gone.
    pub(super) fn is_on_any(folder: &Path) -> Result<bool> {
        let any = || -> std::io::Result<bool> {
            for entry in std::fs::read_dir(folder.join(FOLDER))? {
                if is_locked(&File::open(entry?.path())?)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        match any() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            other => other.map_err(|error| refused(folder, &error)),
        }
    }
}

/// The right to remove a set; its file goes with it.
#[derive(Debug)]
pub(crate) struct Claim {
    _file: File,
    path: PathBuf,
}

impl Claim {
    /// None when somebody holds the set.
    pub(super) fn on(folder: &Path, set: &SetId) -> Result<Option<Self>> {
        let file = open(folder, set).map_err(|error| refused(folder, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file, path: path(folder, set) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(refused(folder, &error)),
        }
    }

    /// The set is removed. Whoever waited for the file finds no set any more.
    pub(super) fn done(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, file = %self.path.display(), "an empty file stays behind");
        }
    }
}

fn path(folder: &Path, set: &SetId) -> PathBuf {
    folder.join(FOLDER).join(set.as_str())
}

fn open(folder: &Path, set: &SetId) -> std::io::Result<File> {
    let holds = folder.join(FOLDER);
    make_private(&holds)?;
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path(folder, set))?;
    if rustix::process::geteuid().is_root() {
        // A restore by root must not lock out the keeper, which may be somebody else.
        let owner = std::fs::metadata(folder)?;
        for made in [holds, path(folder, set)] {
            chown(made, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(file)
}

fn is_locked(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn refused(folder: &Path, error: &std::io::Error) -> Error {
    Error::Place { place: folder.display().to_string(), why: format!("{FOLDER}: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_held_cannot_be_claimed_and_asking_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let (set, other): (SetId, SetId) =
            ("20260302T010000Z-00000001".parse().unwrap(), "20260301T010000Z-00000002".parse().unwrap());
        assert!(!Hold::is_on(folder.path(), &set).unwrap() && !Hold::is_on_any(folder.path()).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let (one, two) = (Hold::take(folder.path(), &set), Hold::take(folder.path(), &set));
        assert!(Hold::is_on(folder.path(), &set).unwrap() && !Hold::is_on(folder.path(), &other).unwrap());
        drop(one);
        assert!(Claim::on(folder.path(), &set).unwrap().is_none() && Hold::is_on_any(folder.path()).unwrap());
        drop(two);
        Claim::on(folder.path(), &set).unwrap().unwrap().done();
        assert!(!path(folder.path(), &set).exists() && !Hold::is_on_any(folder.path()).unwrap());
    }
}
