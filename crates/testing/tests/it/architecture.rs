//! The rules of the house, held by reading the sources (see "How the code is laid out" in CONTRIBUTING.md).
//!
//! Crates hold the coarse arrows: `core` cannot use `systems`, because its manifest does not name it. What is below that
//! (who may read the clock, who may change a system, which surface knows what) is held here. Comments, strings and test
//! code do not count.

mod paths;
mod rules;

use std::fmt;
use std::path::Path;

use paths::Mention;
use xtask::source;

/// One source file outside of tests.
#[derive(Debug)]
struct SourceFile {
    /// From the root of the workspace.
    path: String,
    /// The folder below `crates/`, or `xtask`.
    package: String,
    /// `["postgres", "observe"]` for `src/postgres/observe.rs`; empty for the root of the crate.
    module: Vec<String>,
    mentions: Vec<Mention>,
}

impl SourceFile {
    /// Nothing for test code and for files outside of `src`.
    fn new(path: &str, text: &str) -> Option<Self> {
        let relative = path.strip_prefix("crates/").unwrap_or(path);
        let (package, inside) = relative.split_once("/src/")?;
        if source::is_test_file(Path::new(path)) {
            return None;
        }
        let mut module: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        module.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
        let code = source::without_tests(&source::code_only(text));
        let mentions = paths::mentions(&code, &module);
        Some(Self { path: path.to_owned(), package: package.to_owned(), module, mentions })
    }

    /// Whether this file is the module `root` of `package`, or below it.
    fn is_in(&self, package: &str, root: &str) -> bool {
        self.package == package && self.module.first().is_some_and(|first| first == root)
    }
}

/// A rule broken at one place.
#[derive(Debug)]
struct Violation {
    place: String,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}: {}", self.place, self.what)
    }
}

type Rule = fn(&SourceFile) -> Vec<Violation>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn workspace() -> Vec<SourceFile> {
    let files = source::rust_files(root()).unwrap();
    let read = files.iter().filter_map(|path| {
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
        SourceFile::new(relative, &std::fs::read_to_string(path).unwrap())
    });
    let files: Vec<SourceFile> = read.collect();
    for package in ["core", "systems", "groundskeeper", "docrag", "testing"] {
        assert!(files.iter().any(|file| file.package == package), "no source of crates/{package} was found");
    }
    files
}

/// Holds `rule` against the workspace, and first against sources that break it and sources that only look as if.
fn hold(rule: Rule, because: &str, broken: &[(&str, &str)], fine: &[(&str, &str)]) {
    for (path, text) in broken {
        let file = SourceFile::new(path, text).expect("a planted file is a source file");
        assert!(!rule(&file).is_empty(), "the rule does not see the violation planted in {path}:\n{text}");
    }
    for (path, text) in fine {
        let found = SourceFile::new(path, text).map(|file| rule(&file)).unwrap_or_default();
        assert!(found.is_empty(), "the rule is wrong about {path}:\n{text}\n{}", listed(&found));
    }
    let violations: Vec<Violation> = workspace().iter().flat_map(rule).collect();
    assert!(violations.is_empty(), "{because}\n{}", listed(&violations));
}

