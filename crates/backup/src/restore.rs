//! Restoring for real: into folders of their own, never over anything.

use crate::error::{Error, Result};
use crate::programs::Programs;
use crate::repository::{Repository, make_private};
use crate::source::postgres::{DATA, TABLESPACES};
use crate::vault::{Restored, RestoredPart, Settings, receipt};
use crate::wal::Target;
use crate::wal::replay::{Laid, lay, prepare};
use groundskeeper_core::receipt::{Cluster, Part, SetId};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

/// Where the WAL after a set is, beside its data directory.
const WAL: &str = "wal";

pub(crate) fn restore(
    settings: &Settings,
    repository: &Arc<Repository>,
    wanted: Option<&SetId>,
    only: Option<&str>,
    target: Option<Target>,
    into: &Path,
) -> Result<Restored> {
    let started = Instant::now();
    let set = repository.set(wanted)?;
    let known = receipt(repository, &set)?;
    let names: Vec<&String> = set.parts.iter().filter(|name| only.is_none_or(|only| only == **name)).collect();
    if names.is_empty() {
        let what = only.unwrap_or("nothing");
        return Err(Error::NoSet(format!("{} with {what} in it (it has {})", set.id, set.parts.join(", "))));
    }
    let into = std::path::absolute(into).map_err(|error| refused(into, &error))?;
    let cluster = |name: &String| {
        known.parts.iter().find(|part| part.name == *name).and_then(|part: &Part| part.postgres.as_ref())
    };
    // WAL that does not lead to the target ends it before anything else is fetched.
    let mut laid = BTreeMap::new();
    if let Some(target) = target {
        for (name, cluster) in names.iter().filter_map(|name| Some((*name, cluster(name)?))) {
            laid.insert(name, fetched(settings, repository, cluster, target, &into)?);
        }
    }
    let mut parts = Vec::new();
    for name in names {
        let folder = into.join(name);
        let tally = repository.restore(&set, name, &folder)?;
        let next = match cluster(name) {
            Some(cluster) => {
                let spaces = link_tablespaces(&folder)?;
                remap(&folder.join(DATA), &spaces).map_err(|error| refused(&folder, &error))?;
                match laid.remove(name) {
                    Some(fetched) => replayed(fetched, cluster, &folder)?,
                    None => steps(&folder.join(DATA), cluster),
                }
            }
            None => Vec::new(),
        };
        parts.push(RestoredPart { name: name.clone(), folder, entries: tally.entries, bytes: tally.bytes, next });
    }
    Ok(Restored { set: set.id, parts, took: started.elapsed().as_secs_f64() })
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

/// WAL in a folder that goes unless it is kept.
struct Fetched {
    folder: TempDir,
    laid: Laid,
    target: Target,
    /// Whether somebody could look where in the WAL the target is.
    sure: bool,
}

fn fetched(
    settings: &Settings,
    repository: &Arc<Repository>,
    cluster: &Cluster,
    target: Target,
    into: &Path,
) -> Result<Fetched> {
    let programs = Programs::find(cluster.major(), &settings.programs).ok();
    make_private(into).map_err(|error| refused(into, &error))?;
    let folder = tempfile::Builder::new().prefix(".wal-").tempdir_in(into).map_err(|error| refused(into, &error))?;
    let laid = lay(repository, cluster, target, folder.path(), programs.as_ref())?;
    let sure = programs.is_some_and(|programs| programs.has("pg_waldump"));
    Ok(Fetched { folder, laid, target, sure })
}

/// Puts the WAL beside the restored data directory and gives what a person does with both.
fn replayed(fetched: Fetched, cluster: &Cluster, folder: &Path) -> Result<Vec<String>> {
    let Fetched { folder: staged, laid, target, sure } = fetched;
    let (data, wal) = (folder.join(DATA), folder.join(WAL));
    fs::rename(staged.keep(), &wal).map_err(|error| refused(&wal, &error))?;
    prepare(&data, &wal, &laid).map_err(|error| refused(&data, &error))?;
    let mut next = steps(&data, cluster);
    next[0] = format!("Give it to the user that Postgres runs as: chown -R postgres:postgres {}", folder.display());
    let (end, last) = (laid.end, laid.stored.map_or_else(String::new, |at| format!(", stored at {at}")));
    next.push(match (laid.until, target) {
        (Some(at), _) => format!("When it starts it replays {} segments of WAL, up to the last transaction at or before {at}.", laid.segments),
        (None, Target::Latest) => format!("When it starts it replays {} segments of WAL, up to {end}{last}.", laid.segments),
        (None, Target::Time(at)) => format!(
            "No transaction in the repository is younger than {at}: when it starts it replays all {} segments of WAL, up to \
             {end}{last}. Whether more was written between that and {at} nobody here knows.",
            laid.segments
        ),
    });
    if !sure && laid.until.is_some() {
        next.push(
            "If it says that recovery ended before the target was reached, everything there is was replayed: take \
             recovery_target_time out of postgresql.auto.conf and start it again."
                .to_owned(),
        );
    }
    next.push(format!(
        "Keep {} where it is until SELECT pg_is_in_recovery() says f; then it is not needed any more.",
        wal.display()
    ));
    Ok(next)
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
