//! What a step that did not help leaves is put back: noted in the moment that the step ends, and tried again until it helped.
//!
//! A try that fails is followed by another one after as long as the step is old, so that whoever is in the way may go first.

use super::executor::{Executor, LONGEST, Order, item_of};
use super::turns::InHand;
use crate::record::{self, Intent, Owed};
use groundskeeper_core::plan::PlanItem;
use groundskeeper_core::policy::Outcome;
use groundskeeper_core::quantity::after;
use groundskeeper_core::remedy::{Step, StepState, Undo};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// Between two tries, at least.
const PAUSE: SignedDuration = SignedDuration::from_mins(10);
/// Afterwards a person has had days to put it right, and knows better.
const TRIED_FOR: Duration = Duration::from_hours(72);

/// What a step left to be put back.
pub(super) enum Left {
    Nothing,
    /// It could not be read.
    Unknown,
    Something(Box<Step>, Box<StepState>),
}

/// An undo whose intent is in the journal.
pub(super) struct Undoing {
    step: Step,
    before: StepState,
    hand: InHand,
}

/// An intent that another thread may write.
pub(super) struct Written {
    plan: String,
    by: String,
    undoes: Option<i64>,
    item: PlanItem,
    step: Step,
    before: StepState,
}

impl Written {
    pub(super) fn of(order: &Order<'_>, step: &Step, before: &StepState) -> Self {
        Self {
            plan: order.plan.to_owned(),
            by: order.by.to_owned(),
            undoes: order.undoes,
            item: order.item.clone(),
            step: step.clone(),
            before: before.clone(),
        }
    }

    pub(super) fn intent(&self) -> Intent<'_> {
        Intent {
            plan: &self.plan,
            remedy: &self.item.remedy,
            class: self.item.class,
            step: &self.step,
            finding: &self.item.finding,
            why: &self.item.why,
            who: &self.by,
            before: &self.before,
            undoes: self.undoes,
        }
    }
}

/// What is owed, on its way to the record.
enum Debt {
    Nothing,
    Later(Timestamp),
    Now(Box<Written>, Timestamp),
}

impl Debt {
    fn of(left: &Left, order: &Order<'_>, id: i64, due: Timestamp) -> Self {
        match left {
            Left::Nothing => Self::Nothing,
            Left::Unknown => Self::Later(due),
            Left::Something(step, before) => {
                let order = Order { undoes: Some(id), ..*order };
                Self::Now(Box::new(Written::of(&order, step, before)), due)
            }
        }
    }

    fn owed(&self) -> Owed<'_> {
        match self {
            Self::Nothing => Owed::Nothing,
            Self::Later(due) => Owed::Later(*due),
            Self::Now(written, due) => Owed::Now(Box::new(written.intent()), *due),
        }
    }
}

impl Executor {
    /// What is there to be put back of a step.
    pub(super) async fn left_by(&self, id: i64, step: &Step, before: &StepState) -> Left {
        let Undo::By(undo) = step.undo(before) else { return Left::Nothing };
        let is_at_it = self.is_at_it(&undo).await;
        match self.actuator.capture(&undo).await {
            Ok(state) if !is_at_it && undo.has_nothing_to_undo(&state) => Left::Nothing,
            Ok(state) => Left::Something(undo, Box::new(state)),
            Err(trouble) => {
                tracing::error!(entry = id, %trouble, "a step did not help and its undo cannot be prepared yet");
                Left::Unknown
            }
        }
    }

    /// Whether somebody may still write what the undo looks at, as the server does for a session that we lost. To be asked
    /// before the look: afterwards he may be gone, and what he wrote there.
    pub(super) async fn is_at_it(&self, undo: &Step) -> bool {
        matches!(undo, Step::AlterSystem { .. }) && !matches!(self.actuator.is_under_way(undo).await, Ok(false))
    }

    /// Ends an entry. Gives whether it was this call that did, and the undo that is to be carried out then.
    pub(super) async fn end(
        &self,
        order: &Order<'_>,
        id: i64,
        (outcome, detail): (Outcome, String),
        after: Option<StepState>,
        left: Left,
    ) -> record::Result<(bool, Option<Undoing>)> {
        let now = self.clock.now();
        let debt = Debt::of(&left, order, id, now + PAUSE);
        // Until the undo is in hand, it looks like an entry that was left over.
        let _gate = match &left {
            Left::Something(..) => Some(self.turns.gate().await),
            _ => None,
        };
        let (is_settled, begun) = self
            .record
            .with(move |store| store.settle_owing(id, (outcome, &detail), after.as_ref(), &debt.owed(), now))
            .await?;
        Ok((is_settled, self.undoing(begun, left)))
    }

    fn undoing(&self, begun: Option<i64>, left: Left) -> Option<Undoing> {
        match (begun, left) {
            (Some(entry), Left::Something(step, before)) => {
                Some(Undoing { step: *step, before: *before, hand: self.turns.take_in_hand(entry) })
            }
            _ => None,
        }
    }

    /// Carries an undo out whose intent is in the journal.
    pub(super) async fn put_back(&self, order: &Order<'_>, id: i64, undo: Undoing) -> record::Result<()> {
        let order = Order { undoes: Some(id), ..*order };
        let Undoing { step, before, hand } = undo;
        Box::pin(self.carry_out(&order, &step, before, hand, LONGEST)).await?;
        Ok(())
    }

    /// Carries an undo out that is not in the journal yet; `order` says what it undoes.
    pub(super) async fn carry_undo(&self, order: &Order<'_>, undo: &Step, now: StepState) -> record::Result<()> {
        let hand = {
            let _gate = self.turns.gate().await;
            self.intend(order, undo, &now).await?
        };
        Box::pin(self.carry_out(order, undo, now, hand, LONGEST)).await?;
        Ok(())
    }

    /// Tries once more to put back what an earlier try did not; not while a person has paused everything.
    pub(super) async fn put_back_again(&self) -> record::Result<()> {
        let now = self.clock.now();
        if self.situation().await?.paused.is_some() {
            return Ok(());
        }
        let owing = self.record.with(move |store| store.owing(now, after(now, -TRIED_FOR.as_secs_f64()))).await?;
        for entry in owing {
            let Some(_turn) = self.turns.take(entry.class, false).await else { continue };
            if self.turns.is_stopping() {
                return Ok(());
            }
            let left = self.left_by(entry.id, &entry.step, &entry.before).await;
            let (now, id, item) = (self.clock.now(), entry.id, item_of(&entry));
            let order = Order { plan: &entry.plan, item: &item, by: "groundskeeper", undoes: None };
            let debt = Debt::of(&left, &order, id, now + PAUSE.max(now.duration_since(entry.intended)));
            let undo = {
                let _gate = self.turns.gate().await;
                let begun = self.record.with(move |store| store.owe(id, &debt.owed(), now)).await?;
                self.undoing(begun, left)
            };
            if let Some(undo) = undo {
                self.put_back(&order, id, undo).await?;
            }
        }
        Ok(())
    }
}
