//! Backups of real servers, in real repositories.

mod beside;
mod configuration;
mod consistent;
mod exports;
mod faithful;
mod faults;
mod files;
mod next_steps;
mod objects;
mod probes;
mod proof;
mod prune;
mod prune_killed;
mod qdrant;
mod recovery_plan;
mod redis;
mod replaced;
mod scene;
mod sets;
mod wal;
mod watched;
