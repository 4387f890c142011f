//! From a source that pushes entries to `rustic_core`, which pulls them.
//!
//! `rustic_core` writes nodes into a tree in the order in which they come, and restic wants them sorted by name; a base
//! backup comes in the order of a directory. So the data go in under running numbers, which sort themselves, and the
//! tree with the real names is made afterwards ([`super::tree`]), from the content that each number got.
//!
//! It also takes an error in the middle of a file for a file that is not there, and goes on. Here every reader counts: a
//! byte too few is noted, and no set comes of it.

use crate::error::{Error, Result};
use crate::progress::Progress;
use bytes::Bytes;
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustic_core::{ReadSource, ReadSourceEntry, ReadSourceOpen, RusticResult};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Read from the source at once.
const PIECE: usize = 256 * 1024;
/// How far the source may be ahead inside of one file: 4 MiB. Two files are then read side by side, so that two
/// processors have work.
const PIECES_AHEAD: usize = 16;
const ENTRIES_AHEAD: usize = 32;
/// Files in one folder of numbers.
const FOLDER: u64 = 1000;

/// What a source found, in the order in which it found it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Relative to the top of the set.
    pub(crate) path: PathBuf,
    pub(crate) meta: Metadata,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    Link { target: PathBuf },
    File { number: u64 },
}

/// The path of a running number.
pub(super) fn numbered(number: u64) -> PathBuf {
    PathBuf::from(format!("{:06}", number / FOLDER)).join(format!("{:09}", number % FOLDER))
}

/// Where a source puts its entries.
pub(crate) struct Feed {
    entries: SyncSender<Opening>,
    found: Vec<Found>,
    files: u64,
    bytes: u64,
    /// Bytes of files that were taken and not kept.
    dropped: u64,
}

/// A file that was taken, to be kept or not.
pub(crate) struct Taken {
    number: u64,
    mtime: Option<jiff::Timestamp>,
    pub(crate) size: u64,
    /// What kept its reader from going on.
    pub(crate) failure: Option<io::Error>,
}

/// A file on its way.
struct Opening {
    number: u64,
    /// None when only its end will tell.
    size: Option<u64>,
    mtime: Option<jiff::Timestamp>,
    pieces: Pieces,
}

impl Feed {
    pub(crate) fn folder(&mut self, path: &Path, meta: Metadata) {
        self.found.push(Found { path: path.to_owned(), meta, kind: Kind::Folder });
    }

    pub(crate) fn link(&mut self, path: &Path, target: PathBuf, meta: Metadata) {
        self.found.push(Found { path: path.to_owned(), meta, kind: Kind::Link { target } });
    }

    /// Takes exactly `size` bytes of a file; its end before that is an error.
    pub(crate) fn file(&mut self, path: &Path, size: u64, meta: Metadata, from: &mut dyn Read) -> io::Result<()> {
        let (number, mtime) = (self.files, meta.mtime);
        let pieces = self.open(Some(size), mtime)?;
        let mut left = size;
        while left > 0 {
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            from.read_exact(&mut piece)?;
            left -= piece.len() as u64;
            give(&pieces, piece)?;
        }
        self.files += 1;
        self.dropped += size;
        self.keep(path, meta, &Taken { number, mtime, size, failure: None });
        Ok(())
    }

    /// Takes a file to its end, wherever that is; gives its size. An error of the reader is one of the source.
    pub(crate) fn stream(&mut self, path: &Path, meta: Metadata, from: &mut dyn Read) -> io::Result<u64> {
        let mut taken = self.take(meta.mtime, from)?;
        if let Some(failure) = taken.failure.take() {
            return Err(failure);
        }
        self.keep(path, meta, &taken);
        Ok(taken.size)
    }

