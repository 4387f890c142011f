//! Qdrant over REST, as far as a backup needs it: what is there, and snapshots of it.
//!
//! A snapshot is made by the server in a folder of its own, downloaded, and deleted ([`act`]). What is deleted is what was made
//! by the same run; nothing else is ever changed. A server that was started for a drill takes snapshots in, and is asked
//! what it holds (`points`).

pub mod act;

mod client;
mod points;
mod survey;

pub use client::{Endpoint, EndpointError};
pub use survey::{Node, survey};
