//! A set while it is made.

use super::feed::{Feed, Kind, Sent, numbered, pipe};
use super::reader::StoredSet;
use super::tree::{Folder, Trees};
use super::{PENDING, Repository, SET};
use crate::error::{Error, Result};
use groundskeeper_core::receipt::{Part, SetId};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustic_core::repofile::{Node, NodeType, SnapshotFile, SnapshotId};
use rustic_core::{BackupOptions, DataId, IndexedTree, ParentOptions, SnapshotOptions, StringList};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread;

/// The parts that are stored so far. Dropped before [`Self::finish`], it takes its traces away.
pub(crate) struct SetWriter<'r> {
    repository: &'r Repository,
    made: Timestamp,
    top: Folder,
    names: Vec<String>,
    pending: Vec<SnapshotId>,
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
    /// Begins a set. Whoever calls holds the lock, so what is pending belongs to a process that is dead.
    pub(crate) fn begin(&self, made: Timestamp) -> Result<SetWriter<'_>> {
        let (snapshots, _) = self.snapshots()?;
        let left: Vec<SnapshotId> = snapshots
            .into_iter()
            .filter(|snapshot| snapshot.tags.contains(PENDING))
            .map(|snapshot| snapshot.id)
            .collect();
        if !left.is_empty() {
            tracing::warn!(
                count = left.len(),
                "an earlier backup ended in the middle; what it left belongs to no set and goes"
            );
            self.rustic()?.delete_snapshots(&left).map_err(|error| self.error(&error))?;
        }
        Ok(SetWriter {
            repository: self,
            made,
            top: Folder::default(),
            names: Vec::new(),
            pending: Vec::new(),
            added: 0,
        })
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
        let (mut feed, entries) = pipe(self.repository.progress().clone());
        let snapshot = self.repository.new_snapshot(self.made, PENDING)?;
        let rustic = self.repository.rustic()?.to_indexed_ids().map_err(|error| self.repository.error(&error))?;
        let options = BackupOptions::default().no_scan(true).parent_opts(ParentOptions::default().force(true));
        let (archived, sent) = thread::scope(|scope| {
            let sending = scope.spawn(move || {
                let told = source(&mut feed);
                (told, feed.end())
            });
            let archived = rustic.archive(&options, &entries, snapshot, &[PathBuf::from("/")]);
            // Nobody reads any more: a source that still sends has to notice.
            entries.close();
            (archived, sending.join())
        });
        // What is wrong with the repository also breaks the source, so it is told first.
        let archived = archived.map_err(|error| self.repository.error(&error))?;
        self.pending.push(archived.id);
        let (told, sent) = sent.map_err(|_| Error::Worker(format!("reading {name} ended in a bug of ours")))?;
        let told = told?;
        entries.check(&sent)?;
        drop(rustic);
        self.place(name, &archived, &sent)?;
        self.added += archived.summary.as_ref().map_or(0, |summary| summary.data_added_packed);
        self.names.push(name.to_owned());
        Ok(Stored { told, entries: sent.found.len() as u64, bytes: sent.bytes })
    }

    /// Puts the entries into the set's tree under their real names, with the content that their numbers got.
    fn place(&mut self, name: &str, archived: &SnapshotFile, sent: &Sent) -> Result<()> {
        let view = self.repository.rustic()?.to_indexed_ids().map_err(|error| self.repository.error(&error))?;
        let mut contents = self.contents(&view, archived)?;
        if contents.len() as u64 != sent.files {
            let why = format!("{} of {} files of {name} reached the repository", contents.len(), sent.files);
            return Err(Error::Worker(why));
        }
        for found in &sent.found {
            let last = found.path.file_name().unwrap_or(OsStr::new(""));
            let mut node = match &found.kind {
                Kind::Folder => Node::new_node(last, NodeType::Dir, found.meta.clone()),
                Kind::Link { target } => Node::new_node(last, NodeType::from_link(target), found.meta.clone()),
                Kind::File { .. } => Node::new_node(last, NodeType::File, found.meta.clone()),
            };
            if let Kind::File { number } = found.kind {
                let content = contents.remove(&numbered(number));
                let missing = || Error::Worker(format!("{} did not reach the repository", found.path.display()));
                node.content = Some(content.ok_or_else(missing)?);
            }
            self.top.put(&Path::new(name).join(&found.path), node)?;
        }
        Ok(())
    }

    /// The chunks of each number.
    fn contents<S: IndexedTree>(
        &self,
        view: &super::Rustic<S>,
        archived: &SnapshotFile,
    ) -> Result<BTreeMap<PathBuf, Vec<DataId>>> {
        let mut contents = BTreeMap::new();
        let tree = view.get_tree(&archived.tree).map_err(|error| self.repository.error(&error))?;
        for folder in &tree.nodes {
            let Some(subtree) = folder.subtree else { continue };
            let numbers = view.get_tree(&subtree).map_err(|error| self.repository.error(&error))?;
            for node in numbers.nodes.into_iter().filter(|node| node.node_type == NodeType::File) {
                let path = Path::new(&folder.name).join(&node.name);
                contents.insert(path, node.content.unwrap_or_default());
            }
        }
        Ok(contents)
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

impl Drop for SetWriter<'_> {
    fn drop(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let gone = self.repository.rustic().map(|rustic| rustic.delete_snapshots(&self.pending));
        if !matches!(gone, Ok(Ok(()))) {
            tracing::warn!("what this backup left could not be taken away; the next one does it");
        }
    }
}
