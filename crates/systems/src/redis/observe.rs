//! Reading a Redis: log in, `INFO`, and whether snapshots are configured.
//!
//! Plain `INFO`, not `INFO all`: the default sections have all that the checks need, and `all` adds the statistics of
//! every command, which on some servers is most of the answer.

use super::connection::{Connection, failure, server_failure};
use super::endpoint::Endpoint;
use super::info;
use crate::deadline::within;
use groundskeeper_core::observation::{Failure, FailureKind, Reading, Redis};
use jiff::Timestamp;
use redis::{Value, cmd};
use std::time::{Duration, Instant};

/// How far a reading came.
struct Progress {
    started: Instant,
    latency: Option<f64>,
    waits_for: &'static str,
}

/// Never an error, never later than the deadline.
pub async fn observe(endpoint: &Endpoint, now: Timestamp, deadline: Duration) -> Reading<Redis> {
    let mut progress = Progress { started: Instant::now(), latency: None, waits_for: "connect" };
    let mut outcome = within(deadline, endpoint.address(), read(endpoint, &mut progress)).await;
    if let Err(Failure { kind: FailureKind::Timeout, message, .. }) = &mut outcome {
        *message = format!("{message} (waited for: {})", progress.waits_for);
    }
    let took = progress.started.elapsed().as_secs_f64();
    Reading { at: now, latency: progress.latency.unwrap_or(took), took, outcome }
}

async fn read(endpoint: &Endpoint, progress: &mut Progress) -> Result<Redis, Failure> {
    let address = endpoint.address();
    let mut connection = Connection::open(endpoint, &mut progress.waits_for).await?;
    progress.waits_for = "AUTH";
    connection.login(endpoint).await?;
    progress.waits_for = "INFO";
    let answer = connection.ask(&cmd("INFO")).await?;
    progress.latency = Some(progress.started.elapsed().as_secs_f64());
    let text = match &answer {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::ServerError(error) => return Err(server_failure(error, address)),
        _ => return Err(failure(FailureKind::Protocol, "the answer to INFO is not a text", address)),
    };
    let mut seen = info::parse(&text)
        .ok_or_else(|| failure(FailureKind::Protocol, "the answer to INFO is not that of a Redis", address))?;
    if let Ok(persistence) = &mut seen.persistence {
        persistence.saves_configured = saves_configured(&mut connection).await;
    }
    Ok(seen)
}

/// None where CONFIG is not allowed or was renamed, or the connection ended: what INFO said is worth more than that.
async fn saves_configured(connection: &mut Connection<'_>) -> Option<bool> {
    let answer = connection.ask(cmd("CONFIG").arg("GET").arg("save")).await.ok()?;
    match answer {
        Value::Array(pair) => match pair.get(1)? {
            Value::BulkString(rules) => Some(!rules.is_empty()),
            Value::SimpleString(rules) => Some(!rules.is_empty()),
            _ => None,
        },
        _ => None,
    }
}
