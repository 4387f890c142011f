//! Postgres beside us: its files are read where they lie, while the server runs.
//!
//! What the protocol sends costs the server about as much CPU time as all the rest of a backup does. Where the keeper can
//! read the data directory, it copies what a base backup would send, and nothing else: [`leave_out`] has the rules of the
//! server's `basebackup.c`. Pages may be torn; the WAL from start to stop, which is in the copy, has each of them whole.
//!
//! Only the simple case is read so: a data directory with everything in it, whose files are all the server's own. Whatever
//! is otherwise, or goes wrong, is left to the server, which sends what it can read itself.
//!
//! | module | what it holds |
//! |---|---|
//! | `folder` | the data directory, in which no link leads anywhere |
//! | `leave_out` | what of it is in no backup |
//! | `manifest` | `backup_manifest`, with which `pg_verifybackup` checks the copy |

mod folder;
mod leave_out;
mod manifest;

use super::contents::segment_name;
use super::postgres::{DATA, LINKS, MANIFEST, private};
use crate::error::{Error, Result};
use crate::repository::feed::Feed;
use crate::scratch::DATA_DIRECTORY;
use crate::vault::PostgresSource;
use folder::{Folder, What};
use groundskeeper_core::receipt::Lsn;
use groundskeeper_systems::postgres::facts::Facts;
use groundskeeper_systems::postgres::online::{Ended, OnlineBackup, Prepared, Refused, VERSIONS};
use groundskeeper_systems::postgres::walsender::Identity;
use jiff::Timestamp;
use leave_out::Siblings;
use manifest::Manifest;
use rustic_core::repofile::Metadata as Meta;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;

const CONTROL: &str = "global/pg_control";
const LABEL: &str = "backup_label";
const MAP: &str = "tablespace_map";
const WAL: &str = "pg_wal";
/// What the server has there for its archive and its summaries is not copied, the folders are. From this version on.
const INSIDE_WAL: [(&str, u32); 2] = [("archive_status", 15), ("summaries", 17)];
/// Times that `pg_control` is read until it is the same twice, and the pause between: the server writes its 8 kB at once,
/// and may be just about to.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// A backup of a folder that has begun.
#[derive(Debug)]
pub(crate) struct Beside {
    online: OnlineBackup,
    folder: Folder,
    major: u32,
    segment_size: u64,
    system: String,
    pub(crate) identity: Identity,
    pub(crate) start: Lsn,
}

/// Begins one, if that is how this server is to be copied.
pub(crate) async fn begin(source: &PostgresSource, facts: &Facts, label: &str) -> std::result::Result<Beside, Refused> {
    let (folder, segment_size) = suited(facts).map_err(Refused::Unfit)?;
    let prepared = Prepared::connect(&source.endpoint).await?;
    if !matches!(folder.look(&prepared.mark()), Ok((What::Folder, _))) {
        prepared.close().await;
        return Err(Refused::Unfit(format!("{} is here, but it is another server's", folder.path.display())));
    }
    let identity = prepared.identity.clone();
    let online = prepared.start(label).await?;
    let (major, start, system) = (facts.version / 10_000, online.start, source.system.to_string());
    Ok(Beside { online, folder, major, segment_size, system, identity, start })
}

/// The data directory and the size of a segment; or why the server has to send its files.
fn suited(facts: &Facts) -> std::result::Result<(Folder, u64), String> {
    let given = |name: &str| facts.given.get(name).map(String::as_str);
    if !VERSIONS.contains(&facts.version) {
        return Err("the data directory of its version is not known here (15 to 18 are)".to_owned());
    }
    if given("data_checksums") != Some("off") {
        return Err("it has data checksums, which the server itself verifies while it sends".to_owned());
    }
    if !facts.tablespaces.is_empty() {
        return Err("it has tablespaces, which may lie where we see something else".to_owned());
    }
    let path = given(DATA_DIRECTORY).ok_or("the role may not see where its data directory is")?;
    let told_size = given("wal_segment_size").and_then(|size| size.parse::<u64>().ok());
    let segment_size = told_size.filter(|size| size.is_power_of_two()).ok_or("its segments have an unknown size")?;
    let unreadable = |error: io::Error| format!("{path} cannot be read here: {error}");
    let folder = Folder::open(Path::new(path)).map_err(unreadable)?;
    folder.file(Path::new(CONTROL)).map_err(unreadable)?;
    for name in leave_out::EMPTY.into_iter().chain([WAL]) {
        if folder.look(Path::new(name)).map_err(unreadable)?.0 != What::Folder {
            return Err(format!("{name} is a link to another place"));
        }
    }
    if folder.names(Path::new(LINKS)).map_err(unreadable)?.is_empty() {
        Ok((folder, segment_size))
    } else {
        Err(format!("{LINKS} is not empty"))
    }
}

