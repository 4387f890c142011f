//! The rungs of a Redis: its RDB file has the right checksum and structure, and a Redis loads it and has as many keys.

use super::{not_tried, shortened};
use crate::programs::{RedisPrograms, run};
use crate::rdb::{self, Holding, Trouble};
use crate::scratch::{ScratchPlace, ScratchRedis, Setback};
use crate::source::redis::RDB;
use groundskeeper_core::quantity::{after, format_bytes, format_count, format_seconds};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Keyspace, Rung};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Both rungs over what was restored to `folder`, inside of `place`; the upper one only when the lower is proven. What is
/// not done within `budget` is not tried.
pub(crate) async fn climb(
    place: &ScratchPlace,
    folder: &Path,
    keyspace: &Keyspace,
    programs: &RedisPrograms,
    budget: Duration,
    now: Timestamp,
) -> Vec<Climb> {
    let began = Instant::now();
    let at = || after(now, began.elapsed().as_secs_f64());
    let rdb = folder.join(RDB);
    if let Some(user) = place.user()
        && let Err(error) = user.give(folder).and_then(|()| user.give(&rdb))
    {
        return not_tried(&error.to_string(), at());
    }
    let restored = restored(place, &rdb, keyspace, programs, budget).await;
    let (holding, outcome) = match restored {
        Ok((holding, shown, not_covered)) => (Some(holding), ClimbOutcome::Proven { shown, not_covered }),
        Err(setback) => (None, setback.into_outcome()),
    };
    let mut climbs = vec![Climb { rung: Rung::Restored, at: at(), took: began.elapsed().as_secs_f64(), outcome }];
    if let Some(holding) = holding {
        let booting = Instant::now();
        let left = budget.saturating_sub(began.elapsed());
        let booted = async {
            must_fit(keyspace.memory, available())?;
            alive(place, &rdb, &holding, programs, left).await
        };
        let (outcome, took) = match booted.await {
            Ok((shown, not_covered, took)) => (ClimbOutcome::Proven { shown, not_covered }, took),
            Err(setback) => (setback.into_outcome(), booting.elapsed().as_secs_f64()),
        };
        climbs.push(Climb { rung: Rung::Alive, at: at(), took, outcome });
    }
    climbs
}

impl Setback {
    pub(super) fn into_outcome(self) -> ClimbOutcome {
        match self {
            Self::Failed(why) => ClimbOutcome::Failed { why },
            Self::NotTried(why) => ClimbOutcome::NotTried { why },
        }
    }
}

/// A proof that pushes live systems out of memory costs more than it is worth.
pub(super) fn must_fit(needed: u64, available: Option<u64>) -> Result<(), Setback> {
    match available {
        Some(available) if available < needed + needed / 4 => Err(Setback::NotTried(format!(
            "it takes {} of memory, as where it came from, and {} are available here; a quarter more than that is asked for, so \
             that nothing else is pushed out",
            format_bytes(needed as f64),
            format_bytes(available as f64)
        ))),
        _ => Ok(()),
    }
}

