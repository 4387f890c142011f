//! Real servers for tests, and the ways in which the world misbehaves.
//!
//! | module | what it starts |
//! |---|---|
//! | [`postgres`], [`redis`] | the installed server as a child process, on a free loopback port, in a temporary folder |
//! | [`objects`] | an S3 server with a bucket, and a proxy before it that misbehaves |
//! | [`http`] | an HTTP or HTTPS target whose status, delay, body and certificate a test chooses |
//! | [`webhook`], [`mail`] | receivers that record what they were sent |
//! | [`misbehaving`] | listeners that never answer, hang up at once or in the middle, talk nonsense or drop packets |
//! | [`disk`] | a file system of a few MiB that can be filled |
//! | [`process`], [`port`], [`scratch`] | what a crate needs to start a server of its own in the same manner |
//!
//! What is started here goes away with the value that owns it: a normal end and a failed test through `Drop`, a
//! `kill -9` of the test through the parent-death signal of the child. Folders that a killed test left behind are swept
//! by the next start.
//!
//! The parent-death signal fires when the *thread* that spawned the child ends, not the process. So a server is started
//! on the thread that polls `start().await`: a test's own thread or a worker of its runtime. **Never start a server
//! inside `spawn_blocking`, `block_in_place` or a short-lived thread**: it would die with that thread, seconds later and
//! for no visible reason.
//!
//! A server that is not installed is an error that names the command which installs it. Nothing is ever skipped.

pub mod disk;
pub mod http;
pub mod mail;
pub mod misbehaving;
pub mod objects;
pub mod port;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod scratch;
pub mod webhook;

mod inbox;

pub use disk::SmallDisk;
pub use http::{HttpTarget, TlsOptions};
pub use mail::{Mail, MailSink};
pub use misbehaving::{
    BlackHole, Closer, Cutter, Flipper, Garbage, Interrupter, Interruption, PacketDropper, Severer, Severing,
};
pub use objects::{Fault, FaultProxy, S3Server};
pub use postgres::{PostgresOptions, PostgresServer};
pub use redis::RedisServer;
pub use webhook::{Delivery, WebhookSink};
