//! Carries out plans: every guard is asked again right before each step, the intent is durable before the step, the
//! result is verified and settled, and what did not help is put back where it can be.
//!
//! The turn is taken for each step and by class, so that what mends a single thing does not wait for a vacuum; the
//! guards read the journal behind a gate that opens when the intent is in it, so that no two steps pass the same cap.

use super::turns::{InHand, Turns};
use super::undoing::{Left, Written};
use super::{Actuator, Trouble};
use crate::clock::Clock;
use crate::record::{self, Entry, Owed, Record};
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::plan::{Plan, PlanItem};
use groundskeeper_core::policy::{Consent, Decision, Guard, Outcome, Policy, Situation, permit};
use groundskeeper_core::quantity::after;
use groundskeeper_core::remedy::{self, JournalledStep, RiskClass, Step, StepState, Undo, Verification};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// No single step may take longer.
pub(super) const LONGEST: Duration = Duration::from_hours(2);
/// For each second of building an index, so many are left to everybody else before the next step, up to a bound: at least …
const LEAST_REST: (u32, Duration) = (25, Duration::from_mins(5));
/// … and where the window has room for it. So others meet the end of one build in twelve minutes.
const REST: (u32, Duration) = (60, Duration::from_mins(12));

/// Who wants a plan applied, and what was approved until when.
#[derive(Debug, Clone)]
pub struct Permission {
    by: String,
    consent: Consent,
    expires: Option<Timestamp>,
}

/// After a build that took so long. So many more are to come until the window closes, and all have their turn in it where that is
/// possible.
pub(super) fn rest(took: Duration, builds: u32, left: Option<Duration>) -> Duration {
    let [least, most] = [LEAST_REST, REST].map(|(times, longest)| took.saturating_mul(times).min(longest));
    left.map_or(most, |left| (left / builds.saturating_add(1)).saturating_sub(took).clamp(least, most))
}

impl Permission {
    /// Nobody asked; what autonomy allows.
    pub fn by_itself() -> Self {
        Self::of("groundskeeper")
    }

    /// Somebody asked, and nobody has approved anything.
    pub fn of(by: impl Into<String>) -> Self {
        Self { by: by.into(), consent: Consent::default(), expires: None }
    }

    #[must_use]
    pub fn approved(self, any_time: bool, expires: Timestamp) -> Self {
        Self { consent: Consent { approved: true, any_time }, expires: Some(expires), ..self }
    }

    /// What of it is still good; a long plan may outlive its approval.
    fn consent(&self, now: Timestamp) -> Consent {
        if self.expires.is_some_and(|expires| expires <= now) { Consent::default() } else { self.consent }
    }
}

/// What became of one item of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    Skipped {
        item: Box<PlanItem>,
        reason: String,
        /// Something is wrong; it is not just not yet its time, and not just for a person to decide.
        amiss: bool,
    },
    Done(Box<Entry>),
}

#[derive(Clone)]
pub struct Executor {
    pub(super) record: Record,
    pub(super) clock: Clock,
    policy: Policy,
    pub(super) actuator: Arc<dyn Actuator>,
    systems: usize,
    pub(super) turns: Arc<Turns>,
}

impl Executor {
    pub fn new(record: Record, clock: Clock, policy: Policy, actuator: Arc<dyn Actuator>, systems: usize) -> Self {
        Self { record, clock, policy, actuator, systems, turns: Arc::new(Turns::new()) }
    }

