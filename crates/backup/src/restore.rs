//! Restoring for real: into folders of their own. What is there is in the way, or moved aside when that was asked for.

use crate::error::{Error, Result};
use crate::replace;
use crate::repository::{Hold, Repository, StoredSet, Tally};
use crate::source::postgres::{DATA, TABLESPACES};
use crate::vault::{Restored, RestoredPart, receipt};
use groundskeeper_core::receipt::{Cluster, Part, SetId};
use jiff::Timestamp;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) fn restore(
    place: &Path,
    repository: &Repository,
    wanted: Option<&SetId>,
    only: Option<&str>,
    into: &Path,
    over: Option<Timestamp>,
) -> Result<Restored> {
    let started = Instant::now();
    let (set, _hold) = Hold::on(place, repository, wanted)?;
    let known = receipt(repository, &set)?;
    let names: Vec<&String> = set.parts.iter().filter(|name| only.is_none_or(|only| only == **name)).collect();
    if names.is_empty() {
        let what = only.unwrap_or("nothing");
        return Err(Error::NoSet(format!("{} with {what} in it (it has {})", set.id, set.parts.join(", "))));
    }
    let into = std::path::absolute(into).map_err(|error| refused(into, &error))?;
    if over.is_some() {
        // Before the first is moved.
        taken(names.iter().map(|name| into.join(name)).collect())?
            .iter()
            .try_for_each(|folder| replace::may_go(folder))?;
    }
    let mut parts = Vec::new();
    for name in names {
        let folder = into.join(name);
        let (tally, replaced) = written(repository, &set, name, &folder, over)?;
        let cluster = known.parts.iter().find(|part| part.name == *name).and_then(|part: &Part| part.postgres.as_ref());
        let next = match cluster {
            Some(cluster) => {
                let spaces = link_tablespaces(&folder)?;
                remap(&folder.join(DATA), &spaces).map_err(|error| refused(&folder, &error))?;
                steps(&folder.join(DATA), cluster)
            }
            None => Vec::new(),
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

/// Writes a part, with `over` into the place of what is there, which is moved aside first. Should the part then fail, the
/// error says where the old one is.
fn written(
    repository: &Repository,
    set: &StoredSet,
    name: &str,
    folder: &Path,
    over: Option<Timestamp>,
) -> Result<(Tally, Option<PathBuf>)> {
    let is_taken = || replace::is_taken(folder).map_err(|error| refused(folder, &error));
    let replaced = match over {
        Some(now) if is_taken()? => {
            replace::may_go(folder)?;
            Some(replace::aside(folder, now)?)
        }
        _ => None,
    };
    match (repository.restore(set, name, folder), replaced) {
        (Ok(tally), replaced) => Ok((tally, replaced)),
        (Err(error), None) => Err(error),
        (Err(error), Some(old)) => {
            let why = format!("{error}; what was there before is in {}", old.display());
            Err(Error::Target { path: folder.to_owned(), why })
        }
    }
}

fn refused(path: &Path, error: &io::Error) -> Error {
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
pub(crate) fn remap(data: &Path, spaces: &[(String, PathBuf)]) -> io::Result<()> {
    let map = data.join("tablespace_map");
    if spaces.is_empty() {
        return Ok(());
    }
    let escaped = |path: &Path| path.display().to_string().replace('\\', "\\\\").replace('\n', "\\\n");
    let lines: Vec<String> = spaces.iter().map(|(oid, path)| format!("{oid} {}", escaped(path))).collect();
    fs::write(map, lines.join("\n") + "\n")
}

/// What a person does with a restored data directory.
fn steps(data: &Path, cluster: &Cluster) -> Vec<String> {
    let (major, data) = (cluster.major(), data.display());
    vec![
        format!("Give it to the user that Postgres runs as: chown -R postgres:postgres {data}"),
        format!(
            "Look at {data}/postgresql.conf, postgresql.auto.conf and pg_hba.conf (Debian keeps them in \
             /etc/postgresql, which is not in this backup): paths, port, archive_command."
        ),
        format!("Start Postgres {major} on it: pg_ctl -D {data} -l /tmp/restored.log start"),
    ]
}
