//! Adapters to the systems under care.
//!
//! One folder a system. The rules, which the compiler cannot hold alone:
//!
//! - `observe.rs` only reads. `act.rs` holds every change that we can make to that system; a system without one is
//!   never changed.
//! - Modules here never import each other. What needs two systems is a task above, over two observations.
//! - Every read has a deadline, and keeps it whatever the other side does: a host that drops packets, a server that
//!   hangs, a filesystem that is gone. Reading never fails the caller: it gives a
//!   [`Failure`](groundskeeper_core::observation::Failure) or a [`Gap`](groundskeeper_core::observation::Gap) instead.
//! - A password is in no `Debug`, no message and no address.

pub mod deadline;
pub mod host;
pub mod http;
pub mod logs;
pub mod postgres;
pub mod qdrant;
pub mod redis;
pub mod trust;
