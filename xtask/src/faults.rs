//! `cargo xtask faults backup`: the bad days of a backup.
//!
//! Each is a test, because it needs a server, a repository or a process of its own; here they are run without a second
//! try and told as a table, with one bar for each.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::{Failure, cargo, setup};

pub(crate) const AREA: &str = "backup";
/// Where the tests of bad days are.
const TESTS: &str = "package(groundskeeper-backup) and \
                      test(/^(faults|proof::bolts|prune|prune_killed|wal::bad_days|objects::(harm|prune)|[a-z]+::faults)::/) \
                      or package(groundskeeper) and test(/^backup_(killed|objects|pruned|wal)::/)";

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
    let mut report = Report::default();
    if let Some(output) = running.stderr.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            eprintln!("{line}");
            report.hear(&line);
        }
    }
    running.wait()?;
    let told = &report.told;
    if told.is_empty() {
        return Err(Failure { message: "no fault of backups ran; see above".to_owned(), code: 3 });
    }
    let longest = told.iter().map(|one| one.fault.len()).max().unwrap_or_default();
    println!("\n{:longest$}  {:>8}  noticed, and nothing half-made", "fault", "seconds");
    for one in told {
        println!("{:longest$}  {:>8.1}  {}", one.fault, one.seconds, if one.passed { "yes" } else { "NO" });
    }
    println!();
    for one in told {
        let (value, verdict) = if one.passed { (1, "pass") } else { (0, "short") };
        println!("bar faults.backup.{} value={value} target=>=1 {verdict}", one.fault.replace(' ', "_"));
    }
    report.is_complete().map_err(Failure::new)
}

/// What nextest said so far.
#[derive(Debug, Default)]
struct Report {
    told: Vec<Told>,
    /// How many it says it ran, and how many there were to run. After that it repeats those that failed.
    counted: Option<(usize, usize)>,
}

impl Report {
    fn hear(&mut self, line: &str) {
        if self.counted.is_none() {
            self.counted = counted(line);
            self.told.extend(read(line));
        }
    }

    /// A test that is in no row is a bad day that nobody hears of.
    fn is_complete(&self) -> Result<(), String> {
        let rows = self.told.len();
        match self.counted {
            Some((ran, all)) if ran == all && ran == rows => Ok(()),
            Some((ran, all)) => Err(format!(
                "nextest ran {ran} of {all} tests and {rows} are in the table: some are missing; see above"
            )),
            None => Err(format!("nextest ended without a summary after {rows} tests; see above")),
        }
    }
}

/// `Summary [   1.072s] 13 tests run: 12 passed, 1 failed, 0 skipped`, or `12/13 tests run` when it was broken off.
fn counted(line: &str) -> Option<(usize, usize)> {
    let (_, rest) = line.trim().strip_prefix("Summary ")?.split_once(']')?;
    let (count, _) = rest.trim().split_once(" test")?;
    let (ran, all) = count.split_once('/').unwrap_or((count, count));
    Some((ran.parse().ok()?, all.parse().ok()?))
}

/// `PASS [   1.072s] ( 1/13) groundskeeper-backup::it faults::a_full_disk…`. How a test ends badly has many words
/// (FAIL, TIMEOUT, LEAK-FAIL, SIGSEGV …), so every other word is one. A time like `[> 60.000s]` is of one that still runs.
fn read(line: &str) -> Option<Told> {
    let (word, rest) = line.trim().split_once('[')?;
    let word = word.trim();
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-') {
        return None;
    }
    let (seconds, rest) = rest.split_once("s]")?;
    let name = rest.rsplit(' ').next()?;
    let mut parts: Vec<&str> = name.split("::").skip(1).collect();
    let case = parts.pop_if(|last| last.starts_with("case_"));
    let fault = [parts.pop(), case.map(|case| case.get(7..).unwrap_or(case))];
    let fault = fault.into_iter().flatten().collect::<Vec<_>>().join(": ").replace('_', " ");
    let seconds = seconds.trim().parse().ok()?;
    // Nextest calls a test passed that left a child behind, unless its settings say LEAK-FAIL.
    let passed = matches!(word, "PASS" | "LEAK");
    (!fault.is_empty()).then_some(Told { fault, seconds, passed })
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
    #[test]
    fn however_a_test_ends_it_is_in_the_table() {
        for (word, passed) in [
            ("LEAK", true),
            ("LEAK-FAIL", false),
            ("SIGSEGV", false),
            ("ABORT", false),
            ("SIG34", false),
            ("TIMEOUT", false),
        ] {
            let told = read(&format!("   {word} [   0.5s] ( 1/13) groundskeeper-backup::it faults::one")).unwrap();
            assert_eq!((told.fault.as_str(), told.passed), ("one", passed), "{word}");
        }
        assert_eq!(read("        SLOW [> 60.000s] ( 1/13) groundskeeper-backup::it faults::one"), None);
        assert_eq!(read("     Summary [   1.072s] 13 tests run: 12 passed, 1 failed, 0 skipped"), None);
    }

    #[test]
    fn a_test_that_is_in_no_row_is_said() {
        let heard = |lines: &[&str]| {
            let mut report = Report::default();
            for line in lines {
                report.hear(line);
            }
            (report.told.len(), report.is_complete())
        };
        let (pass, fail) = ("PASS [ 1.0s] (1/2) a::it faults::one", "FAIL [ 2.0s] (2/2) a::it faults::other");
        let whole = "     Summary [   3.0s] 2 tests run: 1 passed, 1 failed, 40 skipped";
        assert_eq!(heard(&[pass, fail, whole, fail]), (2, Ok(())), "those that failed come twice");
        for wrong in [&[pass, whole][..], &[pass, fail], &[pass, "Summary [ 3.0s] 1/2 tests run: 1 passed"]] {
            assert!(heard(wrong).1.is_err(), "{wrong:?}");
        }
        assert_eq!(heard(&["PASS [ 1.0s] (1/1) a::it faults::one", "Summary [ 1s] 1 test run: 1 passed"]).1, Ok(()));
    }
}
