//! What `cargo xtask` knows about Rust sources.
//!
//! A library, so that the architecture test (in `crates/testing`) reads the sources with the same eyes as
//! `cargo xtask sizes`. No dependencies: `cargo xtask` must start in seconds on a fresh clone.

pub mod source;
