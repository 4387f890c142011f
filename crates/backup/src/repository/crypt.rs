//! restic's encryption and compression of blobs and files, for what `rustic_core` does not let us write or read itself.
//!
//! A blob is `nonce (16) | AES-256-CTR text | Poly1305-AES tag (16)`; before that it may be compressed with zstd. A file
//! (index, snapshot) is the same, with the byte 2 before its compressed text.

use aes256ctr_poly1305aes::aead::AeadInPlace;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce, Tag};
use rustic_core::repofile::MasterKey;
use std::io;

/// What encryption adds to a text: nonce and tag.
pub(super) const OVERHEAD: usize = 32;
/// As `rustic_core` is told in [`super::settings`].
pub(super) const LEVEL: i32 = 1;

pub(super) struct Crypt {
    cipher: Aes256CtrPoly1305Aes,
}

impl Crypt {
    pub(super) fn new(key: &MasterKey) -> Self {
        let bytes: Vec<u8> = [&key.encrypt[..], &key.mac.k[..], &key.mac.r[..]].concat();
        Self { cipher: Aes256CtrPoly1305Aes::new(Key::from_slice(&bytes)) }
    }

    pub(super) fn encrypt(&self, text: &[u8]) -> io::Result<Vec<u8>> {
        let (mut text, mut sealed) = (text.to_vec(), Vec::with_capacity(text.len() + OVERHEAD));
        self.seal(&mut text)?.append_to(&mut sealed);
        Ok(sealed)
    }

    /// Encrypts a text where it is.
    pub(super) fn seal<'t>(&self, text: &'t mut [u8]) -> io::Result<Sealed<'t>> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let tag = self.cipher.encrypt_in_place_detached(Nonce::from_slice(&nonce), b"", text);
        let tag = tag.map_err(|_| io::Error::other("a text is too long to be encrypted"))?;
        Ok(Sealed { nonce, text, tag: tag.into() })
    }

    /// Decrypts into a buffer; false when these are not the bytes that were written, or another key wrote them.
    pub(super) fn open(&self, data: &[u8], text: &mut Vec<u8>) -> bool {
        let Some(((nonce, sealed), tag)) =
            data.split_last_chunk::<16>().and_then(|(front, tag)| front.split_at_checked(16).map(|front| (front, tag)))
        else {
            return false;
        };
        text.clear();
        text.extend_from_slice(sealed);
        let nonce = Nonce::from_slice(nonce);
        self.cipher.decrypt_in_place_detached(nonce, b"", text, Tag::from_slice(tag)).is_ok()
    }

    /// None when these are not the bytes that were written, or another key wrote them.
    pub(super) fn decrypt(&self, data: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        self.open(data, &mut text).then_some(text)
    }

    /// An index or snapshot file.
    pub(super) fn seal_file(&self, json: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = vec![2];
        zstd::stream::copy_encode(json, &mut text, LEVEL)?;
        self.encrypt(&text)
    }
}

/// An encrypted text with what opens it.
pub(super) struct Sealed<'t> {
    nonce: [u8; 16],
    text: &'t [u8],
    tag: [u8; 16],
}

impl Sealed<'_> {
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        for part in [&self.nonce[..], self.text, &self.tag] {
            bytes.extend_from_slice(part);
        }
    }
}
