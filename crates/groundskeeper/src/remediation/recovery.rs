//! What a dead process left in the journal.

use super::Trouble;
use super::executor::{Executor, Order, item_of};
use super::undoing::Left;
use crate::record::{self, Entry};
use groundskeeper_core::policy::Outcome;
use groundskeeper_core::remedy::{Step, StepState, Verification};

/// What became of an action whose process died.
enum Remains {
    /// It cannot be told yet, and why.
    Open(String),
    Ended(Outcome, String, Option<StepState>),
}

impl Executor {
    /// Settles what a dead process left in the journal: a step that took effect is verified and kept, one that did not
    /// is marked as abandoned (and will be planned again if it is still needed), one half done is put back. What cannot
    /// be told yet keeps its subject busy and is asked again later. Gives nothing while somebody else is at it.
    pub async fn recover(&self) -> record::Result<Vec<Entry>> {
        let _under_way = self.turns.begin();
        self.settle_left_over().await
    }

    pub(super) async fn settle_left_over(&self) -> record::Result<Vec<Entry>> {
        let Some(_settling) = self.turns.try_settling() else { return Ok(Vec::new()) };
        let left = {
            // Behind the gate no intent is written, so that whatever is neither ended nor in hand is left over.
            let _gate = self.turns.gate().await;
            let in_hand = self.turns.in_hand();
            let mut left = self.record.with(|store| store.unsettled()).await?;
            left.retain(|entry| !in_hand.contains(&entry.id));
            left
        };
        let mut recovered = Vec::with_capacity(left.len());
        for entry in left {
            let (outcome, detail, after) = match self.remains(&entry).await {
                Remains::Ended(outcome, detail, after) => (outcome, detail, after),
                Remains::Open(why) => {
                    tracing::warn!(entry = entry.id, why, "an action from before the last stop cannot be settled yet");
                    continue;
                }
            };
            // Only what can still be seen can be put back.
            let is_undone = match outcome {
                Outcome::Abandoned => true,
                // It may have died between its success and the sweeping up.
                Outcome::Helped => matches!(entry.step, Step::Reindex { .. }),
                _ => false,
            };
            let left = match &after {
                _ if !is_undone || entry.undoes.is_some() => Left::Nothing,
                Some(_) => self.left_by(entry.id, &entry.step, &entry.before).await,
                // It is the server's, whatever became of the database that we connected to.
                None if matches!(entry.step, Step::AlterSystem { .. }) => Left::Unknown,
                None => Left::Nothing,
            };
            // An undo whose old line is in the file again, and which nobody has read yet.
            let unread = match (&entry.step, outcome, entry.undoes, &after) {
                (Step::AlterSystem { .. }, Outcome::Abandoned, Some(of), Some(state)) => Some((of, state.clone())),
                _ => None,
            };
            let (id, plan_item) = (entry.id, item_of(&entry));
            let order = Order { plan: &entry.plan, item: &plan_item, by: "groundskeeper", undoes: None };
            let (is_settled, undo) = self.end(&order, id, (outcome, detail), after, left).await?;
            if !is_settled {
                continue;
            }
            if let Some(undo) = undo {
                self.put_back(&order, id, undo).await?;
            }
            if let Some((of, state)) = unread {
                self.carry_undo(&Order { undoes: Some(of), ..order }, &entry.step, state).await?;
            }
            recovered.push(self.record.with(move |store| store.entry(id)).await?);
        }
        self.put_back_again().await?;
        Ok(recovered)
    }

    async fn remains(&self, entry: &Entry) -> Remains {
        let lost = |reason: &str| {
            Remains::Ended(Outcome::Abandoned, format!("it cannot be verified any more: {reason}"), None)
        };
        match self.actuator.is_under_way(&entry.step).await {
            Ok(false) => {}
            Ok(true) => return Remains::Open("the server still works on it".to_owned()),
            Err(Trouble::Precondition(reason)) => return lost(&reason),
            Err(trouble) => return Remains::Open(trouble.to_string()),
        }
        let state = match self.actuator.capture(&entry.step).await {
            Ok(state) => state,
            Err(Trouble::Precondition(reason)) => return lost(&reason),
            // The system does not answer.
            Err(trouble) => return Remains::Open(trouble.to_string()),
        };
        match entry.step.verify(&entry.before, &state) {
            Verification::Helped(detail) => {
                Remains::Ended(Outcome::Helped, format!("after a restart: {detail}"), Some(state))
            }
            Verification::DidNotHelp(detail) => {
                Remains::Ended(Outcome::Abandoned, format!("groundskeeper ended in the middle; {detail}"), Some(state))
            }
        }
    }
}
