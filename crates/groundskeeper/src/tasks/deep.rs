//! What the watch does not ask, for the rounds that may look into users' tables: the daily health check, the weekly maintenance
//! and a plan.

use super::Shop;
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::{Deep, Gap, Observation, Reading};
use std::time::Duration;

/// For all the tables of a server together. Some hundred looks by an index take a second.
const BUDGET: Duration = Duration::from_secs(30);

/// Puts what the deeper look says beside what was read. A standby shows the primary's tables a second time.
pub(super) async fn look(shop: &Shop, system: &SystemId, observation: &mut Observation) {
    let Observation::Postgres(Reading { outcome: Ok(seen), .. }) = observation else { return };
    if seen.server.in_recovery {
        return;
    }
    let Some(looked) = shop.stack.look_deeper(system, BUDGET).await else { return };
    let deep = looked.unwrap_or_else(|failure| {
        let gap = Gap::new(failure.message);
        Deep { sequences: Err(gap.clone()), distributions: Err(gap.clone()), plans: Err(gap) }
    });
    seen.deep = Some(Box::new(deep));
}