    /// What the guards need to know about the present, from the record.
    pub async fn situation(&self) -> record::Result<Situation> {
        let (now, systems, memory) = (self.clock.now(), self.systems, self.policy.memory());
        self.record
            .with(move |store| {
                let ignored = store.ignored(now)?;
                let is_ignored =
                    |fingerprint: &Fingerprint| ignored.iter().any(|ignored| ignored.fingerprint == *fingerprint);
                Ok(Situation {
                    paused: store
                        .pauses(now)?
                        .into_iter()
                        .find(|pause| pause.task.is_none())
                        .map(|pause| (pause.reason, pause.until)),
                    history: store.history_since(after(now, -memory))?,
                    open: store
                        .live_tracks()?
                        .into_iter()
                        .filter(|track| track.is_open() && !is_ignored(&track.finding.fingerprint))
                        .map(|track| (track.finding.fingerprint, track.finding.system, track.finding.severity))
                        .collect(),
                    systems,
                })
            })
            .await
    }

    /// What a step's target looks like at this moment.
    pub async fn look(&self, step: &Step) -> Result<StepState, Trouble> {
        self.actuator.capture(step).await
    }

    /// Executes what the guards allow now, in the plan's order, and waits for the turn of each item.
    pub async fn apply(&self, plan: &Plan, permission: &Permission) -> record::Result<Vec<Applied>> {
        let _under_way = self.turns.begin();
        self.apply_items(plan, permission, true).await
    }

    /// For whoever must not wait: settles what was left over and executes what is to be done, but for the items that
    /// would have to wait for others of their class.
    pub async fn try_apply(&self, plan: &Plan, permission: &Permission) -> record::Result<Vec<Applied>> {
        let _under_way = self.turns.begin();
        self.settle_left_over().await?;
        if plan.to_do().next().is_none() {
            return Ok(Vec::new());
        }
        self.apply_items(plan, permission, false).await
    }

    /// Completes when no plan is being carried out.
    pub async fn idle(&self) {
        self.turns.idle().await;
    }

