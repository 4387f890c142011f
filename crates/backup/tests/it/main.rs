//! Backups of real servers, in real repositories.

mod configuration;
mod faults;
mod files;
mod proof;
mod redis;
mod scene;
mod sets;
