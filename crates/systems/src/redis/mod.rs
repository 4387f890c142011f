//! Redis and Valkey: `INFO` and settings over one connection, and for backups its data as a replica gets them. Nothing
//! here changes a server.

mod connection;
mod endpoint;
mod facts;
mod info;
mod observe;
mod replica;

pub use endpoint::{Endpoint, EndpointError};
pub use facts::{Facts, Sizes, facts, sizes};
pub use observe::observe;
pub use replica::{Dump, Position, dump};
