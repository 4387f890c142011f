//! Each rule: one file in, what it breaks out.

use super::paths::Mention;
use super::{SourceFile, Violation};

const SURFACES: [&str; 4] = ["cli", "web", "mcp", "export"];

/// The mentions of `file` that `broken` names a reason for.
fn violations(file: &SourceFile, broken: impl Fn(&Mention) -> bool) -> Vec<Violation> {
    let found = file.mentions.iter().filter(|mention| broken(mention));
    found.map(|mention| Violation { place: format!("{}:{}", file.path, mention.line), what: mention.text() }).collect()
}

pub(super) fn core_does_no_io(file: &SourceFile) -> Vec<Violation> {
    // The crate `redis` is left to the manifest: core has modules of that name.
    let crates = ["tokio", "axum", "tokio_postgres", "reqwest"];
    let of_std = ["fs", "net", "process"];
    violations(file, |mention| {
        file.package == "core"
            && (crates.iter().any(|name| mention.starts_with(&[name]) && mention.path.len() > 1)
                || of_std.iter().any(|name| mention.starts_with(&["std", name])))
    })
}

pub(super) fn core_reads_no_clock(file: &SourceFile) -> Vec<Violation> {
    let clocks = ["Timestamp", "SystemTime", "Instant", "Zoned"];
    violations(file, |mention| file.package == "core" && clocks.iter().any(|clock| mention.ends_with(&[clock, "now"])))
}

pub(super) fn systems_do_not_know_each_other(file: &SourceFile) -> Vec<Violation> {
    let Some(own) = file.module.first().filter(|_| file.package == "systems") else { return Vec::new() };
    if !is_system(own) {
        return Vec::new();
    }
    violations(file, |mention| {
        mention.starts_with(&["crate"]) && mention.path.get(1).is_some_and(|other| other != own && is_system(other))
    })
}

/// A system has a folder of its own below `crates/systems/src`; what systems share is a file there.
fn is_system(name: &str) -> bool {
    super::root().join("crates/systems/src").join(name).is_dir()
}

pub(super) fn scheduler_knows_no_system_and_no_task(file: &SourceFile) -> Vec<Violation> {
    violations(file, |mention| {
        file.is_in("groundskeeper", "scheduler")
            && (mention.starts_with(&["groundskeeper_systems"]) || mention.starts_with(&["crate", "tasks"]))
    })
}

pub(super) fn surfaces_call_the_app_only(file: &SourceFile) -> Vec<Violation> {
    let Some(own) = SURFACES.iter().find(|surface| file.is_in("groundskeeper", surface)) else { return Vec::new() };
    violations(file, |mention| {
        let others = SURFACES.iter().filter(|other| *other != own);
        mention.starts_with(&["groundskeeper_systems"])
            || mention.starts_with(&["crate", "record"])
            || others.into_iter().any(|other| mention.starts_with(&["crate", other]))
    })
}

pub(super) fn only_remediation_acts(file: &SourceFile) -> Vec<Violation> {
    let may = file.is_in("groundskeeper", "remediation")
        || file.package == "backup"
        || file.is_in("retrieval", "migrate")
        || (file.package == "systems" && file.module.iter().any(|segment| segment == "act"));
    violations(file, |mention| !may && mention.path.len() > 1 && mention.has_segment("act"))
}

pub(super) fn observing_never_changes(file: &SourceFile) -> Vec<Violation> {
    let observes = file.package == "systems" && file.module.iter().any(|segment| segment == "observe");
    violations(file, |mention| observes && mention.has_segment("act"))
}

pub(super) fn modules_are_named_after_what_they_do(file: &SourceFile) -> Vec<Violation> {
    let empty = |name: &str| {
        matches!(name, "util" | "utils" | "common" | "helper" | "helpers" | "manager" | "managers" | "misc")
    };
    let mut found = violations(file, |mention| mention.is_module && empty(&mention.path[0]));
    if let Some(name) = file.module.iter().find(|name| empty(name)) {
        found.push(Violation { place: format!("{}:1", file.path), what: format!("mod {name}") });
    }
    found
}

pub(super) fn nothing_is_left_unfinished(file: &SourceFile) -> Vec<Violation> {
    let unfinished = ["todo", "unimplemented", "dbg"];
    violations(file, |mention| mention.is_macro && unfinished.iter().any(|name| mention.ends_with(&[name])))
}

pub(super) fn only_surfaces_print(file: &SourceFile) -> Vec<Violation> {
    let may = file.is_in("groundskeeper", "cli")
        || file.is_in("docrag", "cli")
        || matches!(file.package.as_str(), "lab" | "xtask")
        || file.path.ends_with("/src/main.rs");
    violations(file, |mention| {
        !may && mention.is_macro && ["println", "print"].iter().any(|name| mention.ends_with(&[name]))
    })
}

pub(super) fn docrag_layers(file: &SourceFile) -> Vec<Violation> {
    let surfaces = ["http", "cli"];
    let own = surfaces.into_iter().find(|surface| file.is_in("docrag", surface));
    violations(file, |mention| {
        let keeper = mention.path.first().is_some_and(|first| first.starts_with("groundskeeper"));
        let upwards = own.is_none() && surfaces.iter().any(|surface| mention.starts_with(&["crate", surface]));
        let across = own.is_some_and(|own| {
            // The command line starts the HTTP interface; the other way round there is nothing to know.
            own == "http" && mention.starts_with(&["crate", "cli"])
        });
        file.package == "docrag" && (keeper || upwards || across)
    })
}

pub(super) fn sql_stands_in_the_store(file: &SourceFile) -> Vec<Violation> {
    let may = file.is_in("docrag", "store") || file.is_in("docrag", "index") || file.is_in("docrag", "ingest");
    violations(file, |mention| {
        let sql = ["query", "query_as", "query_scalar", "query_with", "raw_sql"];
        file.package == "docrag" && !may && sql.iter().any(|name| mention.starts_with(&["sqlx", name]))
    })
}
