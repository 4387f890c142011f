//! Rungs 3 and 4: restores every Postgres of a set into a scratch place, compares it with its manifest, boots it.

use crate::error::{Error, Result};
use crate::make::later;
use crate::programs::Programs;
use crate::proof::{climb_to, not_tried};
use crate::repository::{Repository, StoredSet};
use crate::restore::link_tablespaces;
use crate::scratch::{Replay, ScratchPlace};
use crate::source::postgres::DATA;
use crate::vault::{Settings, receipt};
use crate::wal::Target;
use crate::wal::replay::lay;
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Cluster, Part, Receipt, Rung, SetId};
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Bytes besides the restored files: the WAL that recovery writes.
const BESIDES: u64 = 1 << 30;

pub(crate) fn drill(
    settings: &Settings,
    repository: &Arc<Repository>,
    wanted: Option<&SetId>,
    target: Option<Target>,
    budget: Duration,
    now: Timestamp,
) -> Result<Receipt> {
    let started = Instant::now();
    let set = repository.set(wanted)?;
    let mut kept = receipt(repository, &set)?;
    let clusters: Vec<(&Part, &Cluster)> =
        kept.parts.iter().filter_map(|part| Some((part, part.postgres.as_ref()?))).collect();
    let mut climbs = Vec::new();
    for (part, cluster) in &clusters {
        let left = budget.saturating_sub(started.elapsed());
        let live: Vec<&Cluster> = clusters.iter().map(|(_, cluster)| *cluster).collect();
        let drill = Drill { settings, repository, set: &set, part, cluster, live: &live, target };
        climbs.push((part.name.clone(), drill.run(left, later(now, started))?));
    }
    if climbs.is_empty() {
        let why = "it has no Postgres, or its receipt was lost: there is nothing to boot";
        climbs.push((set.id.to_string(), not_tried(why, now)));
    }
    kept.climbs.extend(together(&climbs));
    repository.keep_receipt(&kept)?;
    Ok(kept)
}

/// One Postgres of the set.
struct Drill<'a> {
    settings: &'a Settings,
    repository: &'a Arc<Repository>,
    set: &'a StoredSet,
    part: &'a Part,
    cluster: &'a Cluster,
    live: &'a [&'a Cluster],
    /// How far the WAL after the set is replayed.
    target: Option<Target>,
}

impl Drill<'_> {
    /// What keeps us from trying is not held against the set; what is wrong with its data is.
    fn run(&self, budget: Duration, now: Timestamp) -> Result<Vec<Climb>> {
        let started = Instant::now();
        let programs = match Programs::find(self.cluster.major(), &self.settings.programs) {
            Ok(programs) => programs,
            Err(why) => return Ok(not_tried(&why, now)),
        };
        let runtime = Handle::current();
        let needed = self.part.bytes + BESIDES;
        let (scratch, run_as) = (&self.settings.scratch, &self.settings.run_as);
        let place = match runtime.block_on(ScratchPlace::make(scratch, run_as, self.live, needed)) {
            Ok(place) => place,
            Err(error) => return Ok(not_tried(&error.to_string(), now)),
        };
        let folder = place.path().join(&self.part.name);
        match self.repository.restore(self.set, &self.part.name, &folder).and_then(|_| link_tablespaces(&folder)) {
            Ok(_) => {}
            Err(error @ (Error::Damaged { .. } | Error::Target { .. })) => {
                let outcome = ClimbOutcome::Failed { why: error.to_string() };
                let took = started.elapsed().as_secs_f64();
                return Ok(vec![Climb { rung: Rung::Restored, at: later(now, started), took, outcome }]);
            }
            Err(error) => return Err(error),
        }
        let data = folder.join(DATA);
        // A gap in the WAL is an error and no fault of the set.
        let replay = self.target.map(|target| self.replay(target, &data, &programs)).transpose()?;
        let restoring = started.elapsed();
        let left = budget.saturating_sub(restoring);
        let climbing = climb_to(&place, &data, self.cluster, &programs, replay, left, later(now, started));
        let mut climbs = runtime.block_on(climbing);
        // The measured recovery time begins with the first byte that is fetched.
        for climb in climbs.iter_mut().filter(|climb| climb.rung == Rung::Restored) {
            climb.took += restoring.as_secs_f64();
        }
        runtime.block_on(place.remove())?;
        Ok(climbs)
    }

    /// In a scratch place WAL lies where Postgres looks for its own: no command of ours has to run there.
    fn replay(&self, target: Target, data: &Path, programs: &Programs) -> Result<Replay> {
        let laid = lay(self.repository, self.cluster, target, &data.join("pg_wal"), Some(programs))?;
        Ok(Replay { timeline: laid.timeline, until: laid.until })
    }
}

