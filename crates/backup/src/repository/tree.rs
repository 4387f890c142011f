//! The folders of a set, written as restic's tree blobs into packs of their own.
//!
//! Rejected: letting `rustic_core` write them. It keeps the order in which entries arrive, and readers of the format
//! search folders as sorted by name.

use super::crypt::{Crypt, LEVEL};
use super::packs::{Filling, Kind, Pack, write_index};
use super::store::Store;
use crate::error::{Error, Result};
use rustic_core::repofile::{Node, NodeType, Tree};
use rustic_core::{Id, TreeId};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

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
    filling: Filling,
    packs: Vec<Pack>,
}

impl<'r> Trees<'r> {
    pub(super) fn new(store: &'r Store, crypt: &'r Crypt, is_there: &'r dyn Fn(&TreeId) -> bool) -> Self {
        let (written, filling) = (BTreeSet::new(), Filling::new(Kind::Tree));
        Self { store, crypt, is_there, written, filling, packs: Vec::new() }
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
        let mut compressed = zstd::bulk::compress(json, LEVEL).map_err(broken)?;
        let sealed = self.crypt.seal(&mut compressed).map_err(broken)?;
        let id: [u8; 32] = Sha256::digest(json).into();
        self.filling.add(id, &sealed, json.len());
        self.written.insert(Id::new(id));
        if self.filling.is_full() { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        if !self.filling.is_empty() {
            let filled = std::mem::replace(&mut self.filling, Filling::new(Kind::Tree));
            self.packs.push(filled.close(self.store, self.crypt)?.0);
        }
        Ok(())
    }

    /// Closes the last pack and writes the index of all; gives the bytes that were added.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.close()?;
        if self.packs.is_empty() {
            return Ok(0);
        }
        let index = write_index(&self.packs, self.store, self.crypt)?;
        Ok(index + self.packs.iter().map(|pack| pack.bytes).sum::<u64>())
    }
}
