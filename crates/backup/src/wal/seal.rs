//! WAL, and the exports of rows, as they are stored: zstd, then the `age` format, so that `age -d -i IDENTITY FILE | zstd -d` opens it.
//!
//! The identity is made once for a repository and lies in it twice. `wal/identity` is sealed with the repository's own key,
//! so that every key of the repository opens it; that one counts. `wal/keys/<key id>.age` is for whoever has nothing but
//! `age`: it opens with that key as its passphrase. Each set has it as well.

use super::name::{FOLDER, KEYS};
use crate::error::{Error, Result};
use crate::repository::Repository;
use age::x25519::Identity;
use secrecy::{ExposeSecret, SecretString};
use std::io::Read;

/// As restic stretches its own keys: 32 MiB of memory and a tenth of a second.
const WORK: u8 = 15;
/// WAL is written fast, and a disk has to take it in time.
const LEVEL: i32 = 1;

/// What stored WAL is locked and opened with.
#[derive(Clone)]
pub(crate) struct Seal {
    identity: Identity,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

fn sealed() -> String {
    format!("{FOLDER}/identity")
}

fn for_key(id: &str) -> String {
    format!("{FOLDER}/{KEYS}/{id}.age")
}

impl Seal {
    /// That of a repository; None where no WAL was ever stored.
    pub(crate) fn find(repository: &Repository) -> Result<Option<Self>> {
        let Some(sealed) = repository.get_beside(&sealed())? else { return Ok(None) };
        let text = repository.unseal(&sealed).and_then(|text| String::from_utf8(text).ok());
        let identity = text.and_then(|text| text.trim().parse().ok());
        identity.map(|identity| Some(Self { identity })).ok_or_else(|| Error::Damaged {
            place: repository.place().to_owned(),
            why: "wal/identity is not what was written".to_owned(),
        })
    }

    /// The same, made where there is none. `key` is the one in use.
    pub(crate) fn find_or_make(repository: &Repository, key: &SecretString) -> Result<Self> {
        if Self::find(repository)?.is_none() {
            let text = Identity::generate().to_string();
            // Whoever comes second takes what the first has made.
            repository.put_first_beside(&sealed(), repository.seal(text.expose_secret().as_bytes())?)?;
        }
        let gone = || Error::Worker("wal/identity went away while it was made".to_owned());
        let seal = Self::find(repository)?.ok_or_else(gone)?;
        if let Some(id) = repository.key_in_use()
            && repository.get_beside(&for_key(&id))?.is_none()
        {
            seal.share(repository, &id, key)?;
        }
        Ok(seal)
    }

    /// Lets a key open it by `age` alone.
    pub(crate) fn share(&self, repository: &Repository, id: &str, key: &SecretString) -> Result<()> {
        let mut recipient = age::scrypt::Recipient::new(key.clone());
        recipient.set_work_factor(WORK);
        let content = age::encrypt(&recipient, self.text().as_bytes()).map_err(|error| broken(&error))?;
        repository.put_beside(&for_key(id), content)
    }

    pub(crate) fn unshare(repository: &Repository, id: &str) -> Result<()> {
        repository.remove_beside(&for_key(id))
    }

    /// A file for `age -i`.
    pub(crate) fn text(&self) -> String {
        format!(
            "# opens the WAL and the exports of this repository: age -d -i THIS FILE | zstd -d\n{}\n",
            self.identity.to_string().expose_secret()
        )
    }

    pub(crate) fn lock(&self, content: &[u8]) -> Result<Vec<u8>> {
        let small = zstd::bulk::compress(content, LEVEL).map_err(|error| broken(&error))?;
        age::encrypt(&self.identity.to_public(), &small).map_err(|error| broken(&error))
    }

    /// At most `limit` bytes. The error says what is wrong with it.
    pub(crate) fn unlock(&self, stored: &[u8], limit: u64) -> std::result::Result<Vec<u8>, String> {
        let small = age::decrypt(&self.identity, stored).map_err(|error| error.to_string())?;
        let mut content = Vec::new();
        let mut reader = zstd::stream::Decoder::new(&small[..]).map_err(|error| error.to_string())?.take(limit + 1);
        reader.read_to_end(&mut content).map_err(|error| error.to_string())?;
        if content.len() as u64 > limit {
            return Err(format!("it holds more than {limit} bytes"));
        }
        Ok(content)
    }
}

fn broken(error: &impl std::fmt::Display) -> Error {
    Error::Worker(format!("WAL or an export could not be locked: {error}"))
}
