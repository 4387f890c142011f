//! A restored data directory that may be booted.

use super::{ScratchPlace, User};
use crate::error::{Error, Result};
use crate::wal::tablespaces::Start;
use groundskeeper_core::receipt::Lsn;
use jiff::Timestamp;
use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A data directory inside of a scratch place, which belongs to the user that Postgres runs as, and in which no link
/// leads out of the place. There is no server without one.
#[derive(Debug)]
pub struct DataFolder<'a> {
    place: &'a ScratchPlace,
    path: PathBuf,
    replay: Option<Replay>,
}

/// WAL after the set, in the folder's `pg_wal`, is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    pub timeline: u32,
    pub until: Until,
    /// Where in the WAL that is; None: not known, or at its end.
    pub(crate) stops: Option<Start>,
}

/// How far WAL is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    End,
    /// The last transaction at or before this.
    Time(Timestamp),
    /// No record that begins here or later.
    Before(Lsn),
}

impl<'a> DataFolder<'a> {
    /// Looks at every file of it, and at what its links lead to (the tablespaces). Contents stay as they are.
    pub async fn take_over(place: &'a ScratchPlace, path: &Path) -> Result<Self> {
        let walk = Walk { place: place.path().to_owned(), user: place.user().cloned() };
        let path = path.to_owned();
        let taken = tokio::task::spawn_blocking(move || walk.take_over(&path)).await;
        let path = taken.map_err(|error| Error::Worker(error.to_string()))??;
        Ok(Self { place, path, replay: None })
    }

    /// Lets a server on it replay more than its base backup needs.
    #[must_use]
    pub fn with_replay(self, replay: Option<Replay>) -> Self {
        Self { replay, ..self }
    }

    pub fn replay(&self) -> Option<Replay> {
        self.replay
    }

    pub fn place(&self) -> &'a ScratchPlace {
        self.place
    }

    /// Absolute and without links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

struct Walk {
    place: PathBuf,
    user: Option<User>,
}

impl Walk {
    fn take_over(&self, path: &Path) -> Result<PathBuf> {
        let data = self.inside(path)?;
        if data == self.place || path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
            let why = format!("{} is no folder of its own in the scratch place", path.display());
            return Err(Error::Scratch(why));
        }
        self.give_way_to(&data)?;
        let (mut waiting, mut known) = (vec![data.clone()], HashSet::from([data.clone()]));
        while let Some(folder) = waiting.pop() {
            self.give(&folder)?;
            for entry in fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))? {
                let path = entry.map_err(|error| unreadable(&folder, &error))?.path();
                let meta = path.symlink_metadata().map_err(|error| unreadable(&path, &error))?;
                if let Some(next) = self.visit(&path, &meta)?.filter(|next| known.insert(next.clone())) {
                    self.give_way_to(&next)?;
                    waiting.push(next);
                }
            }
        }
        // Postgres starts in no other.
        let closed = fs::set_permissions(&data, fs::Permissions::from_mode(0o700));
        closed.map_err(|error| unreadable(&data, &error))?;
        Ok(data)
    }

    /// The folder that `path` is or leads to, to be walked as well.
    fn visit(&self, path: &Path, meta: &Metadata) -> Result<Option<PathBuf>> {
        if meta.is_dir() {
            return Ok(Some(path.to_owned()));
        }
        // A second name of a live file: to write to it, or to give it away, would change that.
        if meta.is_file() && meta.nlink() > 1 {
            let why = format!("{} has another name elsewhere (a hard link); it is not booted", path.display());
            return Err(Error::Scratch(why));
        }
        self.give(path)?;
        let target = if meta.is_symlink() { Some(self.inside(path)?) } else { None };
        Ok(target.filter(|target| target.is_dir()))
    }

    /// What `path` really is, when that is in the place.
    fn inside(&self, path: &Path) -> Result<PathBuf> {
        let real = path.canonicalize().map_err(|error| unreadable(path, &error))?;
        if !real.starts_with(&self.place) {
            return Err(Error::Scratch(format!(
                "{} leads to {}, out of the scratch place {}; it is not booted",
                path.display(),
                real.display(),
                self.place.display()
            )));
        }
        Ok(real)
    }

    fn give(&self, path: &Path) -> Result<()> {
        self.user.as_ref().map_or(Ok(()), |user| user.give(path))
    }

    /// The folders between the place and `folder`.
    fn give_way_to(&self, folder: &Path) -> Result<()> {
        let mut between =
            folder.ancestors().skip(1).take_while(|above| *above != self.place && above.starts_with(&self.place));
        between.try_for_each(|above| self.give(above))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Scratch(format!("{}: {error}", path.display()))
}
