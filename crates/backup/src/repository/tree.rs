//! The folders of a set, written as restic's tree blobs into packs of their own.
//!
//! Rejected: letting `rustic_core` write them. It keeps the order in which entries arrive, and readers of the format
//! search folders as sorted by name.

use super::crypt::{Crypt, LEVEL, OVERHEAD};
use super::store::Store;
use crate::error::{Error, Result};
use rustic_core::repofile::{Node, NodeType, Tree};
use rustic_core::{BytesList, FileType, Id, TreeId, WriteBackend};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

/// A pack is closed when it is larger. Folders are small: nearly always there is one pack.
const PACK: usize = 16 << 20;

/// A folder while it is put together.
#[derive(Debug, Default)]
pub(super) struct Folder {
    node: Option<Node>,
    folders: BTreeMap<OsString, Folder>,
    others: BTreeMap<OsString, Node>,
}

impl Folder {
    /// Puts a node at a path; folders on the way that were not announced get mode 0700.
    pub(super) fn put(&mut self, path: &Path, node: Node) -> Result<()> {
        let mut names: Vec<&OsStr> = Vec::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => names.push(name),
                _ => return Err(Error::Worker(format!("`{}` is no path of a set", path.display()))),
            }
        }
        let Some(last) = names.pop() else {
            return Err(Error::Worker("an entry of the source has no name".to_owned()));
        };
        let mut folder = self;
        for name in names {
            folder = folder.folders.entry(name.to_owned()).or_default();
        }
        let name = last.to_owned();
        if node.is_dir() {
            folder.folders.entry(name).or_default().node = Some(node);
        } else if folder.others.insert(name, node).is_some() {
            return Err(Error::Worker(format!("the source sent `{}` twice", path.display())));
        }
        Ok(())
    }
}

/// Writes folders as blobs.
pub(super) struct Trees<'r> {
    store: &'r Store,
    crypt: &'r Crypt,
    /// What the repository already has need not be written.
    is_there: &'r dyn Fn(&TreeId) -> bool,
    written: BTreeSet<Id>,
    pack: Vec<u8>,
    blobs: Vec<Blob>,
    packs: Vec<Pack>,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Blob {
    id: Id,
    #[serde(skip)]
    raw: [u8; 32],
    #[serde(rename = "type")]
    kind: &'static str,
    offset: usize,
    length: usize,
    uncompressed_length: usize,
}

#[derive(Debug, Serialize)]
struct Pack {
    id: Id,
    blobs: Vec<Blob>,
}

#[derive(Debug, Serialize)]
struct Index<'a> {
    packs: &'a [Pack],
}

impl<'r> Trees<'r> {
    pub(super) fn new(store: &'r Store, crypt: &'r Crypt, is_there: &'r dyn Fn(&TreeId) -> bool) -> Self {
        Self {
            store,
            crypt,
            is_there,
            written: BTreeSet::new(),
            pack: Vec::new(),
            blobs: Vec::new(),
            packs: Vec::new(),
            bytes: 0,
        }
    }

    /// Writes a folder and all below it.
    pub(super) fn write(&mut self, folder: &Folder) -> Result<TreeId> {
        let mut nodes: BTreeMap<OsString, Node> = folder.others.clone();
        for (name, inner) in &folder.folders {
            let mut node = inner.node.clone().unwrap_or_else(|| {
                let meta = rustic_core::repofile::Metadata { mode: Some(0o700), ..Default::default() };
                Node::new_node(name, NodeType::Dir, meta)
            });
            node.subtree = Some(self.write(inner)?);
            nodes.insert(name.clone(), node);
        }
        // restic sorts by the name as it is stored.
        let mut nodes: Vec<Node> = nodes.into_values().collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        let tree = Tree { nodes };
        let (json, id) = tree.serialize().map_err(|error| Error::Worker(error.to_string()))?;
        if !self.written.contains(&*id) && !(self.is_there)(&id) {
            self.add(&json)?;
        }
        Ok(id)
    }

    fn add(&mut self, json: &[u8]) -> Result<()> {
        let broken = |error: std::io::Error| Error::Worker(format!("a folder could not be written: {error}"));
        let compressed = zstd::bulk::compress(json, LEVEL).map_err(broken)?;
        let sealed = self.crypt.encrypt(&compressed).map_err(broken)?;
        let raw: [u8; 32] = Sha256::digest(json).into();
        let id = Id::new(raw);
        let blob = Blob {
            id,
            raw,
            kind: "tree",
            offset: self.pack.len(),
            length: sealed.len(),
            uncompressed_length: json.len(),
        };
        self.pack.extend(sealed);
        self.blobs.push(blob);
        self.written.insert(id);
        if self.pack.len() >= PACK { self.close() } else { Ok(()) }
    }

    /// A pack is its blobs, the encrypted list of them, and the length of that list.
    fn close(&mut self) -> Result<()> {
        if self.blobs.is_empty() {
            return Ok(());
        }
        let mut header = Vec::new();
        for blob in &self.blobs {
            // 3: a compressed tree.
            header.push(3);
            for number in [blob.length, blob.uncompressed_length] {
                let number = u32::try_from(number).map_err(|_| Error::Worker("a folder is too large".to_owned()))?;
                header.extend(number.to_le_bytes());
            }
            header.extend(blob.raw);
        }
        let length = (header.len() + OVERHEAD) as u32;
        let sealed = self.crypt.encrypt(&header).map_err(|error| Error::Worker(error.to_string()))?;
        let mut pack = std::mem::take(&mut self.pack);
        pack.extend(sealed);
        pack.extend(length.to_le_bytes());
        let id = digest(&pack);
        self.bytes += pack.len() as u64;
        self.save(FileType::Pack, &id, pack)?;
        self.packs.push(Pack { id, blobs: std::mem::take(&mut self.blobs) });
        Ok(())
    }

    /// Closes the last pack and writes the index of all; gives the bytes that were added.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.close()?;
        if self.packs.is_empty() {
            return Ok(0);
        }
        let json =
            serde_json::to_vec(&Index { packs: &self.packs }).map_err(|error| Error::Worker(error.to_string()))?;
        let sealed = self.crypt.seal_file(&json).map_err(|error| Error::Worker(error.to_string()))?;
        self.bytes += sealed.len() as u64;
        self.save(FileType::Index, &digest(&sealed), sealed)?;
        Ok(self.bytes)
    }

    fn save(&self, tpe: FileType, id: &Id, content: Vec<u8>) -> Result<()> {
        self.store
            .write_bytes(tpe, id, false, BytesList::from(content))
            .map_err(|error| super::store_error(self.store, &error))
    }
}

/// SHA-256, by which everything in the repository is named.
pub(super) fn digest(data: &[u8]) -> Id {
    Id::new(Sha256::digest(data).into())
}
