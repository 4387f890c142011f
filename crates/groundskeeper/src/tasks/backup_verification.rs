//! The verification: climbs the proof ladder for the newest set.
//!
//! Rungs 1 and 2 (stored, intact) each time. Rungs 3 to 5 (restored, alive, faithful) on Sundays, and on any other day when no set
//! was shown to be alive for six days: a drill that could not be tried, or failed, is so tried again the next day. The
//! time budget is asked between the rungs and between the packs that are read back. The drill waits until all are read.

use super::backup::{audit, failed, keep_plan};
use super::{Found, Shop};
use crate::app::CallError;
use crate::app::backup::{NOT_CONFIGURED, climbed, proven};
use crate::scheduler::{BoxFuture, End, Job, Mode};
use groundskeeper_backup::wal::Target;
use groundskeeper_core::observation::last_proven;
use groundskeeper_core::quantity::{format_seconds, seconds_between};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Receipt, Rung, SetId};
use jiff::Timestamp;
use jiff::civil::Weekday;
use std::sync::Arc;
use std::time::Duration;

/// A proof of this age is to be made again.
const PROOF_SECONDS: f64 = 6.0 * 86_400.0;
/// For all rungs together.
const BUDGET: Duration = Duration::from_mins(30);
const TASK: &str = "backup-verification";

pub(super) struct BackupVerification(pub(super) Arc<Shop>);

impl Job for BackupVerification {
    type Yield = Found;

    fn run(&self, mode: Mode) -> BoxFuture<'_, End<Found>> {
        Box::pin(async move {
            match verify(&self.0, mode).await {
                Ok(end) => end,
                Err(error) => failed(error.message),
            }
        })
    }
}

/// What is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Rungs 1 and 2; what is not read back within this time is not tried, and the next time goes on with it.
    Verify(Duration),
    /// Rungs 3 to 5; what is not done within this time is not tried. With the WAL after the set as far as is said.
    Drill(Duration, Option<Target>),
}

impl Proof {
    fn as_str(self) -> &'static str {
        match self {
            Self::Verify(_) => "backup verify",
            Self::Drill(..) => "backup drill",
        }
    }
}

/// A set after a try, and what was tried.
#[derive(Debug, Clone)]
pub(crate) struct Climbed {
    pub(crate) receipt: Receipt,
    pub(crate) climbs: Vec<Climb>,
}

impl Climbed {
    /// The first rung that was not shown, in words.
    fn amiss(&self) -> Option<String> {
        let amiss = |climb: &&Climb| climb.leaves_open() || matches!(climb.outcome, ClimbOutcome::Failed { .. });
        self.climbs.iter().find(amiss).map(climbed)
    }
}

/// Tries two rungs of a set, the newest without a name, and writes down what came of it.
pub(crate) async fn climb(shop: &Shop, proof: Proof, set: Option<&SetId>, by: &str) -> Result<Climbed, CallError> {
    let lookout = shop.stack.lookout().ok_or_else(|| CallError::usage(NOT_CONFIGURED))?;
    let _alone = shop.repository.lock().await;
    let (vault, begun) = (lookout.vault(), shop.clock.now());
    let tried = match proof {
        Proof::Verify(budget) => shop.executor.unless_ended(vault.verify_within(set, budget, begun)).await,
        Proof::Drill(budget, None) => shop.executor.unless_ended(vault.drill(set, budget, begun)).await,
        Proof::Drill(budget, Some(target)) => {
            shop.executor.unless_ended(vault.drill_to(set, target, budget, begun)).await
        }
    };
    let stopped = || CallError::unanswered("groundskeeper was told to stop before this was shown");
    let tried = tried.ok_or_else(stopped).and_then(|tried| Ok(tried?));
    let tried = tried.map(|receipt| {
        let climbs = receipt.climbs.iter().filter(|climb| climb.at >= begun).cloned().collect();
        Climbed { receipt, climbs }
    });
    let detail = match &tried {
        Ok(Climbed { receipt, climbs }) => {
            let each: Vec<String> = climbs.iter().map(climbed).collect();
            format!("{}: {}", receipt.set, each.join("; "))
        }
        Err(error) => format!("failed: {error}"),
    };
    if matches!(proof, Proof::Drill(..)) && tried.is_ok() {
        keep_plan(shop, vault).await;
    }
    audit(shop, by, proof.as_str(), detail).await?;
    tried
}

