//! Backups of real servers, in real repositories.

mod configuration;
mod faults;
mod files;
mod proof;
mod qdrant;
mod redis;
mod scene;
mod sets;
