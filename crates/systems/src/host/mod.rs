//! The machine that we run on: memory, load, mounted filesystems, the clock. Nothing here changes it.

mod capacity;
mod chrony;
mod clock;
mod mounts;
mod observe;

pub use capacity::{Capacity, capacity};
pub use observe::{Scope, observe};
