//! The rungs of the ladder that need a restored folder: `restored` compares it with its manifest, `alive` boots it,
//! `faithful` compares what its tables hold, `consistent` the chunks of a Postgres with the points of a Qdrant, and [`probe`]
//! asks what the user wants to know.
//!
//! The order is not free. To boot changes the folder (settings moved aside, then everything that a running Postgres
//! writes), so the comparison comes first. What could not be tried for want of a program, of room or of time is
//! [`ClimbOutcome::NotTried`]: neither a proof nor the set's fault.

mod alive;
pub(crate) mod consistent;
mod coverage;
mod faithful;
pub mod probe;
pub(crate) mod qdrant;
mod reader;
pub(crate) mod redis;
mod restored;

pub use alive::{Alive, alive};
pub use probe::Probe;
pub use restored::restored;

use crate::programs::Programs;
use crate::scratch::{DataFolder, Replay, ScratchPlace};
use groundskeeper_core::quantity::{after, format_bytes, format_count};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Cluster, Contents, FileTree, Part, Rung, Tie};
use groundskeeper_systems::postgres::tie::Chunks;
use jiff::Timestamp;
use std::path::Path;
use std::time::{Duration, Instant};

/// What of a program's complaints goes into a receipt.
const QUOTED_LINES: usize = 20;
const QUOTED_CHARACTERS: usize = 400;

/// The rungs over the base backup that was restored to `data_dir`, inside of `place`; `alive` only when `restored` is
/// proven. `took` of `restored` is the comparison alone (whoever restored the files adds what that took); `took` of
/// `alive` is the time from the start of Postgres to its first answer. What is not done within `budget` is not tried.
pub async fn climb(
    place: &ScratchPlace,
    data_dir: &Path,
    cluster: &Cluster,
    programs: &Programs,
    budget: Duration,
    now: Timestamp,
) -> Vec<Climb> {
    climb_to(place, data_dir, Expected::of(cluster), programs, budget, now).await.climbs
}

/// What a restored Postgres is to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub cluster: &'a Cluster,
    /// WAL that was laid into `pg_wal` is replayed.
    pub replay: Option<Replay>,
    /// What its tables hold after that.
    pub contents: Option<&'a Contents>,
    /// What it is to answer in the end.
    pub probes: &'a [Probe],
    /// Whose chunks it has.
    pub ties: &'a [&'a Tie],
}

impl<'a> Expected<'a> {
    /// The cluster as it was copied, and no more is known of it.
    pub fn of(cluster: &'a Cluster) -> Self {
        Self { cluster, replay: None, contents: None, probes: &[], ties: &[] }
    }
}

/// How far a Postgres came.
#[derive(Debug, Default)]
pub struct Climbed {
    pub climbs: Vec<Climb>,
    /// Of each tie, in their order, when it came so far that it could be asked.
    pub chunks: Vec<Result<Chunks, String>>,
}

impl From<Vec<Climb>> for Climbed {
    fn from(climbs: Vec<Climb>) -> Self {
        Self { climbs, chunks: Vec::new() }
    }
}

/// The same with WAL replayed, and the rung `faithful` where it is known what the tables held.
pub async fn climb_to(
    place: &ScratchPlace,
    data_dir: &Path,
    expected: Expected<'_>,
    programs: &Programs,
    budget: Duration,
    now: Timestamp,
) -> Climbed {
    let began = Instant::now();
    let left = || budget.saturating_sub(began.elapsed());
    let at = || after(now, began.elapsed().as_secs_f64());
    let data = match DataFolder::take_over(place, data_dir).await {
        Ok(data) => data.with_replay(expected.replay),
        Err(error) => return not_tried(&error.to_string(), at()).into(),
    };
    let comparing = Instant::now();
    let outcome = restored(programs, &data, left()).await;
    let is_proven = matches!(outcome, ClimbOutcome::Proven { .. });
    let took = comparing.elapsed().as_secs_f64();
    let mut climbed = Climbed::from(vec![Climb { rung: Rung::Restored, at: at(), took, outcome }]);
    if is_proven {
        let Alive { outcome, took, faithful, chunks } = alive(programs, &data, expected, left()).await;
        climbed.climbs.push(Climb { rung: Rung::Alive, at: at(), took, outcome });
        let compared = faithful.map(|(outcome, took)| Climb { rung: Rung::Faithful, at: at(), took, outcome });
        climbed.climbs.extend(compared);
        climbed.chunks = chunks;
    }
    climbed
}

/// The rung of files that were restored, which counts and decrypts all of them; they have no other.
pub(crate) fn files(part: &Part, tree: &FileTree, at: Timestamp) -> Climb {
    let (entries, bytes) = (format_count(part.entries as f64), format_bytes(part.bytes as f64));
    let shown = format!("{entries} entries with {bytes} were restored, as many as were sent");
    let moving = (!tree.changed.is_empty()).then(|| format!("what was in motion when it was read: {}", tree.changed));
    let outcome = ClimbOutcome::Proven { shown, not_covered: moving.into_iter().collect() };
    Climb { rung: Rung::Restored, at, took: 0.0, outcome }
}

/// Both rungs, for a drill that does not come as far as a restored folder.
pub fn not_tried(why: &str, at: Timestamp) -> Vec<Climb> {
    let climb = |rung| Climb { rung, at, took: 0.0, outcome: ClimbOutcome::NotTried { why: why.to_owned() } };
    [Rung::Restored, Rung::Alive].map(climb).to_vec()
}

/// The first lines, and how many more there are.
fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let cut = |line: &&str| line.chars().take(QUOTED_CHARACTERS).collect::<String>();
    let mut short: Vec<String> = lines.iter().take(QUOTED_LINES).map(cut).collect();
    if lines.len() > QUOTED_LINES {
        short.push(format!("… and {} more lines", lines.len() - QUOTED_LINES));
    }
    short.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_complaints_are_shortened_and_say_so() {
        let lines = (1..=25).fold(String::new(), |text, line| text + &format!("line {line}\n\n"));
        let short = shortened(&lines);
        assert!(short.starts_with("line 1\nline 2\n") && short.ends_with("line 20\n… and 5 more lines"), "{short}");
        assert_eq!(shortened("one\n"), "one");
        assert_eq!(shortened(&"x".repeat(1000)).len(), QUOTED_CHARACTERS);
    }
}
