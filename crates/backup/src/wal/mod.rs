//! The WAL between the sets: streamed into the repository as it is written, and replayed to any time.
//!
//! | module | what it holds |
//! |---|---|
//! | `worker`, `flow` | one server's WAL into the repository, for as long as the keeper runs |
//! | `marks`, `board` | what a disaster would take, measured; what the streams tell of themselves |
//! | `archive`, `name`, `seal`, `history` | what lies in the repository, what it is called, what opens it, timelines |
//! | `prune` | what leads on from no set any more |
//! | `replay`, `tablespaces` | which of it leads from a set to a time, laying that out for Postgres, where it would write |
//! | `fetched` | what a restore has beside the data directory |
//! | `facade` | what a vault does with WAL |
//!
//! One rule over all: the next byte is the one after the last that is safe. What cannot be so is a gap, and a gap is
//! written down, told, and closed by the next set.

pub(crate) mod archive;
mod board;
mod facade;
pub(crate) mod fetched;
mod flow;
mod history;
mod marks;
pub(crate) mod name;
pub(crate) mod prune;
pub(crate) mod replay;
pub(crate) mod seal;
pub(crate) mod tablespaces;
mod worker;

pub use board::Board;
pub use replay::{Target, newest_before};
pub use worker::keep_streaming;

use std::path::PathBuf;

/// What the slot is called, on every server. Two keepers that stream from one server stand in each other's way, and say so.
pub const SLOT: &str = "groundskeeper_wal";

/// How WAL is streamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the streams write down how they stand.
    pub board: PathBuf,
    /// Bytes that a server may keep for us.
    pub keep: u64,
    /// Whether the slot is given up when it is more.
    pub give_up: bool,
}

impl Settings {
    /// With more than this the slot goes.
    fn limit(&self) -> u64 {
        if self.give_up { self.keep } else { u64::MAX }
    }
}
