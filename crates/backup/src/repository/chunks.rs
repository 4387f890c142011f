//! The bytes of files on their way into packs: cut into chunks of one size, each of which is stored once.
//!
//! ```text
//! Feed ─ chunks ─▶ hash, known? compress, encrypt ─ full packs ─▶ write
//!      (bounded)   one thread for each processor     (bounded)    a few threads
//! ```
//!
//! Rejected: `rustic_core`'s archiver. It hands each chunk through eight channels without room, copies it twice more and
//! wants the bytes of files to be pulled (decision 0022 has what that cost).

use super::crypt::{Crypt, LEVEL};
use super::feed::{Chunk, Spare};
use super::packs::{Filling, Kind, Pack, write_index};
use super::store::Store;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crossbeam_channel::{Receiver, Sender, bounded};
use rustic_core::{DataId, Id};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use zstd::bulk::Compressor;

/// Threads that pack, at most: the other processors are the services', and each may hold a full pack.
const MOST_PACKING: usize = 4;
/// Threads that write packs: an object store answers late.
const WRITING: usize = 3;
/// Chunks that wait for each thread.
const AHEAD: usize = 8;
/// What was written is found again after so many chunks, or so much time, also when the backup does not come to its end.
/// As restic does it.
const INDEX_CHUNKS: usize = 50_000;
const INDEX_AFTER: Duration = Duration::from_mins(5);

/// What became of the chunks.
#[derive(Debug)]
pub(super) struct Packed {
    /// The chunks of each file, by its number.
    pub(super) files: Vec<Vec<DataId>>,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// Bytes that were added to the repository.
    pub(super) added: u64,
}

/// Takes chunks into the repository.
pub(super) struct Packer<'r> {
    store: &'r Store,
    crypt: &'r Crypt,
    progress: Progress,
    /// What is in the repository, in order.
    known: Vec<Id>,
    state: Mutex<State>,
    has_failed: AtomicBool,
}

struct State {
    files: Vec<Vec<DataId>>,
    bytes: u64,
    /// What was not in the repository.
    new: HashSet<Id>,
    filling: Filling,
    /// Buffers of packs that are written.
    spare: Vec<Vec<u8>>,
    /// Written, and in no index.
    packs: Vec<Pack>,
    indexed: Instant,
    added: u64,
    failure: Option<Error>,
}

impl<'r> Packer<'r> {
    /// `known` are the chunks that the repository has.
    pub(super) fn new(store: &'r Store, crypt: &'r Crypt, progress: Progress, mut known: Vec<Id>) -> Self {
        known.sort_unstable();
        let state = State {
            files: Vec::new(),
            bytes: 0,
            new: HashSet::new(),
            filling: Filling::new(Kind::Data),
            spare: Vec::new(),
            packs: Vec::new(),
            indexed: Instant::now(),
            added: 0,
            failure: None,
        };
        Self { store, crypt, progress, known, state: Mutex::new(state), has_failed: AtomicBool::new(false) }
    }

