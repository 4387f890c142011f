//! Rungs 3 to 6: restores every part of a set into a scratch place, compares it with what its server wrote beside it, boots
//! it, and compares what the parts hold.

use crate::error::{Error, Result};
use crate::make::later;
use crate::programs::{Programs, RedisPrograms, find_qdrant};
use crate::proof::consistent::Tied;
use crate::proof::{self, Expected, Probe, climb_to, not_tried};
use crate::repository::{Hold, Repository, StoredSet};
use crate::restore::link_tablespaces;
use crate::scratch::{Replay, Room, ScratchPlace, Until, keep_out_of};
use crate::source::contents::WAL_AFTER;
use crate::source::postgres::DATA;
use crate::vault::{Settings, receipt};
use crate::wal::Target;
use crate::wal::replay::{lay, room};
use crate::wal::tablespaces::Start;
use groundskeeper_core::receipt::{
    Climb, ClimbOutcome, Cluster, Contents, FileTree, Fingerprints, Keyspace, Part, PointId, Receipt, Rung, SetId, Tie,
    Vectors,
};
use groundskeeper_systems::postgres::tie::Chunks;
use jiff::Timestamp;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Bytes that a scratch server writes besides the restored files. Recovery changes pages in their place; new are the two
/// WAL segments of its own timeline (32 MiB by default), caches and logs, and what relations grow by in replay, which goes
/// with how much WAL the set has, a part of it. More than 1 GiB nobody writes there: no vacuum runs and nobody is let in.
fn besides(part: u64) -> u64 {
    (part / 10 + (64 << 20)).min(1 << 30)
}

pub(crate) fn drill(
    settings: &Settings,
    repository: &Arc<Repository>,
    wanted: Option<&SetId>,
    target: Option<Target>,
    budget: Duration,
    now: Timestamp,
) -> Result<Receipt> {
    let started = Instant::now();
    let (set, _hold) = Hold::on(&settings.place, repository, wanted)?;
    let mut kept = receipt(repository, &set)?;
    let live: Vec<&Cluster> = kept.parts.iter().filter_map(|part| part.postgres.as_ref()).collect();
    let (mut climbs, mut broken) = (Vec::new(), None);
    // The points are of the moment of the set, and no other.
    let mut tied = if target.is_none() { ties(&kept.parts) } else { Vec::new() };
    for part in &kept.parts {
        let left = budget.saturating_sub(started.elapsed());
        let ends = ends(part, find_qdrant(&settings.programs).as_deref());
        let of_part: Vec<&Tie> = tied.iter().map(|tied| tied.tie).filter(|tie| tie.postgres == part.name).collect();
        let drill = Drill { settings, repository, set: &set, part, live: &live, target, ties: &of_part };
        // What was shown of the others is kept, whatever happens to this one.
        let at = later(now, started);
        let tried = drill.run(left, at).unwrap_or_else(|why| {
            let untried = Some(not_tried(&why.to_string(), at).into());
            // WAL that is missing is no fault of the set, and no matter of the machine either.
            broken = broken.take().or(Some(why).filter(|why| matches!(why, Error::Wal(_))));
            untried
        });
        let Some(Tried { climbs: tried, chunks, mut points }) = tried else { continue };
        climbs.push(Climbed { name: part.name.clone(), climbs: tried, ends });
        let mut chunks = chunks.into_iter();
        for tied in &mut tied {
            if tied.tie.postgres == part.name {
                tied.chunks = chunks.next();
            }
            if tied.qdrant == part.name {
                tied.points = points.take();
            }
        }
    }
    if climbs.is_empty() {
        let why = "it has nothing that can be restored and looked at, or its receipt was lost";
        climbs.push(Climbed { name: set.id.to_string(), climbs: not_tried(why, now), ends: None });
    }
    let mut tried = together(&climbs);
    name_unasked(&mut tried, &settings.probes, &kept.parts);
    tried.extend(consistent(tied, later(now, started)));
    kept.climbs.extend(tried);
    repository.keep_receipt(&kept)?;
    broken.map_or(Ok(kept), Err)
}

/// One system of the set.
struct Drill<'a> {
    settings: &'a Settings,
    repository: &'a Arc<Repository>,
    set: &'a StoredSet,
    part: &'a Part,
    live: &'a [&'a Cluster],
    /// How far the WAL after the set is replayed; only a Postgres has any.
    target: Option<Target>,
    /// Whose chunks this part has.
    ties: &'a [&'a Tie],
}

