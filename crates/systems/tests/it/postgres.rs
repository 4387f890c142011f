//! The postgres adapter against a real server.

mod acting;
mod altering;
mod bloat;
mod blocking;
mod contents;
mod disk;
mod estimates;
mod expiring;
mod exporting;
mod facts;
mod granting;
mod keys;
mod killed;
mod lag;
mod leak;
mod parting;
mod queries;
mod reaching;
mod reading;
mod reindexing;
mod scans;
mod security;
mod sequences;
mod standing_by;
mod statements;
mod suiting;
mod upkeep;
mod usage;
mod vacuuming;
mod vectors;
mod walsender;

use groundskeeper_core::observation::{Postgres, Reading};
use groundskeeper_systems::postgres::{Endpoint, observe};
use groundskeeper_testing::PostgresServer;
use jiff::Timestamp;
use std::time::Duration;
use tokio_postgres::Client;

const DEADLINE: Duration = Duration::from_secs(5);

fn endpoint(url: &str) -> Endpoint {
    Endpoint::parse(url, None).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test stands in for the program, which has the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn read(url: &str) -> Reading<Postgres> {
    observe(&endpoint(url), now(), DEADLINE).await
}

/// The reading of a server that answers.
async fn seen(url: &str) -> Postgres {
    read(url).await.outcome.unwrap()
}

/// A role with a password, and its address.
async fn role(server: &PostgresServer, name: &str, rights: &str) -> String {
    let admin = server.client().await;
    admin.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'pw-{name}' {rights}")).await.unwrap();
    server.url_for(name, &format!("pw-{name}"), "postgres")
}

/// Another connection, as another application.
async fn client_as(server: &PostgresServer, url: &str, application: &str) -> Client {
    let client = server.client_at(url).await;
    client.batch_execute(&format!("SET application_name = '{application}'")).await.unwrap();
    client
}
