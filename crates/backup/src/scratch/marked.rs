//! Folders of our own with a marker in them, and the sweep of those whose process is gone.
//!
//! A marker names its process by id and start, because ids come again, and is locked, because two containers that share
//! a disk do not see each other's processes. A folder is abandoned when neither the lock nor the process is alive. What
//! has no marker of ours is never touched, whatever its name.

use super::command::started_in;
use super::user::User;
use crate::error::{Error, Result};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PREFIX: &str = "groundskeeper-drill-";
const MARKER: &str = ".groundskeeper-drill";
const TITLE: &str = "a scratch place of groundskeeper; it is removed when its process is gone";
/// The programs of scratch servers. One file is all programs of Redis, and Debian calls it by its second name.
const SERVERS: [&str; 5] = ["postgres", "redis-server", "redis-check-rdb", "valkey-server", "qdrant"];
/// A marker is three short lines.
const MARKER_BYTES: u64 = 1 << 10;
/// How long a leftover server has to end, first by itself and then by force.
const GOODBYE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// A server that is on its way out may still write a file into a folder that is being removed.
const REMOVALS: usize = 5;

/// A folder that is removed with this value.
#[derive(Debug)]
pub(super) struct Marked {
    path: PathBuf,
    /// Holds the lock.
    _marker: File,
}

impl Marked {
    /// Only `user` (or we) can enter it; the marker stays ours.
    pub(super) fn make_in(parent: &Path, user: Option<&User>) -> Result<Self> {
        let wrong = |error: io::Error| {
            Error::Scratch(format!("a scratch place cannot be made in {}: {error}", parent.display()))
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).permissions(fs::Permissions::from_mode(0o700));
        let folder = builder.tempdir_in(parent).map_err(wrong)?;
        let mut marker =
            File::options().write(true).create_new(true).mode(0o600).open(folder.path().join(MARKER)).map_err(wrong)?;
        let this = std::process::id();
        let text = format!("{TITLE}\nprocess {this}\nstarted {}\n", started(this).unwrap_or_default());
        marker.write_all(text.as_bytes()).map_err(wrong)?;
        // Some network file systems know no locks; there the process alone speaks for the folder.
        let _ = marker.try_lock();
        if let Some(user) = user {
            user.give(folder.path())?;
        }
        Ok(Self { path: folder.keep(), _marker: marker })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            let folder = self.path.display();
            tracing::warn!(%folder, %error, "a scratch place could not be removed; the next drill tries again");
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..REMOVALS {
        last = remove_once(folder);
        if last.as_ref().is_ok() || last.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        if last.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            open_up(folder);
        }
    }
    last
}

/// What was restored may be closed to its own owner; a folder that is keeps what is in it from going.
fn open_up(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

/// The marker goes last: should we be killed half-way, the rest is still known as ours.
fn remove_once(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if entry.file_name() != MARKER {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir_all(folder)
}

/// Removes what dead processes left in `parent`, after stopping the servers that still run in it. Best effort: what
/// cannot be removed now is there at the next start.
pub(super) async fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        // The lock is held until the folder is gone.
        let Some(marker) = abandoned(&folder) else { continue };
        if !stop_servers_in(&folder).await {
            tracing::warn!(folder = %folder.display(), "a server in an abandoned scratch place does not end");
            continue;
        }
        tracing::info!(folder = %folder.display(), "removing an abandoned scratch place");
        let _ = tokio::task::spawn_blocking(move || {
            let _locked = marker;
            remove(&folder)
        })
        .await;
    }
}

/// The marker of a folder that belongs to nobody any more.
fn abandoned(folder: &Path) -> Option<File> {
    let ours = folder.file_name()?.to_string_lossy().starts_with(PREFIX);
    if !ours || !folder.symlink_metadata().ok()?.is_dir() {
        return None;
    }
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
    let mut marker = File::options().read(true).custom_flags(flags).open(folder.join(MARKER)).ok()?;
    let meta = marker.metadata().ok()?;
    if !meta.is_file() || meta.uid() != geteuid().as_raw() {
        return None;
    }
    let mut text = String::new();
    (&mut marker).take(MARKER_BYTES).read_to_string(&mut text).ok()?;
    let (process, start) = process_in(&text)?;
    let locked = matches!(marker.try_lock(), Err(TryLockError::WouldBlock));
    let alive = started(process).is_some_and(|now| now == start);
    (!locked && !alive).then_some(marker)
}

/// The process that a marker names, and when it started.
fn process_in(marker: &str) -> Option<(u32, u64)> {
    let mut lines = marker.lines();
    let titled = lines.next()? == TITLE;
    let process = lines.next()?.strip_prefix("process ")?.parse().ok()?;
    let start = lines.next()?.strip_prefix("started ")?.parse().ok()?;
    titled.then_some((process, start))
}

/// When a process started, in ticks since the machine did. None where there is no such process, or no `/proc`.
pub(crate) fn started(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything. `starttime` is field 22 of proc(5), the name is the second.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(22 - 3)?.parse().ok()
}

