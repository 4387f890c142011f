//! From the decision to restore to the first answer of a query.

use super::cluster::{Cluster, drop_caches};
use super::tools::{Store, is_root};
use anyhow::{Context, Result, ensure};
use groundskeeper_testing::port;
use groundskeeper_testing::process::{Launch, NotReady, RunAs, ServerProcess};
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_postgres::{Config, NoTls};

const READY_WITHIN: Duration = Duration::from_mins(10);
/// The first is a page of an index and one of the table, the second a table to be sure of.
const QUERY: &str =
    "SELECT (SELECT abalance FROM pgbench_accounts WHERE aid = 1), (SELECT count(*) FROM pgbench_branches)";

/// Seconds until the restored server has answered. It and its folder are gone afterwards.
pub(super) async fn to_the_first_answer(store: &Store, cluster: &Cluster) -> Result<f64> {
    drop_caches().await?;
    let started = Instant::now();
    let data = store.restore(cluster, &[]).await?;
    let (server, _) = start(&data, store, cluster).await?;
    let took = started.elapsed().as_secs_f64();
    drop(server);
    std::fs::remove_dir_all(store.restored())?;
    Ok(took)
}

/// A server on a restored folder that has answered, and how it is reached.
pub(super) async fn start(data: &Path, store: &Store, cluster: &Cluster) -> Result<(ServerProcess, Config)> {
    let port = port::free()?;
    let sockets = cluster.server.socket_dir();
    let run_as = if is_root() { RunAs::Other("postgres".to_owned()) } else { RunAs::Me };
    let log = store.log();
    let port_text = port.to_string();
    let mut server = ServerProcess::spawn(Launch {
        name: "the restored postgres",
        program: &cluster.programs.join("postgres"),
        arguments: [
            "-D".into(),
            data.into(),
            "-p".into(),
            port_text.into(),
            "-k".into(),
            sockets.clone().into(),
            "-c".into(),
            "archive_mode=off".into(),
        ]
        .into(),
        run_as: &run_as,
        folder: log.parent().context("a log is in a folder")?,
        goodbye: Signal::QUIT,
    })?;
    let mut config = Config::new();
    config.host_path(&sockets).port(port).user("postgres").password(cluster.server.password()).dbname("postgres");
    let ready = server.until_ready(READY_WITHIN, || answers(config.clone(), cluster.scale)).await;
    ready.map_err(|error| match error {
        NotReady::PortTaken => anyhow::anyhow!("port {port} was taken by somebody else; try again"),
        NotReady::Failed(error) => error,
    })?;
    Ok((server, config))
}

async fn answers(config: Config, scale: u32) -> Result<()> {
    let (client, connection) = config.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let branches: i64 = client.query_one(QUERY, &[]).await?.get(1);
    drop(client);
    connection.await??;
    ensure!(branches == i64::from(scale), "the restored server has {branches} branches instead of {scale}");
    Ok(())
}
