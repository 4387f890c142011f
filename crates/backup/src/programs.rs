//! Where the programs of one Postgres version are, and how they are run.
//!
//! A base backup can be read by its own major version only, so they are looked for by version, and several versions may
//! be installed. A program gets a clean environment (a `PGHOST` of ours would take it to a live server), no standard
//! input, and a time after which it is killed; so it is, too, when nobody waits for it any more.

mod qdrant;
mod redis;

pub(crate) use qdrant::find as find_qdrant;
pub(crate) use redis::RedisPrograms;

use crate::scratch::User;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a program finds others in.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A program that has found a thousand faults has said enough.
const SAID_BYTES: u64 = 256 << 10;

/// A folder with the programs of one major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    folder: PathBuf,
    major: u32,
}

/// What a program said before it ended, its standard output first.
#[derive(Debug)]
pub(crate) struct Said {
    /// None when its time was over.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

impl Programs {
    /// Looks in `extra` first, then where packages put them, then in `$PATH`. One with the server wins over one with
    /// clients only, by which nothing can be booted.
    pub fn find(major: u32, extra: &[PathBuf]) -> Result<Self, String> {
        let packaged = [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/usr/pgsql-{major}/bin"),
            format!("/opt/homebrew/opt/postgresql@{major}/bin"),
        ];
        let mut folders: Vec<PathBuf> = extra.to_vec();
        folders.extend(packaged.into_iter().map(PathBuf::from));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let versions = |folders: Vec<PathBuf>| {
            let found = folders.into_iter().filter_map(|folder| Some((major_of(&folder)?, folder)));
            found.collect::<Vec<(u32, PathBuf)>>()
        };
        let named = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
        folders.extend(std::env::split_paths(&path));
        let (right, wrong): (Vec<_>, Vec<_>) = versions(folders).into_iter().partition(|(found, _)| *found == major);
        let best = right.iter().find(|(_, folder)| folder.join("postgres").is_file()).or(right.first());
        if let Some((_, folder)) = best {
            let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
            return Ok(Self { folder, major });
        }
        let wrong: Vec<String> = wrong.iter().map(|(found, at)| format!("{} has {found}", at.display())).collect();
        let wrong = if wrong.is_empty() { String::new() } else { format!(" ({})", wrong.join(", ")) };
        Err(format!(
            "there are no programs of Postgres {major} in {named} or $PATH{wrong}; install postgresql-{major} (so it \
             is called in Debian), or name their folder in `programs` of [backup]"
        ))
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    pub fn has(&self, name: &str) -> bool {
        self.folder.join(name).is_file()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The first of these that is not there, with what to do about it.
    pub(crate) fn missing(&self, names: &[&str]) -> Option<String> {
        let name = names.iter().find(|name| !self.has(name))?;
        let package = if matches!(*name, "postgres" | "pg_waldump") { "postgresql" } else { "postgresql-client" };
        let (folder, major) = (self.folder.display(), self.major);
        Some(format!(
            "there is no {name} in {folder}; install {package}-{major} (so it is called in Debian), or name a folder \
             that has it in `programs` of [backup]"
        ))
    }

    /// Whether `shared_preload_libraries` can name this one.
    pub(crate) fn has_library(&self, name: &str) -> bool {
        let name = name.strip_prefix("$libdir/").unwrap_or(name);
        // A name without a folder stays in the folder that it is joined to, an absolute path replaces it.
        self.library_folders().iter().any(|folder| {
            let exact = folder.join(name);
            exact.is_file() || ["so", "dylib"].iter().any(|ending| folder.join(format!("{name}.{ending}")).is_file())
        })
    }

    /// Debian's `pg_config` may be of a development package of another version, hence the folders beside.
    fn library_folders(&self) -> Vec<PathBuf> {
        let said = output(&self.path("pg_config"), &["--version", "--pkglibdir"]).unwrap_or_default();
        let mut lines = said.lines();
        let ours = lines.next().and_then(major_in) == Some(self.major);
        let own = lines.next().filter(|_| ours).map(PathBuf::from);
        let beside = ["../lib", "../lib/postgresql"].map(|folder| self.folder.join(folder));
        own.into_iter().chain(beside).collect()
    }

    /// Runs one to its end, or till `within` is over. `PGOPTIONS` is all that it gets from us.
    pub(crate) async fn run(
        &self,
        name: &str,
        arguments: Vec<OsString>,
        options: &str,
        user: Option<&User>,
        within: Duration,
    ) -> io::Result<Said> {
        run(&self.path(name), arguments, options, user, within).await
    }
}

/// The same for a program that is known by its path.
pub(crate) async fn run(
    program: &Path,
    arguments: Vec<OsString>,
    options: &str,
    user: Option<&User>,
    within: Duration,
) -> io::Result<Said> {
    let mut command = tokio::process::Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("PGOPTIONS", options);
    command.args(arguments).current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complaints) = (Vec::new(), Vec::new());
    let ending = async {
        tokio::try_join!(collect(stdout, &mut said), collect(stderr, &mut complaints))?;
        child.wait().await
    };
    let status = if let Ok(status) = tokio::time::timeout(within, ending).await {
        Some(status?)
    } else {
        child.kill().await?;
        None
    };
    said.append(&mut complaints);
    Ok(Said { status, text: String::from_utf8_lossy(&said).into_owned() })
}

/// Reads a stream to its end, so that its writer never waits, and keeps how it begins.
async fn collect(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    (&mut stream).take(SAID_BYTES).read_to_end(kept).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// The version of what is in a folder. A folder of clients counts: it is enough for the lower rung.
fn major_of(folder: &Path) -> Option<u32> {
    let program = ["postgres", "pg_ctl", "pg_verifybackup", "pg_config"].map(|name| folder.join(name));
    program.iter().filter(|program| program.is_file()).find_map(|program| major_in(&output(program, &["--version"])?))
}

fn output(program: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").args(arguments).stdin(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// 15 of `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`, 19 of `PostgreSQL 19devel`.
fn major_in(line: &str) -> Option<u32> {
    let (_, version) = line.split_once("PostgreSQL")?;
    let version = version.trim_start_matches([')', ' ']);
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_every_kind_of_release() {
        assert_eq!(major_in("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(15));
        assert_eq!(major_in("pg_ctl (PostgreSQL) 18rc1"), Some(18));
        assert_eq!(major_in("PostgreSQL 19devel"), Some(19));
        assert_eq!(major_in("psql: command not found"), None);
    }

    #[test]
    fn a_version_that_is_not_installed_is_an_error_that_says_where_was_looked_and_what_to_do() {
        let why = Programs::find(99, &[PathBuf::from("/opt/pg99/bin")]).unwrap_err();
        for part in ["Postgres 99", "/opt/pg99/bin", "/usr/lib/postgresql/99/bin", "$PATH", "postgresql-99", "[backup]"]
        {
            assert!(why.contains(part), "{part} is not in: {why}");
        }
    }

    #[test]
    fn a_named_folder_counts_when_its_version_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("postgres");
        std::fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 98.1'\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let extra = [folder.path().to_owned()];
        let programs = Programs::find(98, &extra).unwrap();
        assert!(programs.has("postgres") && !programs.has("pg_amcheck"));
        assert!(programs.missing(&["postgres", "pg_amcheck"]).unwrap().contains("postgresql-client-98"));
        assert!(Programs::find(97, &extra).unwrap_err().contains("has 98"));
    }
}