/// What came of one part.
#[derive(Debug, Default)]
struct Tried {
    climbs: Vec<Climb>,
    /// Of each tie.
    chunks: Vec<std::result::Result<Chunks, String>>,
    points: Option<std::result::Result<Vec<PointId>, String>>,
}

impl From<Vec<Climb>> for Tried {
    fn from(climbs: Vec<Climb>) -> Self {
        Self { climbs, ..Self::default() }
    }
}

/// By what a system is proven.
enum Means<'a> {
    Postgres(&'a Cluster, Programs),
    Redis(&'a Keyspace, RedisPrograms),
    Qdrant(&'a Vectors, Option<PathBuf>),
    Files(&'a FileTree),
}

/// How far one part came.
struct Climbed {
    name: String,
    climbs: Vec<Climb>,
    /// The highest rung that it has, and why it has none above.
    ends: Option<(Rung, String)>,
}

fn ends(part: &Part, qdrant: Option<&Path>) -> Option<(Rung, String)> {
    let counted = |what: &str| (Rung::Alive, format!("its {what} were counted, and what they hold is not compared"));
    match part {
        Part { files: Some(_), .. } => {
            Some((Rung::Restored, "files are restored, and there is nothing to boot".to_owned()))
        }
        Part { qdrant: Some(vectors), .. } => Some(match proof::qdrant::not_booted(vectors, qdrant) {
            Some(why) => (Rung::Restored, why),
            None => counted("points"),
        }),
        Part { redis: Some(_), .. } => Some(counted("keys")),
        _ => None,
    }
}

/// What of the set is tied to what.
fn ties(parts: &[Part]) -> Vec<Tied<'_>> {
    let tied = parts.iter().filter_map(|part| {
        let tie = part.qdrant.as_ref()?.tie.as_ref()?;
        Some(Tied { tie, qdrant: &part.name, chunks: None, points: None })
    });
    tied.collect()
}

/// Rung 6, for a set that has something to compare.
fn consistent(tied: Vec<Tied<'_>>, at: Timestamp) -> Option<Climb> {
    let comparing = Instant::now();
    let several = tied.len() > 1;
    let outcomes: Vec<(&str, ClimbOutcome)> = tied.into_iter().map(|tied| (tied.qdrant, tied.outcome())).collect();
    let named: Vec<(&str, &ClimbOutcome)> = outcomes.iter().map(|(name, outcome)| (*name, outcome)).collect();
    let took = comparing.elapsed().as_secs_f64();
    let outcome = (!named.is_empty()).then(|| worst(&named, several, Vec::new()))?;
    Some(Climb { rung: Rung::Consistent, at, took, outcome })
}

impl Drill<'_> {
    /// What keeps us from trying is not held against the set; what is wrong with its data is. None for a part that has
    /// nothing to boot.
    fn run(&self, budget: Duration, now: Timestamp) -> Result<Option<Tried>> {
        let programs = &self.settings.programs;
        let means = match self.part {
            Part { postgres: Some(cluster), .. } => match self.programs(cluster) {
                Ok(programs) => Means::Postgres(cluster, programs),
                Err(why) => return Ok(Some(not_tried(&why, now).into())),
            },
            Part { redis: Some(keyspace), .. } => {
                Means::Redis(keyspace, RedisPrograms::find(&keyspace.version, programs))
            }
            Part { qdrant: Some(vectors), .. } => Means::Qdrant(vectors, find_qdrant(programs)),
            Part { files: Some(tree), .. } => Means::Files(tree),
            _ => return Ok(None),
        };
        self.climb(&means, budget, now).map(Some)
    }

    fn programs(&self, cluster: &Cluster) -> std::result::Result<Programs, String> {
        let programs = Programs::find(cluster.major(), &self.settings.programs)?;
        match self.target.and_then(|_| programs.missing(&["pg_waldump"])) {
            Some(missing) => Err(missing),
            None => Ok(programs),
        }
    }

    fn climb(&self, means: &Means<'_>, budget: Duration, now: Timestamp) -> Result<Tried> {
        let started = Instant::now();
        let runtime = Handle::current();
        let needed = self.part.bytes + besides(self.part.bytes) + self.replayed(means)?;
        let room = Room { needed, left_free: self.settings.leave_free };
        let (scratch, run_as) = (&self.settings.scratch, &self.settings.run_as);
        if let Some(Err(error)) = self.settings.place.folder().map(|folder| keep_out_of(scratch, folder)) {
            return Ok(not_tried(&error.to_string(), now).into());
        }
        let place = match runtime.block_on(ScratchPlace::make(scratch, run_as, self.live, room)) {
            Ok(place) => place,
            Err(error) => return Ok(not_tried(&error.to_string(), now).into()),
        };
        let folder = place.path().join(&self.part.name);
        let restored = self.repository.restore(self.set, &self.part.name, &folder).and_then(|_| match means {
            Means::Postgres(..) => link_tablespaces(&folder).map(drop),
            _ => Ok(()),
        });
        match restored {
            Ok(()) => {}
            Err(Error::Damaged { why, .. }) => {
                let outcome = ClimbOutcome::Failed { why };
                let took = started.elapsed().as_secs_f64();
                return Ok(vec![Climb { rung: Rung::Restored, at: later(now, started), took, outcome }].into());
            }
            Err(error) => return Err(error),
        }
        let data = folder.join(DATA);
        let contents = self.contents();
        let replay = match (means, self.target) {
            (Means::Postgres(cluster, programs), Some(target)) => Some(self.replay(target, cluster, &data, programs)?),
            (Means::Postgres(cluster, _), None) => match contents {
                Some(contents) => Some(to_position(contents, cluster, &folder)?),
                None => None,
            },
            _ => None,
        };
        let restoring = started.elapsed();
        let left = budget.saturating_sub(restoring);
        let _shown = self.repository.progress().begin(format!("starting and checking {}", self.part.name), None);
        let now = later(now, started);
        let mut tried: Tried = runtime.block_on(async {
            match means {
                Means::Postgres(cluster, programs) => {
                    let probes = self.probes();
                    let expected = Expected { cluster, replay, contents, probes: &probes, ties: self.ties };
                    let proof::Climbed { mut climbs, chunks } =
                        climb_to(&place, &data, expected, programs, left, now).await;
                    climbs.extend(self.not_compared(&climbs));
                    Tried { climbs, chunks, points: None }
                }
                Means::Redis(keyspace, programs) => {
                    proof::redis::climb(&place, &folder, keyspace, programs, left, now).await.into()
                }
                Means::Qdrant(vectors, program) => {
                    let climbed = proof::qdrant::climb(&place, &folder, vectors, program.as_deref(), left, now);
                    let proof::qdrant::Climbed { climbs, points } = climbed.await;
                    Tried { climbs, chunks: Vec::new(), points }
                }
                Means::Files(tree) => vec![proof::files(self.part, tree, now)].into(),
            }
        });
        // The measured recovery time begins with the first byte that is fetched.
        for climb in tried.climbs.iter_mut().filter(|climb| climb.rung == Rung::Restored) {
            climb.took += restoring.as_secs_f64();
        }
        if let Err(error) = runtime.block_on(place.remove()) {
            tracing::warn!(%error, "after a drill; the next one tries again");
        }
        Ok(tried)
    }

    /// What the user asks of this system.
    fn probes(&self) -> Vec<Probe> {
        self.settings.probes.iter().filter(|probe| probe.system == self.part.name).cloned().collect()
    }

    /// What the tables are to hold, when nothing is replayed beyond that.
    fn contents(&self) -> Option<&Contents> {
        match (self.target, &self.part.contents) {
            (None, Some(Fingerprints::Taken(contents))) => Some(contents),
            _ => None,
        }
    }

    /// Why a Postgres that is alive was not compared.
    fn not_compared(&self, climbs: &[Climb]) -> Option<Climb> {
        let last = climbs.last().filter(|climb| climb.rung == Rung::Alive && is_proven(climb))?;
        let why = match (self.target, &self.part.contents) {
            // What was shown of the set as it is stands.
            (Some(_), _) | (None, Some(Fingerprints::Taken(_))) => return None,
            (None, Some(Fingerprints::NotTaken { why })) => why.clone(),
            (None, None) => "what its tables held was not noted: an earlier version made the set".to_owned(),
        };
        Some(Climb { rung: Rung::Faithful, at: last.at, took: 0.0, outcome: ClimbOutcome::NotTried { why } })
    }

    /// In a scratch place WAL lies where Postgres looks for its own: no command of ours has to run there.
    fn replay(&self, target: Target, cluster: &Cluster, data: &Path, programs: &Programs) -> Result<Replay> {
        let laid = lay(self.repository, cluster, target, &data.join("pg_wal"), programs)?;
        let until = laid.until.map_or(Until::End, Until::Time);
        Ok(Replay { timeline: laid.timeline, until, stops: laid.stops })
    }

    /// Bytes for what a server makes of it: the WAL after the set, and as many again for what relations grow by when it is
    /// replayed; what a Qdrant unpacks of its snapshots.
    fn replayed(&self, means: &Means<'_>) -> Result<u64> {
        if let Means::Qdrant(_, Some(_)) = means {
            return Ok(self.part.bytes);
        }
        let (Means::Postgres(cluster, _), Some(target)) = (means, self.target) else { return Ok(0) };
        Ok(room(self.repository, cluster, target)?.saturating_mul(2))
    }
}

/// Lays the WAL after the base backup where Postgres looks for it.
fn to_position(contents: &Contents, cluster: &Cluster, folder: &Path) -> Result<Replay> {
    let (from, to) = (folder.join(WAL_AFTER), folder.join(DATA).join("pg_wal"));
    let moved = fs::read_dir(&from).and_then(|entries| {
        for entry in entries {
            let name = entry?.file_name();
            fs::rename(from.join(&name), to.join(&name))?;
        }
        Ok(())
    });
    moved.map_err(|error| Error::Scratch(format!("{}: {error}", from.display())))?;
    let (timeline, at) = (cluster.timeline, contents.at);
    Ok(Replay { timeline, until: Until::Before(at), stops: Some(Start { at, timeline }) })
}

/// One climb of each rung for the whole set: the worst of its systems decides, and times add up.
fn together(systems: &[Climbed]) -> Vec<Climb> {
    let several = systems.len() > 1;
    let mut rungs = Vec::new();
    for rung in [Rung::Restored, Rung::Alive, Rung::Faithful] {
        let goes_on = |system: &&Climbed| system.ends.as_ref().is_none_or(|(highest, _)| rung <= *highest);
        let due = systems.iter().filter(goes_on).count();
        let of_rung: Vec<(&str, &Climb)> = systems
            .iter()
            .filter(goes_on)
            .filter_map(|system| Some((system.name.as_str(), system.climbs.iter().find(|climb| climb.rung == rung)?)))
            .collect();
        // A system that did not come this far has said why on the rung below.
        if of_rung.len() < due && of_rung.iter().all(|(_, climb)| is_proven(climb)) {
            continue;
        }
        let Some(at) = of_rung.iter().map(|(_, climb)| climb.at).max() else { continue };
        let took = of_rung.iter().map(|(_, climb)| climb.took).sum();
        let below = systems.iter().filter(|system| !goes_on(system));
        let left_out = below.filter_map(|system| Some(said(several, &system.name, &system.ends.as_ref()?.1)));
        let outcomes: Vec<(&str, &ClimbOutcome)> =
            of_rung.iter().map(|(name, climb)| (*name, &climb.outcome)).collect();
        rungs.push(Climb { rung, at, took, outcome: worst(&outcomes, several, left_out.collect()) });
    }
    rungs
}

/// Whose it is, where that is not plain.
fn said(several: bool, name: &str, text: &str) -> String {
    if several { format!("{name}: {text}") } else { text.to_owned() }
}

/// The worst of several outcomes, with what all of that kind say. `left_out` is what is not covered besides.
fn worst(outcomes: &[(&str, &ClimbOutcome)], several: bool, left_out: Vec<String>) -> ClimbOutcome {
    let (mut failed, mut untried, mut shown, mut not_covered) = (Vec::new(), Vec::new(), Vec::new(), left_out);
    for (name, outcome) in outcomes {
        match outcome {
            ClimbOutcome::Failed { why } => failed.push(said(several, name, why)),
            ClimbOutcome::NotTried { why } => untried.push(said(several, name, why)),
            ClimbOutcome::Proven { shown: text, not_covered: left } => {
                shown.push(said(several, name, text));
                not_covered.extend(left.iter().map(|text| said(several, name, text)));
            }
        }
    }
    if !failed.is_empty() {
        ClimbOutcome::Failed { why: failed.join("; ") }
    } else if !untried.is_empty() {
        ClimbOutcome::NotTried { why: untried.join("; ") }
    } else {
        ClimbOutcome::Proven { shown: shown.join("; "), not_covered }
    }
}

/// Says of the probes of systems that the set does not hold that nobody has put them.
fn name_unasked(rungs: &mut [Climb], probes: &[Probe], parts: &[Part]) {
    let held = |system: &str| parts.iter().any(|part| part.postgres.is_some() && part.name == system);
    let unasked: Vec<String> = probes
        .iter()
        .filter(|probe| !held(&probe.system))
        .map(|probe| format!("the probe `{}`: {} is not in the set", probe.name, probe.system))
        .collect();
    // Where nothing was booted, the highest rung has to say it.
    let at = rungs.iter().position(|climb| climb.rung == Rung::Alive).unwrap_or(rungs.len().saturating_sub(1));
    if let Some(Climb { outcome: ClimbOutcome::Proven { not_covered, .. }, .. }) = rungs.get_mut(at) {
        not_covered.extend(unasked);
    }
}

fn is_proven(climb: &Climb) -> bool {
    matches!(climb.outcome, ClimbOutcome::Proven { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::probe::{Question, Wanted};

    fn climb(rung: Rung, outcome: ClimbOutcome) -> Climb {
        Climb { rung, at: Timestamp::UNIX_EPOCH, took: 2.0, outcome }
    }

    fn climbed(name: &str, climbs: Vec<Climb>) -> Climbed {
        Climbed { name: name.into(), climbs, ends: None }
    }

    fn proven(rung: Rung) -> Climb {
        climb(rung, ClimbOutcome::Proven { shown: "good".into(), not_covered: vec!["gin".into()] })
    }

    #[test]
    fn one_system_that_fails_fails_the_set() {
        let bad = climb(Rung::Restored, ClimbOutcome::Failed { why: "a byte".into() });
        let good = vec![proven(Rung::Restored), proven(Rung::Alive)];
        let climbs = together(&[climbed("postgres.a", good), climbed("postgres.b", vec![bad])]);
        assert_eq!(climbs.len(), 1, "nobody may say that the set is alive: {climbs:?}");
        assert_eq!(climbs[0].outcome, ClimbOutcome::Failed { why: "postgres.b: a byte".into() });
    }

    #[test]
    fn a_set_is_alive_when_all_of_its_systems_are() {
        let good = || vec![proven(Rung::Restored), proven(Rung::Alive)];
        let climbs = together(&[climbed("postgres.a", good()), climbed("postgres.b", good())]);
        assert_eq!(climbs.iter().map(|climb| climb.rung).collect::<Vec<_>>(), [Rung::Restored, Rung::Alive]);
        assert!((climbs[1].took - 4.0).abs() < 1e-9);
        let ClimbOutcome::Proven { not_covered, .. } = &climbs[1].outcome else { panic!("{climbs:?}") };
        assert_eq!(not_covered, &["postgres.a: gin", "postgres.b: gin"]);
    }

    #[test]
    fn a_probe_of_a_system_that_is_not_in_the_set_is_named() {
        let question = Question::Sql { sql: "SELECT true".into(), wanted: Wanted::Something };
        let (timeout, user) = (Duration::from_secs(1), None);
        let database = "docrag".to_owned();
        let probe = Probe { name: "a".into(), system: "postgres.gone".into(), database, user, question, timeout };
        let named = |rungs: &[Rung]| {
            let mut climbs: Vec<Climb> = rungs.iter().map(|rung| proven(*rung)).collect();
            name_unasked(&mut climbs, std::slice::from_ref(&probe), &[Part::default()]);
            let ClimbOutcome::Proven { not_covered, .. } = climbs.remove(1).outcome else { panic!("{climbs:?}") };
            not_covered
        };
        let told = ["gin", "the probe `a`: postgres.gone is not in the set"];
        assert_eq!(named(&[Rung::Restored, Rung::Alive, Rung::Faithful]), told);
        assert_eq!(named(&[Rung::Intact, Rung::Restored]), told, "nothing was booted");
    }

    #[test]
    fn what_a_scratch_server_writes_goes_with_the_size_of_the_cluster_up_to_a_bound() {
        let mebibytes = |size: u64| besides(size << 20) >> 20;
        assert_eq!((mebibytes(0), mebibytes(100), mebibytes(5_000), mebibytes(1 << 20)), (64, 74, 564, 1_024));
    }

    #[test]
    fn what_cannot_be_booted_holds_no_set_back_and_is_named() {
        let files = || Climbed {
            ends: Some((Rung::Restored, "no server".to_owned())),
            ..climbed("files.a", vec![proven(Rung::Restored)])
        };
        let good = climbed("redis.a", vec![proven(Rung::Restored), proven(Rung::Alive)]);
        let climbs = together(&[good, files()]);
        let ClimbOutcome::Proven { not_covered, .. } = &climbs[1].outcome else { panic!("{climbs:?}") };
        assert_eq!(not_covered, &["files.a: no server", "redis.a: gin"]);
        assert_eq!(together(&[files()]).len(), 1, "nothing was booted, and nobody says so");
        // Nor does it hide that another did not come so far.
        let bad = climb(Rung::Restored, ClimbOutcome::Failed { why: "a byte".into() });
        assert_eq!(together(&[climbed("redis.a", vec![bad]), files()]).len(), 1);
    }
}
