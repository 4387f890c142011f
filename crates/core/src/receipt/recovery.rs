//! How long a recovery takes, as drills have measured it.

use super::{ClimbOutcome, Receipt, Rung};
use jiff::Timestamp;

/// A drill that brought a set up to a server that answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recovery {
    pub at: Timestamp,
    /// From the start of the restore to the first answered query.
    pub seconds: f64,
}

impl Receipt {
    /// Every such drill of the set, the oldest first. A drill restores and starts in one go, so its two rungs stand one
    /// after the other.
    pub fn recoveries(&self) -> Vec<Recovery> {
        let mut restored = None;
        let mut found = Vec::new();
        for climb in &self.climbs {
            let is_proven = matches!(climb.outcome, ClimbOutcome::Proven { .. });
            match climb.rung {
                Rung::Restored => restored = is_proven.then_some(climb.took),
                Rung::Alive if is_proven => {
                    found.extend(restored.take().map(|took| Recovery { at: climb.at, seconds: took + climb.took }));
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{Climb, SetId};

    fn climb(rung: Rung, second: i64, took: f64, is_good: bool) -> Climb {
        let outcome = if is_good {
            ClimbOutcome::Proven { shown: String::new(), not_covered: Vec::new() }
        } else {
            ClimbOutcome::Failed { why: String::new() }
        };
        Climb { rung, at: Timestamp::from_second(second).unwrap(), took, outcome }
    }

    fn measured(climbs: Vec<Climb>) -> (Vec<(i64, f64)>, Option<f64>) {
        let made = Timestamp::UNIX_EPOCH;
        let receipt = Receipt {
            set: SetId::new(made, 1),
            made,
            took: 1.0,
            parts: Vec::new(),
            missing: Vec::new(),
            added: 0,
            climbs,
        };
        let recoveries = receipt.recoveries();
        (recoveries.iter().map(|one| (one.at.as_second(), one.seconds)).collect(), receipt.recovery_time())
    }

    #[test]
    fn each_drill_that_ended_in_an_answer_is_one() {
        let below = || vec![climb(Rung::Stored, 1, 9.0, true), climb(Rung::Intact, 2, 9.0, true)];
        let drill = |at, one, other| [climb(Rung::Restored, at, one, true), climb(Rung::Alive, at + 1, other, true)];
        let twice = [below(), drill(10, 1.5, 0.5).into(), below(), drill(20, 2.5, 0.25).into()].concat();
        assert_eq!(measured(twice), (vec![(11, 2.0), (21, 2.75)], Some(2.75)), "the last one is the recovery time");
        assert_eq!(measured(below()), (Vec::new(), None));
    }

    #[test]
    fn what_did_not_answer_has_no_recovery_time() {
        let dead = vec![climb(Rung::Restored, 10, 1.5, true), climb(Rung::Alive, 11, 0.5, false)];
        assert_eq!(measured(dead).0, []);
        // Nor is the restore of one drill added to the start of another.
        let mixed = vec![
            climb(Rung::Restored, 10, 1.5, true),
            climb(Rung::Restored, 20, 3.0, false),
            climb(Rung::Alive, 30, 0.5, true),
        ];
        assert_eq!(measured(mixed).0, []);
    }
}
