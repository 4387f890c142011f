//! Removing sets that no rule keeps ([`groundskeeper_core::retention`] has the rules).
//!
//! A plan writes nothing. What is removed is what a plan named *and* the judgement at that moment still removes: a set that
//! somebody began to restore in between stays. Data are marked first and deleted by a prune that comes after the grace,
//! and not while anybody restores anything. WAL that leads on from no set that stays goes at once: whoever restores by us
//! holds the set that it leads on from.

use crate::error::Result;
use crate::place::Place;
use crate::repository::{Claim, Holds, Lock, Removal, Repository, StoredSet};
use crate::vault::{Settings, Vault, receipt};
use crate::wal;
use groundskeeper_core::receipt::{Receipt, SetId};
use groundskeeper_core::retention::{Judged, Keep, Known, judge};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What is kept, and for how long the data of removed sets stay.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    pub keep: Keep,
    /// Whose days, weeks and months the rules count.
    pub zone: TimeZone,
    /// Between marking data and deleting them. Longer than the longest restore, for those that hold no lock we can see:
    /// by plain restic, or from a copy on another machine.
    pub grace: SignedDuration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep: Keep::default(), zone: TimeZone::UTC, grace: SignedDuration::from_hours(24) }
    }
}

/// What a prune would do. Nothing of it has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunePlan {
    pub keep: Keep,
    /// Newest first, the kept ones with every reason.
    pub sets: Vec<Judged>,
    pub freed: Freed,
}

/// Bytes of the repository, as `rustic_core`'s own plan tells them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// By this prune: no set has needed them for longer than the grace.
    pub now: u64,
    /// By a prune after the grace: this one only marks them.
    pub later: u64,
    /// Marked by an earlier prune, and not yet due.
    pub waiting: u64,
    /// By this prune: WAL that leads on from no set that stays.
    #[serde(default)]
    pub wal: u64,
}

impl PrunePlan {
    /// The sets that would go, newest first.
    pub fn removed(&self) -> impl Iterator<Item = &Judged> {
        self.sets.iter().filter(|judged| judged.verdict.is_removed())
    }

    /// Whether a prune would change anything.
    pub fn is_due(&self) -> bool {
        self.removed().next().is_some() || self.freed.now > 0 || self.freed.later > 0 || self.freed.wal > 0
    }
}

/// What a prune did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    pub removed: Vec<SetId>,
    /// Named by the plan and not removed, because it is kept by now.
    pub spared: Vec<SetId>,
    pub freed: Freed,
}

impl Vault {
    /// What retention would remove now, and what that would free. Changes no byte of the repository.
    pub async fn plan_prune(&self, now: Timestamp) -> Result<PrunePlan> {
        let retention = self.retention().clone();
        self.opened(move |settings, repository| {
            let (sets, freed) = plan(&settings.place, repository, &retention, now)?;
            Ok(PrunePlan { keep: retention.keep, sets, freed })
        })
        .await
    }

    /// Removes those of `sets` that no rule keeps at this moment, deletes the data that were marked longer than the grace ago,
    /// and takes away what broken runs left. Refused while a backup or a proof works on the repository, by us or by
    /// plain restic.
    pub async fn prune(&self, sets: &[SetId], now: Timestamp) -> Result<Pruned> {
        let (retention, wanted) = (self.retention().clone(), sets.to_vec());
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.place, repository, now)?;
            prune(settings, repository, &retention, wanted, now)
        })
        .await
    }
}

/// While the clock is behind nothing is removed, not even what is due.
fn plan(place: &Place, repository: &Repository, retention: &Retention, now: Timestamp) -> Result<(Vec<Judged>, Freed)> {
    let stored = repository.sets()?;
    // Asking an object store for its clock writes something; the prune itself does.
    let holds = Holds::look(place, repository, None)?;
    let judged = judged(&holds, repository, retention, &stored, now)?;
    if is_behind(&stored, now) {
        return Ok((judged, Freed::default()));
    }
    let going = judged.iter().filter(|judged| judged.verdict.is_removed()).map(|judged| judged.set.clone()).collect();
    let removal = repository.plan_removal(&going, grace(&holds, retention)?)?;
    let staying: Vec<StoredSet> = stored.into_iter().filter(|set| !going.contains(&set.id)).collect();
    let wal = needless_wal(repository, &staying, false)?;
    Ok((judged, Freed { wal, ..freed(&removal) }))
}

