//! A Qdrant for tests, where a real one cannot be installed.
//!
//! [`QdrantServer`] starts and stops it, in the manner of `groundskeeper-testing`. What it starts is the program
//! `qdrant-stand-in` of this crate: Qdrant's own engine behind its gRPC and REST interfaces, held by
//! `tests/it/conformance.rs` to recordings of a real server. The same suite runs against a real server whose address is
//! in `GROUNDSKEEPER_TEST_QDRANT_URL`.
//!
//! The engine is large. A crate that only starts servers depends on this one without default features and finds the
//! program where `cargo build -p groundskeeper-qdrant` has put it.

pub mod server;
#[cfg(feature = "engine")]
pub mod stand_in;

pub use server::{QdrantServer, install_program};
