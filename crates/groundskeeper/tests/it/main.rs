//! What the program does, seen from outside. One module a capability.

mod cli;
mod config;
mod init;
mod notify;
mod web;
