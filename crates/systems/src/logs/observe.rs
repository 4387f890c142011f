//! Reading a log folder: a bounded walk over the sizes of its files.

use super::name::is_rotated;
use crate::deadline::{aside, timed_out};
use groundskeeper_core::observation::{Failure, FailureKind, LogFile, Logs, Reading};
use jiff::Timestamp;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const MOST_FILES: u64 = 200_000;
const LARGEST: usize = 10;
const MOST_UNREADABLE: usize = 10;

/// Keep it from reading to reading: it remembers a walk that hangs.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    max_files: u64,
    walking: Arc<Semaphore>,
}

impl Folder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_files: MOST_FILES, walking: Arc::new(Semaphore::new(1)) }
    }

    /// A walk that finds more files stops and says that it did.
    #[must_use]
    pub fn with_max_files(mut self, max_files: u64) -> Self {
        self.max_files = max_files;
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Tells the walk to stop when the reading is over, for whatever reason.
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Never an error, never later than the deadline.
pub async fn observe(folder: &Folder, now: Timestamp, deadline: Duration) -> Reading<Logs> {
    let started = Instant::now();
    let outcome = read(folder, deadline).await;
    let took = started.elapsed().as_secs_f64();
    Reading { at: now, latency: took, took, outcome }
}

async fn read(folder: &Folder, deadline: Duration) -> Result<Logs, Failure> {
    let address = folder.path.display().to_string();
    let failure = |kind, message: String| Failure { kind, message, address: address.clone() };
    let started = Instant::now();
    // Only one walk at a time: on a filesystem that hangs, each would leave a thread behind. Another reading's walk is
    // waited for, within our own deadline.
    let walking = tokio::time::timeout(deadline, Arc::clone(&folder.walking).acquire_owned()).await;
    let Ok(Ok(turn)) = walking else {
        return Err(failure(FailureKind::Timeout, "an earlier reading of this folder has not ended yet".into()));
    };
    let stop = StopWhenDropped(Arc::default());
    let (ours, stopped) = (folder.clone(), stop.0.clone());
    let answer = aside("log-folder", move || {
        let walked = walk(&ours.path, ours.max_files, &stopped);
        drop(turn);
        walked
    })
    .map_err(|error| failure(FailureKind::Exhausted, format!("no thread can be started: {error}")))?;
    let deadline = deadline.saturating_sub(started.elapsed());
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(walked)) => walked.map_err(|error| failure(kind(&error), error.to_string())),
        Ok(Err(_)) => Err(failure(FailureKind::Interrupted, "the reading ended early".into())),
        Err(_) => Err(timed_out(deadline, &address)),
    }
}

fn kind(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied => FailureKind::Denied,
        io::ErrorKind::TimedOut => FailureKind::Timeout,
        _ => FailureKind::Missing,
    }
}

/// The folder itself may be a link; below it links are not followed, so that nothing is counted twice or for ever.
fn walk(root: &Path, max_files: u64, stopped: &AtomicBool) -> io::Result<Logs> {
    let mut logs = Logs {
        folder: root.display().to_string(),
        files: 0,
        bytes: 0,
        rotated_bytes: 0,
        largest: Vec::new(),
        unreadable: Vec::new(),
        truncated: false,
    };
    let mut open = vec![std::fs::read_dir(root)?];
    while let Some(entries) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        if stopped.load(Ordering::Relaxed) || logs.files >= max_files {
            logs.truncated = true;
            break;
        }
        let found = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)));
        match found {
            Ok((path, metadata)) if metadata.is_dir() => match std::fs::read_dir(&path) {
                Ok(entries) => open.push(entries),
                Err(error) => unreadable(&mut logs, &path.display().to_string(), &error),
            },
            Ok((path, metadata)) if metadata.is_file() => count(&mut logs, &path, &metadata),
            // Links, sockets, pipes: they have no size of their own.
            Ok(_) => {}
            // Rotation removes files while we look; what is gone takes no room.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let folder = logs.folder.clone();
                unreadable(&mut logs, &folder, &error);
            }
        }
    }
    Ok(logs)
}

fn unreadable(logs: &mut Logs, path: &str, error: &io::Error) {
    if logs.unreadable.len() < MOST_UNREADABLE && error.kind() != io::ErrorKind::NotFound {
        logs.unreadable.push(format!("{path}: {error}"));
    }
}

fn count(logs: &mut Logs, path: &Path, metadata: &std::fs::Metadata) {
    let rotated = path.file_name().is_some_and(|name| is_rotated(&name.to_string_lossy()));
    let bytes = metadata.len();
    logs.files += 1;
    logs.bytes = logs.bytes.saturating_add(bytes);
    if rotated {
        logs.rotated_bytes = logs.rotated_bytes.saturating_add(bytes);
    }
    let place = logs.largest.partition_point(|larger| larger.bytes >= bytes);
    if place < LARGEST {
        let modified = metadata.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
        logs.largest.insert(place, LogFile { path: path.display().to_string(), bytes, modified, rotated });
        logs.largest.truncate(LARGEST);
    }
}
