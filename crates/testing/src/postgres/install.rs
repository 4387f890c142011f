//! Which Postgres is installed, and whom it can run as.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::process::{self, RunAs};

/// A folder of Postgres binaries; wins over what is found.
pub const BIN_VARIABLE: &str = "GROUNDSKEEPER_TEST_PG_BIN";
const DEBIAN: &str = "/usr/lib/postgresql";
const INSTALL: &str = "run `cargo xtask setup`, or `apt-get install postgresql-15`";

#[derive(Debug)]
pub(super) struct Install {
    bin: PathBuf,
    pub(super) run_as: RunAs,
}

impl Install {
    pub(super) fn find() -> Result<Self> {
        let bin = match std::env::var_os(BIN_VARIABLE) {
            Some(folder) => PathBuf::from(folder),
            None => newest_in(Path::new(DEBIAN))
                .with_context(|| format!("Postgres is not installed (no {DEBIAN}/*/bin/postgres); {INSTALL}"))?,
        };
        for program in ["postgres", "initdb"] {
            if !bin.join(program).is_file() {
                bail!("there is no {program} in {}; {INSTALL}, or correct {BIN_VARIABLE}", bin.display());
            }
        }
        let run_as = if rustix::process::geteuid().is_root() { RunAs::Other("postgres".to_owned()) } else { RunAs::Me };
        Ok(Self { bin, run_as })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Whether `shared_preload_libraries` can name `library`; contrib is a package of its own on some systems.
    pub(super) fn has_library(&self, library: &str) -> bool {
        let Ok(output) = process::command(&self.program("pg_config"), &RunAs::Me).arg("--pkglibdir").output() else {
            return false;
        };
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        // Debian's pg_config may belong to a development package of another major version: look beside the binaries too.
        let beside = self.bin.parent().map(|parent| parent.join("lib"));
        [Some(folder), beside].into_iter().flatten().any(|folder| folder.join(format!("{library}.so")).is_file())
    }

    /// Makes `path` belong to the user that the server runs as.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        let RunAs::Other(user) = &self.run_as else { return Ok(()) };
        let (uid, gid) = ids_of(user).with_context(|| format!("there is no user {user}; {INSTALL}"))?;
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to {user}", path.display()))
    }

    /// Runs a program to its end; its output is the error when it fails.
    pub(super) fn run(&self, program: &str, arguments: &[String], folder: &Path) -> Result<()> {
        let output = process::command(&self.program(program), &self.run_as)
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("cannot run setpriv (package util-linux) to start {program}"))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("{program} failed ({}):\n{}", output.status, String::from_utf8_lossy(&said));
        }
        Ok(())
    }
}

fn newest_in(folder: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bin = entry.path().join("bin");
        bin.join("postgres").is_file().then_some((version, bin))
    });
    versions.max_by_key(|(version, _)| *version).map(|(_, bin)| bin)
}

fn ids_of(user: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields[..] else { return None };
        if name == user { Some((uid.parse().ok()?, gid.parse().ok()?)) } else { None }
    })
}
