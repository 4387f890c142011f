//! Where a source puts its entries: files are cut into chunks, which wait for the [`super::chunks::Packer`]; names are kept
//! for the set's tree, which is made afterwards.

use crate::progress::Progress;
use crossbeam_channel::Sender;
use rustic_core::repofile::Metadata;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Postgres changes pages of 8 KiB in files that keep their length: chunks of a fixed size meet the same pages again.
/// 512 KiB is 2 million chunks for each TiB.
pub(super) const CHUNK: usize = 512 << 10;

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
    File { number: usize },
}

/// Some bytes of a file.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The number of its file.
    pub(super) file: usize,
    /// Which one of its file it is.
    pub(super) at: usize,
    buffer: Box<[u8]>,
    filled: usize,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

/// Buffers to be filled again: a new one costs a page fault for each 4 KiB.
#[derive(Debug, Default, Clone)]
pub(super) struct Spare(Arc<Mutex<Vec<Box<[u8]>>>>);

impl Spare {
    fn take(&self) -> Box<[u8]> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
    }

    pub(super) fn give_back(&self, chunk: Chunk) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(chunk.buffer);
    }
}

/// Where a source puts its entries.
pub(crate) struct Feed {
    chunks: Sender<Chunk>,
    spare: Spare,
    progress: Progress,
    found: Vec<Found>,
    files: usize,
    bytes: u64,
    /// Bytes of files that were taken and not kept.
    dropped: u64,
}

/// A file that was taken, to be kept or not.
pub(crate) struct Taken {
    number: usize,
    mtime: Option<jiff::Timestamp>,
    pub(crate) size: u64,
    /// What kept its reader from going on.
    pub(crate) failure: Option<io::Error>,
}

impl Feed {
    pub(super) fn new(chunks: Sender<Chunk>, spare: Spare, progress: Progress) -> Self {
        Self { chunks, spare, progress, found: Vec::new(), files: 0, bytes: 0, dropped: 0 }
    }

    pub(crate) fn folder(&mut self, path: &Path, meta: Metadata) {
        self.found.push(Found { path: path.to_owned(), meta, kind: Kind::Folder });
    }

    pub(crate) fn link(&mut self, path: &Path, target: PathBuf, meta: Metadata) {
        self.found.push(Found { path: path.to_owned(), meta, kind: Kind::Link { target } });
    }

    /// Takes exactly `size` bytes of a file; its end before that is an error.
    pub(crate) fn file(&mut self, path: &Path, size: u64, meta: Metadata, from: &mut dyn Read) -> io::Result<()> {
        let taken = self.take(meta.mtime, &mut from.take(size))?;
        if let Some(failure) = taken.failure {
            return Err(failure);
        }
        if taken.size < size {
            let why = format!("it ended after {} of {size} bytes", taken.size);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
        }
        self.keep(path, meta, &taken);
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
        let mut taken = Taken { number: self.files, mtime, size: 0, failure: None };
        self.files += 1;
        self.progress.add_file();
        for at in 0.. {
            let mut buffer = self.spare.take();
            let filled;
            (filled, taken.failure) = fill(from, &mut buffer);
            taken.size += filled as u64;
            self.dropped += filled as u64;
            let is_last = filled < buffer.len();
            let chunk = Chunk { file: taken.number, at, buffer, filled };
            if filled == 0 {
                self.spare.give_back(chunk);
            } else {
                let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the repository took no more");
                self.chunks.send(chunk).map_err(gone)?;
            }
            if is_last {
                break;
            }
        }
        Ok(taken)
    }

    /// Gives a file that was taken its name. Without one it is in no set.
    pub(crate) fn keep(&mut self, path: &Path, mut meta: Metadata, taken: &Taken) {
        (meta.size, meta.mtime) = (taken.size, taken.mtime);
        self.dropped -= taken.size;
        self.bytes += taken.size;
        self.found.push(Found { path: path.to_owned(), meta, kind: Kind::File { number: taken.number } });
    }

    /// The source has sent everything.
    pub(super) fn end(self) -> Sent {
        Sent { found: self.found, bytes: self.bytes, dropped: self.dropped }
    }
}

/// What a source sent, after it has ended.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) found: Vec<Found>,
    pub(super) bytes: u64,
    pub(super) dropped: u64,
}

/// Reads until the buffer is full or nothing comes any more; gives the bytes, and what kept it from going on.
fn fill(from: &mut dyn Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

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
        let (sender, chunks) = unbounded();
        let mut feed = Feed::new(sender, Spare::default(), Progress::default());
        let taken = feed.take(None, &mut Bad(CHUNK + 5)).unwrap();
        assert!((taken.size, taken.failure.unwrap().to_string()) == ((CHUNK + 5) as u64, "a bad sector".to_owned()));
        feed.stream(Path::new("good"), Metadata::default(), &mut &b"whole"[..]).unwrap();
        feed.file(Path::new("empty"), 0, Metadata::default(), &mut io::empty()).unwrap();
        assert!(feed.stream(Path::new("bad"), Metadata::default(), &mut Bad(1)).is_err());
        let short = feed.file(Path::new("short"), 6, Metadata::default(), &mut &b"whole"[..]).unwrap_err();
        assert_eq!(
            (short.kind(), short.to_string().as_str()),
            (io::ErrorKind::UnexpectedEof, "it ended after 5 of 6 bytes")
        );
        feed.file(Path::new("begun"), 2, Metadata::default(), &mut &b"whole"[..]).unwrap();
        let sent = feed.end();
        let found: Vec<_> = sent.found.iter().map(|found| (found.path.to_str().unwrap(), &found.kind)).collect();
        assert_eq!(
            found,
            [
                ("good", &Kind::File { number: 1 }),
                ("empty", &Kind::File { number: 2 }),
                ("begun", &Kind::File { number: 5 })
            ]
        );
        assert_eq!((sent.bytes, sent.dropped), (7, (CHUNK + 5 + 1 + 5) as u64));
        let sent: Vec<_> = chunks.iter().map(|chunk| (chunk.file, chunk.at, chunk.bytes().len())).collect();
        assert_eq!(sent, [(0, 0, CHUNK), (0, 1, 5), (1, 0, 5), (3, 0, 1), (4, 0, 5), (5, 0, 2)]);
    }

    #[test]
    fn a_repository_that_takes_no_more_is_an_error() {
        let (sender, chunks) = unbounded();
        drop(chunks);
        let mut feed = Feed::new(sender, Spare::default(), Progress::default());
        let error = feed.take(None, &mut &b"something"[..]).map(|taken| taken.size).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
