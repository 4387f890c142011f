//! restic's encryption and compression of blobs and files, for what `rustic_core` does not let us write or read itself.
//!
//! A blob is `nonce (16) | AES-256-CTR text | Poly1305-AES tag (16)`; before that it may be compressed with zstd. A file
//! (index, snapshot) is the same, with the byte 2 before its compressed text.

use aes256ctr_poly1305aes::aead::Aead;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce};
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
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let sealed = self.cipher.encrypt(Nonce::from_slice(&nonce), text);
        let sealed = sealed.map_err(|_| io::Error::other("a text is too long to be encrypted"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// None when these are not the bytes that were written, or another key wrote them.
    pub(super) fn decrypt(&self, data: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = data.split_at_checked(16)?;
        self.cipher.decrypt(Nonce::from_slice(nonce), sealed).ok()
    }

    /// An index or snapshot file.
    pub(super) fn seal_file(&self, json: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = vec![2];
        zstd::stream::copy_encode(json, &mut text, LEVEL)?;
        self.encrypt(&text)
    }
}
