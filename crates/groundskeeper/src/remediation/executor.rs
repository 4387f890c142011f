//! Carries out plans: every guard is asked again right before each step, the intent is durable before the step, the
//! result is verified and settled, and what did not help is put back where it can be.
//!
//! One plan at a time: two plans side by side could each pass a cap that both together break.

use super::{Actuator, Trouble};
use crate::clock::Clock;
use crate::record::{self, Entry, Intent, Record};
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::plan::{Plan, PlanItem};
use groundskeeper_core::policy::{Consent, Decision, Outcome, Policy, Situation, permit};
use groundskeeper_core::quantity::after;
use groundskeeper_core::remedy::{self, JournalledStep, Step, StepState, Undo, Verification};
use jiff::Timestamp;
use std::sync::Arc;
use tokio::sync::Mutex;

/// How far back the guards look.
const HISTORY_SECONDS: f64 = 24.0 * 3600.0;

/// Who wants a plan applied, and what was approved.
#[derive(Debug, Clone)]
pub struct Permission {
    pub by: String,
    pub consent: Consent,
}

/// What became of one item of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    Skipped { item: Box<PlanItem>, reason: String },
    Done(Box<Entry>),
}

#[derive(Clone)]
pub struct Executor {
    record: Record,
    clock: Clock,
    policy: Policy,
    actuator: Arc<dyn Actuator>,
    systems: usize,
    turn: Arc<Mutex<()>>,
}

impl Executor {
    pub fn new(record: Record, clock: Clock, policy: Policy, actuator: Arc<dyn Actuator>, systems: usize) -> Self {
        Self { record, clock, policy, actuator, systems, turn: Arc::default() }
    }

