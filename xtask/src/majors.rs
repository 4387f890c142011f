//! The tests of the Postgres adapter once more, on another major version than the one that is installed.
//!
//! The other one is the Postgres 18 from PyPI that `cargo xtask setup` keeps in the user's cache. It is built without TLS, so
//! the tests of TLS, whose names begin with `tls_`, cannot run there; that is said. Nothing else is left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, cargo, packages, python};

/// Read by `crates/testing`.
const BIN: &str = "GROUNDSKEEPER_TEST_PG_BIN";
/// As nextest names them. The whole workspace is what was built before; with `-p` other features would be built again.
const TESTS: &str = "package(groundskeeper-systems) and binary(it) and test(/^postgres::/)";

/// A Postgres as its own programs describe it.
#[derive(Debug)]
struct Server {
    bin: PathBuf,
    version: String,
}

pub(crate) fn test() -> Result<(), Failure> {
    let installed = Server::at(packages::postgres_bin().ok_or_else(|| Failure::usage("Postgres is not installed"))?)?;
    let other = Server::at(python::postgres_18())?;
    println!("Postgres {} once more on {} ({})", installed.version, other.version, other.bin.display());
    if installed.major() == other.major() {
        println!("note: both are of one major version here, so no second one is tested; install another with {BIN}");
    }
    let has_tls = other.has_tls()?;
    if !has_tls {
        println!("{} was built without TLS: tests named tls_… ran on {} only", other.version, installed.version);
    }
    let mut tests = if packages::has_nextest() {
        cargo::command(&["nextest", "run", "--workspace", "-E", &filter(has_tls)])
    } else {
        let leave_out: &[&str] = if has_tls { &[] } else { &["--skip", "::tls_"] };
        let arguments = ["test", "-p", "groundskeeper-systems", "--test", "it", "--", "postgres::"];
        cargo::command(&[&arguments, leave_out].concat())
    };
    cargo::check(&format!("the tests of Postgres on {}", other.version), tests.env(BIN, &other.bin))
}

fn filter(has_tls: bool) -> String {
    if has_tls { TESTS.to_owned() } else { format!("{TESTS} and not test(/::tls_/)") }
}

impl Server {
    fn at(bin: PathBuf) -> Result<Self, Failure> {
        let version = said(&bin, "postgres", "--version")?;
        let version = version.split_whitespace().nth(2).unwrap_or_default().to_owned();
        Ok(Self { bin, version })
    }

    fn has_tls(&self) -> Result<bool, Failure> {
        Ok(configured_with_tls(&said(&self.bin, "pg_config", "--configure")?))
    }

    fn major(&self) -> &str {
        self.version.split('.').next().unwrap_or_default()
    }
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
    fn only_tests_of_tls_are_left_out_and_only_where_the_server_has_none() {
        assert!(configured_with_tls("'--with-perl' '--with-openssl'"));
        assert!(!configured_with_tls("'--without-readline' '--without-icu'"));
        assert_eq!(filter(true), TESTS);
        assert_eq!(filter(false), format!("{TESTS} and not test(/::tls_/)"));
    }

    #[test]
    fn the_major_version_is_the_first_number() {
        let server = |version: &str| Server { bin: PathBuf::new(), version: version.to_owned() };
        assert_eq!(server("15.20").major(), "15");
        assert_eq!(server("18beta1").major(), "18beta1");
    }
}