    /// Packs all chunks that `send` gives away. What it sent before an error is kept: the next backup need not store it
    /// again.
    pub(super) fn pack<T: Send>(
        self,
        send: impl FnOnce(Sender<Chunk>, Spare) -> T + Send,
    ) -> Result<(thread::Result<T>, Packed)> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_PACKING);
        let (chunks, to_pack) = bounded(threads * AHEAD);
        let (full, to_write) = bounded(0);
        let spare = Spare::default();
        let this = &self;
        let (sent, are_whole) = thread::scope(|scope| {
            let mut working = Vec::new();
            for _ in 0..WRITING {
                let to_write = to_write.clone();
                working.push(scope.spawn(move || this.stopping(|| this.write(&to_write))));
            }
            for _ in 0..threads {
                let (to_pack, full, spare) = (to_pack.clone(), full.clone(), spare.clone());
                working.push(scope.spawn(move || this.stopping(|| this.work(&to_pack, &full, &spare))));
            }
            // Whoever sends must notice when nobody takes any more.
            drop((to_pack, full, to_write));
            let sent = scope.spawn(|| send(chunks, spare)).join();
            let ended: Vec<_> = working.into_iter().map(thread::ScopedJoinHandle::join).collect();
            (sent, ended.iter().all(thread::Result::is_ok))
        });
        if !are_whole {
            return Err(Error::Worker("packing ended in a bug of ours".to_owned()));
        }
        Ok((sent, self.finish()?))
    }

    /// A bug in one thread ends all.
    fn stopping(&self, work: impl FnOnce()) {
        let _stop = StopOnPanic(&self.has_failed);
        work();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked ends everything.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first failure is the one that counts.
    fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
        self.has_failed.store(true, Ordering::Relaxed);
    }

    fn work(&self, chunks: &Receiver<Chunk>, full: &Sender<Filling>, spare: &Spare) {
        let mut bench = match Bench::new() {
            Ok(bench) => bench,
            Err(error) => return self.fail(broken(&error)),
        };
        for chunk in chunks {
            if self.has_failed.load(Ordering::Relaxed) {
                return;
            }
            match self.put(&chunk, &mut bench) {
                Ok(None) => {}
                Ok(Some(filled)) => {
                    if full.send(filled).is_err() {
                        // The writers have failed.
                        return;
                    }
                }
                Err(error) => return self.fail(error),
            }
            self.progress.add_bytes(chunk.bytes().len() as u64);
            spare.give_back(chunk);
        }
    }

    /// Gives a pack when this chunk has filled one.
    fn put(&self, chunk: &Chunk, bench: &mut Bench) -> Result<Option<Filling>> {
        let bytes = chunk.bytes();
        let raw: [u8; 32] = Sha256::digest(bytes).into();
        let id = Id::new(raw);
        let is_known = self.known.binary_search(&id).is_ok();
        {
            let mut state = self.state();
            state.note(chunk, id);
            if is_known || !state.new.insert(id) {
                return Ok(None);
            }
        }
        let compressed = bench.compress(bytes).map_err(|error| broken(&error))?;
        let sealed = self.crypt.seal(compressed).map_err(|error| broken(&error))?;
        let mut state = self.state();
        state.filling.add(raw, &sealed, bytes.len());
        if !state.filling.is_full() {
            return Ok(None);
        }
        let next = match state.spare.pop() {
            Some(buffer) => Filling::in_buffer(Kind::Data, buffer),
            None => Filling::new(Kind::Data),
        };
        Ok(Some(std::mem::replace(&mut state.filling, next)))
    }

    fn write(&self, packs: &Receiver<Filling>) {
        for filled in packs {
            if self.has_failed.load(Ordering::Relaxed) {
                return;
            }
            let closed = filled.close(self.store, self.crypt);
            let kept = closed.and_then(|(pack, buffer)| self.keep(pack, buffer));
            if let Err(error) = kept {
                return self.fail(error);
            }
        }
    }

    fn keep(&self, pack: Pack, buffer: Option<Vec<u8>>) -> Result<()> {
        let mut state = self.state();
        state.spare.extend(buffer);
        state.added += pack.bytes;
        state.packs.push(pack);
        let blobs: usize = state.packs.iter().map(Pack::len).sum();
        if blobs < INDEX_CHUNKS && state.indexed.elapsed() < INDEX_AFTER {
            return Ok(());
        }
        let packs = std::mem::take(&mut state.packs);
        state.indexed = Instant::now();
        drop(state);
        let bytes = write_index(&packs, self.store, self.crypt)?;
        self.state().added += bytes;
        Ok(())
    }

    /// The last pack, and the index.
    fn finish(self) -> Result<Packed> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let State { files, bytes, filling, mut packs, mut added, failure, .. } = state;
        if let Some(failure) = failure {
            // What is whole need not be sent again. When this fails, too, the first failure is told.
            if !packs.is_empty() {
                let _ = write_index(&packs, self.store, self.crypt);
            }
            return Err(failure);
        }
        if !filling.is_empty() {
            let (last, _) = filling.close(self.store, self.crypt)?;
            added += last.bytes;
            packs.push(last);
        }
        if !packs.is_empty() {
            added += write_index(&packs, self.store, self.crypt)?;
        }
        Ok(Packed { files, bytes, added })
    }
}

impl State {
    fn note(&mut self, chunk: &Chunk, id: Id) {
        if self.files.len() <= chunk.file {
            self.files.resize_with(chunk.file + 1, Vec::new);
        }
        let content = &mut self.files[chunk.file];
        // Most files have one.
        if content.is_empty() {
            content.reserve_exact(chunk.at + 1);
        }
        if content.len() <= chunk.at {
            content.resize(chunk.at + 1, DataId::default());
        }
        content[chunk.at] = DataId::from(id);
        self.bytes += chunk.bytes().len() as u64;
    }
}