async fn verify(shop: &Shop, mode: Mode) -> Result<End<Found>, CallError> {
    let lookout = shop.stack.lookout().ok_or_else(|| CallError::usage(NOT_CONFIGURED))?;
    let begun = shop.clock.now();
    let receipts = lookout.vault().receipts().await?;
    let Some(newest) = receipts.first() else {
        let summary = "there is no set to verify yet; the task backup makes one".to_owned();
        return Ok(End { ok: true, summary, found: Found::default() });
    };
    let last = last_proven(&receipts).and_then(|receipt| receipt.proven_at(Rung::Alive));
    let drill = drill_is_due(last, weekday(shop, begun), begun);
    if mode == Mode::DryRun {
        let mut details = vec![format!("would read {} back (rungs 1 and 2)", newest.set)];
        details.push(match &drill {
            Ok(why) => format!("would restore and boot it (rungs 3 to 6): {why}"),
            Err(why) => format!("would not restore it: {why}"),
        });
        let summary = format!("would verify the set {}", newest.set);
        return Ok(End { ok: true, summary, found: Found { details, ..Found::default() } });
    }
    let mut done = climb(shop, Proof::Verify(BUDGET), Some(&newest.set), "groundskeeper").await?;
    let mut details: Vec<String> = done.climbs.iter().map(climbed).collect();
    let mut amiss = done.amiss();
    if let (None, Ok(why)) = (&amiss, drill) {
        let took = seconds_between(begun, shop.clock.now()).max(0.0);
        let left = BUDGET.saturating_sub(Duration::try_from_secs_f64(took).unwrap_or(BUDGET));
        if left.is_zero() {
            let late = format!("not restored, although {why}: reading it back took {}", format_seconds(took));
            details.push(late.clone());
            amiss = Some(late);
        } else {
            done = climb(shop, Proof::Drill(left, None), Some(&newest.set), "groundskeeper").await?;
            details.extend(done.climbs.iter().map(climbed));
            amiss = done.amiss();
        }
    }
    let (ok, receipt) = (amiss.is_none(), done.receipt);
    let amiss = amiss.map(|amiss| format!("; {amiss}")).unwrap_or_default();
    let summary = format!("set {} {}{amiss}", receipt.set, proven(&receipt));
    Ok(End { ok, summary, found: Found { details, receipt: Some(receipt), ..Found::default() } })
}

/// Why a drill is due, or why it is not.
fn drill_is_due(proven: Option<Timestamp>, today: Weekday, now: Timestamp) -> Result<String, String> {
    let age = proven.map(|at| seconds_between(at, now));
    match age {
        _ if today == Weekday::Sunday => Ok("it is Sunday".to_owned()),
        None => Ok("no set was ever shown to restore".to_owned()),
        Some(age) if age >= PROOF_SECONDS => Ok(format!("the last proof is {} old", format_seconds(age))),
        Some(age) => Err(format!("a set was shown to restore {} ago", format_seconds(age.max(0.0)))),
    }
}

/// The day in the zone of the task's calendar.
fn weekday(shop: &Shop, now: Timestamp) -> Weekday {
    let zone = shop.settings.tasks.get(TASK).and_then(|task| task.zone.clone());
    now.to_zoned(zone.unwrap_or_else(|| shop.settings.zone.clone())).weekday()
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::quantity::after;

    #[test]
    fn a_drill_is_due_on_sundays_and_when_the_last_proof_is_six_days_old() {
        let now: Timestamp = "2026-03-02T22:00:00Z".parse().unwrap();
        let due =
            |days: Option<f64>, today| drill_is_due(days.map(|days| after(now, days * -86_400.0)), today, now).is_ok();
        assert!(!due(Some(0.5), Weekday::Monday) && !due(Some(5.9), Weekday::Monday));
        assert!(due(Some(6.0), Weekday::Monday) && due(None, Weekday::Monday));
        assert!(due(Some(0.5), Weekday::Sunday));
        assert!(!due(Some(-0.5), Weekday::Monday), "a clock that was set back makes no proof old");
    }
}
