//! `[backup] repository`, its limits, and `[backup.storage]`: how an object store is reached.

use super::backup::whole_path;
use crate::config::raw::Section;
use crate::config::size;
use groundskeeper_backup::Place;
use groundskeeper_backup::place::{Bucket, Limits, Secret, Storage};
use secrecy::SecretString;
use std::path::{Path, PathBuf};

const FOLDER: &str = "/var/backups/groundskeeper";
/// More requests at a time only make a store push back.
const MOST_CONNECTIONS: u32 = 64;

/// None when it cannot be used; what is wrong was noted.
pub(super) fn place(section: &Section<'_>) -> Option<Place> {
    let written = section.required_secret("repository", FOLDER);
    let limits = limits(section);
    let storage = section.section("storage");
    let written = written?;
    if !Place::is_address(&written.value) {
        if let Some(storage) = storage {
            let message = format!(
                "[{}] is of no use: `repository` is a folder; write an address such as s3://bucket/folder, or remove the \
                 table",
                storage.name
            );
            section.problem(storage.at, message);
            return None;
        }
        let folder = whole_path(section, "repository", &written, FOLDER)?;
        // A disk needs no limit of its own.
        let limits = Limits { connections: limits.connections.filter(|_| section.has("connections")), ..limits };
        return Some(Place::of_folder(folder).limited(limits));
    }
    let settings = match storage {
        Some(storage) => read(storage)?,
        None => Storage::default(),
    };
    match Bucket::parse(&written.value, settings) {
        Ok(bucket) => Some(Place::of_bucket(bucket).limited(limits)),
        Err(why) => {
            section.problem(written.at, format!("`repository`{}: {why}", section.place()));
            None
        }
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let rate = |key: &str| section.parsed(key, "an amount in quotes, such as \"20 MB/s\"", size::parse_rate);
    let (upload, download) = (rate("upload_limit"), rate("download_limit"));
    let connections = section.count("connections").map(|count| count.min(MOST_CONNECTIONS));
    Limits { upload, download, connections: connections.or(Limits::default().connections) }
}

fn read(section: Section<'_>) -> Option<Storage> {
    let usual = Storage::default();
    let text = |key: &str| section.secret(key).map(|found| found.value).filter(|value| !value.is_empty());
    let storage = Storage {
        endpoint: text("endpoint").map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
        region: text("region"),
        access_key_id: text("access_key_id"),
        secret_access_key: secret(&section, "secret_access_key", "secret_access_key_file"),
        session_token: secret(&section, "session_token", "session_token_file"),
        path_style: section.flag("path_style").unwrap_or(usual.path_style),
        allow_http: section.flag("allow_http").unwrap_or(usual.allow_http),
        checksums: section.flag("checksums").unwrap_or(usual.checksums),
        account: text("account"),
        account_key: secret(&section, "account_key", "account_key_file"),
        credentials_file: file(&section, "credentials_file"),
        ca_file: file(&section, "ca_file"),
        timeout: section.duration("timeout").unwrap_or(usual.timeout),
        retry_for: section.duration_or_zero("retry_for").unwrap_or(usual.retry_for),
    };
    let half = |one: bool, other: bool| one != other;
    let mistake = if half(storage.access_key_id.is_some(), storage.secret_access_key.is_some()) {
        Some(
            "`access_key_id` and `secret_access_key` (or `secret_access_key_file`) belong together; give both, or neither \
              for those of the environment",
        )
    } else if storage.session_token.is_some() && storage.access_key_id.is_none() {
        Some("`session_token` belongs to an `access_key_id` and a `secret_access_key`; give all three")
    } else {
        None
    };
    if let Some(mistake) = mistake {
        section.problem(section.at, format!("[{}]: {mistake}", section.name));
    }
    section.finish();
    mistake.is_none().then_some(storage)
}

/// Read when it is needed and not here: a secret that is gone is a finding, and the keeper starts.
fn secret(section: &Section<'_>, key: &str, file_key: &str) -> Option<Secret> {
    let given = section.secret(key).map(|found| found.value).filter(|value| !value.is_empty());
    let file = file(section, file_key);
    if section.has(key) && section.has(file_key) {
        section.problem(section.at, format!("[{}] has both `{key}` and `{file_key}`; keep one", section.name));
        return None;
    }
    file.map(Secret::File).or_else(|| given.map(|value| Secret::Given(SecretString::from(value))))
}

/// A relative path starts at the folder of the configuration.
fn file(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    let written = section.text(key)?;
    let base = section.source.file.parent().unwrap_or_else(|| Path::new("."));
    Some(base.join(&written.value))
}
