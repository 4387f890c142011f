//! Settings by which data is lost, and changes that stopped half way.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Unknown, UnknownKind};
use crate::finding::Draft;
use crate::observation::{Extension, Owner, Postgres, Setting};
use crate::quantity::Value;
use crate::remedy::quoted;
use crate::severity::Severity;
use std::cmp::Ordering;

pub static CRASH_UNSAFE: Check = Check {
    id: "postgres.crash_unsafe",
    title: "A crash or a power cut would destroy the data",
    runbook: Runbook {
        means: "With fsync off the server tells clients that data is stored while it is still in memory, and writes in any \
                order. After a power cut or a crash of the machine the whole cluster may be damaged for good. With \
                full_page_writes off a page that was being written is torn and cannot be mended from the WAL.",
        confirm: "SHOW fsync; SHOW full_page_writes;",
        act: "Switch them on again; a reload is enough, writes get slower. Then take a backup: what was written before may \
              be damaged without anybody knowing. To lose the last half second of commits for speed, and nothing else, \
              synchronous_commit = off is the safe way. full_page_writes may be off only on a file system that writes \
              pages whole (ZFS).",
    },
    source: "fsync and full_page_writes in pg_settings",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(crash_unsafe),
};

fn crash_unsafe(sight: &Sight<'_, Postgres>) -> Judged {
    let settings = sight.seen.settings.as_ref()?;
    let off = ["fsync", "full_page_writes"].into_iter().filter_map(|name| settings.get(name));
    let off: Vec<&Setting> = off.filter(|setting| setting.value == "off").collect();
    let Some(first) = off.first() else { return Ok(Vec::new()) };
    let (severity, loss) = if first.name == "fsync" {
        (Severity::Critical, "a power cut may destroy the whole cluster")
    } else {
        (Severity::Warning, "a power cut may leave pages that the WAL cannot mend")
    };
    let names: Vec<&str> = off.iter().map(|setting| setting.name.as_str()).collect();
    let verb = if off.len() == 1 { "is" } else { "are" };
    let mut draft = Draft::new(severity, format!("{} {verb} off: {loss}", names.join(" and ")));
    for setting in &off {
        draft = draft.saw(setting.name.clone(), Value::text(format!("off, set by {}", setting.owner())), "pg_settings");
    }
    let ways: Vec<String> = off.iter().map(|setting| way_to_set(setting, "on")).collect();
    Ok(vec![draft.fix(format!("{} Then SELECT pg_reload_conf(); and take a backup.", ways.join(" ")))])
}

/// How to give a setting another value where its owner has it.
pub(super) fn way_to_set(setting: &Setting, value: &str) -> String {
    let name = &setting.name;
    match setting.owner() {
        Owner::CommandLine => format!(
            "{name} is given on the server's command line, which wins over every file: change it there (the container's \
             command, the values of the operator or chart)."
        ),
        Owner::Environment => format!("{name} is given in the server's environment: change it there."),
        Owner::File { path, line } => {
            let line = line.map_or_else(String::new, |line| format!(", line {line}"));
            format!("Set {name} = {value} in {path}{line}.")
        }
        _ => format!("ALTER SYSTEM SET {name} = {value};"),
    }
}

pub static RESTART_PENDING: Check = Check {
    id: "postgres.restart_pending",
    title: "A changed setting waits for a restart",
    runbook: Runbook {
        means: "Somebody changed a setting that is taken up at a restart only. The server still runs with the old value; \
                the next restart, planned or not, changes how it behaves, and a value that does not fit may keep it from \
                starting.",
        confirm: "SELECT name, setting, sourcefile, sourceline FROM pg_settings WHERE pending_restart;",
        act: "Find out what it will be (as a superuser: SELECT name, setting, sourcefile, error FROM pg_file_settings), \
              and whether that is wanted. If so, restart in a maintenance window. If not, take the change back where it \
              was made and reload.",
    },
    source: "pending_restart of pg_settings",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(restart_pending),
};

fn restart_pending(sight: &Sight<'_, Postgres>) -> Judged {
    let settings = sight.seen.settings.as_ref()?;
    let pending: Vec<&Setting> = settings.list.iter().filter(|setting| setting.pending_restart).collect();
    if pending.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = pending.iter().map(|setting| setting.name.as_str()).collect();
    let (count, verb) = if names.len() == 1 { ("a change", "waits") } else { ("changes", "wait") };
    let list = names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let mut draft =
        Draft::new(Severity::Info, format!("{count} of {} {verb} for a restart of the server", names.join(", ")));
    for setting in pending.iter().take(20) {
        draft = draft.saw(format!("{} still runs as", setting.name), Value::text(setting.shown()), "pg_settings");
        let accepted = sight.seen.accepted.as_ref();
        if let Some(action) = accepted.and_then(|accepted| accepted.waits_by(setting, settings)) {
            let text = format!("by us: `groundskeeper undo {action}` takes it back");
            draft = draft.saw(format!("{} was changed", setting.name), Value::text(text), "the journal");
        }
    }
    Ok(vec![draft.fix(format!(
        "As a superuser: SELECT name, setting, sourcefile, error FROM pg_file_settings WHERE name IN ({list}); then \
         restart in a maintenance window, or take the change back there and SELECT pg_reload_conf();"
    ))])
}

