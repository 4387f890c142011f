//! Backups that prove themselves.
//!
//! | module | what it holds |
//! |---|---|
//! | [`vault`] | the façade: make a set, list, verify, drill, restore |
//! | [`observe`] | what the watch looks at, at the cost of a few system calls |
//! | `key` | where the repository's key comes from |
//! | `make`, `verify`, `drill`, `restore`, [`prune`] | one file for each thing that the façade does |
//! | [`wal`] | the WAL between the sets: streamed, and replayed to a time |
//! | [`exports`] | rows that retention has deleted, as they were |
//! | [`progress`] | how far the work is |
//! | [`plan`] | the recovery plan of an installation |
//! | `steps` | what a person does with what was restored |
//! | `replace` | what is moved aside for a restore, and what never is |
//! | [`place`] | where a repository is: a folder, or a bucket of an object store; limits |
//! | `repository` | the restic format through `rustic_core`, over `object_store` |
//! | `source` | what is backed up, as a stream of entries: Postgres by its replication protocol or in its folder, Redis as a replica, Qdrant by snapshots, folders |
//! | `rdb` | the file format of Redis: its checksum, its structure |
//! | [`proof`], [`scratch`] | the rungs of the ladder, and the scratch server that they boot |
//! | [`programs`] | where the programs of the right Postgres version are |
//!
//! A set is one snapshot, and its tree has one folder for each system. It exists once that snapshot does, so there is
//! nothing half-made to be promoted; what a broken run leaves are chunks that the next one finds, or a prune removes.

pub mod error;
pub mod exports;
pub mod observe;
pub mod place;
pub mod plan;
pub mod programs;
pub mod progress;
pub mod proof;
pub mod prune;
pub mod scratch;
pub mod vault;
pub mod wal;

mod drill;
mod key;
mod make;
mod rdb;
mod replace;
mod repository;
mod restore;
mod source;
mod steps;
mod verify;

pub use error::{Error, Result};
pub use observe::{Lookout, observe};
pub use place::Place;
pub use progress::{Done, Progress};
pub use prune::{Freed, PrunePlan, Pruned, Retention};
pub use vault::{Settings, Vault};
