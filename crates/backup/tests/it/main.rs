//! Backups of real servers, in real repositories.

mod faults;
mod objects;
mod proof;
mod scene;
mod sets;
