//! The present: the latest reading and judgement of every system, in memory.
//!
//! The record has the history; this has what the next judgement compares with and what the page shows now. It is lost
//! with the process and filled again by the first watch.

use groundskeeper_core::SystemId;
use groundskeeper_core::check::Judgement;
use groundskeeper_core::observation::Observation;
use groundskeeper_core::sample::Sample;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone)]
pub struct Seen {
    pub observation: Arc<Observation>,
    pub judgements: Vec<Judgement>,
    pub samples: Vec<Sample>,
    /// The last reading that was answered, for rates.
    answered: Option<Arc<Observation>>,
}

#[derive(Debug, Default)]
pub struct Present {
    systems: Mutex<BTreeMap<SystemId, Seen>>,
    watched: Mutex<Option<Timestamp>>,
    broken_audit: Mutex<Option<String>>,
}

impl Present {
    /// The last answered reading of a system, to compare the next one with.
    pub fn before(&self, system: &SystemId) -> Option<Arc<Observation>> {
        self.lock().get(system).and_then(|seen| seen.answered.clone())
    }

    pub fn update(
        &self,
        system: &SystemId,
        observation: Arc<Observation>,
        judgements: Vec<Judgement>,
        samples: Vec<Sample>,
    ) {
        let mut systems = self.lock();
        let answered = match observation.failure() {
            None => Some(Arc::clone(&observation)),
            Some(_) => systems.get(system).and_then(|seen| seen.answered.clone()),
        };
        systems.insert(system.clone(), Seen { observation, judgements, samples, answered });
    }

    pub fn get(&self, system: &SystemId) -> Option<Seen> {
        self.lock().get(system).cloned()
    }

    pub fn samples(&self) -> Vec<Sample> {
        self.lock().values().flat_map(|seen| seen.samples.clone()).collect()
    }

    /// When the watch last finished a round.
    pub fn watched(&self) -> Option<Timestamp> {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn finish_round(&self, now: Timestamp) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// What the last verification of the audit found wrong; it runs at the start and with the daily health check.
    pub fn broken_audit(&self) -> Option<String> {
        self.broken_audit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_broken_audit(&self, broken: Option<String>) {
        *self.broken_audit.lock().unwrap_or_else(PoisonError::into_inner) = broken;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SystemId, Seen>> {
        self.systems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
