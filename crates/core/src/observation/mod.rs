//! What was read from a system at one moment: typed values, never raw JSON.
//!
//! A reading has one of two shapes: the system did not answer ([`Failure`]), or it did, and then each part of the
//! observation was read or has a [`Gap`] with the reason. A part that could not be read never looks like a zero.

mod backup;
mod host;
mod http;
mod logs;
mod postgres;
mod redis;
mod wal;

pub use backup::*;
pub use host::*;
pub use http::*;
pub use logs::*;
pub use postgres::*;
pub use redis::*;
pub use wal::*;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One look at one system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading<O> {
    pub at: Timestamp,
    /// Seconds from the first byte sent to the first useful answer (connection, login and one round trip).
    pub latency: f64,
    /// Seconds for the whole reading.
    pub took: f64,
    pub outcome: Result<O, Failure>,
}

/// The system as a whole did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// What went wrong in the words of the system or the operating system; never contains a password.
    pub message: String,
    /// The place that was asked, without credentials: `127.0.0.1:5432/docrag`.
    pub address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Nobody listens there.
    Refused,
    /// The name does not resolve.
    UnknownHost,
    /// No answer within the deadline: packets dropped, or a server that hangs.
    Timeout,
    /// The password, the user or the database is wrong, or the server's access rules refuse us.
    Denied,
    /// The server answered that it has no connection left.
    Exhausted,
    /// Encryption could not be agreed on or trusted.
    Tls,
    /// The server is starting, stopping or recovering.
    NotReady,
    /// The connection ended in the middle.
    Interrupted,
    /// The folder, file or device is not there or not readable.
    Missing,
    /// An answer that makes no sense here (another protocol, a broken server).
    Protocol,
}

/// A part of an observation that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub reason: String,
    /// True when a grant would close the gap.
    pub permission: bool,
}

impl Gap {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), permission: false }
    }

    pub fn permission(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), permission: true }
    }
}

/// A part that was read, or the reason why it was not.
pub type Part<T> = Result<T, Gap>;

/// A reading of any system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "system", content = "reading")]
pub enum Observation {
    Postgres(Reading<Postgres>),
    Redis(Reading<Redis>),
    Http(Reading<Http>),
    Host(Reading<Host>),
    Logs(Reading<Logs>),
    Backup(Reading<Backup>),
}

macro_rules! on_each {
    ($self:expr, $reading:ident => $body:expr) => {
        match $self {
            Observation::Postgres($reading) => $body,
            Observation::Redis($reading) => $body,
            Observation::Http($reading) => $body,
            Observation::Host($reading) => $body,
            Observation::Logs($reading) => $body,
            Observation::Backup($reading) => $body,
        }
    };
}

impl Observation {
    pub fn at(&self) -> Timestamp {
        on_each!(self, reading => reading.at)
    }

    pub fn latency(&self) -> f64 {
        on_each!(self, reading => reading.latency)
    }

    pub fn took(&self) -> f64 {
        on_each!(self, reading => reading.took)
    }

    pub fn failure(&self) -> Option<&Failure> {
        on_each!(self, reading => reading.outcome.as_ref().err())
    }

    pub fn as_postgres(&self) -> Option<&Reading<Postgres>> {
        if let Self::Postgres(reading) = self { Some(reading) } else { None }
    }

    pub fn as_redis(&self) -> Option<&Reading<Redis>> {
        if let Self::Redis(reading) = self { Some(reading) } else { None }
    }

    pub fn as_http(&self) -> Option<&Reading<Http>> {
        if let Self::Http(reading) = self { Some(reading) } else { None }
    }

    pub fn as_host(&self) -> Option<&Reading<Host>> {
        if let Self::Host(reading) = self { Some(reading) } else { None }
    }

    pub fn as_logs(&self) -> Option<&Reading<Logs>> {
        if let Self::Logs(reading) = self { Some(reading) } else { None }
    }

    pub fn as_backup(&self) -> Option<&Reading<Backup>> {
        if let Self::Backup(reading) = self { Some(reading) } else { None }
    }
}
