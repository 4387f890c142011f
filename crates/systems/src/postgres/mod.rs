//! Postgres 13 to 18, as superuser, as member of `pg_monitor` or as a bare role.
//!
//! | module | what it holds |
//! |---|---|
//! | [`client`], `dsn`, `tls` | where the server is, how to reach it, what an error means |
//! | [`observe`], `sql`, `triggers`, `mask` | one reading over one connection |
//! | `groups`, `horizon`, `vacuuming`, `structure`, `indexes`, `keys`, `disk`, `vectors` | of that reading: open connections, who holds clean-up back, autovacuum, indexes with constraints, integer keys, the room on the disk, indexes of pgvector |
//! | [`bloat`] | how much of the largest tables and indexes is air |
//! | `statements`, `settings`, `security` | of that reading: which statements take the most, the configuration, who may come in |
//! | [`deep`], `sequences`, `estimates`, `plans` | what only the deeper rounds ask: sequences against the columns that they fill, what the planner's samples miss, how statements are planned |
//! | [`advise`] | indexes that are missing, verified by the planner |
//! | `explaining` | how a statement of `pg_stat_statements` is put to the planner |
//! | [`round`] | readings at the same time: what standbys counted goes to their primary |
//! | [`act`] | the changes that we can make |
//! | [`walsender`] | base backups over the replication protocol |
//! | [`online`] | base backups whose files are read where they lie |
//! | [`configuration`] | the files of the configuration outside of the data directory, and the settings |
//! | [`tie`] | the chunks of a database, to be compared with the points of a Qdrant |
//! | [`facts`] | what a copy of a cluster must be given to start elsewhere |
//! | [`grants`] | the SQL that gives our role what it needs, and no more |

pub mod act;
pub mod advise;
pub mod bloat;
pub mod client;
pub mod configuration;
pub mod contents;
pub mod deep;
pub mod facts;
pub mod grants;
pub mod observe;
pub mod online;
pub mod round;
pub mod tie;
pub mod walsender;

mod disk;
mod dsn;
mod estimates;
mod explaining;
mod groups;
mod horizon;
mod indexes;
mod keys;
mod mask;
mod plans;
mod security;
mod sequences;
mod settings;
mod sql;
mod statements;
mod structure;
mod tls;
mod triggers;
mod vacuuming;
mod vectors;

pub use client::{Endpoint, EndpointError};
pub use observe::observe;
pub use round::Round;
