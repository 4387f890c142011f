//! A copy of the store that is whole in itself, made while the keeper goes on writing.
//!
//! `VACUUM INTO` reads one moment of the store over a connection of its own, so that nobody waits for it, and leaves out
//! what was deleted. The file beside the journal would not do: what was written last is in the journal.

use super::{Error, FILE, Result, described, private};
use rusqlite::{Connection, OpenFlags, params};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One at a time, so one name does; what a killed keeper left under it is replaced.
const COPY: &str = "record.copy.sqlite";

/// The copy's file, for its owner only; it goes with this value.
#[derive(Debug)]
pub struct Copy {
    path: PathBuf,
}

impl Copy {
    /// Copies the store in `folder` to a file beside it. Blocks, for as long as the disk takes.
    pub fn make(folder: &Path) -> Result<Self> {
        let unusable = |cause| Error::Folder { folder: folder.to_owned(), cause };
        let copy = Self { path: folder.join(COPY) };
        copy.remove();
        // SQLite fills an empty file that is there, and leaves its permissions alone.
        private(&copy.path).map_err(unusable)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let store = Connection::open_with_flags(folder.join(FILE), flags)?;
        store.busy_timeout(Duration::from_secs(5))?;
        let into = copy.path.to_str().ok_or_else(|| Error::Lookup("the state folder's name is not UTF-8".into()))?;
        store.execute("VACUUM INTO ?1", params![into]).map_err(|error| described(folder, error))?;
        Ok(copy)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn remove(&self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let mut part = self.path.clone().into_os_string();
            part.push(suffix);
            // What is not there need not go.
            let _ = fs::remove_file(part);
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.remove();
    }
}
