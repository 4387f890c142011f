//! Accepting documents, and the stages that follow: read and chunk, embed. (The third, index, is `index::follower`.)
//!
//! - What a stage has done is committed in one transaction, guarded by the document's version and its content's hash.
//!   So each stage can be killed anywhere and done again, and a content that changes meanwhile is never mixed with an
//!   older one.
//! - A worker holds a session lock on its document; no transaction stays open while something is read or embedded.
//! - A document fails alone: by its own fault, at once (it cannot be read) or after some tries (its text cannot be
//!   embedded, or the service goes down whenever it is read for long). That Postgres or the embedding endpoint is away
//!   is nobody's fault: the document waits.

pub(crate) mod accept;
mod dispatch;
mod stages;
mod trouble;

pub(crate) use dispatch::dispatch;
