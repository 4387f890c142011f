//! The bytes of files on their way out of packs: each pack is read once, by one of a few threads, and its chunks are written
//! to wherever they belong.
//!
//! Rejected: letting `rustic_core` write them. It opens a file for every chunk, copies each chunk for every place it goes
//! to, and panics on whatever goes wrong.

use super::Repository;
use super::chunks::StopOnPanic;
use super::crypt::Crypt;
use crate::error::{Error, Result};
use rustic_core::repofile::{Node, NodeType};
use rustic_core::{FileType, Id, IndexedFull, ReadBackend};
use std::collections::{BTreeMap, btree_map};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use zstd::bulk::Decompressor;

/// Each holds what it reads at once in memory.
const THREADS: usize = 4;
/// Bytes that are read at once, at most; more than a pack of ours.
const MOST: u32 = 32 << 20;
/// Bytes that are read in vain rather than asked around: an object store takes as long for each question.
const HOLE: u32 = 256 << 10;

/// Where a chunk lies in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    offset: u32,
    length: u32,
    /// None when it was not compressed.
    unpacked: Option<u32>,
}

/// Where a chunk goes: a file, and where in it.
type Target = (usize, u64);
/// What is needed of a pack.
type Needed = BTreeMap<Place, Vec<Target>>;

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    files: Vec<PathBuf>,
    packs: BTreeMap<Id, Needed>,
    bytes: u64,
}

impl Plan {
    /// Of the entries below a folder of the set, parents first. Folders are made, and files without content.
    pub(super) fn make<S: IndexedFull>(
        view: &super::Rustic<S>,
        nodes: impl Iterator<Item = rustic_core::RusticResult<(PathBuf, Node)>>,
        into: &Path,
        repository: &Repository,
    ) -> Result<Self> {
        let mut plan = Self::default();
        let refused = |path: &Path, error: &io::Error| Error::Target { path: path.to_owned(), why: error.to_string() };
        for entry in nodes {
            let (path, node) = entry.map_err(|error| repository.error(&error))?;
            let path = into.join(path);
            match node.node_type {
                NodeType::Dir => super::make_private(&path).map_err(|error| refused(&path, &error))?,
                NodeType::File => {
                    let number = plan.files.len();
                    let mut at = 0;
                    for id in node.content.iter().flatten() {
                        let entry = view.get_index_entry(id).map_err(|error| repository.error(&error))?;
                        let (location, bytes) = (entry.location, u64::from(entry.location.data_length()));
                        let unpacked = location.uncompressed_length.map(std::num::NonZero::get);
                        let place = Place { offset: location.offset, length: location.length, unpacked };
                        plan.packs.entry(*entry.pack).or_default().entry(place).or_default().push((number, at));
                        at += bytes;
                    }
                    if at == 0 {
                        create(&path).map_err(|error| refused(&path, &error))?;
                    }
                    plan.bytes += at;
                    plan.files.push(path);
                }
                _ => {}
            }
        }
        Ok(plan)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all files.
    pub(super) fn write(self, repository: &Repository, part: &str) -> Result<()> {
        let Self { files, packs, .. } = self;
        let writing = Writing {
            repository,
            part,
            files: &files,
            packs: Mutex::new(packs.into_iter()),
            is_over: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| writing.work())).collect();
            let bug = |_| Err(Error::Worker(format!("restoring {part} ended in a bug of ours")));
            let ended: Vec<Result<()>> = threads.into_iter().map(|thread| thread.join().unwrap_or_else(bug)).collect();
            ended.into_iter().collect()
        })
    }
}

struct Writing<'w> {
    repository: &'w Repository,
    part: &'w str,
    files: &'w [PathBuf],
    packs: Mutex<btree_map::IntoIter<Id, Needed>>,
    is_over: AtomicBool,
}

impl Writing<'_> {
    fn work(&self) -> Result<()> {
        let _stop = StopOnPanic(&self.is_over);
        let mut bench = Bench::new().map_err(|error| Error::Worker(format!("nothing can be unpacked: {error}")))?;
        loop {
            let next = self.packs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((pack, chunks)) = next.filter(|_| !self.is_over.load(Ordering::Relaxed)) else { return Ok(()) };
            let written = self.pack(&pack, chunks, &mut bench);
            if written.is_err() {
                self.is_over.store(true, Ordering::Relaxed);
                return written;
            }
        }
    }

    fn pack(&self, id: &Id, chunks: Needed, bench: &mut Bench) -> Result<()> {
        let mut chunks = chunks.into_iter().peekable();
        while let Some((first, targets)) = chunks.next() {
            // What lies close together is read at once.
            let (mut end, mut run) = (first.offset + first.length, vec![(first, targets)]);
            let is_close = |place: &Place, end: u32| {
                place.offset.saturating_sub(end) <= HOLE && place.offset + place.length - first.offset <= MOST
            };
            while let Some(next) = chunks.next_if(|(place, _)| is_close(place, end)) {
                end = next.0.offset + next.0.length;
                run.push(next);
            }
            let read = self.repository.store.read_partial(FileType::Pack, id, false, first.offset, end - first.offset);
            let read = read.map_err(|error| self.repository.error(&error))?;
            for (place, targets) in run {
                let start = (place.offset - first.offset) as usize;
                let sealed = &read[start..start + place.length as usize];
                if !bench.open(&self.repository.crypt, sealed, place.unpacked) {
                    let why = format!("{} has a chunk that is not what was written", self.part);
                    return Err(Error::Damaged { place: self.repository.place().to_owned(), why });
                }
                for (number, at) in targets {
                    let path = &self.files[number];
                    let written = bench.put(path, number, at);
                    written.map_err(|error| Error::Target { path: path.clone(), why: error.to_string() })?;
                    self.repository.progress.add_bytes(bench.text.len() as u64);
                }
            }
        }
        Ok(())
    }
}

/// What a thread works with, again and again.
struct Bench {
    decompressor: Decompressor<'static>,
    opened: Vec<u8>,
    /// The chunk that was opened last.
    text: Vec<u8>,
    /// The file that was written to last: most chunks of a pack belong to the same.
    file: Option<(usize, File)>,
}

impl Bench {
    fn new() -> io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, opened: Vec::new(), text: Vec::new(), file: None })
    }

    /// Decrypts and unpacks a chunk; false when it is not what was written.
    fn open(&mut self, crypt: &Crypt, sealed: &[u8], unpacked: Option<u32>) -> bool {
        if !crypt.open(sealed, &mut self.opened) {
            return false;
        }
        let Some(length) = unpacked else {
            std::mem::swap(&mut self.opened, &mut self.text);
            return true;
        };
        self.text.clear();
        self.text.reserve(length as usize);
        let unpacked = self.decompressor.decompress_to_buffer(&self.opened, &mut self.text);
        unpacked.is_ok_and(|unpacked| unpacked == length as usize)
    }

    fn put(&mut self, path: &Path, number: usize, at: u64) -> io::Result<()> {
        if self.file.as_ref().is_none_or(|(open, _)| *open != number) {
            self.file = Some((number, create(path)?));
        }
        match &self.file {
            Some((_, file)) => file.write_all_at(&self.text, at),
            None => Ok(()),
        }
    }
}

/// Several threads write to one file: whoever is first makes it.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}
