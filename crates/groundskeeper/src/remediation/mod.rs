//! The only way to a change: plan, guard, journal, act, verify, and settle what a crash left.

mod actuator;
mod executor;
mod partition;
mod recovery;
mod repository;
mod turns;
mod undoing;

pub use actuator::{Actuator, Stack as StackActuator, Trouble};
pub use executor::{Applied, Executor, Permission};
pub use turns::Limits;

#[cfg(test)]
mod tests;
