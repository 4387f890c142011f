//! `[backup]`: where sets go, what opens the repository, what goes into a set, where it is proven.

mod chunks;
mod files;
mod probe;
mod qdrant;
mod sources;

use super::storage;
use super::systems::default_deadline;
use crate::config::raw::{At, Section};
use crate::config::size;
use crate::config::{Endpoint, KeepSettings, Settings, SystemSettings};
use groundskeeper_backup::vault::KeySource;
use groundskeeper_backup::{self as backup, Lookout, Vault};
use groundskeeper_core::{SystemId, SystemKind};
use secrecy::SecretString;
use std::path::{Path, PathBuf};

const SCRATCH: &str = "/var/tmp/groundskeeper";
/// Bytes of the scratch folder's disk that stay free: the machine logs and swaps while a drill runs.
const LEAVE_FREE: u64 = 5 << 30;
/// As whom Debian's and Red Hat's packages run Postgres.
const RUN_AS: &str = "postgres";
/// What a server may keep for us, unless it is said otherwise; half an hour of a busy one.
const WAL_KEEP: u64 = 8 << 30;
const SMALLEST_KEEP: u64 = 64 << 20;
const KEYS: [&str; 3] = ["key_file", "key_command", "key"];

/// The one repository as a system under care.
pub(super) fn system(settings: backup::Settings, keep: &KeepSettings) -> SystemSettings {
    SystemSettings {
        id: SystemId::new(SystemKind::Backup, "main"),
        deadline: default_deadline(SystemKind::Backup),
        endpoint: Endpoint::Backup(Lookout::new(Vault::new(settings).keeping(keep.retention.clone()))),
        machine: None,
    }
}

/// `so_far` has the systems and the state folder.
pub(super) fn settings(top: &Section<'_>, so_far: &Settings) -> Option<backup::Settings> {
    let qdrant = qdrant::all(top, so_far);
    let section = top.section("backup")?;
    let place = storage::place(&section);
    let key = key(&section);
    let sources = sources::all(top, &section, so_far, qdrant);
    let files = files::all(&section);
    let probes = probe::all(top, &section, so_far, &sources.postgres);
    let scratch = folder_of(&section, "scratch", SCRATCH);
    let leave_free = section.parsed("leave_free", "an amount in quotes, such as \"5 GiB\"", size::parse);
    let programs = programs(&section);
    let run_as = section.parsed("run_as", "the name of a user in quotes, such as \"postgres\"", |name| {
        if name.trim().is_empty() {
            Err("it is empty; write a user such as \"postgres\"".to_owned())
        } else {
            Ok(name.to_owned())
        }
    });
    let wal = wal(&section, &so_far.state_dir);
    // [backup.keep] is read by itself.
    section.leave("keep");
    section.finish();
    Some(backup::Settings {
        place: place?,
        key: key?,
        postgres: sources.postgres,
        redis: sources.redis,
        files,
        qdrant: sources.qdrant,
        scratch: scratch.unwrap_or_else(|| default_scratch(&so_far.state_dir)),
        leave_free: leave_free.unwrap_or(LEAVE_FREE),
        programs,
        run_as: run_as.unwrap_or_else(|| RUN_AS.to_owned()),
        wal,
        probes,
    })
}

/// Not unless it is asked for: a slot is a promise of the server, and costs its disk when nobody comes for the WAL.
fn wal(section: &Section<'_>, state_dir: &Path) -> Option<backup::wal::Settings> {
    let keep = section.parsed("wal_keep", "an amount in quotes, such as \"8 GiB\"", keep);
    let give_up = section.flag("wal_give_up");
    section.flag("wal").unwrap_or(false).then(|| backup::wal::Settings {
        board: state_dir.join("wal-streams.json"),
        keep: keep.unwrap_or(WAL_KEEP),
        give_up: give_up.unwrap_or(true),
    })
}

fn keep(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    if bytes < SMALLEST_KEEP {
        return Err(format!("`{text}` is too little: a server keeps up to 64 MiB when all is well"));
    }
    Ok(bytes)
}

/// Root's state folder is closed to everyone else, and a scratch server does not run as root.
fn default_scratch(state_dir: &Path) -> PathBuf {
    if rustix::process::geteuid().is_root() { PathBuf::from(SCRATCH) } else { state_dir.join("scratch") }
}

/// A folder of our own may not depend on where the keeper was started.
pub(super) fn whole_path(section: &Section<'_>, key: &str, written: &At<String>, example: &str) -> Option<PathBuf> {
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
