//! Restoring for real: into folders of their own, never over anything.

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::source::configuration::{CONFIGURATION, SETTINGS};
use crate::source::postgres::{DATA, TABLESPACES};
use crate::source::redis::RDB;
use crate::vault::{Restored, RestoredPart, receipt};
use groundskeeper_core::receipt::{Cluster, Configuration, FileTree, Keyspace, Part, SetId, Vectors};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) fn restore(
    repository: &Repository,
    wanted: Option<&SetId>,
    only: Option<&str>,
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
    let mut parts = Vec::new();
    for name in names {
        let folder = into.join(name);
        let tally = repository.restore(&set, name, &folder)?;
        let part = known.parts.iter().find(|part| part.name == *name);
        let next = match part {
            Some(Part { postgres: Some(cluster), configuration, .. }) => {
                let spaces = link_tablespaces(&folder)?;
                remap(&folder.join(DATA), &spaces).map_err(|error| refused(&folder, &error))?;
                steps(&folder, cluster, configuration.as_ref())
            }
            Some(Part { redis: Some(keyspace), .. }) => redis_steps(&folder, keyspace),
            Some(Part { qdrant: Some(vectors), .. }) => qdrant_steps(&folder, vectors),
            Some(Part { files: Some(tree), .. }) => file_steps(&folder, tree),
            _ => Vec::new(),
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

/// What a person does with a restored data directory.
fn steps(folder: &Path, cluster: &Cluster, found: Option<&Configuration>) -> Vec<String> {
    let (major, data) = (cluster.major(), folder.join(DATA));
    let data = data.display();
    let mut steps = vec![format!("Give it to the user that Postgres runs as: chown -R postgres:postgres {data}")];
    let look = "Look at its paths, port and archive_command before you start it.";
    match found {
        None => steps.push(format!(
            "Its configuration is in {data}: postgresql.conf, postgresql.auto.conf, pg_hba.conf. {look}"
        )),
        Some(found) => {
            let beside = folder.join(CONFIGURATION);
            let beside = beside.display();
            if !found.files.is_empty() {
                let files = found.files.join(", ");
                steps.push(format!(
                    "Its configuration was outside of the data folder ({files}) and is in {beside}: put the \
                    files where they were, or into {data}. {look}"
                ));
            }
            if !found.unreadable.is_empty() {
                steps.push(format!(
                    "Not in this backup, because it could not be read: {}.",
                    found.unreadable.join("; ")
                ));
                steps.push(format!(
                    "Where no such file is left, make them: cp {beside}/{SETTINGS} {data}/postgresql.conf && \
                    echo 'local all all peer' > {data}/pg_hba.conf && touch {data}/pg_ident.conf. {look}"
                ));
            }
        }
    }
    steps.push(format!("Start Postgres {major} on it: pg_ctl -D {data} -l /tmp/restored.log start"));
    steps
}

/// What a person does with a restored RDB file.
fn redis_steps(folder: &Path, keyspace: &Keyspace) -> Vec<String> {
    let rdb = folder.join(RDB);
    let mut steps = vec![
        format!("Look whether it is whole: redis-check-rdb {}", rdb.display()),
        format!(
            "Stop the Redis that is to have it ({} or newer), put the file where its settings `dir` and `dbfilename` say, \
             and give it to its user: chown redis:redis dump.rdb",
            keyspace.version
        ),
        "With `appendonly yes` Redis reads its AOF and not this file: start it with `appendonly no`, then CONFIG SET \
         appendonly yes."
            .to_owned(),
        format!("Start it; INFO keyspace shows the keys. redis.json in {} has its settings.", folder.display()),
    ];
    if !keyspace.modules.is_empty() {
        steps.insert(1, format!("It needs the modules {}.", keyspace.modules.join(", ")));
    }
    steps
}

/// What a person does with a restored tree.
fn file_steps(folder: &Path, tree: &FileTree) -> Vec<String> {
    let (from, to) = (folder.display(), &tree.path);
    let mut steps = vec![
        format!("It was {to}. Look what differs: diff -rq {from} {to}"),
        format!("Bring it back with modes, owners and times: rsync -a {from}/ {to}/"),
        format!("The folder itself: chown {}:{} {to} && chmod {:o} {to}", tree.uid, tree.gid, tree.mode),
    ];
    for (named, what) in [(&tree.unreadable, "could not be read, and is not there"), (&tree.changed, "was in motion")] {
        if !named.is_empty() {
            steps.push(format!("What {what}: {named}"));
        }
    }
    steps
}

/// What a person does with restored snapshots.
fn qdrant_steps(folder: &Path, vectors: &Vectors) -> Vec<String> {
    let folder = folder.display();
    let several = vectors.nodes.len() > 1;
    let mut steps = vec![format!(
        "Upload each snapshot to a Qdrant {} or newer{}: curl -X POST 'http://HOST:6333/collections/NAME/snapshots/upload?\
         priority=snapshot' -F 'snapshot=@{folder}/collections/NAME/node-1.snapshot'",
        vectors.version,
        if several { ", node-1 to the first node, and so on" } else { "" }
    )];
    if vectors.aliases > 0 {
        steps.push(format!(
            "Make the aliases in {folder}/aliases.json again, each with POST /collections/aliases; snapshots have none."
        ));
    }
    steps.push(format!("Compare the points: {}.", points(vectors)));
    if !vectors.not_covered.is_empty() {
        steps.push(format!("Not in this backup is what lay only on {}.", vectors.not_covered.join(", ")));
    }
    steps
}

fn points(vectors: &Vectors) -> String {
    let each = vectors.collections.iter().map(|collection| format!("{} had {}", collection.name, collection.points));
    let each: Vec<String> = each.collect();
    if each.is_empty() { "there were none".to_owned() } else { each.join(", ") }
}