/// Whether none is left.
async fn stop_servers_in(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    for signal in [Signal::QUIT, Signal::KILL] {
        for server in servers_in(&folder) {
            let _ = kill_process(server, signal);
        }
        let asked = Instant::now();
        while asked.elapsed() < GOODBYE {
            if servers_in(&folder).is_empty() {
                return true;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    false
}

/// Every Postgres process works in its data directory, and every Redis in that of its file. By that, not by the id in
/// `postmaster.pid`, which may be somebody else's by now. And what probes have started.
fn servers_in(folder: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let inside = processes.flatten().filter_map(|process| {
        let id = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
        let works_here = fs::read_link(process.path().join("cwd")).ok()?.starts_with(folder);
        let program = fs::read_link(process.path().join("exe")).ok()?;
        let is_server = SERVERS.contains(&program.file_name()?.to_string_lossy().trim_end_matches(" (deleted)"));
        (works_here && is_server).then_some(id)
    });
    inside.chain(started_in(folder)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as another process would have left it.
    fn left(parent: &Path, name: &str, marker: Option<String>) -> PathBuf {
        let folder = parent.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("data"), "restored").unwrap();
        if let Some(text) = marker {
            fs::write(folder.join(MARKER), text).unwrap();
        }
        folder
    }

    #[test]
    fn what_was_restored_closed_to_its_owner_goes_as_well() {
        let parent = tempfile::tempdir().unwrap();
        let folder = left(parent.path(), "closed", None);
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/b/c"), "c").unwrap();
        for closed in ["a/b", "a"] {
            fs::set_permissions(folder.join(closed), fs::Permissions::from_mode(0o500)).unwrap();
        }
        open_up(&folder);
        assert_eq!(folder.join("a/b").metadata().unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(folder.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }

    /// The id of a process that has ended.
    fn dead() -> u32 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    fn marker(process: u32, start: u64) -> String {
        format!("{TITLE}\nprocess {process}\nstarted {start}\n")
    }

    #[tokio::test]
    async fn the_sweep_takes_marked_folders_of_dead_processes_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = parent.path();
        let this = std::process::id();
        let abandoned = left(at, "groundskeeper-drill-dead", Some(marker(dead(), 1)));
        let reborn = left(at, "groundskeeper-drill-reborn", Some(marker(this, started(this).unwrap() + 1)));
        let kept = [
            left(at, "groundskeeper-drill-unmarked", None),
            left(at, "groundskeeper-drill-foreign", Some("process 1\nstarted 1\n".to_owned())),
            left(at, "groundskeeper-drill-alive", Some(marker(this, started(this).unwrap()))),
            left(at, "somebody-elses", Some(marker(dead(), 1))),
        ];
        let mine = Marked::make_in(at, None).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let target = left(elsewhere.path(), "groundskeeper-drill-target", Some(marker(dead(), 1)));
        std::os::unix::fs::symlink(&target, at.join("groundskeeper-drill-link")).unwrap();
        sweep(at).await;
        assert!(!abandoned.exists() && !reborn.exists());
        assert!(kept.iter().all(|folder| folder.join("data").exists()));
        assert!(mine.path().exists() && target.join("data").exists());
    }

    #[tokio::test]
    async fn a_locked_marker_holds_its_folder_though_its_process_is_not_to_be_seen() {
        let parent = tempfile::tempdir().unwrap();
        let folder = left(parent.path(), "groundskeeper-drill-other-container", Some(marker(dead(), 1)));
        let held = File::open(folder.join(MARKER)).unwrap();
        held.lock().unwrap();
        sweep(parent.path()).await;
        assert!(folder.exists());
        drop(held);
        sweep(parent.path()).await;
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn a_server_that_still_runs_in_an_abandoned_folder_is_stopped_first() {
        let parent = tempfile::tempdir().unwrap();
        let folder = left(parent.path(), "groundskeeper-drill-dead", Some(marker(dead(), 1)));
        // Known by its name and where it works, as a postmaster is. Somebody's shell in there is let be.
        fs::copy("/bin/sleep", folder.join("postgres")).unwrap();
        let start =
            |program: &Path| std::process::Command::new(program).arg("600").current_dir(&folder).spawn().unwrap();
        let (mut server, mut shell) = (start(&folder.join("postgres")), start(Path::new("/bin/sleep")));
        // A child of ours stays in the list of processes until it is waited for.
        let reaped = std::thread::spawn(move || server.wait().unwrap());
        sweep(parent.path()).await;
        assert!(!folder.exists() && !reaped.join().unwrap().success());
        assert!(shell.try_wait().unwrap().is_none());
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[tokio::test]
    async fn what_a_probe_of_a_dead_drill_started_is_stopped_first() {
        let parent = tempfile::tempdir().unwrap();
        let folder = left(parent.path(), "groundskeeper-drill-dead", Some(marker(dead(), 1)));
        let folder = folder.canonicalize().unwrap();
        let start = |home: &Path| {
            let mut sleep = std::process::Command::new("/bin/sleep");
            sleep.arg("600").env("HOME", home).env("GROUNDSKEEPER_DRILL", "1").spawn().unwrap()
        };
        let (mut probe, mut other) = (start(&folder.join("probe-1/home")), start(parent.path()));
        let reaped = std::thread::spawn(move || probe.wait().unwrap());
        sweep(parent.path()).await;
        assert!(!folder.exists() && !reaped.join().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_marked_folder_is_closed_to_others_and_gone_with_its_value() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Marked::make_in(parent.path(), None).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(abandoned(&path).is_none());
        drop(folder);
        assert!(!path.exists());
    }
}