    /// Waits for work that changes no system and may take hours (a backup). None, and the work is dropped, when a stop may
    /// wait for it no longer.
    pub async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let _under_way = self.turns.begin();
        let limits = self.turns.limits(LONGEST);
        tokio::select! {
            biased;
            () = limits.halt() => None,
            done = work => Some(done),
        }
    }

    /// Begins nothing new, and ends what is still under way after `grace`. Completes when nothing is.
    pub async fn stop(&self, grace: Duration) {
        self.turns.begin_nothing_new();
        if tokio::time::timeout(grace, self.idle()).await.is_ok() {
            return;
        }
        tracing::warn!("an action takes longer than a stop may wait; it is ended now");
        self.turns.end_now();
        self.idle().await;
    }

    async fn apply_items(&self, plan: &Plan, permission: &Permission, wait: bool) -> record::Result<Vec<Applied>> {
        let mut applied = Vec::with_capacity(plan.items.len());
        for (index, item) in plan.items.iter().enumerate() {
            if let Some(Applied::Done(done)) = applied.last() {
                self.rest_after(done, &plan.items[index..], permission).await;
            }
            applied.push(match self.turns.take(item.class, wait).await {
                Some(_turn) => self.apply_item(plan, item, permission).await?,
                None => skipped(item, format!("another {} action is under way", item.class), false),
            });
        }
        Ok(applied)
    }

    /// Nothing holds back the build of an index while it runs, and what it has written is still on its way to the disk and to
    /// standbys when it ends: others have the server to themselves before the next step.
    async fn rest_after(&self, done: &Entry, to_come: &[PlanItem], permission: &Permission) {
        let (Step::Reindex { system, .. }, Some(ended)) = (&done.step, done.ended) else { return };
        let is_next = |next: &PlanItem| next.class == RiskClass::Routine && next.step.system() == system;
        if !to_come.first().is_some_and(is_next) {
            return;
        }
        let took = Duration::try_from(ended.duration_since(done.intended)).unwrap_or_default();
        let is_build = |item: &&PlanItem| matches!(&item.step, Step::Reindex { system: of, .. } if of == system);
        let builds = u32::try_from(to_come.iter().filter(is_build).count()).unwrap_or(u32::MAX);
        let now = self.clock.now();
        let closes = self.policy.window_closes(done.class, permission.consent(now), now);
        let left = closes.map(|at| self.clock.left_until(at));
        tokio::select! {
            () = tokio::time::sleep(rest(took, builds, left)) => {}
            () = self.turns.stopping() => {}
        }
    }

    /// Only with the turn of the item's class in hand.
    async fn apply_item(&self, plan: &Plan, item: &PlanItem, permission: &Permission) -> record::Result<Applied> {
        let Some(remedy) = remedy::find(&item.remedy) else {
            return Ok(skipped(item, format!("this version has no remedy {}", item.remedy), true));
        };
        let gate = self.turns.gate().await;
        if self.turns.is_stopping() {
            return Ok(skipped(item, "groundskeeper is stopping".to_owned(), false));
        }
        let situation = self.situation().await?;
        let now = self.clock.now();
        let consent = permission.consent(now);
        match permit(remedy, &item.step, &item.finding, &self.policy, &situation, consent, now) {
            Decision::Do => {}
            Decision::NeedsApproval { reason } => {
                let expired = permission.expires.map(|at| format!("the approval ended at {at:.0}; "));
                return Ok(skipped(item, expired.unwrap_or_default() + &reason, false));
            }
            Decision::Skip { guard, reason } => {
                return Ok(skipped(item, reason, matches!(guard, Guard::Breaker | Guard::Ineffective)));
            }
        }
        let before = match self.actuator.capture(&item.step).await {
            Ok(StepState::Gone) => return Ok(skipped(item, format!("{} is gone", item.step.target()), false)),
            Ok(before) => before,
            Err(Trouble::Gone(why)) => return Ok(skipped(item, why, false)),
            Err(trouble) => return Ok(skipped(item, format!("its state could not be read: {trouble}"), true)),
        };
        let order = Order { plan: &plan.hash, item, by: &permission.by, undoes: None };
        let hand = self.intend(&order, &item.step, &before).await?;
        drop(gate);
        let entry = self.carry_out(&order, &item.step, before, hand, self.time_for(item.class, consent)).await?;
        Ok(Applied::Done(Box::new(entry)))
    }

    /// Until the window closes; nothing runs on into working hours.
    fn time_for(&self, class: RiskClass, consent: Consent) -> Duration {
        let closes = self.policy.window_closes(class, consent, self.clock.now());
        closes.map_or(LONGEST, |at| self.clock.left_until(at).min(LONGEST))
    }

    /// The intent is in the journal: act, verify, settle; and put back what did not help.
    pub(super) async fn carry_out(
        &self,
        order: &Order<'_>,
        step: &Step,
        before: StepState,
        hand: InHand,
        within: Duration,
    ) -> record::Result<Entry> {
        let id = hand.entry();
        let journalled = JournalledStep::recorded(id, step.clone());
        let tried = self.actuator.apply(&journalled, self.turns.limits(within)).await;
        // Whoever stops does not wait for another reading.
        let after = if let Err(trouble @ Trouble::Interrupted(_)) = &tried {
            Err(trouble.clone())
        } else {
            self.actuator.capture(step).await
        };
        let (outcome, detail) = judge(step, &before, &tried, &after);
        let left = if matches!(outcome, Outcome::Failed | Outcome::DidNotHelp) && order.undoes.is_none() {
            self.left_by(id, step, &before).await
        } else {
            Left::Nothing
        };
        let (_, undo) = self.end(order, id, (outcome, detail), after.ok(), left).await?;
        drop(hand);
        if let (Step::AlterSystem { .. }, Outcome::Abandoned, Some(of)) = (step, outcome, order.undoes) {
            // Somebody has changed it since: nothing is owed to anybody any more.
            let now = self.clock.now();
            self.record.with(move |store| store.owe(of, &Owed::Nothing, now)).await?;
        }
        if let Some(undo) = undo {
            self.put_back(order, id, undo).await?;
        }
        self.record.with(move |store| store.entry(id)).await
    }

    /// Puts one earlier action back because a person asked for it.
    pub async fn undo(&self, id: i64, by: &str) -> record::Result<(Undo, Option<Entry>)> {
        let entry = self.record.with(move |store| store.entry(id)).await?;
        let undo = entry.step.undo_after(&entry.before, entry.after.as_ref());
        let Undo::By(step) = &undo else { return Ok((undo, None)) };
        if matches!((&entry.step, entry.outcome), (Step::AlterSystem { .. }, Outcome::Abandoned)) {
            // What stands there now is somebody else's, though it may say the same.
            let nothing = "it was given up before anything was changed, or put back by us already".to_owned();
            return Ok((Undo::NotNeeded(nothing), None));
        }
        let _under_way = self.turns.begin();
        let _turn = self.turns.take(entry.class, true).await;
        let gate = self.turns.gate().await;
        if let Some(already) = self.record.with(move |store| store.undone_by(id)).await? {
            return Err(record::Error::Lookup(format!("action {id} was already put back by action {already}")));
        }
        let is_at_it = self.is_at_it(step).await;
        let before = self.actuator.capture(step).await.map_err(|trouble| record::Error::Lookup(trouble.to_string()))?;
        if !is_at_it && step.has_nothing_to_undo(&before) {
            let nothing = "nothing is left of it that could be put back".to_owned();
            return Ok((Undo::NotNeeded(nothing), None));
        }
        let plan_item = item_of(&entry);
        let order = Order { plan: &entry.plan, item: &plan_item, by, undoes: Some(id) };
        let hand = self.intend(&order, step, &before).await?;
        drop(gate);
        let done = self.carry_out(&order, step, before, hand, LONGEST).await?;
        Ok((undo, Some(done)))
    }

    /// Only behind the gate: until the entry is in hand, it looks like one that was left over.
    pub(super) async fn intend(&self, order: &Order<'_>, step: &Step, before: &StepState) -> record::Result<InHand> {
        let now = self.clock.now();
        let written = Written::of(order, step, before);
        let id = self.record.with(move |store| store.intend(&written.intent(), now)).await?;
        Ok(self.turns.take_in_hand(id))
    }
}