/// Lets other threads know that this one has panicked.
pub(super) struct StopOnPanic<'f>(pub(super) &'f AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// What a thread compresses with, again and again.
struct Bench {
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
}

impl Bench {
    fn new() -> std::io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, compressed: Vec::new() })
    }

    fn compress(&mut self, bytes: &[u8]) -> std::io::Result<&mut [u8]> {
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        self.compressor.compress_to_buffer(bytes, &mut self.compressed)?;
        Ok(&mut self.compressed)
    }
}

fn broken(error: &std::io::Error) -> Error {
    Error::Worker(format!("a chunk could not be packed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::feed::{CHUNK, Feed, Sent};
    use crate::repository::packs::{PACK, digest};
    use object_store::memory::InMemory;
    use rustic_core::repofile::{MasterKey, Metadata};
    use std::path::Path;
    use std::sync::Arc;

    fn random(bytes: usize) -> Vec<u8> {
        let mut random = vec![0; bytes];
        getrandom::fill(&mut random).unwrap();
        random
    }

    /// Packs these files.
    async fn packed(store: &Store, known: Vec<Id>, files: Vec<Vec<u8>>) -> Result<(Option<Sent>, Packed)> {
        let store = store.clone();
        let packing = tokio::task::spawn_blocking(move || {
            let crypt = Crypt::new(&MasterKey::new());
            let (sent, packed) = Packer::new(&store, &crypt, Progress::default(), known).pack(|chunks, spare| {
                let mut feed = Feed::new(chunks, spare, Progress::default());
                for file in files {
                    feed.stream(Path::new("a file"), Metadata::default(), &mut &file[..]).ok()?;
                }
                Some(feed.end())
            })?;
            Ok((sent.unwrap(), packed))
        });
        packing.await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_chunk_is_stored_once_and_one_that_is_known_not_at_all() {
        let store = Store::of(Arc::new(InMemory::new()), "memory");
        let (twice, known) = (random(CHUNK), random(7));
        let ids = [digest(&twice), digest(&known)].map(DataId::from);
        let files = vec![[&twice[..], &twice, &known].concat(), Vec::new(), known.clone()];
        let (sent, packed) = packed(&store, vec![digest(&known)], files).await.unwrap();
        assert_eq!(packed.files, [vec![ids[0], ids[0], ids[1]], Vec::new(), vec![ids[1]]]);
        assert_eq!((packed.bytes, sent.unwrap().bytes), (2 * CHUNK as u64 + 14, 2 * CHUNK as u64 + 14));
        let (data, index) =
            tokio::task::spawn_blocking(move || (store.names("data"), store.names("index"))).await.unwrap();
        let (data, index) = (data.unwrap(), index.unwrap());
        assert!(data.len() == 1 && index.len() == 1, "{data:?} {index:?}");
        assert_eq!(packed.added, data[0].1 + index[0].1);
        assert!(data[0].1 > CHUNK as u64 && data[0].1 < CHUNK as u64 + 1024, "{data:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn packs_are_closed_when_they_are_full() {
        let store = Store::of(Arc::new(InMemory::new()), "memory");
        let files: Vec<_> = (0..5).map(|_| random(PACK / 2)).collect();
        let (_, packed) = packed(&store, Vec::new(), files).await.unwrap();
        let data = tokio::task::spawn_blocking(move || store.names("data")).await.unwrap().unwrap();
        assert_eq!(data.len(), 3);
        assert!(data.iter().all(|(_, size)| *size < (PACK + 2 * CHUNK) as u64), "{data:?}");
        assert_eq!(packed.files.iter().map(Vec::len).sum::<usize>(), 5 * PACK / 2 / CHUNK);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_takes_nothing_ends_it_and_whoever_sends_notices() {
        let store = Store::of(Arc::new(InMemory::new()), "memory");
        store.revoke("the lock is gone");
        let files: Vec<_> = (0..20).map(|_| random(PACK / 2)).collect();
        let error = packed(&store, Vec::new(), files).await.unwrap_err();
        assert!(error.to_string().contains("the lock is gone"), "{error}");
    }
}
