//! Restoring for real: into folders of their own. What is there is in the way, or moved aside when that was asked for.

use crate::error::{Error, Result};
use crate::replace;
use crate::repository::{Hold, Repository, StoredSet, Tally};
use crate::source::postgres::{DATA, TABLESPACES};
use crate::steps;
use crate::vault::{Restored, RestoredPart, Settings, receipt};
use crate::wal::Target;
use crate::wal::fetched::ToReplay;
use groundskeeper_core::receipt::{Part, SetId};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What is to be restored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    /// None: the newest set.
    pub(crate) wanted: Option<&'a SetId>,
    /// None: every part.
    pub(crate) only: Option<&'a str>,
    /// How far the WAL after the set is to be replayed.
    pub(crate) target: Option<Target>,
    pub(crate) into: &'a Path,
    /// What is there is moved aside, under a name with this time.
    pub(crate) over: Option<Timestamp>,
}

pub(crate) fn restore(settings: &Settings, repository: &Arc<Repository>, order: &Order<'_>) -> Result<Restored> {
    let started = Instant::now();
    let Order { wanted, only, target, into, over } = *order;
    let (set, _hold) = Hold::on(&settings.place, repository, wanted)?;
    let known = receipt(repository, &set)?;
    let names: Vec<&String> = set.parts.iter().filter(|name| only.is_none_or(|only| only == **name)).collect();
    if names.is_empty() {
        let what = only.unwrap_or("nothing");
        return Err(Error::NoSet(format!("{} with {what} in it (it has {})", set.id, set.parts.join(", "))));
    }
    let into = std::path::absolute(into).map_err(|error| refused(into, &error))?;
    match over {
        None => must_be_empty(&into)?,
        // Before the first is moved.
        Some(_) => taken(names.iter().map(|name| into.join(name)).collect())?
            .iter()
            .try_for_each(|folder| replace::may_go(folder))?,
    }
    let part = |name: &String| known.parts.iter().find(|part| part.name == *name);
    let mut replays = BTreeMap::new();
    if let Some(target) = target {
        // WAL that does not lead to the target ends it before anything else is fetched.
        for name in &names {
            let Some(cluster) = part(name).and_then(|part| part.postgres.as_ref()) else { continue };
            replays.insert(*name, ToReplay::fetch(settings, repository, cluster, target, &into)?);
        }
        if replays.is_empty() {
            return Err(Error::Wal(format!(
                "there is no Postgres in what is restored of {}, or its receipt was lost: no WAL leads on from it",
                set.id
            )));
        }
    }
    let mut parts = Vec::new();
    for name in names {
        let folder = into.join(name);
        let mut replay = replays.remove(name);
        let (tally, replaced) = restore_whole(repository, &set, name, &folder, over, replay.as_mut())?;
        // What is there decides, not the receipt, which may be lost: a Postgres must never find its way to the folders of
        // the one that it was copied from.
        let next = if folder.join(DATA).join("PG_VERSION").exists() {
            let spaces = link_tablespaces(&folder)?;
            remap(&folder.join(DATA), &spaces)?;
            let configuration = part(name).and_then(|part| part.configuration.as_ref());
            let mut next = steps::postgres(&folder, &settings.programs, configuration);
            if let Some(replay) = &replay {
                next.splice(0..0, steps::before_replay(replay));
                next.extend(steps::replay(&folder, replay));
            }
            next
        } else {
            match part(name) {
                Some(Part { redis: Some(keyspace), .. }) => steps::redis(&folder, keyspace),
                Some(Part { qdrant: Some(vectors), .. }) => steps::qdrant(&folder, vectors),
                Some(Part { files: Some(tree), .. }) => steps::files(&folder, tree),
                _ => Vec::new(),
            }
        };
        let Tally { entries, bytes } = tally;
        parts.push(RestoredPart { name: name.clone(), folder, entries, bytes, replaced, next });
    }
    Ok(Restored { set: set.id, parts, took: started.elapsed().as_secs_f64() })
}

