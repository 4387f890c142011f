//! Temporary folders that are gone afterwards, also when the test was killed.
//!
//! Each folder holds a locked file. The lock ends with its process, however that process ends, so a folder whose lock can
//! be taken belongs to nobody any more: the next start removes it. (A process id in the name would be wrong as soon as
//! two containers share `/tmp`.)

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

const PREFIX: &str = "gk-test-";
const LOCK: &str = "in-use";
/// Where a [`crate::SmallDisk`] is mounted; the sweeper must unmount it first.
pub(crate) const MOUNT: &str = "disk";
/// A folder younger than this may still be on its way to its lock.
const SETTLED: Duration = Duration::from_mins(1);

/// Where `cargo xtask setup` keeps what tests need and no package manager has: `$XDG_CACHE_HOME/groundskeeper`, by default
/// below `~/.cache`.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.unwrap_or_else(|| PathBuf::from("/var/cache")).join("groundskeeper")
}

/// One temporary folder, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    _in_use: File,
}

impl Scratch {
    /// A folder that every user may walk through, because servers that refuse to run as root live in it.
    pub fn new(what: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        let parent = walkable_parent()?;
        SWEEP.call_once(|| sweep(&parent));
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{what}-"))
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a temporary folder in {}", parent.display()))?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let in_use = File::create(folder.path().join(LOCK))?;
        in_use.lock().context("cannot lock a temporary folder")?;
        Ok(Self { folder, _in_use: in_use })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn walkable_parent() -> Result<PathBuf> {
    let candidates = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    for candidate in &candidates {
        let walkable = |folder: &Path| fs::metadata(folder).is_ok_and(|meta| meta.is_dir() && meta.mode() & 0o001 != 0);
        if candidate.is_absolute() && candidate.ancestors().all(walkable) {
            return Ok(candidate.clone());
        }
    }
    bail!("no temporary folder that other users can walk through; set TMPDIR to one, such as /tmp")
}

/// Removes what killed tests left. Best effort: a folder that cannot be removed harms nobody.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let folder = entry.path();
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&folder) {
            if folder.join(MOUNT).is_dir() {
                unmount(&folder.join(MOUNT));
            }
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn is_abandoned(folder: &Path) -> bool {
    let Ok(file) = File::options().write(true).open(folder.join(LOCK)) else { return false };
    let settled = file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| {
        let age = at.elapsed().unwrap_or_default();
        age > SETTLED
    });
    settled && file.try_lock().is_ok()
}

/// Unmounts, also when a file on it is still open: then it disappears from the tree now, and for good when closed.
pub(crate) fn unmount(folder: &Path) {
    let quietly = |arguments: &[&str]| {
        let mut command = Command::new("umount");
        command.args(arguments).arg(folder).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let _ = quietly(&[]) || quietly(&["--lazy"]);
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_sweep_takes_abandoned_folders_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str, age: Duration| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            let lock = File::create(folder.join(LOCK)).unwrap();
            lock.set_modified(SystemTime::now() - age).unwrap();
            (folder, lock)
        };
        let old = Duration::from_hours(1);
        let (abandoned, _) = folder("gk-test-pg-abandoned", old);
        let (in_use, lock) = folder("gk-test-pg-used", old);
        lock.lock().unwrap();
        let (starting, _) = folder("gk-test-pg-starting", Duration::ZERO);
        let (foreign, _) = folder("somebody-elses", old);
        sweep(parent.path());
        assert!(!abandoned.exists());
        assert!(in_use.exists() && starting.exists() && foreign.exists());
    }
}