fn prune(
    settings: &Settings,
    repository: &Repository,
    retention: &Retention,
    wanted: Vec<SetId>,
    now: Timestamp,
) -> Result<Pruned> {
    repository.refuse_foreign_locks()?;
    repository.must_be_alone()?;
    let stored = repository.sets()?;
    if is_behind(&stored, now) {
        tracing::warn!("the clock is behind the newest set; nothing is removed until it has caught up");
        return Ok(Pruned { removed: Vec::new(), spared: wanted, freed: Freed::default() });
    }
    let place = &settings.place;
    repository.sweep_holds(place, now)?;
    let clock = repository.clock(place, now)?;
    let holds = Holds::look(place, repository, Some(clock))?;
    let judged = judged(&holds, repository, retention, &stored, now)?;
    let falls = |set: &SetId| judged.iter().any(|judged| judged.set == *set && judged.verdict.is_removed());
    // Before the claims, which look like holds.
    let grace = grace(&holds, retention)?;
    let (mut claims, mut removed, mut spared) = (Vec::new(), BTreeSet::new(), Vec::new());
    for set in wanted {
        let claim = if falls(&set) { Claim::on(place, repository, &set, clock)? } else { None };
        match claim {
            Some(claim) => {
                claims.push(claim);
                removed.insert(set);
            }
            None => spared.push(set),
        }
    }
    // With the claims in hand: a restore that begins now is of a set that stays.
    let removal = repository.plan_removal(&removed, grace)?;
    let freed = freed(&removal);
    repository.remove(removal, || claims.into_iter().for_each(Claim::done))?;
    let staying = repository.sets()?;
    let wal = needless_wal(repository, &staying, true)?;
    repository.forget_receipts(&staying.into_iter().map(|set| set.id).collect())?;
    let freed = Freed { wal, ..freed };
    Ok(Pruned { removed: removed.into_iter().rev().collect(), spared, freed })
}

/// Bytes of WAL that none of the sets needs; with `apply` they are removed.
fn needless_wal(repository: &Repository, staying: &[StoredSet], apply: bool) -> Result<u64> {
    // What a set needs whose snapshot is damaged is not known; it may be brought back from a copy.
    if !repository.lost()?.is_empty() {
        return Ok(0);
    }
    let receipts: Result<Vec<Receipt>> = staying.iter().map(|set| receipt(repository, set)).collect();
    wal::prune::prune(repository, &receipts?, apply)
}

fn judged(
    holds: &Holds,
    repository: &Repository,
    retention: &Retention,
    stored: &[StoredSet],
    now: Timestamp,
) -> Result<Vec<Judged>> {
    let known: Result<Vec<Known>> = stored
        .iter()
        .map(|set| {
            let receipt = repository.receipt(&set.id)?;
            Ok(Known::of(&set.id, set.made, receipt.as_ref(), holds.is_on(&set.id)?))
        })
        .collect();
    Ok(judge(&retention.keep, &retention.zone, &known?, now))
}

fn is_behind(stored: &[StoredSet], now: Timestamp) -> bool {
    stored.iter().any(|set| set.made > now)
}

/// None while anybody restores: it may have read the index before the packs that it needs were marked.
fn grace(holds: &Holds, retention: &Retention) -> Result<Option<SignedDuration>> {
    Ok(if holds.is_on_any()? { None } else { Some(retention.grace) })
}

fn freed(removal: &Removal) -> Freed {
    let bytes = removal.bytes();
    Freed { now: bytes.now, later: bytes.later, waiting: bytes.waiting, wal: 0 }
}
