//! Who needs a set now: those who restore it hold it, and who removes it claims it. Never both.
//!
//! In a folder these are locks of the kernel, in an object store objects that say whose they are.

mod folder;
mod objects;

use super::{Repository, StoredSet};
use crate::error::Result;
use crate::place::Place;
use groundskeeper_core::receipt::SetId;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::PathBuf;

const FOLDER: &str = "holds";

/// While this lives, its set and everything that it needs stay.
#[derive(Debug)]
pub(crate) enum Hold {
    InFolder { _hold: folder::Hold },
    InStore { _hold: Option<objects::Hold> },
}

impl Hold {
    /// Finds a set (the newest without a name) and holds it. One that was removed meanwhile is not found.
    pub(crate) fn on(place: &Place, repository: &Repository, wanted: Option<&SetId>) -> Result<(StoredSet, Self)> {
        let set = repository.set(wanted)?;
        let hold = match place.folder() {
            Some(folder) => Self::InFolder { _hold: folder::Hold::take(folder, &set.id) },
            None => Self::InStore { _hold: objects::Hold::take(&repository.store, &set.id) },
        };
        Ok((repository.set(Some(&set.id))?, hold))
    }
}

/// Which sets are held.
#[derive(Debug)]
pub(crate) enum Holds {
    /// Asked each time.
    InFolder(PathBuf),
    /// As they were listed.
    InStore(BTreeSet<SetId>),
}

impl Holds {
    /// Writes nothing. `clock` is [`Repository::clock`]; without it a hold in an object store also counts when it is old.
    pub(crate) fn look(place: &Place, repository: &Repository, clock: Option<Timestamp>) -> Result<Self> {
        Ok(match place.folder() {
            Some(folder) => Self::InFolder(folder.to_owned()),
            None => Self::InStore(objects::held(&repository.store, clock)?),
        })
    }

    pub(crate) fn is_on(&self, set: &SetId) -> Result<bool> {
        match self {
            Self::InFolder(folder) => folder::Hold::is_on(folder, set),
            Self::InStore(held) => Ok(held.contains(set)),
        }
    }

    /// Whether somebody holds any set, also one that is gone.
    pub(crate) fn is_on_any(&self) -> Result<bool> {
        match self {
            Self::InFolder(folder) => folder::Hold::is_on_any(folder),
            Self::InStore(held) => Ok(!held.is_empty()),
        }
    }
}

/// The right to remove a set. Ends with its value.
#[derive(Debug)]
pub(crate) enum Claim {
    InFolder(folder::Claim),
    InStore { _claim: objects::Claim },
}

impl Claim {
    /// None when somebody holds the set. Only with the lock of the repository.
    pub(crate) fn on(place: &Place, repository: &Repository, set: &SetId, clock: Timestamp) -> Result<Option<Self>> {
        Ok(match place.folder() {
            Some(folder) => folder::Claim::on(folder, set)?.map(Self::InFolder),
            None => objects::Claim::on(&repository.store, set, clock)?.map(|claim| Self::InStore { _claim: claim }),
        })
    }

    /// The set is removed. Whoever waited for it finds no set any more.
    pub(crate) fn done(self) {
        if let Self::InFolder(claim) = self {
            claim.done();
        }
    }
}

impl Repository {
    /// What time it is where the repository lies: in an object store its own clock counts for locks and holds, which all
    /// machines share. Writes to that.
    pub(crate) fn clock(&self, place: &Place, now: Timestamp) -> Result<Timestamp> {
        if place.folder().is_some() {
            return Ok(now);
        }
        self.store.wait(self.store.clock()).map_err(|error| self.store.refused(&error))
    }

    /// Takes away what dead restores and prunes left in an object store; in a folder the kernel does it. Only with the lock of
    /// the repository.
    pub(crate) fn sweep_holds(&self, place: &Place, now: Timestamp) -> Result<()> {
        if place.folder().is_some() || !objects::is_any(&self.store)? {
            return Ok(());
        }
        objects::sweep(&self.store, self.clock(place, now)?)
    }
}
