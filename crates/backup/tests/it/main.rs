//! Backups of real servers, in real repositories.

mod configuration;
mod faults;
mod files;
mod next_steps;
mod objects;
mod proof;
mod prune;
mod prune_killed;
mod qdrant;
mod redis;
mod replaced;
mod scene;
mod sets;
mod watched;