/// One climb of each rung for the whole set: the worst of its systems decides, and times add up.
fn together(systems: &[(String, Vec<Climb>)]) -> Vec<Climb> {
    let several = systems.len() > 1;
    let mut rungs = Vec::new();
    for rung in [Rung::Restored, Rung::Alive] {
        let of_rung: Vec<(&String, &Climb)> = systems
            .iter()
            .filter_map(|(name, climbs)| Some((name, climbs.iter().find(|climb| climb.rung == rung)?)))
            .collect();
        // A system that did not come this far has said why on the rung below.
        if of_rung.len() < systems.len() && of_rung.iter().all(|(_, climb)| is_proven(climb)) {
            continue;
        }
        let Some(at) = of_rung.iter().map(|(_, climb)| climb.at).max() else { continue };
        let took = of_rung.iter().map(|(_, climb)| climb.took).sum();
        let said = |name: &str, text: &str| if several { format!("{name}: {text}") } else { text.to_owned() };
        let (mut failed, mut untried, mut shown, mut left_out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (name, climb) in of_rung {
            match &climb.outcome {
                ClimbOutcome::Failed { why } => failed.push(said(name, why)),
                ClimbOutcome::NotTried { why } => untried.push(said(name, why)),
                ClimbOutcome::Proven { shown: text, not_covered } => {
                    shown.push(said(name, text));
                    left_out.extend(not_covered.iter().map(|text| said(name, text)));
                }
            }
        }
        let outcome = if !failed.is_empty() {
            ClimbOutcome::Failed { why: failed.join("; ") }
        } else if !untried.is_empty() {
            ClimbOutcome::NotTried { why: untried.join("; ") }
        } else {
            ClimbOutcome::Proven { shown: shown.join("; "), not_covered: left_out }
        };
        rungs.push(Climb { rung, at, took, outcome });
    }
    rungs
}

fn is_proven(climb: &Climb) -> bool {
    matches!(climb.outcome, ClimbOutcome::Proven { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn climb(rung: Rung, outcome: ClimbOutcome) -> Climb {
        Climb { rung, at: Timestamp::UNIX_EPOCH, took: 2.0, outcome }
    }

    fn proven(rung: Rung) -> Climb {
        climb(rung, ClimbOutcome::Proven { shown: "good".into(), not_covered: vec!["gin".into()] })
    }

    #[test]
    fn one_system_that_fails_fails_the_set() {
        let bad = climb(Rung::Restored, ClimbOutcome::Failed { why: "a byte".into() });
        let good = vec![proven(Rung::Restored), proven(Rung::Alive)];
        let climbs = together(&[("postgres.a".into(), good), ("postgres.b".into(), vec![bad])]);
        assert_eq!(climbs.len(), 1, "nobody may say that the set is alive: {climbs:?}");
        assert_eq!(climbs[0].outcome, ClimbOutcome::Failed { why: "postgres.b: a byte".into() });
    }

    #[test]
    fn a_set_is_alive_when_all_of_its_systems_are() {
        let good = || vec![proven(Rung::Restored), proven(Rung::Alive)];
        let climbs = together(&[("postgres.a".into(), good()), ("postgres.b".into(), good())]);
        assert_eq!(climbs.iter().map(|climb| climb.rung).collect::<Vec<_>>(), [Rung::Restored, Rung::Alive]);
        assert!((climbs[1].took - 4.0).abs() < 1e-9);
        let ClimbOutcome::Proven { not_covered, .. } = &climbs[1].outcome else { panic!("{climbs:?}") };
        assert_eq!(not_covered, &["postgres.a: gin", "postgres.b: gin"]);
    }
}
