//! The backup: one set of every system of `[backup]`, and of the keeper itself, in the repository.
//!
//! It changes nothing that is looked after, so no window, no pause of all actions and no finding holds it up; only a pause
//! of the task itself does. When the keeper's own part cannot be gathered the set is made without it, and the run has
//! failed: the databases matter more.

use super::{Found, Shop};
use crate::app::CallError;
use crate::app::backup::{NOT_CONFIGURED, made};
use crate::record::{self, Copy};
use crate::scheduler::{BoxFuture, End, Job, Mode};
use groundskeeper_backup::vault::{Content, Own};
use groundskeeper_backup::{self as backup, Vault};
use groundskeeper_core::observation::LastRun;
use groundskeeper_core::quantity::{format_bytes, format_seconds, seconds_between};
use groundskeeper_core::receipt::Receipt;
use serde_json::json;
use std::sync::Arc;

const STOPPED: &str = "groundskeeper was told to stop before the set was made";

pub(super) struct Backup(pub(super) Arc<Shop>);

impl Job for Backup {
    type Yield = Found;

    fn run(&self, mode: Mode) -> BoxFuture<'_, End<Found>> {
        Box::pin(async move {
            let Some(lookout) = self.0.stack.lookout() else { return failed(NOT_CONFIGURED.to_owned()) };
            match mode {
                Mode::Real => run(&self.0, lookout.vault()).await,
                Mode::DryRun => would(&self.0, lookout.vault()).await,
            }
        })
    }
}

pub(super) fn failed(summary: String) -> End<Found> {
    End { ok: false, summary, found: Found::default() }
}

async fn run(shop: &Shop, vault: &Vault) -> End<Found> {
    let _alone = shop.repository.lock().await;
    let keeper = Keeper::gather(shop).await;
    let set = shop.executor.unless_ended(vault.make(keeper.own, shop.clock.now())).await;
    drop(keeper.copy);
    let set = set.map_or_else(|| Err(STOPPED.to_owned()), |set| set.map_err(|error| error.to_string()));
    // A store that has just failed would be waited for once more.
    if set.is_ok() {
        keep_plan(shop, vault).await;
    }
    if let Some(lookout) = shop.stack.lookout() {
        lookout.remember(LastRun { at: shop.clock.now(), failed: set.as_ref().err().cloned() });
    }
    let (what, detail) = match &set {
        Ok(receipt) => ("backup made", format!("{}: {}", receipt.set, made(receipt))),
        Err(why) => ("backup failed", why.clone()),
    };
    let audited = audit(shop, "groundskeeper", what, detail).await;
    match set {
        Err(why) => failed(why),
        Ok(receipt) => {
            let trouble = audited.err().map(|error| format!("the audit could not be written: {error}"));
            ended(receipt, keeper.left_out.into_iter().chain(trouble).collect())
        }
    }
}

/// Writes the recovery plan anew. The set is no worse when that fails.
pub(super) async fn keep_plan(shop: &Shop, vault: &Vault) {
    if let Err(error) = vault.keep_plan(shop.clock.now()).await {
        tracing::warn!(%error, "the recovery plan beside the backups was not written anew");
    }
}

/// How a run ended that made a set.
fn ended(receipt: Receipt, amiss: Vec<String>) -> End<Found> {
    let mut details: Vec<String> =
        receipt.missing.iter().map(|missing| format!("{} is missing: {}", missing.system, missing.why)).collect();
    details.extend(receipt.gaps());
    details.extend(amiss);
    let but = if details.is_empty() { "" } else { ", but not everything is in it" };
    let summary = format!("set {}: {}{but}", receipt.set, made(&receipt));
    End { ok: details.is_empty(), summary, found: Found { details, receipt: Some(receipt), ..Found::default() } }
}

pub(super) async fn audit(shop: &Shop, who: &str, what: &'static str, detail: String) -> record::Result<()> {
    let (who, now) = (who.to_owned(), shop.clock.now());
    shop.record.with(move |store| store.audit(&who, what, &detail, now)).await
}

/// What of the keeper itself goes into a set.
#[derive(Default)]
struct Keeper {
    own: Vec<Own>,
    /// Has to stay until the set is made.
    copy: Option<Copy>,
    /// What could not be gathered, and why.
    left_out: Vec<String>,
}

