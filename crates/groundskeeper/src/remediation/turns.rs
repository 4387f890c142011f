//! Who may go on when: one step of a class at a time, the guards before the intent, and the end of it all.

use groundskeeper_core::remedy::RiskClass;
use std::collections::HashSet;
use std::sync::{Arc, Mutex as Lock, MutexGuard as Locked, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, watch};

/// How far the stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    GoingOn,
    /// What is under way is finished, nothing else is begun.
    NothingNew,
    /// What is under way ends before it is done.
    EndNow,
}

#[derive(Debug)]
pub(super) struct Turns {
    /// A vacuum may take hours; what mends a single thing must not wait for it.
    upkeep: Mutex<()>,
    mending: Mutex<()>,
    /// Held from the question to the guards until the intent is durable: two steps side by side could each pass a cap
    /// that both together break.
    gate: Mutex<()>,
    /// One at a time settles what was left over.
    settling: Mutex<()>,
    /// The entries of the journal that this process is working on: unsettled, and not left over.
    in_hand: Lock<HashSet<i64>>,
    plans: watch::Sender<usize>,
    stage: watch::Sender<Stage>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            upkeep: Mutex::default(),
            mending: Mutex::default(),
            gate: Mutex::default(),
            settling: Mutex::default(),
            in_hand: Lock::default(),
            plans: watch::Sender::new(0),
            stage: watch::Sender::new(Stage::GoingOn),
        }
    }

    fn of(&self, class: RiskClass) -> &Mutex<()> {
        if class.waits_for_window() { &self.upkeep } else { &self.mending }
    }

    /// The turn of a class, or none when somebody has it and it is not to be waited for.
    pub(super) async fn take(&self, class: RiskClass, wait: bool) -> Option<MutexGuard<'_, ()>> {
        if wait { Some(self.of(class).lock().await) } else { self.of(class).try_lock().ok() }
    }

    pub(super) async fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().await
    }

    pub(super) fn try_settling(&self) -> Option<MutexGuard<'_, ()>> {
        self.settling.try_lock().ok()
    }

    fn hands(&self) -> Locked<'_, HashSet<i64>> {
        // A set of numbers is whole, whoever panicked beside it.
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_hand(&self) -> HashSet<i64> {
        self.hands().clone()
    }

    pub(super) fn take_in_hand(self: &Arc<Self>, entry: i64) -> InHand {
        self.hands().insert(entry);
        InHand { turns: Arc::clone(self), entry }
    }

    /// To be held while a plan is carried out.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.plans.send_modify(|plans| *plans += 1);
        UnderWay(Arc::clone(self))
    }

    /// Completes when no plan is being carried out.
    pub(super) async fn idle(&self) {
        // The sender is ours and lives as long as we do.
        let _ = self.plans.subscribe().wait_for(|plans| *plans == 0).await;
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.stage.borrow() > Stage::GoingOn
    }

    /// Completes when nothing new is to be begun any more.
    pub(super) async fn stopping(&self) {
        let _ = self.stage.subscribe().wait_for(|stage| *stage > Stage::GoingOn).await;
    }

    pub(super) fn begin_nothing_new(&self) {
        self.stage.send_modify(|stage| *stage = Stage::NothingNew.max(*stage));
    }

    pub(super) fn end_now(&self) {
        self.stage.send_modify(|stage| *stage = Stage::EndNow);
    }

    pub(super) fn limits(&self, within: Duration) -> Limits {
        Limits { within, stage: self.stage.subscribe() }
    }
}

/// An entry that this process is working on, until this is dropped.
#[derive(Debug)]
pub(super) struct InHand {
    turns: Arc<Turns>,
    entry: i64,
}

impl InHand {
    pub(super) fn entry(&self) -> i64 {
        self.entry
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.turns.hands().remove(&self.entry);
    }
}

/// A plan that is being carried out, until this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Turns>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.plans.send_modify(|plans| *plans = plans.saturating_sub(1));
    }
}

/// How long a step may take, and the word to end before that.
#[derive(Debug)]
pub struct Limits {
    pub within: Duration,
    stage: watch::Receiver<Stage>,
}

impl Limits {
    /// Completes when the step has to end before it is done.
    pub async fn halt(mut self) {
        if self.stage.wait_for(|stage| *stage == Stage::EndNow).await.is_err() {
            // Nobody is left who could say so.
            std::future::pending::<()>().await;
        }
    }
}
