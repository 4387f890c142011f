//! Starts a Postgres and a Redis, says where, and waits until it is killed.
//!
//! For the test that a `kill -9` takes the servers along, and for trying things by hand:
//! `cargo run -p groundskeeper-testing --bin hold-servers`.

use std::io::Write as _;

use groundskeeper_testing::{PostgresServer, RedisServer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let postgres = PostgresServer::start().await?;
    let redis = RedisServer::start().await?;
    let pids = [postgres.pid(), redis.pid()].map(Option::unwrap_or_default);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} {}\n{} {}", pids[0], postgres.url(), pids[1], redis.url())?;
    out.flush()?;
    std::future::pending().await
}
