//! What a person does with what was restored, one sentence each, a command in it where there is one.

use crate::programs::Programs;
use crate::scratch::User;
use crate::source::configuration::{CONFIGURATION, SETTINGS};
use crate::source::postgres::DATA;
use crate::source::redis::RDB;
use crate::wal::Target;
use crate::wal::fetched::{ToReplay, WAL};
use crate::wal::replay::Laid;
use groundskeeper_core::receipt::{Configuration, FileTree, Keyspace, Vectors};
use std::fs;
use std::path::{Path, PathBuf};

/// Whose Postgres a restored one becomes when we are root.
const OWNER: &str = "postgres";

/// What a person does with a restored Postgres, a command at the end where there is one.
pub(crate) fn postgres(folder: &Path, programs: &[PathBuf], found: Option<&Configuration>) -> Vec<String> {
    let data = folder.join(DATA);
    let version = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
    let major = version.trim();
    let programs = major
        .parse()
        .ok()
        .and_then(|major| Programs::find(major, programs).ok())
        .filter(|programs| programs.has("pg_ctl"));
    let pg_ctl = programs.map_or_else(|| "pg_ctl".to_owned(), |programs| quoted(&programs.path("pg_ctl")));
    let (whole, log) = (quoted(folder), quoted(&folder.join("server.log")));
    let mut steps = Vec::new();
    let mut as_owner = String::new();
    if rustix::process::geteuid().is_root() {
        steps.push(format!("Give all of it to the user that Postgres runs as: chown -R {OWNER}:{OWNER} {whole}"));
        let closed: Vec<String> = closed_above(folder).iter().map(|folder| quoted(folder)).collect();
        if !closed.is_empty() {
            steps.push(format!(
                "Let that user through to it, or restore to where it may go: chmod o+x {}",
                closed.join(" ")
            ));
        }
        as_owner = format!("runuser -u {OWNER} -- ");
    } else {
        steps.push(format!(
            "It is yours, and Postgres runs as nobody else: start it yourself, or let root give {whole} away."
        ));
    }
    steps.extend(configured(folder, &data, found));
    steps.push(format!(
        "Start Postgres {major} on it, on another port than a server that still runs: \
         {as_owner}{pg_ctl} -D {} -o '-p 5433' -l {log} -w start",
        quoted(&data)
    ));
    steps
}

/// What has to be there before a server replays its WAL.
pub(crate) fn before_replay(replay: &ToReplay) -> Vec<String> {
    let made = replay.spaces.iter().map(|space| {
        let space = quoted(space);
        format!(
            "The WAL makes a tablespace at {space}: make that folder, empty, for the user that Postgres runs as, and never \
             where another server has its own: mkdir -p {space}"
        )
    });
    made.collect()
}

/// What a restored Postgres does with its WAL when it is started.
pub(crate) fn replay(folder: &Path, replay: &ToReplay) -> Vec<String> {
    let ToReplay { laid: Laid { until, segments, end, stored, .. }, target, .. } = replay;
    let last = stored.map_or_else(String::new, |at| format!(", stored at {at}"));
    let how = match (until, target) {
        (Some(at), _) => {
            format!(
                "When it starts it replays {segments} segments of WAL, up to the last transaction at or before {at}."
            )
        }
        (None, Target::Latest) => format!("When it starts it replays {segments} segments of WAL, up to {end}{last}."),
        (None, Target::Time(at)) => format!(
            "No transaction in the repository is younger than {at}: when it starts it replays all {segments} segments of \
             WAL, up to {end}{last}. Whether more was written between that and {at} nobody here knows."
        ),
    };
    let wal = folder.join(WAL);
    let keep = format!(
        "Keep {} where it is until SELECT pg_is_in_recovery() says f; then it is not needed any more.",
        wal.display()
    );
    vec![how, keep]
}

/// Where its configuration is.
fn configured(folder: &Path, data: &Path, found: Option<&Configuration>) -> Vec<String> {
    let look = "Look at its paths, and at archive_command, before you start it.";
    let (data, beside) = (data.display(), folder.join(CONFIGURATION));
    let beside = beside.display();
    let Some(found) = found else {
        return vec![format!(
            "Its configuration is in {data}: postgresql.conf, postgresql.auto.conf, pg_hba.conf. {look}"
        )];
    };
    let mut steps = Vec::new();
    if !found.files.is_empty() {
        let files = found.files.join(", ");
        steps.push(format!(
            "Its configuration was outside of the data folder ({files}) and is in {beside}: put the files where they were, \
             or into {data}. {look}"
        ));
    }
    if !found.unreadable.is_empty() {
        steps.push(format!("Not in this backup, because it could not be read: {}.", found.unreadable.join("; ")));
        steps.push(format!(
            "Where no such file is left, make them: cp {beside}/{SETTINGS} {data}/postgresql.conf && \
             echo 'local all all peer' > {data}/pg_hba.conf && touch {data}/pg_ident.conf. {look}"
        ));
    }
    steps
}

/// Folders on the way to this one that the owner of a Postgres may not enter; what a restore makes is for us only.
fn closed_above(folder: &Path) -> Vec<PathBuf> {
    let Ok(Some(user)) = User::to_run_as(OWNER) else { return Vec::new() };
    let above: Vec<&Path> = folder.ancestors().skip(1).collect();
    above.into_iter().rev().filter(|above| !user.may_enter(above).unwrap_or(true)).map(Path::to_owned).collect()
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+:@".contains(&byte));
    if is_plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// What a person does with a restored RDB file.
pub(crate) fn redis(folder: &Path, keyspace: &Keyspace) -> Vec<String> {
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
pub(crate) fn files(folder: &Path, tree: &FileTree) -> Vec<String> {
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
pub(crate) fn qdrant(folder: &Path, vectors: &Vectors) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_blank_or_a_quote_is_one_word_of_the_shell() {
        assert_eq!(quoted(Path::new("/srv/restored/postgres.main")), "/srv/restored/postgres.main");
        assert_eq!(quoted(Path::new("/srv/it's here")), "'/srv/it'\\''s here'");
    }
}
