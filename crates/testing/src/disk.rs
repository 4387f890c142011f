//! A file system of a few MiB: for what happens when a disk is full.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::scratch::{self, Scratch};

const MIB: u64 = 1024 * 1024;
const BALLAST: &str = ".ballast";

/// A tmpfs of its own size, unmounted on drop. Only root can mount: elsewhere [`Self::mount`] is an error.
#[derive(Debug)]
pub struct SmallDisk {
    mount: Mount,
}

#[derive(Debug)]
struct Mount {
    path: PathBuf,
    // Declared last: what is mounted goes before the folder it is mounted on.
    _folder: Scratch,
}

impl SmallDisk {
    pub fn mount(mebibytes: u64) -> Result<Self> {
        let folder = Scratch::new("disk")?;
        let path = folder.path().join(scratch::MOUNT);
        std::fs::create_dir(&path)?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=1777"), "groundskeeper-test"])
            .arg(&path)
            .output()
            .context("cannot run mount (package mount)")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("mounting a small disk is not permitted here (it needs root and CAP_SYS_ADMIN): {}", said.trim());
        }
        Ok(Self { mount: Mount { path, _folder: folder } })
    }

    pub fn path(&self) -> &Path {
        &self.mount.path
    }

    /// Bytes.
    pub fn size(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(self.path())?;
        Ok(stat.f_blocks * stat.f_frsize)
    }

    /// Bytes that can still be written.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(self.path())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Makes the disk `percent` full by a file of that size (`.ballast`); a lower number makes room again. What else is on
    /// the disk counts, and stays.
    pub fn fill_to(&self, percent: u8) -> Result<()> {
        let ballast = self.path().join(BALLAST);
        let (size, free) = (self.size()?, self.free()?);
        let present = ballast.metadata().map_or(0, |meta| meta.len());
        let others = (size - free).saturating_sub(present);
        let wanted = (size * u64::from(percent.min(100)) / 100).saturating_sub(others);
        let mut file = File::options().create(true).append(true).open(&ballast)?;
        if wanted <= present {
            file.set_len(wanted)?;
            return Ok(());
        }
        let block = vec![0_u8; MIB as usize];
        let mut missing = wanted - present;
        while missing > 0 {
            let count = missing.min(MIB);
            match file.write(&block[..count as usize]) {
                Ok(0) => break,
                Ok(written) => missing -= written as u64,
                // The last page is what the file system keeps for itself.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("cannot fill the small disk"),
            }
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        scratch::unmount(&self.path);
    }
}
