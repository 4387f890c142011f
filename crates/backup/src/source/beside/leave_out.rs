//! What of a data directory is in no base backup: the rules of Postgres's `basebackup.c`, versions 15 to 18.

use std::collections::BTreeSet;
use std::path::Path;

/// Folders of which only the folder itself is copied: a start makes them anew.
pub(super) const EMPTY: [&str; 7] =
    ["pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Files of the running server, or of another backup.
const FILES: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];
/// Temporary files, and caches that hold what was true before the WAL is replayed.
const PREFIXES: [&str; 2] = ["pgsql_tmp", "pg_internal.init"];

/// Whether a folder, relative to the data directory, is copied without what is in it.
pub(super) fn stays_empty(inside: &Path) -> bool {
    EMPTY.iter().any(|name| inside == Path::new(name))
}

/// The files of one folder.
pub(super) struct Siblings {
    /// Tables and indexes without WAL, as the numbers that their files begin with; None where no relations are.
    unlogged: Option<BTreeSet<String>>,
}

impl Siblings {
    pub(super) fn of(inside: &Path, names: &[String]) -> Self {
        let unlogged = is_database(inside).then(|| {
            let init = names.iter().filter_map(|name| name.strip_suffix("_init"));
            init.filter(|number| is_number(number)).map(str::to_owned).collect()
        });
        Self { unlogged }
    }

    /// Whether a backup has no such file in this folder.
    pub(super) fn are_without(&self, name: &str) -> bool {
        FILES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || self.is_lost_by_a_crash(name)
    }

    fn is_lost_by_a_crash(&self, name: &str) -> bool {
        let Some(unlogged) = &self.unlogged else { return false };
        let Some(relation) = Relation::read(name) else { return false };
        relation.is_temporary || (relation.fork != Some("init") && unlogged.contains(relation.number))
    }
}

/// A file of a relation by its name: `16384`, `16384_fsm.1`, `t3_16384`.
struct Relation<'n> {
    number: &'n str,
    fork: Option<&'n str>,
    is_temporary: bool,
}

impl<'n> Relation<'n> {
    fn read(name: &'n str) -> Option<Self> {
        let (name, segment) = name.split_once('.').map_or((name, None), |(name, segment)| (name, Some(segment)));
        let (name, is_temporary) = match name.strip_prefix('t') {
            // The number of the backend that it belongs to.
            Some(name) => (name.split_once('_').filter(|(backend, _)| is_number(backend))?.1, true),
            None => (name, false),
        };
        let (number, fork) = name.split_once('_').map_or((name, None), |(number, fork)| (number, Some(fork)));
        let is_one = is_number(number)
            && fork.is_none_or(|fork| ["fsm", "vm", "init"].contains(&fork))
            && segment.is_none_or(is_number);
        is_one.then_some(Self { number, fork, is_temporary })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `base/5`, and in a tablespace `PG_15_202209061/5`.
fn is_database(inside: &Path) -> bool {
    let part = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let above = inside.parent().and_then(part).unwrap_or_default();
    part(inside).is_some_and(|name| is_number(&name)) && (above == "base" || above.starts_with("PG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_loses_is_left_out_of_databases_only() {
        let names = ["1", "1_init", "1_fsm", "1_vm", "1.1", "2", "2_fsm", "2.17", "t4_7", "t4_7_fsm", "t4_7.1", "t_x"];
        let names: Vec<String> = names.map(str::to_owned).into();
        let kept = |inside: &str| -> Vec<&str> {
            let siblings = Siblings::of(Path::new(inside), &names);
            names.iter().map(String::as_str).filter(|name| !siblings.are_without(name)).collect()
        };
        for inside in ["base/5", "pg_tblspc/16385/PG_15_202209061/5"] {
            assert_eq!(kept(inside), ["1_init", "2", "2_fsm", "2.17", "t_x"], "{inside}");
        }
        for inside in ["", "global", "base", "pg_xact", "base/old"] {
            assert_eq!(kept(inside).len(), names.len(), "{inside}");
        }
    }

    #[test]
    fn what_a_start_makes_anew_is_left_out_everywhere() {
        let siblings = Siblings::of(Path::new("base/5"), &[]);
        for name in ["pgsql_tmp", "pgsql_tmp12.3", "pg_internal.init", "pg_internal.init.77", "postmaster.pid"] {
            assert!(siblings.are_without(name), "{name}");
        }
        for name in ["PG_VERSION", "postgresql.auto.conf", "pg_filenode.map", "backup_label.old"] {
            assert!(!siblings.are_without(name), "{name}");
        }
        assert!(stays_empty(Path::new("pg_replslot")) && !stays_empty(Path::new("pg_logical")));
        assert!(!stays_empty(Path::new("base/pg_notify")), "only at the top");
    }
}