fn listed(violations: &[Violation]) -> String {
    violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn core_does_no_io() {
    hold(
        rules::core_does_no_io,
        "crates/core is pure: what it needs to know is an argument",
        &[
            ("crates/core/src/a.rs", "use std::{fmt, fs};"),
            ("crates/core/src/a.rs", "fn f() { ::std::net::TcpStream::connect(1); }"),
            ("crates/core/src/a.rs", "async fn f() -> Vec<tokio::task::JoinHandle<()>> { vec![] }"),
        ],
        &[
            ("crates/core/src/a.rs", "// use std::fs;\nconst A: &str = \"tokio::spawn\"; use std::fmt;"),
            ("crates/core/src/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }"),
            ("crates/systems/src/a.rs", "use std::fs;"),
        ],
    );
}

#[test]
fn core_depends_on_nothing_that_does_io() {
    let forbidden = ["tokio", "axum", "redis", "tokio-postgres", "reqwest", "rusqlite", "rustix", "sysinfo"];
    let manifest = std::fs::read_to_string(root().join("crates/core/Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("[dependencies]").expect("core has dependencies");
    let dependencies = dependencies.split("\n[").next().unwrap_or_default();
    for line in dependencies.lines() {
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let own = name.starts_with("groundskeeper");
        assert!(!own && !forbidden.contains(&name), "crates/core/Cargo.toml: core is pure and cannot depend on {name}");
    }
}

#[test]
fn core_reads_no_clock() {
    hold(
        rules::core_reads_no_clock,
        "crates/core reads no clock: `now` is an argument",
        &[
            ("crates/core/src/a.rs", "fn f() -> Timestamp { Timestamp::now() }"),
            ("crates/core/src/a.rs", "fn f() { let t = std::time::Instant::now; }"),
        ],
        &[("crates/core/src/a.rs", "fn f(now: Timestamp) -> Timestamp { now }")],
    );
}

#[test]
fn systems_do_not_know_each_other() {
    hold(
        rules::systems_do_not_know_each_other,
        "modules of crates/systems never import each other: what needs two systems is a task",
        &[
            ("crates/systems/src/postgres/observe.rs", "use crate::redis::client::Client;"),
            ("crates/systems/src/postgres/observe.rs", "use crate::{deadline, http::get};"),
            ("crates/systems/src/postgres/mod.rs", "fn f() { super::redis::ping() }"),
        ],
        &[
            ("crates/systems/src/postgres/observe.rs", "use crate::deadline::within; use crate::postgres::client;"),
            ("crates/systems/src/redis/client.rs", "use redis::Client; use super::observe;"),
            ("crates/systems/src/lib.rs", "pub use crate::redis::Redis;"),
        ],
    );
}

#[test]
fn the_scheduler_knows_no_system_and_no_task() {
    hold(
        rules::scheduler_knows_no_system_and_no_task,
        "scheduler/ imports neither groundskeeper_systems nor crate::tasks",
        &[
            ("crates/groundskeeper/src/scheduler/driver.rs", "use crate::tasks::Registry;"),
            ("crates/groundskeeper/src/scheduler.rs", "use groundskeeper_systems as systems;"),
        ],
        &[("crates/groundskeeper/src/scheduler/driver.rs", "use groundskeeper_core::window::Window;")],
    );
}

#[test]
fn surfaces_call_the_app_and_nothing_below() {
    hold(
        rules::surfaces_call_the_app_only,
        "cli, web, mcp and export call `app`: neither groundskeeper_systems, nor crate::record, nor each other",
        &[
            ("crates/groundskeeper/src/cli/check.rs", "use groundskeeper_systems::postgres::observe;"),
            ("crates/groundskeeper/src/web/index.rs", "use crate::record::Store;"),
            ("crates/groundskeeper/src/export/html.rs", "fn f() { crate::cli::table() }"),
        ],
        &[
            ("crates/groundskeeper/src/cli/check.rs", "use crate::app::App; use crate::cli::table; use super::record;"),
            ("crates/groundskeeper/src/app/mod.rs", "use crate::record::Store;"),
        ],
    );
}

#[test]
fn only_remediation_changes_a_system() {
    hold(
        rules::only_remediation_acts,
        "only remediation (and backup, and retrieval::migrate) reach an `act` module: every change is a journalled step",
        &[
            ("crates/groundskeeper/src/tasks/watch.rs", "use groundskeeper_systems::postgres::act::cancel;"),
            ("crates/groundskeeper/src/app/mod.rs", "use groundskeeper_systems::{postgres::{act, observe}};"),
            ("crates/systems/src/postgres/mod.rs", "pub use self::act::cancel;"),
            ("crates/retrieval/src/drift.rs", "fn f() { qdrant::act::delete() }"),
        ],
        &[
            ("crates/groundskeeper/src/remediation/executor.rs", "use groundskeeper_systems::postgres::act;"),
            ("crates/backup/src/drill.rs", "use groundskeeper_systems::postgres::act;"),
            ("crates/retrieval/src/migrate.rs", "use groundskeeper_systems::qdrant::act;"),
            ("crates/systems/src/postgres/act.rs", "use super::act::quoted;"),
            ("crates/systems/src/postgres/mod.rs", "pub mod act;"),
        ],
    );
}

#[test]
fn observing_never_changes() {
    hold(
        rules::observing_never_changes,
        "an observe module only reads: it never mentions `act`",
        &[
            ("crates/systems/src/postgres/observe.rs", "use super::act;"),
            ("crates/systems/src/redis/observe/memory.rs", "fn f() { crate::redis::act::purge() }"),
        ],
        &[("crates/systems/src/postgres/observe.rs", "// what act does\nfn react() {}")],
    );
}

#[test]
fn modules_are_named_after_what_they_do() {
    hold(
        rules::modules_are_named_after_what_they_do,
        "a module's name says what it is for",
        &[
            ("crates/core/src/utils.rs", ""),
            ("crates/core/src/common/a.rs", ""),
            ("xtask/src/main.rs", "mod helpers {}"),
        ],
        &[("crates/core/src/commons.rs", "mod utility;")],
    );
}

#[test]
fn nothing_is_left_unfinished() {
    hold(
        rules::nothing_is_left_unfinished,
        "no todo!, unimplemented! or dbg! outside of tests",
        &[
            ("crates/core/src/a.rs", "fn f() { todo!() }"),
            ("crates/core/src/a.rs", "fn f() { std::unimplemented!(\"later\") }"),
        ],
        &[(
            "crates/core/src/a.rs",
            "fn f(todo: bool) -> bool { todo != true }\n#[cfg(test)]\nmod tests { fn f() { dbg!(1) } }",
        )],
    );
}

#[test]
fn only_surfaces_print() {
    hold(
        rules::only_surfaces_print,
        "println! is for the command line: crates/groundskeeper/src/cli, crates/lab, xtask and main.rs",
        &[("crates/groundskeeper/src/app/mod.rs", "fn f() { println!(\"x\") }")],
        &[
            ("crates/groundskeeper/src/cli/check.rs", "fn f() { println!(\"x\") }"),
            ("crates/groundskeeper/src/main.rs", "fn f() { println!(\"x\") }"),
            ("crates/lab/src/demo.rs", "fn f() { println!(\"x\") }"),
            ("crates/core/src/a.rs", "/// println!(\"x\")\nfn f() { writeln!(out, \"println!\") }"),
        ],
    );
}

#[test]
fn docrag_stands_alone() {
    hold(
        rules::docrag_layers,
        "Doc-RAG knows nothing of Groundskeeper, and what is below its surfaces knows nothing of them",
        &[
            ("crates/docrag/src/search/mod.rs", "use groundskeeper_core::Severity;"),
            ("crates/docrag/src/ingest/mod.rs", "use crate::http::Problem;"),
            ("crates/docrag/src/http/mod.rs", "use crate::cli::Arguments;"),
        ],
        &[
            ("crates/docrag/src/cli/serve.rs", "use crate::http;"),
            ("crates/lab/src/docrag.rs", "use groundskeeper_core::Severity; use docrag::chunk;"),
        ],
    );
}

#[test]
fn sql_of_docrag_stands_in_its_store() {
    hold(
        rules::sql_stands_in_the_store,
        "SQL of Doc-RAG stands in `store`, `ingest` and `index`",
        &[("crates/docrag/src/http/mod.rs", "async fn f() { sqlx::query(\"SELECT 1\"); }")],
        &[("crates/docrag/src/store/keys.rs", "async fn f() { sqlx::query(\"SELECT 1\"); }")],
    );
}
