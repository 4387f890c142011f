//! `cargo xtask faults backup`: the bad days of a backup.
//!
//! Each is a test, because it needs a server, a repository or a process of its own; here they are run without a second
//! try and told as a table, with one bar for each.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::{Failure, cargo, setup};

pub(crate) const AREA: &str = "backup";
/// Where the tests of bad days are.
const TESTS: &str = "package(groundskeeper-backup) and test(/^(faults|proof::faults|proof::bolts|wal::bad_days)::/) \
                     or package(groundskeeper) and test(/^backup_(killed|wal)::/)";

/// One test, as nextest told of it.
#[derive(Debug, PartialEq)]
struct Told {
    /// `a full disk never yields a set`.
    fault: String,
    seconds: f64,
    passed: bool,
}

/// Runs them all, or those with `only` in their name. Exits 3 when none ran.
pub(crate) fn run(only: Option<&str>, yes: bool) -> Result<(), Failure> {
    setup::run(setup::For::Tests, yes)?;
    let tests = match only {
        Some(only) => format!("({TESTS}) and test(/{}/)", only.replace([' ', '-'], "_")),
        None => TESTS.to_owned(),
    };
    let arguments = ["nextest", "run", "--workspace", "--retries", "0", "--color", "never", "-E", &tests];
    let mut running = cargo::command(&arguments)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::new(format!("cannot run cargo nextest: {error}")))?;
    let mut told = Vec::new();
    if let Some(output) = running.stderr.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            eprintln!("{line}");
            told.extend(read(&line).filter(|new| !told.contains(new)));
        }
    }
    running.wait()?;
    if told.is_empty() {
        return Err(Failure { message: "no fault of backups ran; see above".to_owned(), code: 3 });
    }
    let longest = told.iter().map(|one| one.fault.len()).max().unwrap_or_default();
    println!("\n{:longest$}  {:>8}  noticed, and nothing half-made", "fault", "seconds");
    for one in &told {
        println!("{:longest$}  {:>8.1}  {}", one.fault, one.seconds, if one.passed { "yes" } else { "NO" });
    }
    println!();
    for one in &told {
        let (value, verdict) = if one.passed { (1, "pass") } else { (0, "short") };
        println!("bar faults.backup.{} value={value} target=>=1 {verdict}", one.fault.replace(' ', "_"));
    }
    Ok(())
}

/// `PASS [   1.072s] ( 1/13) groundskeeper-backup::it faults::a_full_disk…`
fn read(line: &str) -> Option<Told> {
    let line = line.trim();
    let passed = line.starts_with("PASS ");
    if !passed && !line.starts_with("FAIL ") && !line.starts_with("TIMEOUT ") {
        return None;
    }
    let (_, rest) = line.split_once('[')?;
    let (seconds, rest) = rest.split_once("s]")?;
    let name = rest.rsplit(' ').next()?;
    let mut parts: Vec<&str> = name.split("::").skip(1).collect();
    let case = parts.pop_if(|last| last.starts_with("case_"));
    let fault = [parts.pop(), case.map(|case| case.get(7..).unwrap_or(case))];
    let fault = fault.into_iter().flatten().collect::<Vec<_>>().join(": ").replace('_', " ");
    Some(Told { fault, seconds: seconds.trim().parse().ok()?, passed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_nextest_is_a_fault() {
        let line = "        PASS [   1.072s] ( 1/13) groundskeeper-backup::it faults::a_full_disk_never_yields_a_set";
        let told = Told { fault: "a full disk never yields a set".to_owned(), seconds: 1.072, passed: true };
        assert_eq!(read(line), Some(told));
        let line = "FAIL [  61.2s] (2/3) groundskeeper-backup::it faults::harm_is_noticed::case_1_a_lost_pack";
        let told = Told { fault: "harm is noticed: a lost pack".to_owned(), seconds: 61.2, passed: false };
        assert_eq!(read(line), Some(told));
        assert_eq!(read("    Finished `test` profile"), None);
    }
}
