//! Checks of log folders: is it there, how large is it, does rotation work, how fast does it grow.

#[cfg(test)]
mod fixtures;
pub mod reach;
pub mod size;
