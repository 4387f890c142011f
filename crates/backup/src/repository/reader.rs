//! What the repository holds: sets, their entries, and whether the bytes are still those that were written.

use super::crypt::Crypt;
use super::packs::digest;
use super::unpack::Plan;
use super::{Repository, Rustic, SET};
use crate::error::{Error, Result};
use groundskeeper_core::receipt::{Part, SetId};
use jiff::Timestamp;
use rustic_core::repofile::{IndexFile, IndexPack, Node, NodeType, SnapshotFile};
use rustic_core::{
    DataId, FileType, Id, IndexedFull, LocalDestination, LsOptions, ReadBackend, RestoreOptions, RestorePlan,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A set as the repository has it.
#[derive(Debug, Clone)]
pub(crate) struct StoredSet {
    pub(crate) id: SetId,
    pub(crate) made: Timestamp,
    /// The folders at its top.
    pub(crate) parts: Vec<String>,
    pub(super) snapshot: SnapshotFile,
}

/// What reading back has shown.
#[derive(Debug, Default)]
pub(crate) struct Verified {
    /// Read now, and known from before.
    pub(crate) read: usize,
    pub(crate) known: usize,
    pub(crate) bytes: u64,
    /// Not read, because the time was over.
    pub(crate) unread: usize,
    /// What is wrong, by the set that needs it. A pack that no set needs harms none.
    pub(crate) damage: BTreeMap<SetId, Vec<String>>,
}

/// The entries and bytes of one part.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Repository {
    /// Newest first. A set whose snapshot cannot be read any more is not among them: see [`Self::lost`].
    pub(crate) fn sets(&self) -> Result<Vec<StoredSet>> {
        let mut sets: Vec<StoredSet> = self.snapshots()?.0.into_iter().filter_map(stored_set).collect();
        sets.sort_by(|one, other| other.id.cmp(&one.id));
        Ok(sets)
    }

    /// Sets that have a receipt and no readable snapshot, with what is wrong. Only where a snapshot is damaged: the
    /// receipt of a set that never came about, or was removed, is none of a lost one.
    pub(crate) fn lost(&self) -> Result<Vec<(SetId, String)>> {
        let (readable, damaged) = self.snapshots()?;
        if damaged.is_empty() {
            return Ok(Vec::new());
        }
        let there: BTreeSet<SetId> = readable.into_iter().filter_map(stored_set).map(|set| set.id).collect();
        let why = format!("its snapshot cannot be found, and of the snapshots {} is damaged", damaged.join(", "));
        let told = self.receipt_names()?.into_iter().filter(|set| !there.contains(set));
        Ok(told.map(|set| (set, why.clone())).collect())
    }

    /// The snapshots, and the names of those that are not what was written. One by one: a bad one must not hide the
    /// others, and one that its writer removes meanwhile is no trouble.
    pub(super) fn snapshots(&self) -> Result<(Vec<SnapshotFile>, Vec<String>)> {
        let (mut snapshots, mut damaged) = (Vec::new(), Vec::new());
        for (id, _) in self.store.list_with_size(FileType::Snapshot).map_err(|error| self.error(&error))? {
            let name = super::store::name(FileType::Snapshot, &id);
            let sealed = match self.store.get(&name) {
                Ok(sealed) => sealed,
                Err(object_store::Error::NotFound { .. }) => continue,
                Err(error) => return Err(self.store.refused(&error)),
            };
            match self.snapshot(&id, &sealed) {
                Some(snapshot) => snapshots.push(snapshot),
                None => damaged.push(name),
            }
        }
        if !damaged.is_empty() {
            tracing::error!(?damaged, "snapshots are not what was written");
        }
        Ok((snapshots, damaged))
    }

    fn snapshot(&self, id: &Id, sealed: &[u8]) -> Option<SnapshotFile> {
        if digest(sealed) != *id {
            return None;
        }
        let text = self.crypt.decrypt(sealed)?;
        // A first byte of 2 says that what follows is compressed.
        let text = match text.first() {
            Some(2) => zstd::decode_all(&text[1..]).ok()?,
            _ => text,
        };
        let mut snapshot: SnapshotFile = serde_json::from_slice(&text).ok()?;
        snapshot.id = (*id).into();
        Some(snapshot)
    }

    /// The named set, or the newest.
    pub(crate) fn set(&self, id: Option<&SetId>) -> Result<StoredSet> {
        let mut sets = self.sets()?.into_iter();
        let found = match id {
            Some(id) => sets.find(|set| set.id == *id),
            None => sets.next(),
        };
        found.ok_or_else(|| Error::NoSet(id.map_or_else(|| "at all in the repository".to_owned(), ToString::to_string)))
    }

    /// Rung 1: every entry and byte of the parts is there, and every chunk is in a pack that is there. Gives what is
    /// wrong.
    pub(crate) fn stored(&self, set: &StoredSet, parts: &[Part]) -> Result<Vec<String>> {
        let view = self.full()?;
        let (tallies, chunks) = self.walk(&view, set)?;
        let sizes = self.pack_sizes()?;
        let mut wrong: Vec<String> = parts
            .iter()
            .filter_map(|part| {
                let stored = tallies.get(&part.name).copied().unwrap_or_default();
                let sent = Tally { entries: part.entries, bytes: part.bytes };
                (stored != sent).then(|| {
                    format!(
                        "{}: {} of {} entries and {} of {} bytes are stored",
                        part.name, stored.entries, sent.entries, stored.bytes, sent.bytes
                    )
                })
            })
            .collect();
        let (mut absent, mut packs) = (0, BTreeSet::new());
        for chunk in &chunks {
            let Ok(entry) = view.get_index_entry(chunk) else {
                absent += 1;
                continue;
            };
            let end = u64::from(entry.location.offset) + u64::from(entry.location.length);
            if sizes.get(&*entry.pack).is_none_or(|size| end > u64::from(*size)) {
                absent += 1;
                packs.insert(entry.pack.to_hex().to_string());
            }
        }
        if absent > 0 {
            let mut why = format!("{absent} of {} chunks are in no pack", chunks.len());
            if let Some(pack) = packs.first() {
                let _ = write!(why, "; gone or too short: {} packs, such as {pack}", packs.len());
            }
            wrong.push(why);
        }
        Ok(wrong)
    }

    fn pack_sizes(&self) -> Result<BTreeMap<Id, u32>> {
        let listed = self.store.list_with_size(FileType::Pack).map_err(|error| self.error(&error))?;
        Ok(listed.into_iter().collect())
    }

    fn full(&self) -> Result<Rustic<rustic_core::IndexedFullStatus>> {
        self.steady(FileType::Index, || self.rustic()?.to_indexed().map_err(|error| self.error(&error)))
    }

    /// The tally of each part, and the chunks of all. A file whose chunks do not add up to its size counts what they
    /// add up to.
    fn walk<S: IndexedFull>(
        &self,
        view: &Rustic<S>,
        set: &StoredSet,
    ) -> Result<(BTreeMap<String, Tally>, HashSet<DataId>)> {
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        let mut chunks = HashSet::new();
        let top = root(set);
        let nodes = view.ls(&top, &LsOptions::default()).map_err(|error| self.error(&error))?;
        for entry in nodes {
            let (path, node) = entry.map_err(|error| self.error(&error))?;
            let mut names = path.components();
            let Some(part) = names.next().map(|name| name.as_os_str().to_string_lossy().into_owned()) else { continue };
            if names.next().is_none() && node.is_dir() {
                // The part's own folder is ours, not the source's.
                tallies.entry(part).or_default();
                continue;
            }
            let tally = tallies.entry(part).or_default();
            tally.entries += 1;
            let content = node.content.unwrap_or_default();
            for chunk in &content {
                let entry = view.get_index_entry(chunk);
                tally.bytes += entry.map_or(0, |entry| u64::from(entry.data_length()));
            }
            chunks.extend(content);
        }
        Ok((tallies, chunks))
    }

    /// Rung 2: reads back every pack that was not read back before, and holds it against its name; then decrypts, unpacks
    /// and hashes each chunk and folder in it. A pack that is gone or has another length is wrong without reading. After
    /// `budget` none is begun any more; the next time goes on with those.
    pub(crate) fn read_back(&self, budget: Duration) -> Result<Verified> {
        let started = Instant::now();
        let mut verified = Verified::default();
        let rustic = self.rustic()?;
        let mut good = self.verified_packs()?;
        let mut bad: Vec<(IndexPack, String)> = Vec::new();
        let sizes = self.pack_sizes()?;
        let unread = sizes.iter().filter(|(pack, _)| !good.contains(&pack.to_hex().to_string()));
        let _shown = self.progress.begin("reading back", Some(unread.map(|(_, size)| u64::from(*size)).sum()));
        let mut present = BTreeSet::new();
        for index in rustic.stream_files::<IndexFile>().map_err(|error| self.error(&error))? {
            let (_, index) = index.map_err(|error| self.error(&error))?;
            for pack in index.packs {
                let name = pack.id.to_hex().to_string();
                present.insert(name.clone());
                let size = sizes.get(&*pack.id).copied();
                if let Some(why) = wrong_size(&pack, size) {
                    good.remove(&name);
                    bad.push((pack, why));
                } else if good.contains(&name) {
                    verified.known += 1;
                } else if started.elapsed() >= budget {
                    verified.unread += 1;
                } else {
                    verified.read += 1;
                    verified.bytes += u64::from(size.unwrap_or(0));
                    self.progress.add_bytes(u64::from(size.unwrap_or(0)));
                    self.progress.add_file();
                    match self.wrong(&pack) {
                        None => drop(good.insert(name)),
                        // A store that does not answer says nothing about what it holds. What was read so far is known.
                        Some(_) if let Some(why) = self.store.failure() => {
                            self.keep_verified_packs(&good)?;
                            return Err(Error::Place { place: self.place().to_owned(), why });
                        }
                        Some(why) => bad.push((pack, why)),
                    }
                }
            }
        }
        good.retain(|name| present.contains(name));
        self.keep_verified_packs(&good)?;
        if !bad.is_empty() {
            verified.damage = self.harmed(&bad)?;
        }
        Ok(verified)
    }

    /// What is wrong with a pack, if anything.
    fn wrong(&self, pack: &IndexPack) -> Option<String> {
        let data = match self.store.read_full(FileType::Pack, &pack.id) {
            Ok(data) => data,
            Err(error) => return Some(format!("pack {} cannot be read: {}", pack.id, super::plain(&error))),
        };
        if digest(&data) != *pack.id {
            return Some(format!("pack {} is not what was written", pack.id));
        }
        let unreadable = pack.blobs.iter().find(|blob| {
            let (start, length) = (blob.location.offset as usize, blob.location.length as usize);
            let sealed = data.get(start..start + length);
            let packed = blob.location.uncompressed_length.map(|length| length.get() as usize);
            sealed.and_then(|sealed| open(&self.crypt, sealed, packed)).is_none_or(|text| digest(&text) != *blob.id)
        });
        unreadable.map(|blob| format!("chunk {} in pack {} is not what was written", blob.id, pack.id))
    }

    /// Which sets need something of these packs.
    fn harmed(&self, bad: &[(IndexPack, String)]) -> Result<BTreeMap<SetId, Vec<String>>> {
        let mut harmed: BTreeMap<SetId, Vec<String>> = BTreeMap::new();
        let view = self.full();
        for set in self.sets()? {
            let walked = view
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|view| self.walk(view, &set).map(|(_, chunks)| chunks).map_err(|error| error.to_string()));
            let wrong: Vec<String> = match walked {
                // Its folders cannot be read any more, so it is harmed whatever else it needs.
                Err(why) => bad.iter().map(|(_, why)| why.clone()).chain([why]).collect(),
                Ok(chunks) => {
                    let needed =
                        |pack: &IndexPack| pack.blobs.iter().any(|blob| chunks.contains(&DataId::from(*blob.id)));
                    bad.iter().filter(|(pack, _)| needed(pack)).map(|(_, why)| why.clone()).collect()
                }
            };
            if !wrong.is_empty() {
                harmed.insert(set.id, wrong);
            }
        }
        if let Some(why) = self.store.failure() {
            return Err(Error::Place { place: self.place().to_owned(), why });
        }
        Ok(harmed)
    }

    /// Writes a part into a folder, which must be empty or not there yet. Gives what was written.
    pub(crate) fn restore(&self, set: &StoredSet, part: &str, into: &Path) -> Result<Tally> {
        let refused = |why: String| Error::Target { path: into.to_owned(), why };
        super::make_private(into).map_err(|error| refused(error.to_string()))?;
        let mut inside = std::fs::read_dir(into).map_err(|error| refused(error.to_string()))?;
        if inside.next().is_some() {
            return Err(refused("it is not empty, and nothing that is there is ever overwritten".to_owned()));
        }
        let view = self.full()?;
        let node = view.node_from_path(set.snapshot.tree, Path::new(part)).map_err(|error| self.error(&error))?;
        let nodes = view.ls(&node, &LsOptions::default()).map_err(|error| self.error(&error))?;
        let plan = Plan::make(&view, nodes.clone(), into, self)?;
        let shown = self.progress.begin(format!("restoring {part}"), Some(plan.bytes()));
        plan.write(self, part)?;
        drop(shown);
        self.describe(&view, nodes, into)?;
        let written = measure(into).map_err(|error| refused(error.to_string()))?;
        let (tallies, _) = self.walk(&view, set)?;
        let wanted = tallies.get(part).copied().unwrap_or_default();
        if written != wanted {
            let why = format!(
                "{} of {} entries and {} of {} bytes of {part} were restored",
                written.entries, wanted.entries, written.bytes, wanted.bytes
            );
            return Err(Error::Damaged { place: self.place().to_owned(), why });
        }
        Ok(written)
    }

    /// Links, and the modes, owners and times of all. With an empty plan `rustic_core` writes no bytes of files.
    fn describe<S: IndexedFull>(
        &self,
        view: &Rustic<S>,
        nodes: impl Iterator<Item = rustic_core::RusticResult<(PathBuf, Node)>>,
        into: &Path,
    ) -> Result<()> {
        let failed = |error: &rustic_core::RusticError| self.harm(into, error);
        let target = into.display().to_string();
        let destination = LocalDestination::new(&target, true, false).map_err(|error| failed(&error))?;
        // Only root can give files away.
        let options = RestoreOptions::default().no_ownership(!rustix::process::geteuid().is_root());
        view.restore(RestorePlan::default(), &options, nodes, &destination).map_err(|error| failed(&error))
    }

    /// Who is at fault for an error of a restore: the folder that is written to, the repository's place, or its bytes.
    fn harm(&self, into: &Path, error: &rustic_core::RusticError) -> Error {
        let mut causes =
            std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
        match causes.find_map(|cause| cause.downcast_ref::<io::Error>()) {
            Some(why) => Error::Target { path: into.to_owned(), why: why.to_string() },
            None => self.error(error),
        }
    }
}

