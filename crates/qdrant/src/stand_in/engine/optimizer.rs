//! When a collection's segments are rebuilt, and which colour that gives it.
//!
//! The engine optimizes when told to, and blocks until nothing is left to do. Real Qdrant does it in the background after
//! updates, and a collection is
//! - *yellow* while that is under way or about to be,
//! - *grey* when there is something to do and nothing has started it: after a restart, until the next update,
//! - *green* otherwise.
//!
//! The engine does not say beforehand whether it would find work, so [`work_is_pending`] estimates it from what it does
//! show: counts, and the configuration that each segment was built with. Where it is wrong, the engine finds nothing,
//! and the collection is green a moment later.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use qdrant_edge::{HnswIndexConfig, ShardInfo};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;

use super::clock;
use super::settings::CollectionConfig;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Colour {
    Green,
    Yellow,
    Grey,
}

/// One rebuild, running or past, as telemetry tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) started: Timestamp,
    pub(crate) ended: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct State {
    /// Something happened since the start of the process that makes the optimizers look.
    awake: bool,
    /// Something changed since they last looked.
    changed: bool,
    /// A test keeps them from starting.
    held: bool,
    waiting_since: Option<Timestamp>,
    running: bool,
    runs: Vec<Run>,
}

/// How many past rebuilds are remembered.
const REMEMBERED: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Optimizer {
    state: Mutex<State>,
    pub(crate) called: Notify,
}

/// Whether the optimizers would find something to do, and what it would be called.
pub(crate) fn work_is_pending(config: &CollectionConfig, info: &ShardInfo, segments: &Path) -> Option<&'static str> {
    let built = built_segments(segments);
    let unindexed = info.points_count.saturating_sub(info.indexed_vectors_count);
    let plain = built.iter().filter(|segment| segment.is_none()).count().max(1);
    let bytes = config.dense().iter().map(|(_, params)| params.size.get() * 4).max().unwrap_or(0);
    let threshold = match config.optimizer_config.indexing_threshold {
        0 => u64::MAX,
        kilobytes => kilobytes.saturating_mul(1024),
    };
    if (unindexed / plain) as u64 * bytes >= threshold {
        return Some("indexing");
    }
    let (indexed, ghosts) = (info.indexed_vectors_count, info.indexed_vectors_count.saturating_sub(info.points_count));
    let littered = ghosts as f64 > config.optimizer_config.deleted_threshold * indexed as f64;
    if littered && indexed as u64 >= config.optimizer_config.vacuum_min_vector_number {
        return Some("vacuum");
    }
    let outdated = |built: &HnswIndexConfig| config.hnsw_config.mismatch_requires_rebuild(built);
    built.iter().flatten().any(outdated).then_some("config mismatch")
}

/// What each segment's graph was built with; `None` for a segment without one.
fn built_segments(segments: &Path) -> Vec<Option<HnswIndexConfig>> {
    let Ok(entries) = fs::read_dir(segments) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| segment_config(&entry.path()))
        .map(|config| {
            let vectors = config.get("vector_data")?.as_object()?;
            let index = vectors.values().map(|vector| &vector["index"]).find(|index| index["type"] == "hnsw")?;
            serde_json::from_value(index["options"].clone()).ok()
        })
        .collect()
}

/// The configuration part of a segment's own state file.
pub(crate) fn segment_config(segment: &Path) -> Option<Value> {
    let state: Value = serde_json::from_slice(&fs::read(segment.join("segment.json")).ok()?).ok()?;
    state.get("config").cloned()
}

impl Optimizer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An update was applied, or the configuration was changed.
    pub(crate) fn wake(&self) {
        let mut state = self.state();
        (state.awake, state.changed) = (true, true);
        state.waiting_since.get_or_insert_with(clock::now);
        self.called.notify_one();
    }

    /// After a restart there may be work that nothing has started.
    pub(crate) fn opened(&self) {
        self.state().changed = true;
    }

    /// Keeps rebuilds from starting, until [`Self::release`]. One that runs goes on.
    pub(crate) fn hold(&self) {
        self.state().held = true;
    }

    pub(crate) fn release(&self) {
        self.state().held = false;
        self.called.notify_one();
    }

    /// Forgets that an update has woken the optimizers, as a restart does.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        (state.awake, state.changed) = (false, true);
    }

    /// Takes the call to work, if there is one and nothing is in the way.
    pub(crate) fn begin(&self, allowed: bool, work: Option<&'static str>) -> bool {
        let mut state = self.state();
        if !(state.awake && state.changed && allowed) || state.held {
            return false;
        }
        state.changed = false;
        state.waiting_since = None;
        state.running = work.is_some();
        if let Some(name) = work {
            state.runs.insert(0, Run { name, started: clock::now(), ended: None });
            state.runs.truncate(REMEMBERED);
        }
        true
    }

    pub(crate) fn end(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.running)
            && let Some(run) = state.runs.first_mut()
        {
            run.ended = Some(clock::now());
        }
    }

    pub(crate) fn colour(&self, work_is_pending: bool) -> Colour {
        let state = self.state();
        match (state.running, state.changed && work_is_pending, state.awake) {
            (true, ..) | (_, true, true) => Colour::Yellow,
            (false, true, false) => Colour::Grey,
            (false, false, _) => Colour::Green,
        }
    }

    /// Since when work has been waiting for its turn, when it is.
    pub(crate) fn waiting_since(&self) -> Option<Timestamp> {
        let state = self.state();
        state.waiting_since.filter(|_| state.awake && state.changed && !state.running)
    }

    pub(crate) fn runs(&self) -> Vec<Run> {
        self.state().runs.clone()
    }
}
