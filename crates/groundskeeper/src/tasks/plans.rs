//! How statements were planned before, beside how they are planned now.

use super::Shop;
use crate::record::{self, PlanRun};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::{Earlier, Observation, PlanShape, Planned, Plans, Postgres, Reading};
use jiff::Timestamp;

/// Puts the earlier plans beside those that were read. Who remembers keeps what was read for the next time.
pub(super) async fn compare(
    shop: &Shop,
    system: &SystemId,
    observation: &mut Observation,
    remembers: bool,
) -> record::Result<()> {
    let Observation::Postgres(Reading { outcome: Ok(seen), .. }) = observation else { return Ok(()) };
    let (database, now) = (seen.server.database.clone(), shop.clock.now());
    let Some(plans) = read(seen) else { return Ok(()) };
    let shapes: Vec<(i64, PlanShape)> = plans.seen.iter().map(|one| (one.query_id, one.plan.clone())).collect();
    let id = system.clone();
    let known = shop
        .record
        .with(move |store| {
            let known = store.plan_runs(&id, &database)?;
            if remembers {
                store.keep_plans(&id, &database, &shapes, now)?;
            }
            Ok(known)
        })
        .await?;
    for planned in &mut plans.seen {
        if let Some(runs) = known.get(&planned.query_id) {
            planned.is_known = true;
            planned.before = earlier(planned, runs, now);
        }
    }
    Ok(())
}

fn read(seen: &mut Postgres) -> Option<&mut Plans> {
    seen.deep.as_mut()?.plans.as_mut().ok()?.as_mut()
}

/// The run before the present one, which may begin now.
fn earlier(planned: &Planned, runs: &[PlanRun], now: Timestamp) -> Option<Earlier> {
    let (latest, before) = runs.split_last()?;
    let (run, changed) =
        if latest.plan.is_like(&planned.plan) { (before.last()?, latest.first) } else { (latest, now) };
    Some(Earlier { plan: run.plan.clone(), last: run.last, changed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::quantity::after;

    #[test]
    fn the_plan_before_is_the_one_whose_place_the_present_one_took() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let day = |ago: i32| after(now, f64::from(-ago) * 86_400.0);
        let plan = |node: &str| PlanShape { nodes: vec![format!("0 {node}")], cost: 1.0 };
        let run = |node: &str, first, last| PlanRun { first: day(first), last: day(last), plan: plan(node) };
        let planned = |node: &str| Planned {
            query_id: 7,
            query: "SELECT".into(),
            plan: plan(node),
            is_known: false,
            before: None,
        };
        let runs = [run("Index Scan", 9, 4), run("Seq Scan", 3, 1)];
        let was = |node: &str, runs: &[PlanRun]| {
            earlier(&planned(node), runs, now).map(|was| (was.plan, was.last, was.changed))
        };
        assert_eq!(was("Seq Scan", &runs), Some((plan("Index Scan"), day(4), day(3))));
        assert_eq!(was("Index Scan", &runs), Some((plan("Seq Scan"), day(1), now)));
        assert_eq!(was("Index Scan", &runs[..1]), None);
    }
}
