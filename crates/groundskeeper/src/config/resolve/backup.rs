//! `[backup]`: where sets go, what opens the repository, what goes into a set, where it is proven.

use super::systems::default_deadline;
use crate::config::nearest::did_you_mean;
use crate::config::raw::{At, Section};
use crate::config::{Endpoint, Settings, SystemSettings};
use groundskeeper_backup::vault::{KeySource, PostgresSource};
use groundskeeper_backup::{self as backup, Lookout, Vault};
use groundskeeper_core::{SystemId, SystemKind};
use secrecy::SecretString;
use std::path::{Path, PathBuf};

const FOLDER: &str = "/var/backups/groundskeeper";
const SCRATCH: &str = "/var/tmp/groundskeeper";
/// As whom Debian's and Red Hat's packages run Postgres.
const RUN_AS: &str = "postgres";
/// What a server may keep for us, unless it is said otherwise; half an hour of a busy one.
const WAL_KEEP: u64 = 8 << 30;
const SMALLEST_KEEP: u64 = 64 << 20;
const KEYS: [&str; 3] = ["key_file", "key_command", "key"];

/// The one repository as a system under care.
pub(super) fn system(settings: backup::Settings) -> SystemSettings {
    SystemSettings {
        id: SystemId::new(SystemKind::Backup, "main"),
        deadline: default_deadline(SystemKind::Backup),
        endpoint: Endpoint::Backup(Lookout::new(Vault::new(settings))),
    }
}

/// `so_far` has the systems and the state folder.
pub(super) fn settings(top: &Section<'_>, so_far: &Settings) -> Option<backup::Settings> {
    let section = top.section("backup")?;
    let folder = repository(&section);
    let key = key(&section);
    let postgres = sources(top, &section, so_far);
    let scratch = folder_of(&section, "scratch", SCRATCH);
    let programs = programs(&section);
    let run_as = section.parsed("run_as", "the name of a user in quotes, such as \"postgres\"", |name| {
        if name.trim().is_empty() {
            Err("it is empty; write a user such as \"postgres\"".to_owned())
        } else {
            Ok(name.to_owned())
        }
    });
    let wal = wal(&section, &so_far.state_dir);
    section.finish();
    Some(backup::Settings {
        folder: folder?,
        key: key?,
        postgres,
        scratch: scratch.unwrap_or_else(|| default_scratch(&so_far.state_dir)),
        programs,
        run_as: run_as.unwrap_or_else(|| RUN_AS.to_owned()),
        wal,
    })
}

/// Not unless it is asked for: a slot is a promise of the server, and costs its disk when nobody comes for the WAL.
fn wal(section: &Section<'_>, state_dir: &Path) -> Option<backup::wal::Settings> {
    let keep = section.parsed("wal_keep", "a size in quotes, such as \"8 GiB\"", size);
    let give_up = section.flag("wal_give_up");
    section.flag("wal").unwrap_or(false).then(|| backup::wal::Settings {
        board: state_dir.join("wal-streams.json"),
        keep: keep.unwrap_or(WAL_KEEP),
        give_up: give_up.unwrap_or(true),
    })
}