/// What lies in a folder: entries below it, and the bytes of its files.
fn measure(folder: &Path) -> std::io::Result<Tally> {
    let mut tally = Tally::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            tally.entries += 1;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                tally.bytes += entry.metadata()?.len();
            }
        }
    }
    Ok(tally)
}

fn stored_set(snapshot: SnapshotFile) -> Option<StoredSet> {
    if !snapshot.tags.contains(SET) {
        return None;
    }
    let id: SetId = snapshot.tags.iter().find_map(|tag| tag.parse().ok())?;
    let parts = snapshot.paths.iter().map(|path| path.trim_start_matches('/').to_owned()).collect();
    Some(StoredSet { id, made: snapshot.time.timestamp(), parts, snapshot })
}

/// The top of a set as a node.
fn root(set: &StoredSet) -> Node {
    let mut node = Node::new_node(OsStr::new(""), NodeType::Dir, rustic_core::repofile::Metadata::default());
    node.subtree = Some(set.snapshot.tree);
    node
}

fn wrong_size(pack: &IndexPack, size: Option<u32>) -> Option<String> {
    match size {
        None => Some(format!("pack {} is gone", pack.id)),
        Some(size) if size != pack.pack_size() => {
            Some(format!("pack {} has {size} bytes instead of {}", pack.id, pack.pack_size()))
        }
        Some(_) => None,
    }
}

/// Decrypts and unpacks a chunk.
fn open(crypt: &Crypt, sealed: &[u8], unpacked: Option<usize>) -> Option<Vec<u8>> {
    let text = crypt.decrypt(sealed)?;
    match unpacked {
        None => Some(text),
        Some(length) => zstd::bulk::decompress(&text, length).ok(),
    }
}
