//! Backups of real servers, in real repositories.

mod faults;
mod proof;
mod scene;
mod sets;
mod wal;
