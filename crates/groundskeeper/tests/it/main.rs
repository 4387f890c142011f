//! What the program does, seen from outside. One module a capability.

mod acting;
mod announcing;
mod backup;
mod backup_killed;
mod backup_objects;
mod backup_pruned;
mod backup_wal;
mod cli;
mod config;
mod drift;
mod exports;
mod growth;
mod init;
mod keeper;
mod notify;
mod parting;
mod performance;
mod scene;
mod settings;
mod trouble;
mod tune;
mod web;
