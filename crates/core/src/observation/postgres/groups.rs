//! Who keeps connections open, and since when: what tells a leak from a large pool.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The client sessions with one application name, user, database and address; our own session is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionGroup {
    /// Empty where the client gives none.
    pub application: String,
    pub user: String,
    pub database: String,
    /// Empty for a Unix socket.
    pub client: String,
    /// In whatever state.
    pub total: u32,
    /// Idle and outside of a transaction.
    pub idle: u32,
    /// The latest opened 2,000 of them.
    pub sessions: Vec<Opened>,
}

/// One open session, by the server's own clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// `backend_start`, which names the session within its group.
    pub start: Timestamp,
    /// Seconds since it was opened.
    pub age: f64,
    /// Seconds since its last statement ended; none unless it is idle.
    pub unused: Option<f64>,
}