impl Beside {
    /// Copies everything, ends the backup at the server and copies the WAL between; gives where it ended.
    pub(crate) fn send(self, feed: &mut Feed, runtime: &Handle) -> Result<Lsn> {
        let sent = self.copied(feed, runtime);
        // Whether all went well or not: what the server holds for us is let go.
        runtime.block_on(self.online.close());
        sent.map_err(|why| Error::Source { system: self.system, why, retryable: true })
    }

    fn copied(&self, feed: &mut Feed, runtime: &Handle) -> std::result::Result<Lsn, String> {
        let manifest = Manifest::begin(self.major, &self.identity.system_identifier);
        let mut copy = Copy { from: self, feed, manifest };
        copy.feed.folder(Path::new(DATA), private());
        // All is read before the backup ends: what a later write tears is in no WAL of the copy.
        copy.tree()?;
        let control = self.control(runtime)?;
        copy.content(Path::new(CONTROL), &control)?;
        let ended = runtime.block_on(self.online.stop())?;
        if !ended.tablespace_map.is_empty() {
            return Err("a tablespace was made just before the backup began".to_owned());
        }
        copy.content(Path::new(LABEL), ended.label.as_bytes())?;
        copy.content(Path::new(MAP), b"")?;
        copy.wal(&ended)?;
        if !runtime.block_on(self.online.holds_wal())? {
            return Err("the server has not kept all of the WAL that the copy needs".to_owned());
        }
        let Copy { feed, manifest, .. } = copy;
        let told = |error: io::Error| format!("{MANIFEST}: {error}");
        let (mut content, size) = manifest.end(self.identity.timeline, self.start, ended.stop).map_err(told)?;
        feed.file(&Path::new(DATA).join(MANIFEST), size, made_here(), &mut content).map_err(told)?;
        Ok(ended.stop)
    }

    /// It comes last of the data directory, as in a base backup.
    fn control(&self, runtime: &Handle) -> std::result::Result<Vec<u8>, String> {
        let mut before = Vec::new();
        for _ in 0..TRIES {
            let mut content = Vec::new();
            let opened = self.folder.file(Path::new(CONTROL));
            opened.and_then(|(mut file, _)| file.read_to_end(&mut content)).map_err(|error| told(CONTROL, &error))?;
            if content == before {
                return Ok(content);
            }
            before = content;
            runtime.block_on(async { tokio::time::sleep(PAUSE).await });
        }
        Err(format!("{CONTROL} changed each of the {TRIES} times that it was read"))
    }
}

struct Copy<'f> {
    from: &'f Beside,
    feed: &'f mut Feed,
    manifest: Manifest,
}

