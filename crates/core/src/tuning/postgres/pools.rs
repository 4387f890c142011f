//! How many connections the pools of all applications together should have.
//!
//! More sessions at work than the machine can serve wait for each other and are slower in sum. The formula is that of the
//! PostgreSQL wiki (Number Of Database Connections), which `HikariCP` took over: twice the cores, and one for each disk that
//! turns; with everything cached, or on flash, that is one more.

use crate::observation::{Activity, Postgres, Session, SessionState};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

pub const SOURCE: &str = "https://wiki.postgresql.org/wiki/Number_Of_Database_Connections";
/// Of the connections that may be open; the rest is for people, migrations and watching. The same share at which
/// `postgres.connections_near_limit` warns.
const OF_USABLE: f64 = 0.8;
const OURS: &str = "groundskeeper";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pools {
    /// `max_connections` less what is reserved.
    pub usable: u32,
    /// At this moment, ours not counted.
    pub open: u32,
    pub active: u32,
    /// The largest sum of all pools that makes sense.
    pub together: u32,
    pub reason: String,
    /// The same, shared out as the connections are now.
    pub by_application: Vec<Pool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub application: String,
    pub open: u32,
    pub advised: u32,
}

/// None when the sessions could not be read.
pub fn pools(seen: &Postgres) -> Option<Pools> {
    let activity = seen.activity.as_ref().ok()?;
    let server = &seen.server;
    let usable = server.max_connections.saturating_sub(server.reserved_connections);
    let most = ((f64::from(usable) * OF_USABLE) as u32).max(1);
    let cores = seen.machine.as_ref().and_then(|machine| machine.cores);
    let (together, reason) = match cores {
        Some(cores) => by_cores(cores, most, activity),
        None => (
            most,
            format!(
                "80 % of the {usable} connections that may be open. How many the machine can serve follows from its cores, \
                 which are not known: put machine = {{ cores = 4 }} into its table of the configuration"
            ),
        ),
    };
    let others: Vec<&(String, u32)> =
        activity.by_application.iter().filter(|(name, _)| !name.starts_with(OURS)).collect();
    let open: u32 = others.iter().map(|(_, count)| count).sum();
    let share = |count: u32| (f64::from(together) * f64::from(count) / f64::from(open.max(1))).floor().max(1.0) as u32;
    let by_application = others
        .iter()
        .map(|(application, count)| Pool { application: application.clone(), open: *count, advised: share(*count) })
        .collect();
    let active = activity.sessions.iter().filter(|session| session.state == SessionState::Active).count() as u32;
    Some(Pools { usable, open, active, together, reason, by_application })
}

fn by_cores(cores: u32, most: u32, activity: &Activity) -> (u32, String) {
    let at_work = cores.saturating_mul(2).saturating_add(1);
    let is_waiting = |session: &&Session| {
        session.state == SessionState::IdleInTransaction
            || (session.state == SessionState::Active && session.wait.starts_with("Client: "))
    };
    let waiting = activity.sessions.iter().filter(is_waiting).count() as u32;
    let blocked = activity.sessions.iter().filter(|session| session.lock_wait.is_some()).count();
    let together = at_work.saturating_add(waiting).min(most);
    let mut reason = format!("twice the {cores} cores and one: what the machine can work on at once");
    if waiting > 0 {
        let they = if waiting == 1 { "1 session waits" } else { &format!("{waiting} sessions wait") };
        let _ = write!(reason, "; {they} for a client in the middle of a transaction, and counts besides");
    }
    if blocked > 0 {
        let they = if blocked == 1 { "1 session waits" } else { &format!("{blocked} sessions wait") };
        let _ = write!(reason, "; {they} for a lock, and a larger pool would only make that line longer");
    }
    if together == most {
        reason.push_str("; bounded by 80 % of the connections that may be open");
    }
    (together, reason)
}
