//! Making a repository.

use super::store::{CLOCK, Store};
use super::{CONFIG, Lock, Repository, described, lock, make_private, rustic, settings, store_error};
use crate::error::{Error, Result};
use crate::place::{Patience, Place};
use crate::progress::Progress;
use rustic_core::Credentials;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};

impl Repository {
    /// Makes a repository in a place that is empty, or a folder that is not there yet. One that somebody else has made
    /// meanwhile, and that opens with our key, is left as it is: then false.
    pub(crate) fn init(place: &Place, key: &SecretString) -> Result<bool> {
        match place.folder() {
            Some(folder) => Self::init_in_folder(place, folder, key),
            None => Self::init_in_store(place, key),
        }
    }

    fn init_in_folder(place: &Place, folder: &Path, key: &SecretString) -> Result<bool> {
        let refused = |error: std::io::Error| Error::Place { place: place.to_string(), why: error.to_string() };
        make_private(folder).map_err(refused)?;
        // Before the lock, so that not even that is left in a folder of somebody else's.
        let is_free = left_by_init(folder).map_err(refused)?.is_some();
        if !is_free && !Self::is_there(place)? {
            return Err(not_empty(place, "the folder"));
        }
        let store = Store::open(place, Patience::Work)?;
        let _lock = Lock::over(place, &store, None)?;
        if Self::is_there(place)? {
            return Self::open(place, key).map(|_| false);
        }
        for left in left_by_init(folder).map_err(refused)?.unwrap_or_default() {
            let removed = if left.is_dir() { std::fs::remove_dir_all(left) } else { std::fs::remove_file(left) };
            removed.map_err(refused)?;
        }
        write(&store, key)
    }

    /// The same steps as in a folder.
    fn init_in_store(place: &Place, key: &SecretString) -> Result<bool> {
        let store = Store::open(place, Patience::Work)?;
        let left = || store.all_known(is_left_by_init).map_err(|error| store.refused(&error));
        if left()?.is_none() && !Self::is_there(place)? {
            return Err(not_empty(place, "it"));
        }
        let _lock = Lock::over(place, &store, None)?;
        if Self::is_there(place)? {
            return Self::open(place, key).map(|_| false);
        }
        for name in left()?.unwrap_or_default().into_iter().filter(|name| name.starts_with(KEYS)) {
            store.erase(&name).map_err(|error| store.refused(&error))?;
        }
        write(&store, key)
    }
}

fn write(store: &Store, key: &SecretString) -> Result<bool> {
    let repository = rustic(store, &Progress::default())?;
    let made = repository.init(&Credentials::password(key.expose_secret()), &described(), &settings());
    made.map(|_| true).map_err(|error| store_error(store, &error))
}

fn not_empty(place: &Place, what: &str) -> Error {
    let why = format!("{what} is not empty; a repository wants one of its own");
    Error::Place { place: place.to_string(), why }
}

const KEYS: &str = "keys/";

/// Whether a killed `init` may have left an object of this name, or has it now. An object is never half written.
fn is_left_by_init(name: &str) -> bool {
    [lock::NAME, CLOCK, CONFIG].contains(&name) || name.strip_prefix(KEYS).is_some_and(is_id)
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a killed `init` has left in a folder without a repository: keys of nothing, and a `config` that is half written
/// under another name. None when the folder has anything else in it than that, our lock and what a disk has at its top.
fn left_by_init(folder: &Path) -> std::io::Result<Option<Vec<PathBuf>>> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_name().to_string_lossy().as_ref() {
            lock::NAME | "lost+found" => {}
            "keys" if entry.path().is_dir() && holds_keys_only(&entry.path())? => left.push(entry.path()),
            name if name.starts_with("config#") => left.push(entry.path()),
            _ => return Ok(None),
        }
    }
    Ok(Some(left))
}

/// By their names, also when one is half written (`#1` at its end): nobody else's folder of this name is removed.
fn holds_keys_only(folder: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !is_id(name.split('#').next().unwrap_or_default()) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_nothing_and_a_lock_are_what_a_killed_init_leaves_in_a_store() {
        let key = format!("keys/{}", "0a".repeat(32));
        for name in ["groundskeeper.lock", "groundskeeper.clock", &key] {
            assert!(is_left_by_init(name), "{name}");
        }
        for name in ["keys/of-my-house", "data/ab/x", "groundskeeper.locks", "x/groundskeeper.lock"] {
            assert!(!is_left_by_init(name), "{name}");
        }
    }
}