impl Copy<'_> {
    /// All below the data directory. What goes away meanwhile was dropped, and the WAL says so to the copy.
    fn tree(&mut self) -> std::result::Result<(), String> {
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let children = match self.from.folder.names(&folder) {
                Ok(children) => children,
                Err(error) if is_gone(&error) && !folder.as_os_str().is_empty() => continue,
                Err(error) => return Err(told(&folder, &error)),
            };
            let siblings = Siblings::of(&folder, &children);
            for name in children.iter().filter(|name| !siblings.are_without(name)) {
                self.entry(folder.join(name), &mut folders)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, inside: PathBuf, folders: &mut Vec<PathBuf>) -> std::result::Result<(), String> {
        let (what, meta) = match self.from.folder.look(&inside) {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(told(&inside, &error)),
        };
        match what {
            What::Folder => {
                self.feed.folder(&Path::new(DATA).join(&inside), described(&meta));
                if inside == Path::new(WAL) {
                    for (name, _) in INSIDE_WAL.iter().filter(|(_, since)| self.from.major >= *since) {
                        self.feed.folder(&Path::new(DATA).join(WAL).join(name), private());
                    }
                } else if !leave_out::stays_empty(&inside) {
                    folders.push(inside);
                }
                Ok(())
            }
            What::File if inside == Path::new(CONTROL) => Ok(()),
            What::File => self.file(&inside),
            What::Other => {
                tracing::warn!(path = %self.from.folder.path.join(inside).display(), "what is no file is in no base backup");
                Ok(())
            }
        }
    }

    /// As long as it is when it is opened. What was cut off meanwhile is zeros, as the server does it: the WAL cuts it off
    /// again.
    fn file(&mut self, inside: &Path) -> std::result::Result<(), String> {
        let (file, meta) = match self.from.folder.file(inside) {
            Ok(opened) => opened,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(told(inside, &error)),
        };
        let (size, described) = (meta.len(), described(&meta));
        self.send(inside, described, size, &mut file.take(size).chain(io::repeat(0)))
    }

    fn send(&mut self, inside: &Path, meta: Meta, size: u64, from: &mut dyn Read) -> std::result::Result<(), String> {
        let changed = meta.mtime;
        let mut summed = Summed { from, sum: 0 };
        let sent = self.feed.file(&Path::new(DATA).join(inside), size, meta, &mut summed);
        sent.map_err(|error| told(inside, &error))?;
        let listed = self.manifest.file(inside, size, changed, summed.sum);
        listed.map_err(|error| format!("{MANIFEST}: {error}"))
    }

    /// A small file that is known already.
    fn content(&mut self, inside: &Path, mut content: &[u8]) -> std::result::Result<(), String> {
        self.send(inside, made_here(), content.len() as u64, &mut content)
    }

    /// The segments from start to stop, and the histories of timelines. What is archived already is not to be archived by
    /// a copy again, so each gets a mark.
    fn wal(&mut self, ended: &Ended) -> std::result::Result<(), String> {
        let (size, timeline) = (self.from.segment_size, self.from.identity.timeline);
        let (first, last) = (self.from.start.0 / size, ended.stop.0.saturating_sub(1) / size);
        let segments = (first..=last).map(|number| (segment_name(timeline, Lsn(number * size), size), Some(size)));
        let names = self.from.folder.names(Path::new(WAL)).map_err(|error| told(WAL, &error))?;
        let histories = names.into_iter().filter(|name| name.ends_with(".history")).map(|name| (name, None));
        for (name, size) in histories.chain(segments).collect::<Vec<_>>() {
            let inside = Path::new(WAL).join(&name);
            let (mut file, meta) = self.from.folder.file(&inside).map_err(|error| told(&inside, &error))?;
            if size.is_some_and(|size| size != meta.len()) {
                return Err(format!("{} has {} bytes and is no whole segment", inside.display(), meta.len()));
            }
            let sent = self.feed.file(&Path::new(DATA).join(&inside), meta.len(), described(&meta), &mut file);
            sent.map_err(|error| told(&inside, &error))?;
            self.content(&Path::new(WAL).join("archive_status").join(format!("{name}.done")), b"")?;
        }
        Ok(())
    }
}

/// The sum of what is read.
struct Summed<'r> {
    from: &'r mut dyn Read,
    sum: u32,
}

impl Read for Summed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.sum = crc32c::crc32c_append(self.sum, &buffer[..read]);
        Ok(read)
    }
}

fn told(inside: impl AsRef<Path>, error: &io::Error) -> String {
    format!("{}: {error}", inside.as_ref().display())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn made_here() -> Meta {
    Meta { mode: Some(0o600), ..Meta::default() }
}

fn described(meta: &Metadata) -> Meta {
    Meta {
        mode: Some(meta.mode() & 0o777),
        mtime: Timestamp::from_second(meta.mtime()).ok(),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        ..Meta::default()
    }
}