fn skipped(item: &PlanItem, reason: String, amiss: bool) -> Applied {
    Applied::Skipped { item: Box::new(item.clone()), reason, amiss }
}

/// On whose behalf a step is carried out.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) plan: &'a str,
    pub(super) item: &'a PlanItem,
    pub(super) by: &'a str,
    pub(super) undoes: Option<i64>,
}

pub(super) fn item_of(entry: &Entry) -> PlanItem {
    PlanItem {
        remedy: entry.remedy.clone(),
        class: entry.class,
        step: entry.step.clone(),
        statement: entry.step.statement(),
        why: entry.why.clone(),
        expected: String::new(),
        finding: entry.finding.clone(),
        decision: Decision::Do,
    }
}

fn judge(
    step: &Step,
    before: &StepState,
    tried: &Result<(), Trouble>,
    after: &Result<StepState, Trouble>,
) -> (Outcome, String) {
    match tried {
        Ok(()) => {}
        // Nothing was changed, so nothing failed.
        Err(Trouble::Precondition(reason) | Trouble::Gone(reason)) => return (Outcome::Abandoned, reason.clone()),
        Err(trouble) => {
            // The server told no more than that it ended the session.
            let gone = if let Err(Trouble::Gone(why)) = after { format!("; {why}") } else { String::new() };
            return (Outcome::Failed, format!("{trouble}{gone}"));
        }
    }
    match after {
        Err(trouble) => (Outcome::DidNotHelp, format!("done, but the result could not be read: {trouble}")),
        Ok(after) => match step.verify(before, after) {
            Verification::Helped(detail) => (Outcome::Helped, detail),
            Verification::DidNotHelp(detail) => (Outcome::DidNotHelp, detail),
        },
    }
}
