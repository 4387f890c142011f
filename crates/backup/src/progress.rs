//! How far a long piece of work on the repository is: counters that whoever likes may look at.
//!
//! Looking instead of being called: counting then costs an addition for each piece of data, whether anybody looks or not,
//! and nobody who looks can hold up a backup.

use rustic_core::{ProgressBars, ProgressType, RusticProgress};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clones share their counters.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    stage: Mutex<Option<Stage>>,
    bytes: AtomicU64,
    files: AtomicU64,
}

#[derive(Debug)]
struct Stage {
    what: String,
    total: Option<u64>,
}

/// What is under way, and how much of it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// `making a set`
    pub what: String,
    pub bytes: u64,
    /// Files of a source, or packs of the repository.
    pub files: u64,
    /// Bytes, where they are known beforehand; those of a backup are what the set before it had.
    pub total: Option<u64>,
}

/// While it lives, there is something under way.
#[derive(Debug)]
pub(crate) struct Shown(Progress);

impl Progress {
    /// None while nothing is under way.
    pub fn now(&self) -> Option<Done> {
        let stage = self.stage();
        let Stage { what, total } = stage.as_ref()?;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Some(Done { what: what.clone(), bytes: read(&self.0.bytes), files: read(&self.0.files), total: *total })
    }

    pub(crate) fn begin(&self, what: impl Into<String>, total: Option<u64>) -> Shown {
        let mut stage = self.stage();
        self.0.bytes.store(0, Ordering::Relaxed);
        self.0.files.store(0, Ordering::Relaxed);
        *stage = Some(Stage { what: what.into(), total });
        drop(stage);
        Shown(self.clone())
    }

    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_file(&self) {
        self.0.files.fetch_add(1, Ordering::Relaxed);
    }

    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        // Each change is one assignment, so it is whole, whoever panicked beside it.
        self.0.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        *self.0.stage() = None;
    }
}

/// What `rustic_core` does for us in long steps: writing packs anew.
#[derive(Debug)]
pub(crate) struct Bars(pub(crate) Progress);

#[derive(Debug)]
struct Bar(Progress);

impl ProgressBars for Bars {
    fn progress(&self, kind: ProgressType, prefix: &str) -> rustic_core::Progress {
        let ours = prefix.starts_with("repacking");
        match kind {
            ProgressType::Bytes if ours => rustic_core::Progress::new(Bar(self.0.clone())),
            _ => rustic_core::Progress::hidden(),
        }
    }
}

impl RusticProgress for Bar {
    fn is_hidden(&self) -> bool {
        false
    }

    fn set_length(&self, length: u64) {
        if let Some(stage) = self.0.stage().as_mut() {
            stage.total = Some(length);
        }
    }

    fn set_title(&self, _title: &str) {}

    fn inc(&self, bytes: u64) {
        self.0.add_bytes(bytes);
    }

    fn finish(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_seen_by_every_clone_and_gone_at_its_end() {
        let progress = Progress::default();
        let seen = progress.clone();
        assert_eq!(seen.now(), None);
        let shown = progress.begin("making a set", Some(10));
        progress.add_bytes(4);
        progress.add_file();
        assert_eq!(seen.now(), Some(Done { what: "making a set".into(), bytes: 4, files: 1, total: Some(10) }));
        drop(shown);
        assert_eq!(seen.now(), None);
        let _next = progress.begin("removing sets", None);
        let bar = Bars(progress.clone()).progress(ProgressType::Bytes, "repacking blobs...");
        bar.set_length(7);
        bar.inc(3);
        assert_eq!(seen.now(), Some(Done { what: "removing sets".into(), bytes: 3, files: 0, total: Some(7) }));
    }
}
