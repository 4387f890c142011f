//! Postgres: its base backup with the WAL that makes it consistent, split into one entry for each file.
//!
//! Where the keeper can read the data directory, [`super::beside`] does; else the server sends it over the replication
//! protocol, which works from anywhere.
//!
//! In the set, `data/` is the data directory and `tablespaces/<oid>/` what each tablespace holds. The links in
//! `pg_tblspc` are left out: they would lead a restored copy to the live files.
//!
//! The protocol is read on the runtime, the archives are taken apart on a thread of their own; a channel of a few
//! messages lies between them, so that neither is far ahead.

use super::beside::{self, Beside};
use crate::error::{Error, Result};
use crate::repository::feed::Feed;
use crate::scratch::DATA_DIRECTORY;
use crate::vault::PostgresSource;
use bytes::Bytes;
use futures_util::FutureExt;
use groundskeeper_core::receipt::{Cluster, Lsn, Tablespace};
use groundskeeper_systems::postgres::facts::{Facts, cluster_facts};
use groundskeeper_systems::postgres::online::Refused;
use groundskeeper_systems::postgres::walsender::{BaseBackup, Chunk, Identity, WalSenderError};
use jiff::Timestamp;
use rustic_core::repofile::Metadata;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tar::{Archive, EntryType};
use tempfile::SpooledTempFile;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// To connect, and for one question.
const DEADLINE: Duration = Duration::from_secs(30);
/// Messages that are handed over at once, as far as they are here already: the server's have 32 KiB, and to wake a thread
/// for each of them costs more than to copy it.
const TOGETHER: usize = 16;
/// Times [`TOGETHER`] messages under way.
const AHEAD: usize = 4;
/// The folder of tablespaces inside of a data directory.
pub(super) const LINKS: &str = "pg_tblspc";
/// Where the files are in a part.
pub(crate) const DATA: &str = "data";
pub(crate) const TABLESPACES: &str = "tablespaces";
pub(super) const MANIFEST: &str = "backup_manifest";
/// Bytes of a manifest that wait in memory: those of some ten thousand files.
const IN_MEMORY: usize = 1 << 20;

/// A backup that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    way: Way,
    cluster: Cluster,
}

#[derive(Debug)]
enum Way {
    Sent(Box<BaseBackup>),
    Read(Box<Beside>),
}

/// Begins one that reads the files in place. None: the server has to send them.
pub(crate) async fn begin_in_place(source: &PostgresSource, label: &str) -> Result<Option<Begun>> {
    let system = source.system.to_string();
    let facts = facts(source).await?;
    match Box::pin(beside::begin(source, &facts, label)).await {
        Ok(beside) => {
            let cluster = cluster(facts, &beside.identity, beside.start, Vec::new(), true);
            Ok(Some(Begun { way: Way::Read(Box::new(beside)), cluster }))
        }
        Err(Refused::Unfit(why)) => {
            tracing::info!(system, why, "its files are not read in place; the server sends them");
            Ok(None)
        }
        Err(Refused::Failed(why)) => {
            tracing::warn!(system, why, "its files cannot be read in place; the server sends them");
            Ok(None)
        }
    }
}

/// Begins one that the server sends; a fast checkpoint comes first, so this may take a while.
pub(crate) async fn begin(source: &PostgresSource, label: &str) -> Result<Begun> {
    let system = source.system.to_string();
    let facts = facts(source).await?;
    if !facts.hidden.is_empty() {
        let hidden = facts.hidden.join(", ");
        tracing::warn!(system, hidden, "settings are hidden from the role; `GRANT pg_monitor` shows them");
    }
    let broken = |error: WalSenderError| failed(&system, &error);
    let mut sender = source.endpoint.replicate(DEADLINE).await.map_err(broken)?;
    let identity = sender.identify().await.map_err(broken)?;
    let backup = sender.base_backup(label).await.map_err(broken)?;
    let spaces = backup.tablespaces.iter();
    let spaces = spaces.map(|space| Tablespace { oid: space.oid, location: space.location.clone() }).collect();
    let identity = Identity { timeline: backup.timeline, ..identity };
    let cluster = cluster(facts, &identity, backup.start, spaces, false);
    Ok(Begun { way: Way::Sent(Box::new(backup)), cluster })
}

