//! `backup key`: the keys that open the repository. A new one is never an argument: those are in the list of processes and
//! in the shell's history.

use super::super::args::KeyVerb;
use super::super::{Desk, FINE, Outcome, Stop, person, progress};
use super::render;
use crate::app::Backups;
use crate::app::api::KeyInfo;
use secrecy::SecretString;
use serde_json::json;
use std::io;
use std::path::Path;

pub(super) async fn run(desk: &mut Desk, verb: KeyVerb) -> Outcome {
    let settings = desk.settings()?;
    let backups = Backups::of(&settings)?;
    match verb {
        KeyVerb::List => {
            let keys: Vec<KeyInfo> = progress::shown("opening the repository", backups.keys()).await?;
            desk.show(&keys, |paint| render::keys(&keys, &settings.zone, *paint))?;
        }
        KeyVerb::Add { new_key_file } => {
            let key = match new_key_file {
                Some(file) => from_file(&file)?,
                None => ask()?,
            };
            let added = progress::shown("adding the key", backups.add_key(&key)).await?;
            desk.show(&added, |paint| {
                format!("{} The key {} opens the repository from now on.\n", paint.good("✓"), added.id)
            })?;
        }
        KeyVerb::Remove { id } => {
            progress::shown("removing the key", backups.remove_key(&id)).await?;
            desk.show(&json!({ "removed": id }), |paint| {
                format!(
                    "{} The key {id} opens the repository no more. Whoever copied the repository before can still use it \
                     on that copy.\n",
                    paint.good("✓")
                )
            })?;
        }
    }
    Ok(FINE)
}

/// The first line, as with `key_file`.
fn from_file(file: &Path) -> Result<SecretString, Stop> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Stop::usage(format!("the new key cannot be read from {}: {error}", file.display())))?;
    match text.lines().next().filter(|line| !line.trim().is_empty()) {
        Some(key) => Ok(SecretString::from(key)),
        None => Err(Stop::usage(format!("{} is empty; its first line must be the new key", file.display()))),
    }
}

/// Twice, because nobody sees what is typed, and a key with a slip of the finger opens nothing.
fn ask() -> Result<SecretString, Stop> {
    if !person::is_there() {
        return Err(Stop::usage("the new key is asked for on a terminal; without one give --new-key-file FILE"));
    }
    let terminal = console::Term::stderr();
    let read = |prompt: &str| -> Result<String, Stop> {
        let unreadable = |error: io::Error| Stop::usage(format!("the key cannot be read from the terminal: {error}"));
        terminal.write_str(prompt).map_err(unreadable)?;
        terminal.read_secure_line().map_err(unreadable)
    };
    let first = read("New key: ")?;
    if first.trim().is_empty() {
        return Err(Stop::usage("an empty key is none"));
    }
    if read("Once more: ")? != first {
        return Err(Stop::usage("the two keys differ; nothing was changed"));
    }
    Ok(SecretString::from(first))
}