    /// What the guards need to know about the present, from the record.
    pub async fn situation(&self) -> record::Result<Situation> {
        let (now, systems) = (self.clock.now(), self.systems);
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
                    history: store.history_since(after(now, -HISTORY_SECONDS))?,
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

    /// Executes what the guards allow now, in the plan's order.
    pub async fn apply(&self, plan: &Plan, permission: &Permission) -> record::Result<Vec<Applied>> {
        let _turn = self.turn.lock().await;
        self.apply_items(plan, permission).await
    }

    /// For whoever must not wait: settles what was left over and executes what is to be done, or gives none while
    /// another plan is being carried out.
    pub async fn try_apply(&self, plan: &Plan, permission: &Permission) -> record::Result<Option<Vec<Applied>>> {
        let Ok(_turn) = self.turn.try_lock() else { return Ok(None) };
        self.settle_left_over().await?;
        if plan.to_do().next().is_none() {
            return Ok(Some(Vec::new()));
        }
        self.apply_items(plan, permission).await.map(Some)
    }

    /// Completes when no plan is being carried out.
    pub async fn idle(&self) {
        drop(self.turn.lock().await);
    }

    async fn apply_items(&self, plan: &Plan, permission: &Permission) -> record::Result<Vec<Applied>> {
        let mut applied = Vec::with_capacity(plan.items.len());
        for item in &plan.items {
            applied.push(self.apply_item(plan, item, permission).await?);
        }
        Ok(applied)
    }

    async fn apply_item(&self, plan: &Plan, item: &PlanItem, permission: &Permission) -> record::Result<Applied> {
        let skipped = |reason: String| Ok(Applied::Skipped { item: Box::new(item.clone()), reason });
        let Some(remedy) = remedy::find(&item.remedy) else {
            return skipped(format!("this version has no remedy {}", item.remedy));
        };
        let situation = self.situation().await?;
        let now = self.clock.now();
        match permit(remedy, &item.step, &item.finding, &self.policy, &situation, permission.consent, now) {
            Decision::Do => {}
            Decision::NeedsApproval { reason } | Decision::Skip { reason, .. } => return skipped(reason),
        }
        let before = match self.actuator.capture(&item.step).await {
            Ok(StepState::Gone) => return skipped(format!("{} is gone", item.step.target())),
            Ok(before) => before,
            Err(trouble) => return skipped(format!("its state could not be read: {trouble}")),
        };
        let order = Order { plan: &plan.hash, item, by: &permission.by, undoes: None };
        let entry = self.carry_out(&order, &item.step, before).await?;
        Ok(Applied::Done(Box::new(entry)))
    }

    /// Journal, act, verify, settle; and put back what did not help.
    async fn carry_out(&self, order: &Order<'_>, step: &Step, before: StepState) -> record::Result<Entry> {
        let started = self.clock.now();
        let id = self.intend(order, step, &before, started).await?;
        let tried = self.actuator.apply(&JournalledStep::recorded(id, step.clone())).await;
        let after = self.actuator.capture(step).await;
        let (outcome, detail) = judge(step, &before, &tried, &after);
        self.settle(id, outcome, detail, after.ok()).await?;
        let undoable =
            matches!(outcome, Outcome::Failed | Outcome::DidNotHelp) && !matches!(tried, Err(Trouble::Precondition(_)));
        if undoable && order.undoes.is_none() {
            self.put_back(order, id, step, &before).await?;
        }
        self.record.with(move |store| store.entry(id)).await
    }

    /// Undoes a step that did not help, where there is something to put back.
    async fn put_back(&self, order: &Order<'_>, id: i64, step: &Step, before: &StepState) -> record::Result<()> {
        let Undo::By(undo) = step.undo(before) else { return Ok(()) };
        let now = match self.actuator.capture(&undo).await {
            Ok(state) => state,
            Err(trouble) => {
                tracing::error!(entry = id, %trouble, "a step did not help and its undo cannot be prepared");
                return Ok(());
            }
        };
        let order = Order { undoes: Some(id), ..*order };
        Box::pin(self.carry_out(&order, &undo, now)).await?;
        Ok(())
    }

    /// Settles what a dead process left in the journal: a step that took effect is verified and kept, one that did not
    /// is marked as abandoned (and will be planned again if it is still needed), one half done is put back.
    pub async fn recover(&self) -> record::Result<Vec<Entry>> {
        let _turn = self.turn.lock().await;
        self.settle_left_over().await
    }

    /// Only with the turn in hand: whatever has no end is left over then.
    async fn settle_left_over(&self) -> record::Result<Vec<Entry>> {
        let unsettled = self.record.with(|store| store.unsettled()).await?;
        let mut recovered = Vec::with_capacity(unsettled.len());
        for entry in unsettled {
            let after = self.actuator.capture(&entry.step).await;
            let (outcome, detail) = match &after {
                Err(trouble) => {
                    // Not settled: the system does not answer, and the next start asks again.
                    tracing::warn!(entry = entry.id, %trouble, "an action from before the last stop cannot be checked yet");
                    continue;
                }
                Ok(state) => match entry.step.verify(&entry.before, state) {
                    Verification::Helped(detail) => (Outcome::Helped, format!("after a restart: {detail}")),
                    Verification::DidNotHelp(detail) => {
                        (Outcome::Abandoned, format!("groundskeeper ended in the middle; {detail}"))
                    }
                },
            };
            self.settle(entry.id, outcome, detail, after.ok()).await?;
            let plan_item = item_of(&entry);
            let order = Order { plan: &entry.plan, item: &plan_item, by: "groundskeeper", undoes: None };
            if outcome == Outcome::Abandoned && entry.undoes.is_none() {
                self.put_back(&order, entry.id, &entry.step, &entry.before).await?;
            }
            let id = entry.id;
            recovered.push(self.record.with(move |store| store.entry(id)).await?);
        }
        Ok(recovered)
    }

    /// Puts one earlier action back because a person asked for it.
    pub async fn undo(&self, id: i64, by: &str) -> record::Result<(Undo, Option<Entry>)> {
        let _turn = self.turn.lock().await;
        let entry = self.record.with(move |store| store.entry(id)).await?;
        let undo = entry.step.undo(&entry.before);
        let Undo::By(step) = &undo else { return Ok((undo, None)) };
        if let Some(already) = self.record.with(move |store| store.undone_by(id)).await? {
            return Err(record::Error::Lookup(format!("action {id} was already put back by action {already}")));
        }
        let before = self.actuator.capture(step).await.map_err(|trouble| record::Error::Lookup(trouble.to_string()))?;
        let plan_item = item_of(&entry);
        let order = Order { plan: &entry.plan, item: &plan_item, by, undoes: Some(id) };
        let done = self.carry_out(&order, step, before).await?;
        Ok((undo, Some(done)))
    }

    async fn intend(&self, order: &Order<'_>, step: &Step, before: &StepState, now: Timestamp) -> record::Result<i64> {
        let (plan, by, undoes) = (order.plan.to_owned(), order.by.to_owned(), order.undoes);
        let (item, step, before) = (order.item.clone(), step.clone(), before.clone());
        self.record
            .with(move |store| {
                let intent = Intent {
                    plan: &plan,
                    remedy: &item.remedy,
                    class: item.class,
                    step: &step,
                    finding: &item.finding,
                    why: &item.why,
                    who: &by,
                    before: &before,
                    undoes,
                };
                store.intend(&intent, now)
            })
            .await
    }

    async fn settle(&self, id: i64, outcome: Outcome, detail: String, after: Option<StepState>) -> record::Result<()> {
        let now = self.clock.now();
        self.record.with(move |store| store.settle(id, outcome, &detail, after.as_ref(), now)).await?;
        Ok(())
    }
}

/// On whose behalf a step is carried out.
#[derive(Clone, Copy)]
struct Order<'a> {
    plan: &'a str,
    item: &'a PlanItem,
    by: &'a str,
    undoes: Option<i64>,
}

fn item_of(entry: &Entry) -> PlanItem {
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
    if let Err(trouble) = tried {
        return (Outcome::Failed, trouble.to_string());
    }
    match after {
        Err(trouble) => (Outcome::DidNotHelp, format!("done, but the result could not be read: {trouble}")),
        Ok(after) => match step.verify(before, after) {
            Verification::Helped(detail) => (Outcome::Helped, detail),
            Verification::DidNotHelp(detail) => (Outcome::DidNotHelp, detail),
        },
    }
}