/// As it is when the backup begins.
fn cluster(
    facts: Facts,
    identity: &Identity,
    start: Lsn,
    tablespaces: Vec<Tablespace>,
    read_in_place: bool,
) -> Cluster {
    Cluster {
        version: facts.version,
        system_identifier: identity.system_identifier.clone(),
        timeline: identity.timeline,
        start,
        stop: start,
        tablespaces,
        superuser: facts.superuser,
        settings: with_place(facts.settings, &facts.given),
        read_in_place,
    }
}

/// What a copy repeats, and where the original lies, of which no drill may come near. What is hidden is not in it.
fn with_place(mut settings: BTreeMap<String, String>, given: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let place = given.get(DATA_DIRECTORY).map(|place| (DATA_DIRECTORY.to_owned(), place.clone()));
    settings.extend(place);
    settings
}

async fn facts(source: &PostgresSource) -> Result<Facts> {
    cluster_facts(&source.endpoint, DEADLINE).await.map_err(|failure| Error::Source {
        system: source.system.to_string(),
        why: format!("{}: {}", failure.address, failure.message),
        retryable: true,
    })
}

/// Refuses a backup during which a tablespace was made: its files are not in it, and whoever replays its WAL makes the
/// tablespace anew where the live one lies.
pub(crate) async fn must_have_every_tablespace(source: &PostgresSource, cluster: &Cluster) -> Result<()> {
    let now = facts(source).await?.tablespaces;
    match now.iter().find(|oid| cluster.tablespaces.iter().all(|known| known.oid != **oid)) {
        None => Ok(()),
        Some(oid) => Err(Error::Source {
            system: source.system.to_string(),
            why: format!("the tablespace with the oid {oid} was made while the backup ran; run the backup again"),
            retryable: true,
        }),
    }
}

fn failed(system: &str, error: &WalSenderError) -> Error {
    Error::Source { system: system.to_owned(), why: error.to_string(), retryable: error.retryable() }
}

/// What the runtime hands to that thread.
enum Message {
    Chunk(Chunk),
    Failed(String, bool),
}

/// The two ends of a base backup on its way.
struct Stream {
    messages: Receiver<Vec<Message>>,
    here: std::vec::IntoIter<Message>,
    has_tablespaces: bool,
    cluster: Cluster,
    system: String,
}

impl Begun {
    /// Puts every file of the cluster into the feed.
    pub(crate) fn send(self, feed: &mut Feed, name: &str, runtime: &Handle) -> Result<Cluster> {
        match self.way {
            Way::Sent(backup) => Stream::begin(*backup, self.cluster, name, runtime).send(feed),
            Way::Read(beside) => Ok(Cluster { stop: beside.send(feed, runtime)?, ..self.cluster }),
        }
    }
}

/// Ends, and with it the backup at the server, as soon as nobody takes the messages any more.
async fn pump(mut backup: BaseBackup, sender: Sender<Vec<Message>>) {
    let mut is_over = false;
    while !is_over {
        let mut messages = Vec::with_capacity(TOGETHER);
        let mut next = Some(backup.next().await);
        while let Some(came) = next.take() {
            match came {
                Ok(Some(chunk)) => messages.push(Message::Chunk(chunk)),
                Ok(None) => is_over = true,
                Err(error) => {
                    messages.push(Message::Failed(error.to_string(), error.retryable()));
                    is_over = true;
                }
            }
            if !is_over && messages.len() < TOGETHER {
                next = backup.next().now_or_never();
            }
        }
        if sender.send(messages).await.is_err() {
            break;
        }
    }
    for warning in backup.warnings() {
        tracing::warn!(%warning, "the server says of its base backup");
    }
}

impl Stream {
    /// Starts reading, on the runtime.
    fn begin(backup: BaseBackup, cluster: Cluster, system: &str, runtime: &Handle) -> Self {
        let (sender, messages) = channel(AHEAD);
        runtime.spawn(pump(backup, sender));
        let here = Vec::new().into_iter();
        Self { messages, here, has_tablespaces: false, cluster, system: system.to_owned() }
    }

