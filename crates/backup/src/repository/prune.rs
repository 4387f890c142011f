//! Taking sets out of the repository, in two phases: packs that no set needs are marked first, and deleted by a later
//! prune, when a grace has passed. Whoever read the index before the mark finds every pack until then.
//!
//! Killed anywhere, this leaves every other set whole, and the next prune goes on: snapshots go before their data are
//! marked, new index files are there before the old ones go, and packs go last.

use super::{Repository, SET};
use crate::error::{Error, Result};
use groundskeeper_core::receipt::SetId;
use jiff::{SignedDuration, Span};
use rustic_core::repofile::{IndexFile, SnapshotId};
use rustic_core::{FileType, PruneOptions, PrunePlan, ReadBackend};
use std::collections::BTreeSet;

/// Where plain restic keeps its locks.
const LOCKS: &str = "locks";
/// A listing that changes so often while it is read is believed at last: backups add to it all the time.
const TRIES: usize = 5;
/// Longer than any repository lives.
const NEVER_HOURS: i64 = 24 * 365 * 200;

/// What would go, and the means to do it.
pub(crate) struct Removal {
    snapshots: Vec<SnapshotId>,
    options: PruneOptions,
    plan: PrunePlan,
}

/// Bytes of the repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// Marked by an earlier prune, its grace has passed.
    pub(crate) now: u64,
    /// Marked now.
    pub(crate) later: u64,
    /// Marked before; the grace has not passed.
    pub(crate) waiting: u64,
}

impl Removal {
    pub(crate) fn bytes(&self) -> Bytes {
        let (stats, sizes) = (&self.plan.stats, self.plan.stats.size_sum());
        Bytes {
            now: stats.size_to_delete.remove,
            later: sizes.remove + sizes.repackrm + stats.size_unref,
            waiting: stats.size_to_delete.keep,
        }
    }
}

impl Repository {
    /// Looks what removing `sets`, and what dead backups left, would free. Writes nothing. Packs that were marked less than
    /// `grace` ago stay; without one, all do.
    pub(crate) fn plan_removal(&self, sets: &BTreeSet<SetId>, grace: Option<SignedDuration>) -> Result<Removal> {
        let rustic = self.rustic()?;
        let all = rustic.get_all_snapshots().map_err(|error| self.error(&error))?;
        let named = |tag: &String| tag.parse().is_ok_and(|set: SetId| sets.contains(&set));
        let going = all.into_iter().filter(|snapshot| snapshot.tags.contains(SET) && snapshot.tags.iter().any(named));
        let snapshots: Vec<SnapshotId> = going.map(|snapshot| snapshot.id).collect();
        let grace = grace.unwrap_or(SignedDuration::from_hours(NEVER_HOURS));
        let grace = Span::try_from(grace).map_err(|error| Error::Worker(error.to_string()))?;
        let options = PruneOptions::default()
            .keep_delete(grace)
            // Small packs are no harm that is worth writing them anew.
            .no_resize(true)
            .ignore_snaps(snapshots.clone());
        let plan = rustic.prune_plan(&options).map_err(|error| self.error(&error))?;
        Ok(Removal { snapshots, options, plan })
    }

    /// The first phase of removing sets, and the second for those of earlier prunes. Only with the lock of the repository.
    /// `gone` is called when the snapshots are deleted.
    pub(crate) fn remove(&self, removal: Removal, gone: impl FnOnce()) -> Result<()> {
        let _shown = self.progress.begin("removing sets", None);
        let rustic = self.rustic()?;
        self.confirm_lock()?;
        rustic.delete_snapshots(&removal.snapshots).map_err(|error| self.error(&error))?;
        gone();
        self.confirm_lock()?;
        rustic.prune(&removal.options, removal.plan).map_err(|error| self.error(&error))?;
        self.forget_packs()
    }

    /// What was read back counts for packs that are in the index only: a name may come again with other bytes.
    fn forget_packs(&self) -> Result<()> {
        let good = self.verified_packs()?;
        let mut kept = BTreeSet::new();
        for index in self.rustic()?.stream_files::<IndexFile>().map_err(|error| self.error(&error))? {
            let (_, index) = index.map_err(|error| self.error(&error))?;
            kept.extend(index.packs.iter().map(|pack| pack.id.to_hex().to_string()).filter(|pack| good.contains(pack)));
        }
        if kept.len() < good.len() { self.keep_verified_packs(&kept) } else { Ok(()) }
    }

    /// Plain restic takes locks of its own, and ours mean nothing to it.
    pub(crate) fn refuse_foreign_locks(&self) -> Result<()> {
        let refused = |why: String| Error::Place { place: self.place().to_owned(), why };
        let locks = self.store.names(LOCKS).map_err(|error| self.store.refused(&error))?;
        let Some((lock, _)) = locks.first() else { return Ok(()) };
        Err(refused(format!(
            "plain restic works on it, or died while it did ({LOCKS}/{lock}); wait for its end, or remove what it left \
             with `restic unlock`"
        )))
    }

    /// Reads what may change meanwhile: while another process prunes, old files of the index, and snapshots, go. What
    /// was read counts when the listing before and after is the same.
    pub(super) fn steady<T>(&self, kind: FileType, read: impl Fn() -> Result<T>) -> Result<T> {
        let listed = || self.store.list(kind).map_err(|error| self.error(&error));
        let listed = || listed().map(|ids| ids.into_iter().collect::<BTreeSet<_>>());
        let mut before = listed()?;
        for _ in 0..TRIES {
            let outcome = read();
            let after = listed()?;
            if after == before {
                return outcome;
            }
            before = after;
        }
        read()
    }
}
