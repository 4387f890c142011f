//! The lab: a live stack to show, to measure and to break.
//!
//! | module | command | what it does |
//! |---|---|---|
//! | [`demo`] | `cargo xtask demo` | one day of the calendar, compressed, on a stack under load; `recovery`: its backups |
//! | [`bench`] | `cargo xtask bench` | measures, beside peers, and prints one `bar` line per target |
//! | [`faults`] | `cargo xtask faults` | really causes each fault and looks at what the keeper makes of it |
//! | [`stack`], [`docrag`], [`workload`] | | the private Postgres and Redis, the document service on them, its users |
//!
//! Nothing here is part of the product; everything is private, on loopback, and gone afterwards.

pub mod bar;
pub mod bench;
pub mod demo;
pub mod docrag;
pub mod faults;
mod recovery;
pub mod stack;
pub mod workload;