/// Bytes of memory that the kernel could give without swapping.
pub(super) fn available() -> Option<u64> {
    let known = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = known.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

async fn walked(rdb: &Path, moment: Timestamp) -> Result<Result<Holding, Trouble>, Setback> {
    let path: PathBuf = rdb.to_owned();
    let walking = tokio::task::spawn_blocking(move || rdb::walk(&path, moment.as_millisecond()));
    walking.await.map_err(|error| Setback::NotTried(error.to_string()))
}

/// What the file holds, what was shown, and what that does not cover.
async fn restored(
    place: &ScratchPlace,
    rdb: &Path,
    keyspace: &Keyspace,
    programs: &RedisPrograms,
    within: Duration,
) -> Result<(Holding, String, Vec<String>), Setback> {
    let began = Instant::now();
    let holding = match walked(rdb, Timestamp::MIN).await? {
        Ok(holding) => holding,
        Err(Trouble::Broken(why)) => return Err(Setback::Failed(format!("{RDB}: {why}"))),
        Err(Trouble::Unknown(what)) => {
            return Err(Setback::NotTried(format!(
                "{RDB} has {what}, which this version of groundskeeper does not know; it is of Redis {}",
                keyspace.version
            )));
        }
    };
    let checksum = holding.seal.checksum.map(|checksum| format!("{checksum:016x}"));
    if checksum != keyspace.checksum {
        let name = |sum: &Option<String>| sum.clone().unwrap_or_else(|| "none".to_owned());
        let why = format!("{RDB} has the CRC64 {}, and the set {}", name(&checksum), name(&keyspace.checksum));
        return Err(Setback::Failed(why));
    }
    let mut not_covered = Vec::new();
    if checksum.is_none() {
        not_covered.push("the checksum: the server makes none (rdbchecksum no)".to_owned());
    }
    let left = within.saturating_sub(began.elapsed());
    let second = match second_opinion(place, rdb, programs, left).await? {
        None => " and redis-check-rdb found nothing wrong",
        Some(why) => {
            not_covered.push(why);
            ""
        }
    };
    let keys = format_count(holding.total() as f64);
    let sum = checksum.map_or_else(String::new, |sum| format!("the CRC64 {sum} is right, "));
    Ok((holding, format!("{sum}all entries of {RDB} could be read ({keys} keys){second}"), not_covered))
}

/// What Redis's own program says. Why it has no say, where it has none.
async fn second_opinion(
    place: &ScratchPlace,
    rdb: &Path,
    programs: &RedisPrograms,
    within: Duration,
) -> Result<Option<String>, Setback> {
    let Some(program) = programs.check() else {
        return Ok(Some("what redis-check-rdb says: it is not installed".to_owned()));
    };
    let said = run(program, vec![rdb.into()], "", place.user(), within).await;
    let said = match said {
        Ok(said) => said,
        Err(error) => return Ok(Some(format!("what redis-check-rdb says: it cannot be run ({error})"))),
    };
    if said.status.is_none() {
        return Err(Setback::NotTried("redis-check-rdb was not through when the time for it was over".to_owned()));
    }
    if said.is_success() {
        return Ok(None);
    }
    if said.text.contains("Can't handle RDB format version") {
        return Ok(Some("what redis-check-rdb says: the one that is installed is older than the file".to_owned()));
    }
    Err(Setback::Failed(format!("redis-check-rdb: {}", shortened(&said.text))))
}

/// What was shown, what that does not cover, and the seconds to the first answer.
async fn alive(
    place: &ScratchPlace,
    rdb: &Path,
    holding: &Holding,
    programs: &RedisPrograms,
    within: Duration,
) -> Result<(String, Vec<String>, f64), Setback> {
    let databases: Vec<u32> = holding.keys.keys().copied().collect();
    let needed = databases.iter().max().map_or(1, |last| last.saturating_add(1));
    let server = Box::pin(ScratchRedis::start(programs, place, rdb, needed, within)).await?;
    let sizes = server.sizes(&databases).await?;
    // What expires while we look is gone with right; by the server's clock, not by ours.
    let gone = if holding.expiring == 0 {
        std::collections::BTreeMap::new()
    } else {
        walked(rdb, sizes.at).await?.map_err(|_| Setback::NotTried(format!("{RDB} changed")))?.gone
    };
    let facts = server.facts().await?;
    let counted = format_seconds(server.answered_after().as_secs_f64());
    for (database, held) in &holding.keys {
        let has = sizes.keys.get(database).copied().unwrap_or(0);
        let least = held - gone.get(database).copied().unwrap_or(0);
        if has < least || has > *held {
            let why = format!("database {database} has {has} keys after loading, and the file has {held}");
            return Err(Setback::Failed(why));
        }
    }
    if let Some((loaded, left_out)) = facts.loaded
        && loaded + left_out != holding.total()
    {
        let held = holding.total();
        let why = format!("{loaded} keys were loaded and {left_out} had expired, and the file has {held}");
        return Err(Setback::Failed(why));
    }
    let there: u64 = sizes.keys.values().sum();
    let expired = match holding.total() - there {
        0 => String::new(),
        expired => format!("; {} had expired by now", format_count(expired as f64)),
    };
    let shown = format!(
        "Redis {} loaded it and answered after {counted}; DBSIZE gives {} of its {} keys{expired}",
        facts.version,
        format_count(there as f64),
        format_count(holding.total() as f64)
    );
    let not_covered = vec!["what the values say: only their number was compared".to_owned()];
    Ok((shown, not_covered, server.answered_after().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_would_push_others_out_of_memory_is_not_booted() {
        assert_eq!(must_fit(100, Some(125)), Ok(()));
        assert_eq!(must_fit(100, None), Ok(()));
        let Err(Setback::NotTried(why)) = must_fit(4 << 30, Some(4 << 30)) else { panic!("it does not fit") };
        assert!(why.contains("4 GiB"), "{why}");
        assert!(available().unwrap() > 0);
    }
}
