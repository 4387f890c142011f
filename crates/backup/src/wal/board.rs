//! What the streams tell of themselves, for the watch, the page and the command line.
//!
//! The keeper streams, and another process may ask how it goes. So it is also in a file, which outlives the keeper: when
//! nobody streams any more, the time since which nothing is safe goes on to grow.

use groundskeeper_core::SystemId;
use groundskeeper_core::observation::WalStream;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The file is written at most this often.
const EVERY: Duration = Duration::from_secs(5);

/// Clones share what is on it.
#[derive(Debug, Clone)]
pub struct Board {
    file: PathBuf,
    notes: Arc<Mutex<Notes>>,
}

#[derive(Debug, Default)]
struct Notes {
    streams: BTreeMap<SystemId, WalStream>,
    written: Option<Instant>,
}

impl Board {
    pub fn new(file: PathBuf) -> Self {
        Self { file, notes: Arc::default() }
    }

    /// What is told here; in a process that does not stream, what the one that does has written down.
    pub fn streams(&self) -> Vec<WalStream> {
        let notes = self.notes();
        if !notes.streams.is_empty() {
            return notes.streams.values().cloned().collect();
        }
        drop(notes);
        let text = fs::read(&self.file).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(crate) fn post(&self, stream: WalStream) {
        let mut notes = self.notes();
        notes.streams.insert(stream.system.clone(), stream);
        if notes.written.is_some_and(|written| written.elapsed() < EVERY) {
            return;
        }
        notes.written = Some(Instant::now());
        let streams: Vec<WalStream> = notes.streams.values().cloned().collect();
        drop(notes);
        if let Err(error) = self.write(&streams) {
            tracing::warn!(%error, file = %self.file.display(), "how the WAL streams could not be written down");
        }
    }

    fn write(&self, streams: &[WalStream]) -> io::Result<()> {
        let next = self.file.with_extension("next");
        fs::write(&next, serde_json::to_vec(streams)?)?;
        fs::rename(next, &self.file)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Each change is one assignment, so it is whole, whoever panicked beside it.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
