//! The adapters against real servers.

#![allow(clippy::disallowed_methods, reason = "tests are where the clock comes from; certificates are real")]

mod host;
mod http;
mod logs;
mod postgres;
mod redis;