    /// Sends every file of the backup. It is whole only when the server has said where it ends.
    fn send(mut self, feed: &mut Feed) -> Result<Cluster> {
        let mut next = self.message()?;
        loop {
            next = match next {
                Chunk::Archive { tablespace, .. } => self.archive(feed, tablespace)?,
                Chunk::Manifest => self.manifest(feed)?,
                Chunk::Progress(_) | Chunk::Data(_) => self.message()?,
                Chunk::End { stop, timeline } => return Ok(self.end(stop, timeline)),
            };
        }
    }

    fn end(mut self, stop: Lsn, timeline: u32) -> Cluster {
        self.cluster.stop = stop;
        self.cluster.timeline = timeline;
        self.cluster
    }

    fn error(&self, why: impl Into<String>, retryable: bool) -> Error {
        Error::Source { system: self.system.clone(), why: why.into(), retryable }
    }

    fn message(&mut self) -> Result<Chunk> {
        loop {
            match self.here.next() {
                Some(Message::Chunk(chunk)) => return Ok(chunk),
                Some(Message::Failed(why, retryable)) => return Err(self.error(why, retryable)),
                None => {
                    let more = self.messages.blocking_recv();
                    let ended = || self.error("the base backup ended before it was whole", true);
                    self.here = more.ok_or_else(ended)?.into_iter();
                }
            }
        }
    }

    /// One tar archive; gives the message after it.
    fn archive(&mut self, feed: &mut Feed, tablespace: Option<u32>) -> Result<Chunk> {
        let base = match tablespace {
            None => PathBuf::from(DATA),
            Some(oid) => Path::new(TABLESPACES).join(oid.to_string()),
        };
        if tablespace.is_some() && !self.has_tablespaces {
            self.has_tablespaces = true;
            feed.folder(Path::new(TABLESPACES), private());
        }
        feed.folder(&base, private());
        let mut reader = Data { stream: self, piece: Bytes::new(), after: None, failure: None };
        let unpacked = unpack(&mut reader, feed, &base);
        let (after, failure) = (reader.after.take(), reader.failure.take());
        // What the server said is told before what it did to the archive.
        if let Some(failure) = failure {
            return Err(failure);
        }
        unpacked.map_err(|error| self.error(format!("its archive cannot be read: {error}"), false))?;
        match after {
            Some(after) => Ok(after),
            None => self.skip(),
        }
    }

    /// What is left of an archive after its last entry is padding.
    fn skip(&mut self) -> Result<Chunk> {
        loop {
            match self.message()? {
                Chunk::Data(_) | Chunk::Progress(_) => {}
                other => return Ok(other),
            }
        }
    }

    /// It comes last, with one line for each file: hundreds of megabytes for a cluster of millions of them. How long it is
    /// must be known before it is sent, so it waits on the disk.
    fn manifest(&mut self, feed: &mut Feed) -> Result<Chunk> {
        let (mut manifest, length, after) = self.spooled()?;
        let meta = Metadata { mode: Some(0o600), ..Metadata::default() };
        let path = Path::new(DATA).join(MANIFEST);
        feed.file(&path, length, meta, &mut manifest)
            .map_err(|error| self.error(format!("{MANIFEST}: {error}"), true))?;
        Ok(after)
    }

    /// What comes until the next message of another kind, from its start, with its length.
    fn spooled(&mut self) -> Result<(SpooledTempFile, u64, Chunk)> {
        let mut spool = tempfile::spooled_tempfile(IN_MEMORY);
        let mut length = 0;
        let failed = |stream: &Self, error: &io::Error| {
            let folder = std::env::temp_dir();
            stream.error(format!("{MANIFEST} cannot wait in {}: {error}", folder.display()), true)
        };
        loop {
            match self.message()? {
                Chunk::Data(data) => {
                    length += data.len() as u64;
                    spool.write_all(&data).map_err(|error| failed(self, &error))?;
                }
                Chunk::Progress(_) => {}
                after => {
                    spool.rewind().map_err(|error| failed(self, &error))?;
                    return Ok((spool, length, after));
                }
            }
        }
    }
}