/// `8 GiB`, `500MiB`
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write for example \"500 MiB\" or \"8 GiB\"");
    let (digits, unit) = text.trim().split_at(text.trim().find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let shift = match unit.trim() {
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(wrong)?;
    if bytes < SMALLEST_KEEP {
        return Err(format!("`{text}` is too little: a server keeps up to 64 MiB when all is well"));
    }
    Ok(bytes)
}

/// Root's state folder is closed to everyone else, and a scratch server does not run as root.
fn default_scratch(state_dir: &Path) -> PathBuf {
    if rustix::process::geteuid().is_root() { PathBuf::from(SCRATCH) } else { state_dir.join("scratch") }
}

fn repository(section: &Section<'_>) -> Option<PathBuf> {
    let written = section.required_secret("repository", FOLDER)?;
    if written.value.contains("://") {
        let message = format!(
            "`repository`{}: this version stores in a folder only; write a whole path such as \"{FOLDER}\"",
            section.place()
        );
        section.problem(written.at, message);
        return None;
    }
    whole_path(section, "repository", &written, FOLDER)
}

/// A folder of our own may not depend on where the keeper was started.
fn whole_path(section: &Section<'_>, key: &str, written: &At<String>, example: &str) -> Option<PathBuf> {
    let path = PathBuf::from(&written.value);
    if path.is_absolute() {
        return Some(path);
    }
    let message = format!("`{key}`{}: `{}` must be a whole path such as \"{example}\"", section.place(), written.value);
    section.problem(written.at, message);
    None
}

fn folder_of(section: &Section<'_>, key: &str, example: &str) -> Option<PathBuf> {
    let written = section.text(key)?;
    whole_path(section, key, &written, example)
}

fn programs(section: &Section<'_>) -> Vec<PathBuf> {
    let example = "/usr/lib/postgresql/16/bin";
    let written = section.texts("programs").unwrap_or_default();
    written.iter().filter_map(|folder| whole_path(section, "programs", folder, example)).collect()
}

/// Exactly one. The file is read when it is needed and not here: a key that is gone is a finding, and the keeper starts.
fn key(section: &Section<'_>) -> Option<KeySource> {
    let file = section.text("key_file");
    let command = section.text("key_command");
    let given = section.secret("key");
    let written: Vec<&str> = KEYS.into_iter().filter(|key| section.has(key)).collect();
    match written.as_slice() {
        [] => {
            let message = format!(
                "[{}] needs `key_file`, such as key_file = \"/etc/groundskeeper/backup.key\", or `key_command`, or `key`",
                section.name
            );
            section.problem(section.at, message);
            return None;
        }
        [_] => {}
        [one, other, ..] => {
            section.problem(section.at, format!("[{}] has both `{one}` and `{other}`; keep one", section.name));
            return None;
        }
    }
    let (key, written) = match (&file, &command, &given) {
        (Some(file), ..) => ("key_file", file),
        (_, Some(command), _) => ("key_command", command),
        (_, _, given) => ("key", given.as_ref()?),
    };
    if written.value.trim().is_empty() {
        section.problem(written.at, format!("`{key}`{} is empty", section.place()));
        return None;
    }
    Some(match key {
        "key_file" => {
            let base = section.source.file.parent().unwrap_or_else(|| Path::new("."));
            KeySource::File(base.join(&written.value))
        }
        "key_command" => KeySource::Command(written.value.clone()),
        _ => KeySource::Given(SecretString::from(written.value.clone())),
    })
}

/// The named systems; without names every Postgres.
fn sources(top: &Section<'_>, section: &Section<'_>, so_far: &Settings) -> Vec<PostgresSource> {
    let known: Vec<PostgresSource> = so_far
        .systems
        .iter()
        .filter_map(|system| match &system.endpoint {
            Endpoint::Postgres(endpoint) => {
                Some(PostgresSource { system: system.id.clone(), endpoint: endpoint.clone() })
            }
            _ => None,
        })
        .collect();
    // A table that is there and has a mistake was already reported.
    let declared = |id: &SystemId| top.section(id.kind.as_str()).is_some_and(|kind| kind.has(&id.name));
    if !top.has("postgres") {
        let message = format!(
            "[{}] has nothing to back up: this version backs up Postgres, and none is configured; add a \
             [postgres.main] section",
            section.name
        );
        section.problem(section.at, message);
    }
    let Some(names) = section.texts("systems") else { return known };
    if names.is_empty() {
        let message = format!("[{}] has an empty `systems`; leave it out to back up every Postgres", section.name);
        section.problem(section.at, message);
    }
    let mut found: Vec<PostgresSource> = Vec::new();
    for name in &names {
        match source(name, &known, &declared) {
            Ok(source) => found.extend(source.filter(|new| found.iter().all(|old| old.system != new.system))),
            Err(why) => section.problem(name.at, format!("`systems`{}: {why}", section.place())),
        }
    }
    found
}

fn source(
    name: &At<String>,
    known: &[PostgresSource],
    declared: &dyn Fn(&SystemId) -> bool,
) -> Result<Option<PostgresSource>, String> {
    let id: SystemId = name.value.parse()?;
    if id.kind != SystemKind::Postgres {
        return Err(format!("`{id}` cannot be backed up by this version; it backs up Postgres"));
    }
    if let Some(source) = known.iter().find(|source| source.system == id) {
        return Ok(Some(source.clone()));
    }
    if declared(&id) {
        return Ok(None);
    }
    let names: Vec<String> = known.iter().map(|source| source.system.to_string()).collect();
    Err(format!("there is no `{id}`{}", did_you_mean(&name.value, names.iter().map(String::as_str))))
}
