//! Backups of real servers, in real repositories.

mod faults;
mod proof;
mod prune;
mod prune_killed;
mod scene;
mod sets;
mod watched;
