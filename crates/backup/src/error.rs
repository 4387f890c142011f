//! Why a backup, a proof or a restore did not come about.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository's place does not answer, is full, or refuses us.
    #[error("the repository {place}: {why}")]
    Place { place: String, why: String },
    #[error("there is no repository in {place}; `groundskeeper backup init` makes one")]
    NoRepository { place: String },
    #[error("the key does not open the repository {place}; it is another one's, or a key that was removed")]
    WrongKey { place: String },
    #[error("the key cannot be read: {0}")]
    Key(String),
    /// What is stored is not what was written.
    #[error("the repository {place} is damaged: {why}")]
    Damaged { place: String, why: String },
    #[error("{system}: {why}")]
    Source { system: String, why: String, retryable: bool },
    #[error("another backup, verification or restore works on this repository (process {0}); wait for its end")]
    Busy(String),
    #[error("there is no set {0}; `groundskeeper backup list` shows them")]
    NoSet(String),
    #[error("there is no export {0}; `groundskeeper backup exports` lists them")]
    NoExport(String),
    #[error("{}: {why}", path.display())]
    Target { path: PathBuf, why: String },
    #[error("{0}")]
    Scratch(String),
    /// WAL does not lead to where it should.
    #[error("{0}")]
    Wal(String),
    #[error("a worker of ours ended: {0}")]
    Worker(String),
}

impl Error {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Place { .. } | Self::Busy(_) => true,
            Self::Source { retryable, .. } => *retryable,
            _ => false,
        }
    }
}
