//! What a drop of a partition relies on besides its server: the rules in force, and the newest proven backup set.

use super::Trouble;
use groundskeeper_backup::Lookout;
use groundskeeper_core::SystemId;
use groundskeeper_core::expiry::{self, Rule};
use groundskeeper_core::remedy::Step;

/// Asked again right before: a plan may be older than a rule, and than a set.
pub(super) async fn relied_on(
    step: &Step,
    rules: &[(SystemId, Rule)],
    lookout: Option<&Lookout>,
) -> Result<(), Trouble> {
    let Step::DropPartition { system, database, partition_schema, partition, contained_in, .. } = step else {
        return Ok(());
    };
    expiry::may_drop(rules, step).map_err(Trouble::Precondition)?;
    let Some(lookout) = lookout else {
        return Err(Trouble::Precondition("no [backup] is configured (any more)".to_owned()));
    };
    let receipts = lookout.vault().receipts().await.map_err(|error| Trouble::Failed(error.to_string()))?;
    let contained = expiry::containing(&receipts, system, database, (partition_schema, partition));
    if contained.map_err(Trouble::Precondition)? == **contained_in {
        return Ok(());
    }
    let why = format!("another set than {} is the newest proven one by now; plan again", contained_in.set);
    Err(Trouble::Precondition(why))
}