impl Keeper {
    async fn gather(shop: &Shop) -> Self {
        let mut keeper = Self::default();
        // The head first: the copy then holds at least that entry.
        match audit_head(shop).await {
            Ok(text) => keeper.own.push(Own { name: "audit-head.json".into(), content: Content::Text(text) }),
            Err(error) => keeper.left_out.push(format!("the head of the audit could not be read: {error}")),
        }
        match copy(shop).await {
            Ok(copy) => {
                keeper.own.push(Own { name: "store.db".into(), content: Content::File(copy.path().to_owned()) });
                keeper.copy = Some(copy);
            }
            Err(error) => keeper.left_out.push(format!("the keeper's own store could not be copied: {error}")),
        }
        // Without a file there is nothing to keep: the settings came from an address on the command line.
        if let Some(file) = &shop.settings.file {
            match tokio::fs::read_to_string(file).await {
                Ok(text) => keeper.own.push(Own { name: "groundskeeper.toml".into(), content: Content::Text(text) }),
                Err(error) => keeper.left_out.push(format!("{} could not be read: {error}", file.display())),
            }
        }
        keeper
    }
}

async fn audit_head(shop: &Shop) -> record::Result<String> {
    let head = shop.record.with(|store| store.audit_head()).await?;
    let head = head.map(|row| json!({ "seq": row.seq, "at": row.at, "hash": row.hash }));
    Ok(serde_json::to_string_pretty(&head)?)
}

async fn copy(shop: &Shop) -> Result<Copy, CallError> {
    let folder = shop.settings.state_dir.clone();
    let copied = tokio::task::spawn_blocking(move || Copy::make(&folder)).await;
    Ok(copied.map_err(|ended| CallError::unanswered(format!("the copying ended: {ended}")))??)
}

/// What a run would do.
async fn would(shop: &Shop, vault: &Vault) -> End<Found> {
    let settings = vault.settings();
    let sources = sources(settings);
    let mut details: Vec<String> = sources.iter().map(|source| format!("would back up {source}")).collect();
    details.push("would add the keeper's own store, the head of its audit and its configuration".to_owned());
    let now = shop.clock.now();
    let (receipts, space) = (vault.receipts().await, vault.space().await);
    let ok = receipts.is_ok();
    match receipts {
        Ok(receipts) => details.push(match receipts.first() {
            Some(newest) => {
                let age = format_seconds(seconds_between(newest.made, now).max(0.0));
                format!("the newest set is {} ({age} old): {}", newest.set, made(newest))
            }
            None => "there is no set yet: the first one takes the longest".to_owned(),
        }),
        Err(error) => details.push(format!("it would fail: {error}")),
    }
    if let Ok(Some(space)) = space {
        details.push(format!("{} are free", format_bytes(space.free as f64)));
    }
    let summary = format!(
        "would make a set of {} {} and the keeper itself in {}",
        sources.len(),
        if sources.len() == 1 { "system" } else { "systems" },
        settings.place
    );
    End { ok, summary, found: Found { details, ..Found::default() } }
}

/// Each with where it is.
fn sources(settings: &backup::Settings) -> Vec<String> {
    let postgres = settings.postgres.iter().map(|source| format!("{} at {}", source.system, source.endpoint.address()));
    let redis = settings.redis.iter().map(|source| format!("{} at {}", source.system, source.endpoint.address()));
    let files = settings.files.iter().map(|source| format!("{} ({})", source.name, source.path.display()));
    let qdrant = settings.qdrant.iter().map(|source| {
        let nodes: Vec<&str> = source.nodes.iter().map(groundskeeper_systems::qdrant::Endpoint::address).collect();
        format!("{} at {}", source.name, nodes.join(", "))
    });
    postgres.chain(redis).chain(qdrant).chain(files).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::{Missing, Part, SetId};
    use jiff::Timestamp;

    fn receipt(missing: Vec<Missing>) -> Receipt {
        let made = Timestamp::UNIX_EPOCH;
        let part = |name: &str, bytes| Part { name: name.into(), entries: 9, bytes, ..Part::default() };
        let parts = vec![part("postgres.main", 1 << 30), part("groundskeeper", 4096)];
        Receipt { set: SetId::new(made, 1), made, took: 12.0, parts, missing, added: 1 << 20, climbs: Vec::new() }
    }

    #[test]
    fn a_set_that_lacks_something_is_a_run_that_failed_and_says_what() {
        let whole = ended(receipt(Vec::new()), Vec::new());
        assert!(whole.ok && whole.found.details.is_empty(), "{whole:?}");
        assert_eq!(
            whole.summary,
            "set 19700101T000000Z-00000001: postgres.main (1 GiB) and the keeper itself; 1 MiB added in 12 s"
        );
        let missing = Missing { system: "postgres.reports".parse().unwrap(), why: "no answer".into() };
        let partly = ended(receipt(vec![missing]), Vec::new());
        assert!(!partly.ok && partly.summary.ends_with(", but not everything is in it"), "{partly:?}");
        assert_eq!(partly.found.details, ["postgres.reports is missing: no answer"]);
        let without_us = ended(receipt(Vec::new()), vec!["the store could not be copied".into()]);
        assert!(!without_us.ok && without_us.found.receipt.is_some(), "{without_us:?}");
    }
}
