//! What Groundskeeper knows, judges and plans.
//!
//! This crate is pure: it does no I/O, starts no task and reads no clock; `now` is always an argument. A fixture goes
//! in, a value comes out, and that is how it is tested.
//!
//! | module | question it answers |
//! |---|---|
//! | [`observation`] | what was read from a system at one moment |
//! | [`check`] | is what was read right? (the catalogue, the thresholds, the runbooks) |
//! | [`advice`] | which indexes could a statement use |
//! | [`finding`] | what was judged wrong, on what evidence |
//! | [`lifecycle`] | when does a finding open, change, resolve |
//! | [`remedy`], [`plan`], [`policy`], [`window`] | what would be done, why, and who decides |
//! | [`receipt`] | what is in a backup set, and how far it is proven |
//! | [`expiry`] | which rows of a database are not kept for ever |
//! | [`bloat`] | how much of a table or index is air |
//! | [`retention`] | which backup sets are kept, and why |
//! | [`sample`] | which numbers are kept over time |
//! | [`trend`] | by how much does something grow |
//! | [`tuning`] | which settings would suit the machine and the work better, and why |
//! | [`report`] | what happened on one day |
//!
//! Nothing here may depend on tokio, on a database driver or on the other crates; an architecture test holds that.

pub mod advice;
pub mod bloat;
pub mod check;
pub mod expiry;
pub mod finding;
pub mod lifecycle;
pub mod observation;
pub mod plan;
pub mod policy;
pub mod quantity;
pub mod receipt;
pub mod remedy;
pub mod report;
pub mod retention;
pub mod sample;
pub mod severity;
pub mod system;
pub mod trend;
pub mod tuning;
pub mod window;

pub use check::{Check, Judgement, Status, Tuning, Unknown, UnknownKind};
pub use finding::{Draft, Evidence, Finding, Fingerprint, Offender, Target};
pub use quantity::{Unit, Value};
pub use severity::Severity;
pub use system::{SystemId, SystemKind};
