//! The hands on the repository of backups: they remove sets that a plan named.

use super::{Limits, Trouble};
use groundskeeper_backup::{Error, Vault};
use groundskeeper_core::receipt::SetId;
use groundskeeper_core::remedy::StepState;
use jiff::Timestamp;

pub(super) async fn capture(vault: &Vault, sets: &[SetId]) -> Result<StepState, Trouble> {
    let there = match vault.receipts().await {
        Ok(receipts) => receipts.into_iter().map(|receipt| receipt.set).filter(|set| sets.contains(set)).collect(),
        Err(error) => return Err(trouble(&error)),
    };
    Ok(StepState::Sets { there })
}

/// What is under way when a stop can wait no longer ends with the process, and the next prune goes on with it.
pub(super) async fn prune(vault: &Vault, sets: &[SetId], now: Timestamp, limits: Limits) -> Result<(), Trouble> {
    tokio::select! {
        biased;
        pruned = vault.prune(sets, now) => pruned.map(|_| ()).map_err(|error| trouble(&error)),
        () = limits.halt() => Err(Trouble::Interrupted("removing backup sets goes on with the next prune".to_owned())),
    }
}

fn trouble(error: &Error) -> Trouble {
    match error {
        Error::Busy(_) => Trouble::Precondition(error.to_string()),
        _ => Trouble::Failed(error.to_string()),
    }
}
