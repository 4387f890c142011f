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
            planned.earlier = earlier(planned, runs, now);
        }
    }
    Ok(())
}

fn read(seen: &mut Postgres) -> Option<&mut Plans> {
    seen.deep.as_mut()?.plans.as_mut().ok()?.as_mut()
}

/// The runs before the present one, which may begin now, each with when the next one began.
fn earlier(planned: &Planned, runs: &[PlanRun], now: Timestamp) -> Vec<Earlier> {
    let changes = runs.iter().skip(1).map(|run| run.first).chain([now]);
    let mut earlier: Vec<Earlier> =
        runs.iter().zip(changes).map(|(run, changed)| Earlier { plan: run.plan.clone(), changed }).collect();
    if runs.last().is_some_and(|latest| latest.plan.is_like(&planned.plan)) {
        earlier.pop();
    }
    earlier
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::quantity::after;

    #[test]
    fn a_plan_was_until_the_next_one_was_seen_first() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let day = |ago: i32| after(now, f64::from(-ago) * 86_400.0);
        let plan = |node: &str| PlanShape { nodes: vec![format!("0 {node}")], cost: 1.0 };
        let run = |node: &str, first, last| PlanRun { first: day(first), last: day(last), plan: plan(node) };
        let planned = |node: &str| Planned {
            query_id: 7,
            query: "SELECT".into(),
            plan: plan(node),
            is_known: true,
            earlier: Vec::new(),
        };
        let runs = [run("Index Scan", 9, 4), run("Seq Scan", 3, 1)];
        let was = |node: &str, runs: &[PlanRun]| -> Vec<(PlanShape, Timestamp)> {
            earlier(&planned(node), runs, now).into_iter().map(|was| (was.plan, was.changed)).collect()
        };
        assert_eq!(was("Seq Scan", &runs), [(plan("Index Scan"), day(3))]);
        assert_eq!(was("Index Scan", &runs), [(plan("Index Scan"), day(3)), (plan("Seq Scan"), now)]);
        assert_eq!(was("Index Scan", &runs[..1]), []);
    }
}
