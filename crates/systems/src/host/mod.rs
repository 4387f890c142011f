//! The machine that we run on: memory, load, mounted filesystems, the clock. Nothing here changes it.

mod chrony;
mod clock;
mod mounts;
mod observe;

pub use observe::{Scope, observe};
