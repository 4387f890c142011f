//! The keeper: it schedules, records, acts under guards, tells people, and shows what it knows.
//!
//! | module | what it is for |
//! |---|---|
//! | [`config`] | one TOML file becomes validated [`config::Settings`], once, at the edge |
//! | [`stack`] | the configured systems, read side by side |
//! | [`record`] | the SQLite store: runs, findings, samples, journal, audit |
//! | [`scheduler`] | wakes jobs on their calendar; knows no system |
//! | [`tasks`] | the jobs of the calendar and their one registry |
//! | [`remediation`] | the planner, the executor and the journal: the only way to a change |
//! | [`notify`] | one pipeline to people, and the heartbeat |
//! | [`app`] | the one façade: every surface (command line, page, socket) calls it |
//! | [`cli`], [`web`] | the surfaces |
//!
//! A surface holds no logic and reaches neither the record nor the systems; an architecture test holds that.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod notify;
pub mod present;
pub mod record;
pub mod remediation;
pub mod scheduler;
pub mod stack;
pub mod tasks;
pub mod web;
