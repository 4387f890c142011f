//! What is backed up, as a stream of entries.

mod incoming;
pub(crate) mod own;
pub(crate) mod postgres;
pub(crate) mod redis;
