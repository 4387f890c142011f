//! Files of ours beside restic's own: put and read whole, listed, removed.

use super::Repository;
use super::store::Listed;
use crate::error::{Error, Result};
use object_store::Error as StoreError;

impl Repository {
    /// Safe on the disk when this returns; under its name there is either nothing, or all of it.
    pub(crate) fn put_beside(&self, name: &str, content: Vec<u8>) -> Result<()> {
        self.store.put(name, content).map_err(|error| self.store.refused(&error))
    }

    /// The same unless there is one already: then false.
    pub(crate) fn put_first_beside(&self, name: &str, content: Vec<u8>) -> Result<bool> {
        match self.store.put_first(name, content) {
            Ok(()) => Ok(true),
            Err(StoreError::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.store.refused(&error)),
        }
    }

    pub(crate) fn get_beside(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.store.get(name) {
            Ok(content) => Ok(Some(content.into())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.store.refused(&error)),
        }
    }

    /// Everything below a folder.
    pub(crate) fn list_beside(&self, folder: &str) -> Result<Vec<Listed>> {
        self.store.list_below(folder).map_err(|error| self.store.refused(&error))
    }

    /// One that is not there any more is gone as well.
    pub(crate) fn remove_beside(&self, name: &str) -> Result<()> {
        self.store.erase(name).map_err(|error| self.store.refused(&error))
    }

    /// Whether this still is a repository.
    pub(crate) fn must_be_there(&self) -> Result<()> {
        match self.store.exists("config") {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NoRepository { place: self.place().to_owned() }),
            Err(error) => Err(self.store.refused(&error)),
        }
    }

    /// Encrypts with the repository's own key, so that each of its keys opens it.
    pub(crate) fn seal(&self, text: &[u8]) -> Result<Vec<u8>> {
        self.crypt.encrypt(text).map_err(|error| Error::Worker(error.to_string()))
    }

    /// None when it is not what was sealed.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.crypt.decrypt(sealed)
    }

    /// The id of the key in use.
    pub(crate) fn key_in_use(&self) -> Option<String> {
        self.key.map(|id| id.to_hex().to_string())
    }
}
