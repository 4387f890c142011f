//! Receipts and what was verified, in a folder beside restic's own, as JSON that anyone can read.

use super::Repository;
use super::store::Store;
use crate::error::{Error, Result};
use groundskeeper_core::receipt::{Receipt, SetId};
use object_store::Error as StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

const FOLDER: &str = "receipts";
/// The recovery plan, where whoever finds the repository sees it.
const PLAN: &str = "recovery.md";
/// The packs that were read back and found good.
const VERIFIED: &str = "receipts/verified-packs.json";

impl Repository {
    pub(crate) fn keep_receipt(&self, receipt: &Receipt) -> Result<()> {
        keep(&self.store, &path(&receipt.set), receipt)
    }

    pub(crate) fn keep_plan(&self, text: String) -> Result<()> {
        self.store.put(PLAN, text.into_bytes()).map_err(|error| refused(&self.store, &error))
    }

    /// None when it was lost or cannot be read: the set is then as good as unproven.
    pub(crate) fn receipt(&self, set: &SetId) -> Result<Option<Receipt>> {
        read(&self.store, &path(set))
    }

    /// The sets that a receipt speaks of.
    pub(super) fn receipt_names(&self) -> Result<Vec<SetId>> {
        let listed = self.store.names(FOLDER).map_err(|error| refused(&self.store, &error))?;
        Ok(listed.iter().filter_map(|(name, _)| name.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// Removes the receipts of sets that are not `there`; not while a snapshot is damaged, for one of them is all that is
    /// known of its set.
    pub(crate) fn forget_receipts(&self, there: &BTreeSet<SetId>) -> Result<()> {
        if !self.lost()?.is_empty() {
            return Ok(());
        }
        for gone in self.receipt_names()?.iter().filter(|set| !there.contains(set)) {
            self.store.erase(&path(gone)).map_err(|error| refused(&self.store, &error))?;
        }
        Ok(())
    }

    pub(super) fn verified_packs(&self) -> Result<BTreeSet<String>> {
        Ok(read(&self.store, VERIFIED)?.unwrap_or_default())
    }

    pub(super) fn keep_verified_packs(&self, packs: &BTreeSet<String>) -> Result<()> {
        keep(&self.store, VERIFIED, packs)
    }
}

fn path(set: &SetId) -> String {
    format!("{FOLDER}/{set}.json")
}

fn keep(store: &Store, name: &str, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec_pretty(value).map_err(|error| Error::Worker(error.to_string()))?;
    store.put(name, json).map_err(|error| refused(store, &error))
}

fn read<T: DeserializeOwned>(store: &Store, name: &str) -> Result<Option<T>> {
    match store.get(name) {
        Ok(json) => Ok(serde_json::from_slice(&json)
            .inspect_err(|error| tracing::warn!(%error, name, "a receipt cannot be read and counts as lost"))
            .ok()),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(refused(store, &error)),
    }
}

fn refused(store: &Store, error: &StoreError) -> Error {
    store.refused(error)
}
