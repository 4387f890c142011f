//! What only the deeper rounds ask, over a connection of its own: the daily health check, the weekly maintenance, and a plan
//! that somebody asks for.

use super::client::{APPLICATION_NAME, Endpoint, reading_settings};
use super::{estimates, plans, sequences};
use groundskeeper_core::observation::{Deep, Failure, Gap};
use std::time::Duration;
use tokio::time::Instant;

/// Looks into users' tables by their indexes and plans their statements, for `within` at most. An error only where the server was not reached.
pub async fn look(endpoint: &Endpoint, within: Duration) -> Result<Deep, Failure> {
    let until = Instant::now() + within;
    let session = endpoint.connect(APPLICATION_NAME, &reading_settings(within), within).await?;
    let gap = || Gap::new("the server closed the connection");
    let (distributions, sequences, plans) = match session.client() {
        Some(client) => (
            Box::pin(estimates::read(client, until)).await,
            Box::pin(sequences::read(client, until)).await,
            Box::pin(plans::read(client, endpoint.trusted(), until)).await,
        ),
        None => (Err(gap()), Err(gap()), Err(gap())),
    };
    session.close(until.saturating_duration_since(Instant::now())).await;
    Ok(Deep { sequences, distributions, plans })
}
