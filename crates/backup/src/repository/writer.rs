//! A set while it is made.

use super::chunks::{Packed, Packer};
use super::feed::{CHUNK, Feed, Kind, Sent};
use super::reader::StoredSet;
use super::tree::{Folder, Trees};
use super::{Repository, SET};
use crate::error::{Error, Result};
use groundskeeper_core::receipt::{Part, SetId};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustic_core::repofile::{BlobType, IndexFile, Node, NodeType, SnapshotFile};
use rustic_core::{Id, SnapshotOptions, StringList};
use std::ffi::OsStr;
use std::path::Path;

/// The parts that are stored so far. Before [`Self::finish`] nothing of them is in a set: what a dead backup leaves is
/// stored already for the next, or goes with a prune.
pub(crate) struct SetWriter<'r> {
    repository: &'r Repository,
    made: Timestamp,
    top: Folder,
    names: Vec<String>,
    added: u64,
}

/// What became of a part.
#[derive(Debug)]
pub(crate) struct Stored<T> {
    /// What the source said at its end.
    pub(crate) told: T,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Repository {
    /// Begins a set. Whoever calls holds the lock.
    pub(crate) fn begin(&self, made: Timestamp) -> SetWriter<'_> {
        SetWriter { repository: self, made, top: Folder::default(), names: Vec::new(), added: 0 }
    }

    /// The chunks that are in packs to stay.
    fn chunks(&self) -> Result<Vec<Id>> {
        let mut chunks = Vec::new();
        for index in self.rustic()?.stream_files::<IndexFile>().map_err(|error| self.error(&error))? {
            let (_, index) = index.map_err(|error| self.error(&error))?;
            let blobs = index.packs.into_iter().flat_map(|pack| pack.blobs);
            chunks.extend(blobs.filter(|blob| blob.tpe == BlobType::Data).map(|blob| *blob.id));
        }
        Ok(chunks)
    }

    fn new_snapshot(&self, made: Timestamp, tags: &str) -> Result<SnapshotFile> {
        SnapshotOptions::default()
            .label("groundskeeper".to_owned())
            .time(made.to_zoned(TimeZone::UTC))
            .add_tags(tags)
            .and_then(|options| options.to_snapshot())
            .map_err(|error| self.error(&error))
    }
}

impl SetWriter<'_> {
    /// Stores what a source sends under the folder `name`. A source that fails, or whose bytes do not all arrive, adds
    /// nothing.
    pub(crate) fn add<T: Send>(
        &mut self,
        name: &str,
        source: impl FnOnce(&mut Feed) -> Result<T> + Send,
    ) -> Result<Stored<T>> {
        let repository = self.repository;
        let progress = repository.progress();
        let packer = Packer::new(&repository.store, &repository.crypt, progress.clone(), repository.chunks()?);
        let (sent, packed) = packer.pack(|chunks, spare| {
            let mut feed = Feed::new(chunks, spare, progress.clone());
            (source(&mut feed), feed.end())
        })?;
        let (told, sent) = sent.map_err(|_| Error::Worker(format!("reading {name} ended in a bug of ours")))?;
        self.added += packed.added;
        let told = told?;
        self.place(name, packed, &sent)?;
        self.names.push(name.to_owned());
        Ok(Stored { told, entries: sent.found.len() as u64, bytes: sent.bytes })
    }

    /// Puts the entries into the set's tree, with the chunks that their files got.
    fn place(&mut self, name: &str, mut packed: Packed, sent: &Sent) -> Result<()> {
        let all = sent.bytes + sent.dropped;
        if packed.bytes != all {
            return Err(Error::Worker(format!("{} of {all} bytes of {name} reached the repository", packed.bytes)));
        }
        for found in &sent.found {
            let last = found.path.file_name().unwrap_or(OsStr::new(""));
            let kind = match &found.kind {
                Kind::Folder => NodeType::Dir,
                Kind::Link { target } => NodeType::from_link(target),
                Kind::File { .. } => NodeType::File,
            };
            let mut node = Node::new_node(last, kind, found.meta.clone());
            if let Kind::File { number } = found.kind {
                let content = packed.files.get_mut(number).map(std::mem::take).unwrap_or_default();
                if content.len() as u64 != found.meta.size.div_ceil(CHUNK as u64) {
                    return Err(Error::Worker(format!("{} did not reach the repository", found.path.display())));
                }
                node.content = Some(content);
            }
            self.top.put(&Path::new(name).join(&found.path), node)?;
        }
        Ok(())
    }

    /// Writes the folders, looks whether everything of these parts is there (rung 1), and only then writes the one snapshot
    /// that makes this a set. `before` is told the bytes that were added, and keeps what must be there when the set is.
    pub(crate) fn finish<T>(mut self, set: &SetId, parts: &[Part], before: impl FnOnce(u64) -> Result<T>) -> Result<T> {
        let repository = self.repository;
        let view = repository.rustic()?.to_indexed_ids().map_err(|error| repository.error(&error))?;
        let is_there = |id: &rustic_core::TreeId| view.get_tree(id).is_ok();
        let mut trees = Trees::new(&repository.store, &repository.crypt, &is_there);
        let root = trees.write(&self.top)?;
        self.added += trees.finish()?;
        let mut snapshot = repository.new_snapshot(self.made, &format!("{SET},{set}"))?;
        snapshot.tree = root;
        let mut paths = StringList::default();
        self.names.iter().for_each(|name| paths.add(format!("/{name}")));
        snapshot.paths = paths;
        let made = StoredSet { id: set.clone(), made: self.made, parts: self.names.clone(), snapshot };
        let wrong = repository.stored(&made, parts)?;
        if !wrong.is_empty() {
            return Err(Error::Damaged { place: repository.place().to_owned(), why: wrong.join("; ") });
        }
        let kept = before(self.added)?;
        repository.confirm_lock()?;
        view.save_snapshots(vec![made.snapshot]).map_err(|error| repository.error(&error))?;
        Ok(kept)
    }
}