/// The bytes of one archive.
struct Data<'s> {
    stream: &'s mut Stream,
    piece: Bytes,
    after: Option<Chunk>,
    failure: Option<Error>,
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.after.is_some() {
                return Ok(0);
            }
            match self.stream.message() {
                Ok(Chunk::Data(data)) => self.piece = data,
                Ok(Chunk::Progress(_)) => {}
                Ok(other) => self.after = Some(other),
                Err(error) => {
                    let told = io::Error::other(error.to_string());
                    self.failure = Some(error);
                    return Err(told);
                }
            }
        }
        let taken = self.piece.split_to(buffer.len().min(self.piece.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

/// Postgres wants its folders for itself.
pub(super) fn private() -> Metadata {
    Metadata { mode: Some(0o700), ..Metadata::default() }
}

fn unpack(reader: &mut Data<'_>, feed: &mut Feed, base: &Path) -> io::Result<()> {
    let mut archive = Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let path = base.join(name.components().collect::<PathBuf>());
        let header = entry.header();
        let meta = meta(header)?;
        match header.entry_type() {
            EntryType::Directory => feed.folder(&path, meta),
            EntryType::Regular => {
                let size = entry.size();
                feed.file(&path, size, meta, &mut entry)?;
            }
            EntryType::Symlink if name.starts_with(LINKS) => {}
            EntryType::Symlink => {
                let target = entry.link_name()?.map(Cow::into_owned).unwrap_or_default();
                feed.link(&path, target, meta);
            }
            other => return Err(io::Error::other(format!("{} is of kind {other:?}", name.display()))),
        }
    }
    Ok(())
}

fn meta(header: &tar::Header) -> io::Result<Metadata> {
    let name = |name: Option<&str>| name.filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(Metadata {
        mode: Some(header.mode()?),
        mtime: i64::try_from(header.mtime()?).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()),
        uid: u32::try_from(header.uid()?).ok(),
        gid: u32::try_from(header.gid()?).ok(),
        user: name(header.username().ok().flatten()),
        group: name(header.groupname().ok().flatten()),
        ..Metadata::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that has these messages on their way.
    fn stream(chunks: Vec<Chunk>) -> Stream {
        let (sender, messages) = channel(chunks.len());
        for chunk in chunks {
            assert!(sender.try_send(vec![Message::Chunk(chunk)]).is_ok());
        }
        let cluster = Cluster {
            version: 150_020,
            system_identifier: "1".to_owned(),
            timeline: 1,
            start: Lsn(1),
            stop: Lsn(1),
            tablespaces: Vec::new(),
            superuser: "postgres".to_owned(),
            settings: BTreeMap::new(),
            read_in_place: false,
        };
        let here = Vec::new().into_iter();
        Stream { messages, here, has_tablespaces: false, cluster, system: "postgres.main".to_owned() }
    }

    #[test]
    fn a_large_manifest_waits_on_the_disk_and_a_small_one_in_memory() {
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        for (pieces, on_disk) in [(2_usize, false), (40, true)] {
            let mut chunks = vec![Chunk::Data(piece.clone()); pieces];
            chunks.insert(1, Chunk::Progress(1));
            chunks.push(Chunk::End { stop: Lsn(9), timeline: 1 });
            let (mut spool, length, after) = stream(chunks).spooled().unwrap();
            assert_eq!((spool.is_rolled(), length), (on_disk, (pieces * piece.len()) as u64));
            assert!(matches!(after, Chunk::End { stop: Lsn(9), .. }));
            let mut content = Vec::new();
            spool.read_to_end(&mut content).unwrap();
            assert!(content.len() as u64 == length && content.iter().all(|byte| *byte == b'x'));
        }
    }

    #[test]
    fn a_manifest_without_an_end_is_an_error() {
        let broken = stream(vec![Chunk::Data(Bytes::from_static(b"{"))]).spooled().unwrap_err();
        assert!(broken.to_string().contains("ended before it was whole"), "{broken}");
    }
}
