//! One binary for all integration tests of this crate: linking is what hurts.

mod architecture;
mod disk;
mod kill;
mod misbehaving;
mod servers;
mod sinks;
