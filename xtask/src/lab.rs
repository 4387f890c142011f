//! The demo, the benches and the fault matrix: built here, done by `groundskeeper-lab`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::{Failure, cargo, setup};

const BINARY: &str = "groundskeeper-lab";

/// Builds the lab and the program, then becomes the lab: signals and exit codes are its own.
pub(crate) fn run(command: &str, arguments: &[String]) -> Result<(), Failure> {
    let (yes, arguments): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|argument| *argument == "--yes");
    // What only prints text needs no servers.
    if !arguments.iter().any(|argument| matches!(argument.as_str(), "--list" | "--help" | "-h")) {
        setup::run(setup::For::Demo, !yes.is_empty())?;
    }
    let mut lab = build(command)?;
    let error = lab.args(arguments).exec();
    Err(Failure::new(format!("cannot start {BINARY}: {error}")))
}

/// The lab's `command`, built. Benches are measured on what is shipped: the release profile.
pub(crate) fn build(command: &str) -> Result<Command, Failure> {
    let release = command == "bench";
    let mut arguments = vec!["build", "--quiet", "-p", BINARY, "-p", "groundskeeper"];
    if release {
        arguments.push("--release");
    }
    eprintln!("building the lab ({}) …", if release { "release" } else { "dev" });
    cargo::run(&arguments)?;
    let folder = cargo::target_dir().join(if release { "release" } else { "debug" });
    let mut lab = Command::new(folder.join(BINARY));
    lab.arg(command).current_dir(cargo::root());
    Ok(lab)
}
