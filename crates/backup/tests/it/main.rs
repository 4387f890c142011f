//! Backups of real servers, in real repositories.

mod configuration;
mod faults;
mod files;
mod next_steps;
mod proof;
mod prune;
mod prune_killed;
mod qdrant;
mod redis;
mod replaced;
mod scene;
mod sets;
mod wal;
mod watched;
