//! `cargo xtask sizes`: what has grown too long to be read in one go.
//!
//! Files count as a whole, tests included. Functions count outside of tests only: a long table of cases is a good test.

use std::fs;
use std::path::Path;

use xtask::source;

use crate::{Failure, cargo};

/// A length to aim at, and one that fails the build.
#[derive(Debug, Clone, Copy)]
struct Limit {
    soft: usize,
    hard: usize,
}

const FILE: Limit = Limit { soft: 400, hard: 800 };
const FUNCTION: Limit = Limit { soft: 40, hard: 80 };

/// Something over its soft limit.
#[derive(Debug, PartialEq, Eq)]
struct Long {
    lines: usize,
    what: String,
}

#[derive(Debug, Default)]
struct Sizes {
    files: Vec<Long>,
    functions: Vec<Long>,
}

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let strict = match arguments {
        [] => false,
        [only] if only == "--strict" => true,
        _ => return Err(Failure::usage("usage: cargo xtask sizes [--strict]")),
    };
    let sizes = measure(cargo::root())?;
    print("files", &sizes.files, FILE);
    print("functions", &sizes.functions, FUNCTION);
    if strict { sizes.within_hard_limits() } else { Ok(()) }
}

/// The stage of `cargo xtask test`: prints only what breaks a hard limit.
pub(crate) fn check() -> Result<(), Failure> {
    let sizes = measure(cargo::root())?;
    sizes.within_hard_limits()?;
    println!("no file over {} lines, no function over {}", FILE.hard, FUNCTION.hard);
    Ok(())
}

fn measure(root: &Path) -> Result<Sizes, Failure> {
    let mut sizes = Sizes::default();
    for path in source::rust_files(root)? {
        let text = fs::read_to_string(&path)?;
        sizes.add(path.strip_prefix(root).unwrap_or(&path), &text);
    }
    sizes.files.sort_by_key(|long| std::cmp::Reverse(long.lines));
    sizes.functions.sort_by_key(|long| std::cmp::Reverse(long.lines));
    Ok(sizes)
}

impl Sizes {
    fn add(&mut self, path: &Path, text: &str) {
        let lines = text.lines().count();
        let is_test = source::is_test_file(path);
        if lines > FILE.soft {
            let note = if is_test { " (tests)" } else { "" };
            self.files.push(Long { lines, what: format!("{}{note}", path.display()) });
        }
        if is_test {
            return;
        }
        let functions = source::functions(&source::without_tests(&source::code_only(text)));
        self.functions.extend(functions.into_iter().filter(|function| function.lines > FUNCTION.soft).map(
            |function| Long {
                lines: function.lines,
                what: format!("{}:{} {}", path.display(), function.line, function.name),
            },
        ));
    }

    fn within_hard_limits(&self) -> Result<(), Failure> {
        let over = |longs: &[Long], limit: Limit| -> Vec<String> {
            let broken = longs.iter().filter(|long| long.lines > limit.hard);
            broken.map(|long| format!("{} has {} lines (at most {})", long.what, long.lines, limit.hard)).collect()
        };
        let broken = [over(&self.files, FILE), over(&self.functions, FUNCTION)].concat();
        if broken.is_empty() { Ok(()) } else { Err(Failure::new(format!("too long:\n  {}", broken.join("\n  ")))) }
    }
}

fn print(what: &str, longs: &[Long], limit: Limit) {
    println!("{} {what} over {} lines (hard limit {})", longs.len(), limit.soft, limit.hard);
    for long in longs {
        let mark = if long.lines > limit.hard { "!" } else { " " };
        println!("{mark} {:>5}  {}", long.lines, long.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_over_the_hard_limit_fails_and_one_within_does_not() {
        for (lines, fails) in [(41, false), (80, false), (81, true)] {
            let mut sizes = Sizes::default();
            sizes.add(Path::new("crates/a/src/lib.rs"), &function(lines));
            assert_eq!(sizes.functions, [Long { lines, what: "crates/a/src/lib.rs:1 long".to_owned() }]);
            assert_eq!(sizes.within_hard_limits().is_err(), fails, "{lines}");
        }
    }

    #[test]
    fn functions_in_tests_may_be_long_but_files_may_not() {
        let mut sizes = Sizes::default();
        sizes.add(Path::new("crates/a/tests/it/main.rs"), &function(801));
        sizes.add(Path::new("crates/a/src/lib.rs"), &format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(90)));
        assert!(sizes.functions.is_empty());
        let failure = sizes.within_hard_limits().unwrap_err();
        assert_eq!(failure.message, "too long:\n  crates/a/tests/it/main.rs (tests) has 801 lines (at most 800)");
    }
}
