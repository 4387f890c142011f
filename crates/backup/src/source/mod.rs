//! What is backed up, as a stream of entries.

mod beside;
pub(crate) mod configuration;
pub(crate) mod contents;
pub(crate) mod files;
mod incoming;
pub(crate) mod own;
pub(crate) mod postgres;
pub(crate) mod qdrant;
pub(crate) mod redis;
pub(crate) mod tie;
