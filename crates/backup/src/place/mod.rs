//! Where a repository is: a folder, or a bucket of an object store.
//!
//! | module | what it holds |
//! |---|---|
//! | `bucket` | what is configured of an object store |
//! | `connect` | the client of one |
//! | `limits` | bandwidth and requests at a time |
//! | `told` | what an object store answered, in a sentence |

mod bucket;
mod connect;
mod limits;
mod told;

pub use bucket::{Bucket, Secret, Service, Storage};
pub(crate) use limits::{Limiter, Load};
pub use limits::{Limits, Traffic};
pub(crate) use told::{is_beyond_the_end, told};

use crate::error::{Error, Result};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A place for a repository. Clones share its limits, and what was counted.
#[derive(Debug, Clone)]
pub struct Place {
    at: At,
    limiter: Arc<Limiter>,
    left: Left,
}

/// The locks of ours in an object store that could not be taken away, by their ids: nobody else would know that they are
/// nobody's, because our process lives on.
pub(crate) type Left = Arc<Mutex<BTreeSet<String>>>;

#[derive(Debug, Clone)]
enum At {
    Folder(PathBuf),
    Bucket(Box<Bucket>),
}

/// How long failures are borne.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as it is configured: work would be lost.
    Work,
    /// A few seconds: somebody only looks.
    Look,
}

impl Place {
    pub fn of_folder(folder: impl Into<PathBuf>) -> Self {
        let limits = Limits { connections: None, ..Limits::default() };
        Self { at: At::Folder(folder.into()), limiter: Arc::new(Limiter::new(limits)), left: Left::default() }
    }

    pub fn of_bucket(bucket: Bucket) -> Self {
        let limiter = Arc::new(Limiter::new(Limits::default()));
        Self { at: At::Bucket(Box::new(bucket)), limiter, left: Left::default() }
    }

    /// With limits of its own instead.
    #[must_use]
    pub fn limited(self, limits: Limits) -> Self {
        Self { limiter: Arc::new(Limiter::new(limits)), ..self }
    }

    /// Whether a text is the address of an object store, and no folder.
    pub fn is_address(text: &str) -> bool {
        text.contains("://")
    }

    /// The folder, where it is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.at {
            At::Folder(folder) => Some(folder),
            At::Bucket(_) => None,
        }
    }

    /// How the object store is reached, where it is one.
    pub(crate) fn storage(&self) -> Option<&Storage> {
        match &self.at {
            At::Folder(_) => None,
            At::Bucket(bucket) => Some(&bucket.storage),
        }
    }

    pub fn traffic(&self) -> Traffic {
        self.limiter.traffic()
    }

    /// As restic writes it.
    pub(crate) fn restic(&self) -> String {
        match &self.at {
            At::Folder(folder) => folder.display().to_string(),
            At::Bucket(bucket) => bucket.restic(),
        }
    }

    /// Variables of the environment that restic needs to reach it.
    pub(crate) fn variables(&self) -> Vec<&'static str> {
        match &self.at {
            At::Folder(_) => Vec::new(),
            At::Bucket(bucket) => bucket.variables().into(),
        }
    }

    pub(crate) fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.limiter)
    }

    pub(crate) fn left(&self) -> Left {
        Arc::clone(&self.left)
    }

    /// The objects of the repository, by names without the prefix. A folder has to exist.
    pub(crate) fn objects(&self, patience: Patience) -> Result<Arc<dyn ObjectStore>> {
        let refused = |why: String| Error::Place { place: self.to_string(), why };
        match &self.at {
            At::Folder(folder) => {
                let objects = LocalFileSystem::new_with_prefix(folder).map_err(|error| refused(error.to_string()))?;
                Ok(Arc::new(objects.with_fsync(true)))
            }
            At::Bucket(bucket) => connect::objects(bucket, patience).map_err(refused),
        }
    }
}

impl fmt::Display for Place {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Folder(folder) => folder.display().fmt(f),
            At::Bucket(bucket) => bucket.fmt(f),
        }
    }
}
