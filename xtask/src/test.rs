//! `cargo xtask test`: everything that CI checks, stage by stage, with the time that each took.

use std::time::{Duration, Instant};

use crate::{Failure, cargo, lab, majors, packages, setup, sizes};

/// A stage that has ended.
#[derive(Debug)]
struct Ended {
    name: &'static str,
    took: Duration,
    passed: bool,
}

/// Runs the stages and ends at the first that fails, with that stage's exit code.
pub(crate) fn run(yes: bool) -> Result<(), Failure> {
    let mut ended = Vec::new();
    let result = stages(yes, &mut ended);
    println!("\n{}", table(&ended));
    result
}

fn stages(yes: bool, ended: &mut Vec<Ended>) -> Result<(), Failure> {
    let mut stage = |name, work: &mut dyn FnMut() -> Result<(), Failure>| {
        println!("\n── {name} ──");
        let started = Instant::now();
        let result = work();
        let took = started.elapsed();
        println!("── {name}: {} in {} ──", verdict(result.is_ok()), seconds(took));
        ended.push(Ended { name, took, passed: result.is_ok() });
        result
    };
    stage("setup", &mut || setup::run(setup::For::Tests, yes))?;
    stage("format", &mut || cargo::run(&["fmt", "--all", "--check"]))?;
    stage("lints", &mut || cargo::run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    stage("build", &mut || cargo::run(&["build", "--workspace"]))?;
    stage("model", &mut || lab::model(&cargo::target_dir().join("debug")))?;
    stage("tests", &mut tests)?;
    stage("Postgres 18", &mut majors::test)?;
    stage("doc tests", &mut || cargo::run(&["test", "--doc", "--workspace"]))?;
    stage("sizes", &mut sizes::check)?;
    stage("demo", &mut || cargo::check("groundskeeper-lab demo --once", lab::built("demo").arg("--once")))
}

fn tests() -> Result<(), Failure> {
    if packages::has_nextest() {
        return cargo::run(&["nextest", "run", "--workspace"]);
    }
    println!("note: cargo-nextest is not installed and could not be; using `cargo test`");
    cargo::run(&["test", "--workspace", "--all-targets"])
}

fn verdict(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

fn table(ended: &[Ended]) -> String {
    let total = ended.iter().map(|stage| stage.took).sum();
    let row =
        |name: &str, took: Duration, end: &str| format!("{name:<11} {:>9}  {end}", seconds(took)).trim_end().to_owned();
    let mut rows: Vec<String> = ended.iter().map(|stage| row(stage.name, stage.took, verdict(stage.passed))).collect();
    rows.push(row("total", total, ""));
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let stage = |name, millis, passed| Ended { name, took: Duration::from_millis(millis), passed };
        let text = table(&[stage("doc tests", 62_340, true), stage("demo", 1_500, false)]);
        assert_eq!(text, "doc tests      62.3 s  passed\ndemo            1.5 s  FAILED\ntotal          63.8 s");
    }
}