    /// Takes a file as far as it can be read. An error is one of the repository.
    pub(crate) fn take(&mut self, mtime: Option<jiff::Timestamp>, from: &mut dyn Read) -> io::Result<Taken> {
        let number = self.files;
        let pieces = self.open(None, mtime)?;
        let (mut size, mut failure) = (0, None);
        while failure.is_none() {
            let mut piece = Vec::with_capacity(PIECE);
            failure = (&mut *from).take(PIECE as u64).read_to_end(&mut piece).err();
            if piece.is_empty() {
                break;
            }
            size += piece.len() as u64;
            give(&pieces, piece)?;
        }
        // An empty one says that this is the end, and not that the source was lost.
        give(&pieces, Vec::new())?;
        self.files += 1;
        self.dropped += size;
        Ok(Taken { number, mtime, size, failure })
    }

    /// Gives a file that was taken its name. Without one it is in no set.
    pub(crate) fn keep(&mut self, path: &Path, mut meta: Metadata, taken: &Taken) {
        (meta.size, meta.mtime) = (taken.size, taken.mtime);
        self.dropped -= taken.size;
        self.bytes += taken.size;
        self.found.push(Found { path: path.to_owned(), meta, kind: Kind::File { number: taken.number } });
    }

    fn open(&mut self, size: Option<u64>, mtime: Option<jiff::Timestamp>) -> io::Result<SyncSender<Bytes>> {
        let (sender, receiver) = sync_channel(PIECES_AHEAD);
        let pieces = Pieces { receiver, left: size, piece: Bytes::new() };
        let opening = Opening { number: self.files, size, mtime, pieces };
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the repository took no more entries");
        self.entries.send(opening).map_err(gone)?;
        Ok(sender)
    }
}

fn give(pieces: &SyncSender<Bytes>, piece: Vec<u8>) -> io::Result<()> {
    let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the repository took no more of this file");
    pieces.send(Bytes::from(piece)).map_err(gone)
}

/// A file's bytes on their way from the source.
struct Pieces {
    receiver: Receiver<Bytes>,
    /// None until an empty piece says that it has ended.
    left: Option<u64>,
    piece: Bytes,
}

/// The same with the note of what went wrong.
pub(super) struct Reader {
    pieces: Pieces,
    state: Arc<State>,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let pieces = &mut self.pieces;
        while pieces.piece.is_empty() {
            if pieces.left == Some(0) {
                return Ok(0);
            }
            let Ok(next) = pieces.receiver.recv() else {
                self.state.short.store(true, Ordering::Relaxed);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the source ended in the middle of a file"));
            };
            if next.is_empty() {
                pieces.left = Some(0);
            }
            pieces.piece = next;
        }
        let taken = pieces.piece.split_to(buffer.len().min(pieces.piece.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        pieces.left = pieces.left.map(|left| left - taken.len() as u64);
        self.state.read.fetch_add(taken.len() as u64, Ordering::Relaxed);
        self.state.progress.add_bytes(taken.len() as u64);
        Ok(taken.len())
    }
}

#[derive(Debug, Default)]
struct State {
    /// A reader did not get what was announced.
    short: AtomicBool,
    /// Bytes that were read by the archiver.
    read: AtomicU64,
    progress: Progress,
}

/// The other end of the [`Feed`].
pub(super) struct Source {
    entries: Mutex<Option<Receiver<Opening>>>,
    state: Arc<State>,
}

/// A feed and what pulls from it.
pub(super) fn pipe(progress: Progress) -> (Feed, Source) {
    let (sender, receiver) = sync_channel(ENTRIES_AHEAD);
    let feed = Feed { entries: sender, found: Vec::new(), files: 0, bytes: 0, dropped: 0 };
    let state = State { progress, ..State::default() };
    (feed, Source { entries: Mutex::new(Some(receiver)), state: Arc::new(state) })
}

/// What a source sent, after it has ended.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) found: Vec<Found>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    dropped: u64,
}

impl Feed {
    /// The source has sent everything.
    pub(super) fn end(self) -> Sent {
        Sent { found: self.found, files: self.files, bytes: self.bytes, dropped: self.dropped }
    }
}