pub static CHECKSUMS_OFF: Check = Check {
    id: "postgres.checksums_off",
    title: "Pages have no checksums",
    runbook: Runbook {
        means: "A disk, controller or kernel that returns a wrong page is not noticed: the damage is read as data, and is \
                copied into backups until someone sees nonsense.",
        confirm: "SHOW data_checksums;",
        act: "pg_checksums --enable rewrites every page while the server is stopped (12 on). With a standby: stop it, enable \
              them there and then on the primary, or build the standby anew. New clusters: initdb --data-checksums, the \
              default from 18 on. It costs a few percent at most. With checksums on, backups are sent by the server instead of being read beside it.",
    },
    source: "data_checksums in pg_settings",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(checksums_off),
};

fn checksums_off(sight: &Sight<'_, Postgres>) -> Judged {
    match sight.seen.settings.as_ref()?.is_on("data_checksums") {
        Some(true) => Ok(Vec::new()),
        Some(false) => {
            let draft = Draft::new(Severity::Info, "pages have no checksums: damage by a disk is not noticed")
                .saw("data_checksums", Value::text("off"), CHECKSUMS_OFF.source)
                .fix(
                    "In a maintenance window, after a backup: stop the server, pg_checksums --enable --progress -D DATA \
                     (about as long as reading and writing the whole cluster once), start it.",
                );
            Ok(vec![draft])
        }
        None => {
            Err(Unknown { kind: UnknownKind::NotRead, reason: "the server does not tell data_checksums".to_owned() })
        }
    }
}

pub static EXTENSION_OUTDATED: Check = Check {
    id: "postgres.extension_outdated",
    title: "An extension is not at the version of its files",
    runbook: Runbook {
        means: "New files of an extension were installed and its objects in the database are still those of the old \
                version: corrections that came with it are not in force, and functions may be missing. Where the files \
                are gone, its functions fail.",
        confirm: "SELECT e.extname, e.extversion, a.default_version FROM pg_extension e LEFT JOIN pg_available_extensions \
                  a ON a.name = e.extname WHERE a.default_version IS DISTINCT FROM e.extversion;",
        act: "Read the extension's release notes for steps around an update (PostGIS and TimescaleDB have some), then \
              ALTER EXTENSION name UPDATE; in each database that has it. Files that are gone: install the package for \
              this major version again.",
    },
    source: "pg_extension against pg_available_extensions, in the connected database",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(extension_outdated),
};

fn extension_outdated(sight: &Sight<'_, Postgres>) -> Judged {
    // The files of a standby are its own; its objects are the primary's, and are updated there.
    let is_ours = |one: &&Extension| !sight.seen.server.in_recovery || !waits_for_update(one);
    let found: Vec<&Extension> = sight.seen.security.extensions.as_ref()?.iter().filter(is_ours).collect();
    let Some(first) = found.iter().min_by_key(|one| (one.available.is_some(), one.name.clone())) else {
        return Ok(Vec::new());
    };
    let severity = if first.available.is_none() { Severity::Warning } else { Severity::Info };
    let told: Vec<String> = found.iter().copied().map(state_of).collect();
    let more = if found.len() == 1 { String::new() } else { format!(", and {} more", found.len() - 1) };
    let draft = Draft::new(severity, format!("{}{more}", state_of(first)))
        .saw("which", Value::text(told.join("; ")), EXTENSION_OUTDATED.source)
        .fix(format!(
            "In database {}: {}",
            sight.seen.server.database,
            found.iter().take(10).copied().map(way_of).collect::<Vec<_>>().join(" ")
        ));
    Ok(vec![draft])
}

fn state_of(one: &Extension) -> String {
    match &one.available {
        Some(available) => {
            format!("extension {} is {} and its files are {available}", one.name, one.installed)
        }
        None => format!("the files of extension {} {} are gone", one.name, one.installed),
    }
}

/// Its files are newer than its objects.
fn waits_for_update(one: &Extension) -> bool {
    one.available.as_ref().is_some_and(|available| compare(available, &one.installed) != Ordering::Less)
}

fn way_of(one: &Extension) -> String {
    match &one.available {
        Some(_) if waits_for_update(one) => format!("ALTER EXTENSION {} UPDATE;", quoted(&one.name)),
        Some(_) => format!(
            "the files of {} are older than its objects: install the package of {} or newer again.",
            one.name, one.installed
        ),
        None => format!("install the package of {} for this major version again.", one.name),
    }
}

