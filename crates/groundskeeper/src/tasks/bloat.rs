//! A second estimate beside the statistical one, for those who are about to act: the pages themselves where `pgstattuple` is
//! there, and otherwise the index's own best, as the record has it.
//!
//! An index is compared only when an earlier maintenance has seen it: nothing is built anew because of a first impression.

use super::Shop;
use crate::record::{self, Baseline, IndexName};
use groundskeeper_core::SystemId;
use groundskeeper_core::bloat::{Estimate, SMALLEST_BASELINE};
use groundskeeper_core::check::{Tuning, catalogue};
use groundskeeper_core::observation::{Footprint, Footprints, Observation, Reading};
use std::time::Duration;

const CHECK: &str = "postgres.index_bloated";
/// For the pages of all suspects of a server together.
const BUDGET: Duration = Duration::from_mins(1);

/// Puts the second estimates beside what was read.
pub(super) async fn confirm(
    shop: &Shop,
    system: &SystemId,
    observation: &mut Observation,
    tuning: &Tuning,
) -> record::Result<()> {
    let Observation::Postgres(Reading { outcome: Ok(seen), .. }) = observation else { return Ok(()) };
    let (Ok(footprints), Some(check)) = (&mut seen.footprints, catalogue::find(CHECK)) else { return Ok(()) };
    let (limits, database) = (tuning.limits(check), seen.server.database.clone());
    let (ratio, wasted) = (limits.get("ratio"), limits.get("wasted"));
    match shop.stack.confirm_bloat(system, footprints, ratio, wasted, BUDGET).await {
        Ok(gaps) => {
            for (name, gap) in gaps {
                tracing::debug!(%system, name, reason = gap.reason, "its pages were not read");
            }
        }
        Err(failure) => tracing::warn!(%system, failure.message, "the pages of bloated indexes were not read"),
    }
    let id = system.clone();
    let known = shop.record.with(move |store| store.baselines(&id, &database)).await?;
    for footprint in &mut footprints.indexes {
        let best = name(footprint).and_then(|name| known.get(&name));
        footprint.second = best.and_then(|best| {
            let own = Estimate::of_baseline(footprint.size, footprint.rows, best.size, best.rows);
            footprint.second.take().or(own)
        });
    }
    Ok(())
}

/// Keeps what was seen of the indexes for the next time.
pub(super) async fn remember(shop: &Shop, system: &SystemId, observation: &Observation) -> record::Result<()> {
    let Observation::Postgres(Reading { outcome: Ok(seen), .. }) = observation else { return Ok(()) };
    let Ok(footprints) = &seen.footprints else { return Ok(()) };
    let (id, database, seen, now) =
        (system.clone(), seen.server.database.clone(), telling(footprints), shop.clock.now());
    shop.record.with(move |store| store.keep_baselines(&id, &database, &seen, now)).await
}

fn telling(footprints: &Footprints) -> Vec<(IndexName, Baseline)> {
    let telling = footprints.indexes.iter().filter(|one| one.rows > 0.0 && one.size >= SMALLEST_BASELINE);
    telling.filter_map(|one| Some((name(one)?, Baseline { size: one.size, rows: one.rows }))).collect()
}

fn name(footprint: &Footprint) -> Option<IndexName> {
    Some((footprint.table.schema.clone(), footprint.index.clone()?))
}
