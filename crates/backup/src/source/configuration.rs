//! The configuration of a Postgres that lies outside of its data directory: beside `data/`, the folder `configuration/`.
//!
//! It is not what a backup is for, so nothing that is wrong with it holds the data up: it is named in the receipt.

use crate::error::{Error, Result};
use crate::repository::feed::Feed;
use crate::vault::PostgresSource;
use groundskeeper_core::receipt;
use groundskeeper_systems::postgres::configuration::{Configuration, configuration};
use rustic_core::repofile::Metadata;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const CONFIGURATION: &str = "configuration";
/// The settings as the server says them.
pub(crate) const SETTINGS: &str = "settings.conf";
const RULES: &str = "rules.conf";
const HEAD: &str = "# Settings that are not at their defaults, as the server said them when it was backed up.\n";

/// Reads it.
pub(crate) async fn read(source: &PostgresSource) -> Configuration {
    configuration(&source.endpoint, DEADLINE).await.unwrap_or_else(|failure| Configuration {
        unreadable: vec![format!("the configuration: {}: {}", failure.address, failure.message)],
        ..Configuration::default()
    })
}

/// Sends what was read, if the data directory does not hold it already.
pub(crate) fn send(feed: &mut Feed, system: &str, found: &Configuration) -> Result<Option<receipt::Configuration>> {
    if found.files.is_empty() && found.unreadable.is_empty() {
        return Ok(None);
    }
    let private = |mode| Metadata { mode: Some(mode), ..Metadata::default() };
    // Folders count as entries, so each is sent.
    let places = found.files.keys().map(|path| Path::new(CONFIGURATION).join(found.place_of(path)));
    let above = |place: PathBuf| place.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    let mut folders: BTreeSet<PathBuf> = places.flat_map(above).filter(|folder| folder.parent().is_some()).collect();
    folders.insert(CONFIGURATION.into());
    for folder in &folders {
        feed.folder(folder, private(0o700));
    }
    let mut send = |path: PathBuf, content: &[u8]| {
        let path = Path::new(CONFIGURATION).join(path);
        feed.file(&path, content.len() as u64, private(0o600), &mut &*content).map_err(|error| Error::Source {
            system: system.to_owned(),
            why: format!("{}: {error}", path.display()),
            retryable: true,
        })
    };
    for (path, content) in &found.files {
        send(found.place_of(path), content)?;
    }
    if !found.settings.is_empty() {
        send(SETTINGS.into(), format!("{HEAD}{}", found.settings).as_bytes())?;
    }
    if let Some(rules) = &found.rules {
        send(RULES.into(), rules.as_bytes())?;
    }
    Ok(Some(receipt::Configuration {
        files: found.files.keys().map(|path| path.display().to_string()).collect(),
        unreadable: found.unreadable.clone(),
    }))
}
