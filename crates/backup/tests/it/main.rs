//! Backups of real servers, in real repositories.

mod faults;
mod next_steps;
mod proof;
mod scene;
mod sets;
