//! One backup, verification or prune at a time.
//!
//! `rustic_core` takes no locks. Ours is a file lock in the repository's folder: it ends with the process that holds it,
//! however that ends.

use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

pub(super) const NAME: &str = "groundskeeper.lock";

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let refused =
            |error: std::io::Error| Error::Place { place: folder.display().to_string(), why: error.to_string() };
        let path = folder.join(NAME);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(refused)?;
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
        Ok(Self { _file: file })
    }
}
