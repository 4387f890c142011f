//! Packs: blobs one after the other, the encrypted list of them, and the length of that list. An index says which blob is
//! in which pack.

use super::crypt::{Crypt, OVERHEAD, Sealed};
use super::store::Store;
use crate::error::{Error, Result};
use bytes::Bytes;
use rustic_core::{BytesList, FileType, Id, WriteBackend};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// A pack is closed when it is larger. They lie in memory until then, and several are under way.
pub(super) const PACK: usize = 16 << 20;
/// Or when it has so many blobs: `rustic_core` counts those of a pack in 16 bits when it prunes.
const MOST_BLOBS: usize = 10_000;
/// For the blob that fills a pack, and the list at its end.
const ROOM: usize = 1 << 20;

/// What a blob holds: bytes of files, or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Data,
    Tree,
}

impl Kind {
    /// Of a compressed blob, in the list at a pack's end.
    fn byte(self) -> u8 {
        match self {
            Self::Data => 2,
            Self::Tree => 3,
        }
    }
}

#[derive(Debug, Serialize)]
struct Blob {
    id: Id,
    #[serde(rename = "type")]
    kind: Kind,
    offset: usize,
    length: usize,
    uncompressed_length: usize,
}

/// A pack that blobs are put into.
#[derive(Debug)]
pub(super) struct Filling {
    kind: Kind,
    content: Vec<u8>,
    /// Each with its id as bytes.
    blobs: Vec<(Blob, [u8; 32])>,
}

impl Filling {
    pub(super) fn new(kind: Kind) -> Self {
        Self::in_buffer(kind, Vec::with_capacity(PACK + ROOM))
    }

    /// In the buffer of a pack that was closed.
    pub(super) fn in_buffer(kind: Kind, mut content: Vec<u8>) -> Self {
        content.clear();
        Self { kind, content, blobs: Vec::new() }
    }

    /// Adds a blob; `id` is the SHA-256 of its `unpacked` bytes.
    pub(super) fn add(&mut self, id: [u8; 32], sealed: &Sealed<'_>, unpacked: usize) {
        let offset = self.content.len();
        sealed.append_to(&mut self.content);
        let length = self.content.len() - offset;
        let blob = Blob { id: Id::new(id), kind: self.kind, offset, length, uncompressed_length: unpacked };
        self.blobs.push((blob, id));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.content.len() >= PACK || self.blobs.len() >= MOST_BLOBS
    }

    /// Writes it, and gives its buffer back where the store does. Nothing finds what is in it before an index tells.
    pub(super) fn close(self, store: &Store, crypt: &Crypt) -> Result<(Pack, Option<Vec<u8>>)> {
        let mut list = Vec::new();
        for (blob, id) in &self.blobs {
            list.push(blob.kind.byte());
            for number in [blob.length, blob.uncompressed_length] {
                let number = u32::try_from(number).map_err(|_| Error::Worker("a blob is too large".to_owned()))?;
                list.extend(number.to_le_bytes());
            }
            list.extend(id);
        }
        let length = (list.len() + OVERHEAD) as u32;
        let mut content = self.content;
        let sealed = crypt.seal(&mut list).map_err(|error| Error::Worker(error.to_string()))?;
        sealed.append_to(&mut content);
        content.extend(length.to_le_bytes());
        let (id, bytes) = (digest(&content), content.len() as u64);
        let content = Bytes::from(content);
        save(store, FileType::Pack, &id, content.clone())?;
        let blobs = self.blobs.into_iter().map(|(blob, _)| blob).collect();
        Ok((Pack { id, blobs, bytes }, content.try_into_mut().ok().map(Vec::from)))
    }
}

/// A pack that is in the repository.
#[derive(Debug, Serialize)]
pub(super) struct Pack {
    id: Id,
    blobs: Vec<Blob>,
    #[serde(skip)]
    pub(super) bytes: u64,
}

impl Pack {
    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }
}

/// Writes an index of these packs; gives its bytes.
pub(super) fn write_index(packs: &[Pack], store: &Store, crypt: &Crypt) -> Result<u64> {
    #[derive(Serialize)]
    struct Index<'a> {
        packs: &'a [Pack],
    }
    let json = serde_json::to_vec(&Index { packs }).map_err(|error| Error::Worker(error.to_string()))?;
    let sealed = crypt.seal_file(&json).map_err(|error| Error::Worker(error.to_string()))?;
    let bytes = sealed.len() as u64;
    save(store, FileType::Index, &digest(&sealed), sealed.into())?;
    Ok(bytes)
}

fn save(store: &Store, tpe: FileType, id: &Id, content: Bytes) -> Result<()> {
    store.write_bytes(tpe, id, false, BytesList::from(content)).map_err(|error| super::store_error(store, &error))
}

/// SHA-256, by which everything in the repository is named.
pub(super) fn digest(data: &[u8]) -> Id {
    Id::new(Sha256::digest(data).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_core::repofile::MasterKey;

    #[test]
    fn a_pack_of_small_blobs_is_full_before_anybody_miscounts_them() {
        let crypt = Crypt::new(&MasterKey::new());
        let mut filling = Filling::new(Kind::Data);
        for number in 0..MOST_BLOBS {
            assert!(!filling.is_full(), "after {number}");
            filling.add([0; 32], &crypt.seal(&mut [1]).unwrap(), 1);
        }
        assert!(filling.is_full() && filling.content.len() < PACK);
    }
}