/// Those of the folders that have something in them.
pub(crate) fn taken(folders: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut taken = Vec::new();
    for folder in folders {
        if replace::is_taken(&folder).map_err(|error| refused(&folder, &error))? {
            taken.push(folder);
        }
    }
    Ok(taken)
}

/// `lost+found` is in every fresh file system.
fn must_be_empty(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| refused(folder, &error))?,
    };
    for entry in entries {
        let name = entry.map_err(|error| refused(folder, &error))?.file_name();
        if name != "lost+found" {
            let why = format!(
                "it is not empty ({} is in it), and nothing that is there is ever overwritten; name a new folder",
                name.display()
            );
            return Err(Error::Target { path: folder.to_owned(), why });
        }
    }
    Ok(())
}

/// Under a name that says so until everything is there and on the disk: files have their full length before their
/// content, and a restore that was cut off must not look like one that was not. With `over`, what is there is moved aside
/// only then. Gives where to.
fn restore_whole(
    repository: &Repository,
    set: &StoredSet,
    name: &str,
    folder: &Path,
    over: Option<Timestamp>,
    replay: Option<&mut ToReplay>,
) -> Result<(Tally, Option<PathBuf>)> {
    let partial = folder.with_file_name(format!("{name}.partial"));
    let tally = repository.restore(set, name, &partial)?;
    let broken = |error: io::Error| refused(&partial, &error);
    if let Some(replay) = replay {
        replay.put(&partial, folder)?;
    }
    fs::File::open(&partial).and_then(|folder| Ok(rustix::fs::syncfs(folder)?)).map_err(broken)?;
    let is_taken = || replace::is_taken(folder).map_err(|error| refused(folder, &error));
    let replaced = match over {
        Some(now) if is_taken()? => {
            replace::may_go(folder)?;
            Some(replace::aside(folder, now)?)
        }
        _ => None,
    };
    let settled =
        fs::rename(&partial, folder).and_then(|()| fs::File::open(folder.parent().unwrap_or(folder))?.sync_all());
    match (settled, replaced) {
        (Ok(()), replaced) => Ok((tally, replaced)),
        (Err(error), None) => Err(broken(error)),
        (Err(error), Some(old)) => {
            let why = format!("{error}; what was there before is in {}", old.display());
            Err(Error::Target { path: folder.to_owned(), why })
        }
    }
}

pub(crate) fn refused(path: &Path, error: &io::Error) -> Error {
    Error::Target { path: path.to_owned(), why: error.to_string() }
}

/// Links each restored tablespace into the data directory; gives where they are.
pub(crate) fn link_tablespaces(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let spaces = folder.join(TABLESPACES);
    let mut linked = Vec::new();
    if !spaces.exists() {
        return Ok(linked);
    }
    let link = |linked: &mut Vec<(String, PathBuf)>| -> io::Result<()> {
        for space in fs::read_dir(&spaces)? {
            let space = space?;
            let oid = space.file_name().to_string_lossy().into_owned();
            symlink(space.path(), folder.join(DATA).join("pg_tblspc").join(&oid))?;
            linked.push((oid, space.path()));
        }
        Ok(())
    };
    link(&mut linked).map_err(|error| refused(&spaces, &error))?;
    Ok(linked)
}

/// Postgres makes the links anew from this file when it recovers; it must not lead to where the live tablespaces are.
pub(crate) fn remap(data: &Path, spaces: &[(String, PathBuf)]) -> Result<()> {
    let map = data.join("tablespace_map");
    if spaces.is_empty() {
        let names = fs::read_to_string(&map).unwrap_or_default();
        if names.trim().is_empty() {
            return Ok(());
        }
        let why = format!(
            "it names tablespaces that are not in the set; starting Postgres would use the live ones:\n{names}"
        );
        return Err(Error::Target { path: map, why });
    }
    let escaped = |path: &Path| path.display().to_string().replace('\\', "\\\\").replace('\n', "\\\n");
    let lines: Vec<String> = spaces.iter().map(|(oid, path)| format!("{oid} {}", escaped(path))).collect();
    fs::write(&map, lines.join("\n") + "\n").map_err(|error| refused(&map, &error))
}
