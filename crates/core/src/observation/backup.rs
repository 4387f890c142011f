//! The repository of backups: its sets with their proofs, its key, the room on its disk.

use super::{Part, WalStream};
use crate::receipt::{Receipt, Rung};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// So many of the newest sets are kept in an observation.
pub const SETS_KEPT: usize = 50;
/// And so many of the newest that were drilled: with a drill a week they reach back a year.
pub const DRILLED_KEPT: usize = 50;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// Its folder.
    pub repository: String,
    /// Newest first: the newest fifty, and beside them those that [`of_interest`] names.
    pub receipts: Part<Vec<Receipt>>,
    pub space: Part<Space>,
    /// Whether the key can be read and opens the repository.
    pub key: Part<()>,
    /// The last run of the task that makes sets; none where nobody remembers one.
    pub last_run: Option<LastRun>,
    /// The streams of WAL that were asked for.
    #[serde(default)]
    pub wal: Vec<WalStream>,
}

/// Bytes of the repository's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    pub total: u64,
    pub free: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    pub at: Timestamp,
    /// Why it made no set; none when it made one.
    pub failed: Option<String>,
}

/// Of all sets, newest first, those that a judgement or the chart of recovery times may need: the newest fifty, the newest
/// whole one, the one that was last shown to be alive, the newest fifty that were drilled, and the oldest. With a set every
/// hour, fifty reach back two days, and a proof a week.
pub fn of_interest(receipts: Vec<Receipt>) -> Vec<Receipt> {
    let oldest = receipts.len().saturating_sub(1);
    let whole = receipts.iter().position(Receipt::is_whole);
    let proven = last_proven(&receipts).and_then(|set| receipts.iter().position(|receipt| receipt.set == set.set));
    let drilled = receipts.iter().enumerate().filter(|(_, receipt)| !receipt.recoveries().is_empty());
    let drilled: BTreeSet<usize> = drilled.map(|(at, _)| at).take(DRILLED_KEPT).collect();
    let wanted =
        |at: usize| at < SETS_KEPT || at == oldest || Some(at) == whole || Some(at) == proven || drilled.contains(&at);
    receipts.into_iter().enumerate().filter(|(at, _)| wanted(*at)).map(|(_, receipt)| receipt).collect()
}

/// The set that was last shown to be alive.
pub fn last_proven(receipts: &[Receipt]) -> Option<&Receipt> {
    let proven = receipts.iter().filter_map(|receipt| Some((receipt.proven_at(Rung::Alive)?, receipt)));
    proven.max_by_key(|(at, _)| *at).map(|(_, receipt)| receipt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::after;
    use crate::receipt::{Climb, ClimbOutcome, Missing, Part, SetId};

    fn set(number: u32) -> Receipt {
        let made = after("2026-03-02T01:00:00Z".parse().unwrap(), f64::from(number) * -3_600.0);
        let missing = Missing { system: "postgres.main".parse().unwrap(), why: "gone".into() };
        Receipt {
            set: SetId::new(made, number),
            made,
            took: 10.0,
            parts: Vec::new(),
            missing: vec![missing],
            added: 0,
            climbs: Vec::new(),
        }
    }

    #[test]
    fn what_a_judgement_needs_of_many_sets_is_kept() {
        let mut sets: Vec<Receipt> = (0..200).map(set).collect();
        sets[70].missing.clear();
        sets[70].parts = vec![Part { name: "postgres.main".into(), entries: 1, bytes: 1, ..Part::default() }];
        let proven = ClimbOutcome::Proven { shown: String::new(), not_covered: Vec::new() };
        let climb = |rung| Climb { rung, at: sets[0].made, took: 1.0, outcome: proven.clone() };
        sets[130].climbs = Rung::ALL.map(climb).into();
        let names: Vec<SetId> = sets.iter().map(|set| set.set.clone()).collect();
        let kept: Vec<SetId> = of_interest(sets).into_iter().map(|set| set.set).collect();
        assert_eq!(kept[..SETS_KEPT], names[..SETS_KEPT]);
        assert_eq!(kept[SETS_KEPT..], [70, 130, 199].map(|at| names[at].clone()));
        assert_eq!(of_interest(Vec::new()), []);
    }

    #[test]
    fn drilled_sets_are_kept_for_their_measured_times() {
        let mut sets: Vec<Receipt> = (0..1_000).map(set).collect();
        let proven = ClimbOutcome::Proven { shown: String::new(), not_covered: Vec::new() };
        for drilled in (60..1_000).step_by(10) {
            let at = sets[drilled].made;
            let climb = |rung| Climb { rung, at, took: 1.0, outcome: proven.clone() };
            sets[drilled].climbs = Rung::ALL.map(climb).into();
        }
        let kept = of_interest(sets);
        assert_eq!(kept.len(), SETS_KEPT + DRILLED_KEPT + 1, "and the oldest");
        assert_eq!(kept.iter().filter(|set| !set.recoveries().is_empty()).count(), DRILLED_KEPT);
    }
}
