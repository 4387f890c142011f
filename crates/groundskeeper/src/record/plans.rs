//! How the planner answered statements, each plan from when it was seen first until another took its place.

use super::{Result, Store, millis, moment};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::PlanShape;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};
use std::collections::BTreeMap;

/// What nobody saw for so long is forgotten, days.
const KEPT_DAYS: i64 = 90;
const DAY_MILLIS: i64 = 86_400_000;

/// A plan, from when it was seen first to when it was seen last without another one between.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRun {
    pub first: Timestamp,
    pub last: Timestamp,
    /// With its cost when it was seen last.
    pub plan: PlanShape,
}

impl Store {
    /// The runs of each statement, by its number, the latest last.
    pub fn plan_runs(&self, system: &SystemId, database: &str) -> Result<BTreeMap<i64, Vec<PlanRun>>> {
        let mut statement = self.connection.prepare(
            "SELECT query, first, last, nodes, cost FROM plan_run WHERE system = ?1 AND database = ?2 ORDER BY query, first",
        )?;
        let mut rows = statement.query(params![system.to_string(), database])?;
        let mut runs: BTreeMap<i64, Vec<PlanRun>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let plan = PlanShape { nodes: serde_json::from_str(&row.get::<_, String>(3)?)?, cost: row.get(4)? };
            let run = PlanRun { first: moment(row.get(1)?), last: moment(row.get(2)?), plan };
            runs.entry(row.get(0)?).or_default().push(run);
        }
        Ok(runs)
    }

    /// Keeps that these plans were seen now.
    pub fn keep_plans(
        &mut self,
        system: &SystemId,
        database: &str,
        seen: &[(i64, PlanShape)],
        now: Timestamp,
    ) -> Result<()> {
        let (system, now) = (system.to_string(), millis(now));
        self.atomically(|db| {
            for (query, plan) in seen {
                let nodes = serde_json::to_string(&plan.nodes)?;
                let latest: Option<(i64, String)> = db
                    .prepare_cached(
                        "SELECT first, nodes FROM plan_run WHERE system = ?1 AND database = ?2 AND query = ?3
                         ORDER BY first DESC LIMIT 1",
                    )?
                    .query_row(params![system, database, query], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                let first = latest.filter(|(_, known)| *known == nodes).map_or(now, |(first, _)| first);
                db.prepare_cached(
                    "INSERT INTO plan_run (system, database, query, first, last, nodes, cost) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (system, database, query, first) DO UPDATE SET last = excluded.last,
                       nodes = excluded.nodes, cost = excluded.cost",
                )?
                .execute(params![system, database, query, first, now, nodes, plan.cost])?;
            }
            db.execute("DELETE FROM plan_run WHERE last < ?1", params![now - KEPT_DAYS * DAY_MILLIS])?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::SystemKind;
    use groundskeeper_core::quantity::after;

    #[test]
    fn a_plan_runs_until_another_takes_its_place() {
        let (folder, now) = (tempfile::tempdir().unwrap(), Timestamp::from_second(1_795_000_000).unwrap());
        let mut store = Store::open(folder.path(), now).unwrap();
        let system = SystemId::new(SystemKind::Postgres, "main");
        let day = |day: i32| after(now, f64::from(day) * 86_400.0);
        let plan = |node: &str, cost| PlanShape { nodes: vec![format!("0 {node}")], cost };
        let mut see = |query, node: &str, cost, at| {
            store.keep_plans(&system, "docrag", &[(query, plan(node, cost))], day(at)).unwrap();
            store.plan_runs(&system, "docrag").unwrap()
        };
        see(7, "Index Scan", 8.0, 0);
        see(7, "Index Scan", 9.0, 1);
        see(-8, "Result", 0.1, 1);
        let runs = see(7, "Seq Scan", 900.0, 2);
        assert_eq!(
            runs[&7],
            [
                PlanRun { first: day(0), last: day(1), plan: plan("Index Scan", 9.0) },
                PlanRun { first: day(2), last: day(2), plan: plan("Seq Scan", 900.0) }
            ]
        );
        let back = see(7, "Index Scan", 8.0, 3);
        assert_eq!(back[&7].len(), 3, "it came back, and that is a run of its own");
        let later = see(7, "Index Scan", 8.0, 92);
        assert_eq!(later[&7].iter().map(|run| run.first).collect::<Vec<_>>(), [day(2), day(3)]);
        assert!(!later.contains_key(&-8), "nobody saw it for 91 days");
        assert!(store.plan_runs(&system, "other").unwrap().is_empty());
    }
}