impl Source {
    /// Lets a feed that is not pulled from any more notice.
    pub(super) fn close(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether everything that was sent was read.
    pub(super) fn check(&self, sent: &Sent) -> Result<()> {
        let read = self.state.read.load(Ordering::Relaxed);
        let all = sent.bytes + sent.dropped;
        if self.state.short.load(Ordering::Relaxed) || read != all {
            return Err(Error::Worker(format!("{read} of {all} bytes reached the repository")));
        }
        Ok(())
    }
}

pub(super) struct Open {
    pieces: Pieces,
    state: Arc<State>,
}

impl ReadSourceOpen for Open {
    type Reader = Reader;

    fn open(self) -> RusticResult<Reader> {
        Ok(Reader { pieces: self.pieces, state: self.state })
    }
}

/// The archiver hands a file to its readers only when it holds the entry after it. That one may not be known before the
/// file was read to its end, so each file is followed by a marker: a node without content.
pub(super) struct Entries {
    receiver: Option<Receiver<Opening>>,
    state: Arc<State>,
    marker: Option<PathBuf>,
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<Open>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(path) = self.marker.take() {
            let node = node(&path, NodeType::Fifo, Metadata::default());
            return Some(Ok(ReadSourceEntry { path, node, open: None }));
        }
        let opening = self.receiver.as_ref()?.recv().ok()?;
        self.state.progress.add_file();
        let path = numbered(opening.number);
        // Sorts behind the file and before the next.
        self.marker = Some(path.with_extension("end"));
        // The size is a hint to how much room it needs in memory.
        let size = opening.size.unwrap_or(PIECE as u64);
        let meta = Metadata { size, mtime: opening.mtime, ..Metadata::default() };
        let node = node(&path, NodeType::File, meta);
        let open = Some(Open { pieces: opening.pieces, state: Arc::clone(&self.state) });
        Some(Ok(ReadSourceEntry { path, node, open }))
    }
}

fn node(path: &Path, kind: NodeType, meta: Metadata) -> Node {
    Node::new_node(path.file_name().unwrap_or(OsStr::new("")), kind, meta)
}

impl ReadSource for Source {
    type Open = Open;
    type Iter = Entries;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    /// The entries can be had once.
    fn entries(&self) -> Entries {
        let receiver = self.entries.lock().unwrap_or_else(PoisonError::into_inner).take();
        Entries { receiver, state: Arc::clone(&self.state), marker: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some bytes, and then a disk that cannot be read.
    struct Bad(usize);

    impl Read for Bad {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let given = self.0.min(buffer.len());
            self.0 -= given;
            if given == 0 { Err(io::Error::other("a bad sector")) } else { Ok(given) }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_to_its_end_is_not_kept_and_harms_no_other() {
        let (mut feed, source) = pipe(Progress::default());
        let sent = std::thread::scope(|scope| {
            let pulling = scope.spawn(|| {
                let files = source.entries().filter_map(|entry| entry.unwrap().open);
                files.map(|open| open.open().unwrap().read_to_end(&mut Vec::new()).unwrap()).collect::<Vec<_>>()
            });
            let taken = feed.take(None, &mut Bad(PIECE + 5)).unwrap();
            assert!(
                (taken.size, taken.failure.unwrap().to_string()) == ((PIECE + 5) as u64, "a bad sector".to_owned())
            );
            feed.stream(Path::new("good"), Metadata::default(), &mut &b"whole"[..]).unwrap();
            feed.file(Path::new("empty"), 0, Metadata::default(), &mut io::empty()).unwrap();
            assert!(feed.stream(Path::new("bad"), Metadata::default(), &mut Bad(1)).is_err());
            let sent = feed.end();
            assert_eq!(pulling.join().unwrap(), [PIECE + 5, 5, 0, 1]);
            sent
        });
        source.check(&sent).unwrap();
        let found: Vec<_> = sent.found.iter().map(|found| (found.path.to_str().unwrap(), &found.kind)).collect();
        assert_eq!(found, [("good", &Kind::File { number: 1 }), ("empty", &Kind::File { number: 2 })]);
        assert_eq!((sent.files, sent.bytes), (4, 5));
    }
}
