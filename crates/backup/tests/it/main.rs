//! Backups of real servers, in real repositories.

mod faults;
mod next_steps;
mod proof;
mod prune;
mod prune_killed;
mod replaced;
mod scene;
mod sets;
mod watched;
