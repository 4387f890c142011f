//! What is backed up, as a stream of entries.

pub(crate) mod own;
pub(crate) mod postgres;
