//! Redis and Valkey: one connection, `INFO`, `CONFIG GET save`. Nothing here changes a server.

mod connection;
mod endpoint;
mod info;
mod observe;

pub use endpoint::{Endpoint, EndpointError};
pub use observe::observe;
