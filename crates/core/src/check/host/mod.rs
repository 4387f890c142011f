//! Checks of the machine: room on its disks, memory, load, the clock.
//!
//! A mounted filesystem is a subject of its own: two full disks are two findings, because two people mend them.

pub mod clock;
pub mod disk;
#[cfg(test)]
mod fixtures;
pub mod load;
