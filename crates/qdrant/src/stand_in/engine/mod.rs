//! What the stand-in does, whichever way it is asked: collections over the engine's shards, aliases, snapshots.
//!
//! Calls block: the surfaces take them off the async threads.

pub(crate) mod clock;
pub(crate) mod collection;
pub(crate) mod journal;
pub(crate) mod optimizer;
pub(crate) mod query;
pub(crate) mod settings;
pub(crate) mod snapshot;
pub(crate) mod store;