/// By the numbers in them: 1.10 is newer than 1.9.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, status};
    use crate::observation::Gap;

    fn set(seen: &mut Postgres, name: &str, value: &str) {
        let settings = seen.settings.as_mut().unwrap();
        settings.list.iter_mut().find(|setting| setting.name == name).unwrap().value = value.into();
    }

    #[test]
    fn fsync_off_is_critical_and_torn_pages_are_a_warning() {
        let found = finding("postgres.crash_unsafe", found_in(change(|seen| set(seen, "full_page_writes", "off"))));
        assert_eq!(found.severity, Severity::Warning);
        let both = change(|seen| {
            set(seen, "full_page_writes", "off");
            set(seen, "fsync", "off");
        });
        let found = finding("postgres.crash_unsafe", found_in(both));
        assert_eq!(found.severity, Severity::Critical);
        assert!(found.summary.starts_with("fsync and full_page_writes are off"), "{}", found.summary);
        assert!(
            found.fix.contains("Set fsync = on in /etc/postgresql/15/main/postgresql.conf, line 12."),
            "{}",
            found.fix
        );
    }

    #[test]
    fn the_fix_goes_to_whoever_owns_the_setting() {
        for (source, file, words) in [
            ("command line", None, "the server's command line"),
            ("environment variable", None, "the server's environment"),
            ("configuration file", Some("/pg/postgresql.auto.conf"), "ALTER SYSTEM SET fsync = on;"),
            ("configuration file", None, "ALTER SYSTEM SET fsync = on;"),
        ] {
            let seen = change(|seen| {
                set(seen, "fsync", "off");
                let settings = seen.settings.as_mut().unwrap();
                let fsync = settings.list.iter_mut().find(|setting| setting.name == "fsync").unwrap();
                fsync.source = source.into();
                fsync.file = file.map(Into::into);
            });
            let found = finding("postgres.crash_unsafe", found_in(seen));
            assert!(found.fix.contains(words), "{}", found.fix);
        }
    }

    #[test]
    fn a_change_that_waits_for_a_restart_is_told() {
        let seen = change(|seen| {
            let settings = seen.settings.as_mut().unwrap();
            settings.list.iter_mut().find(|setting| setting.name == "ssl").unwrap().pending_restart = true;
        });
        let found = finding("postgres.restart_pending", found_in(seen));
        assert_eq!(
            (found.severity, found.summary.as_str()),
            (Severity::Info, "a change of ssl waits for a restart of the server")
        );
        assert!(found.fix.contains("name IN ('ssl')"), "{}", found.fix);
    }

    #[test]
    fn pages_without_checksums_are_told() {
        let found = finding("postgres.checksums_off", found_in(change(|seen| set(seen, "data_checksums", "off"))));
        assert_eq!(found.severity, Severity::Info);
        let silent = change(|seen| seen.settings.as_mut().unwrap().list.clear());
        assert!(matches!(status("postgres.checksums_off", silent, None), Status::Unknown(_)));
    }

    fn extension(name: &str, installed: &str, available: Option<&str>) -> Extension {
        Extension { name: name.into(), installed: installed.into(), available: available.map(Into::into) }
    }

    #[test]
    fn an_extension_behind_its_files_is_told_and_one_without_files_is_a_warning() {
        let with = |all: Vec<Extension>| change(|seen| seen.security.extensions = Ok(all));
        let found =
            finding("postgres.extension_outdated", found_in(with(vec![extension("vector", "0.7.4", Some("0.8.0"))])));
        assert_eq!(found.severity, Severity::Info);
        assert_eq!(found.fix, "In database docrag: ALTER EXTENSION \"vector\" UPDATE;");
        let older = with(vec![extension("vector", "0.10.0", Some("0.9.1"))]);
        let found = finding("postgres.extension_outdated", found_in(older));
        assert!(!found.fix.contains("UPDATE") && found.fix.contains("older than its objects"), "{}", found.fix);
        let gone = with(vec![extension("a", "1.0", Some("1.1")), extension("postgis", "3.3", None)]);
        let found = finding("postgres.extension_outdated", found_in(gone));
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(found.summary, "the files of extension postgis 3.3 are gone, and 1 more");
    }

    #[test]
    fn a_standby_is_asked_for_files_only() {
        let mut seen = change(|seen| {
            let all = [("vector", "0.7.4", Some("0.8.0")), ("citext", "1.6", Some("1.5")), ("postgis", "3.3", None)];
            seen.security.extensions =
                Ok(all.map(|(name, installed, files)| extension(name, installed, files)).to_vec());
        });
        seen.server.in_recovery = true;
        let found = finding("postgres.extension_outdated", found_in(seen));
        assert!(!found.fix.contains("UPDATE") && found.summary.ends_with(", and 1 more"), "{found:?}");
    }

    #[test]
    fn what_could_not_be_read_is_unknown() {
        let seen = change(|seen| {
            seen.settings = Err(Gap::new("no"));
            seen.security.extensions = Err(Gap::new("no"));
        });
        for check in [&CRASH_UNSAFE, &RESTART_PENDING, &CHECKSUMS_OFF, &EXTENSION_OUTDATED] {
            assert!(matches!(status(check.id, seen.clone(), None), Status::Unknown(_)), "{}", check.id);
        }
    }
}
