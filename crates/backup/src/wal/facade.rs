//! What a vault does with WAL.

use super::replay::room;
use super::{Target, archive, newest_before};
use crate::error::{Error, Result};
use crate::repository::{Lock, Repository};
use crate::restore::Order;
use crate::vault::{Restored, Vault, receipt, with_lower_rungs};
use crate::{drill, restore};
use groundskeeper_core::observation::WalGap;
use groundskeeper_core::receipt::{Receipt, SetId};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

impl Vault {
    /// [`Vault::drill`] with the WAL after the set replayed as far as `target` says. Without a name it is of the newest
    /// set before that.
    pub async fn drill_to(
        &self,
        set: Option<&SetId>,
        target: Target,
        budget: Duration,
        now: Timestamp,
    ) -> Result<Receipt> {
        let wanted = set.cloned();
        self.opened(move |settings, repository| {
            let _lock = Lock::take(&settings.place, repository, now)?;
            let set = repository.set(Some(&set_for(repository, wanted, None, target)?))?;
            with_lower_rungs(repository, &set, budget, now)?;
            drill::drill(settings, repository, Some(&set.id), Some(target), budget, now)
        })
        .await
    }

    /// [`Vault::restore`] (with `over`, [`Vault::restore_over`]) with the WAL after the set beside it, told to replay that
    /// as far as `target` says when it is started. Without a name it is of the newest set before that. Parts without WAL
    /// are as they were in the set.
    pub async fn restore_to(
        &self,
        set: Option<&SetId>,
        only: Option<&str>,
        target: Target,
        into: &Path,
        over: Option<Timestamp>,
    ) -> Result<Restored> {
        let (wanted, only, into) = (set.cloned(), only.map(str::to_owned), into.to_owned());
        self.opened(move |settings, repository| {
            let only = only.as_deref();
            let set = set_for(repository, wanted, only, target)?;
            let order = Order { wanted: Some(&set), only, target: Some(target), into: &into, over };
            restore::restore(settings, repository, &order)
        })
        .await
    }

    /// Bytes that the WAL from a set to a target takes beside what is restored.
    pub async fn wal_room(&self, set: &SetId, only: Option<&str>, target: Target) -> Result<u64> {
        let (set, only) = (set.clone(), only.map(str::to_owned));
        self.opened(move |_, repository| {
            let known = receipt(repository, &repository.set(Some(&set))?)?;
            let ours = known.parts.iter().filter(|part| only.as_ref().is_none_or(|only| *only == part.name));
            ours.filter_map(|part| part.postgres.as_ref()).map(|cluster| room(repository, cluster, target)).sum()
        })
        .await
    }

    /// By their system identifiers, the clusters of these sets whose WAL is in the repository, with the bytes of a segment.
    pub(crate) async fn streamed(&self, receipts: &[Receipt]) -> Result<BTreeMap<String, u64>> {
        let clusters = receipts.iter().flat_map(|receipt| &receipt.parts).filter_map(|part| part.postgres.as_ref());
        let ids: BTreeSet<String> = clusters.map(|cluster| cluster.system_identifier.clone()).collect();
        self.opened(move |_, repository| {
            let mut streamed = BTreeMap::new();
            for id in ids {
                if let Some(about) = archive::Archive::about(repository, &id)? {
                    streamed.insert(id, about.segment);
                }
            }
            Ok(streamed)
        })
        .await
    }

    /// WAL that is missing in the repository, of any cluster.
    pub async fn wal_gaps(&self, now: Timestamp) -> Result<Vec<WalGap>> {
        self.opened(move |_, repository| archive::gaps(repository, now)).await
    }
}

/// The set to begin with: the one that is wanted, if WAL may lead from it to the target.
fn set_for(repository: &Repository, wanted: Option<SetId>, only: Option<&str>, target: Target) -> Result<SetId> {
    let among = repository.sets()?;
    let among = among.iter().filter(|set| wanted.as_ref().is_none_or(|wanted| set.id == *wanted));
    let among: Vec<Receipt> = among.map(|set| receipt(repository, set)).collect::<Result<_>>()?;
    if let Some(wanted) = wanted.as_ref().filter(|_| among.is_empty()) {
        return Err(Error::NoSet(wanted.to_string()));
    }
    if let Some(receipt) = newest_before(&among, target, only) {
        return Ok(receipt.set.clone());
    }
    let with = only.map_or_else(|| "a Postgres".to_owned(), |only| format!("the Postgres {only}"));
    Err(Error::Wal(match (wanted, target) {
        (Some(wanted), Target::Latest) => format!("the set {wanted} has not {with} in it: no WAL leads on from it"),
        (Some(wanted), Target::Time(at)) => format!(
            "the set {wanted} was not finished at {at}, or has not {with} in it; WAL leads on from a set, never back; \
             choose an earlier one"
        ),
        (None, Target::Latest) => format!("no set has {with} in it; `groundskeeper backup run` makes one"),
        (None, Target::Time(at)) => format!("no set with {with} in it was finished at {at}; choose a later time"),
    }))
}
