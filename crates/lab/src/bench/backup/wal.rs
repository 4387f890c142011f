//! The WAL stream: what a crash takes, and what writers notice of it.
//!
//! A crash is `kill -9` of every process of the server, in the middle of its work. Its data folder then counts as lost: what
//! is restored comes from the repository alone. What was acknowledged to a client and is not there again is the loss, told
//! as the time from the first such commit to the crash. The keeper lives on another machine than the server in earnest; here
//! both share two processors and one disk, which makes it no faster.

use super::Plan;
use super::cluster::Cluster;
use super::restore;
use super::tools::{Store, Tool};
use crate::bar::{Bar, Wanted};
use crate::bench::median;
use crate::bench::process::tree;
use anyhow::{Context, Result, bail, ensure};
use groundskeeper_testing::scratch::Scratch;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Rounds of each: more than three say nothing more.
const ROUNDS: u32 = 3;
const CLIENTS: &str = "8";
const CAUGHT_UP_WITHIN: Duration = Duration::from_mins(10);
/// The bars: seconds, and percent of what writers have without us.
const LOST: f64 = 5.0;
const WRITERS: f64 = 95.0;

/// Seconds of writing: of the throughput, until a crash under load, until one at a commit a second.
fn spans(quick: bool) -> [u64; 3] {
    if quick { [5, 5, 5] } else { [60, 30, 15] }
}

pub(super) async fn measure(plan: &Plan) -> Result<(Vec<Bar>, String)> {
    let folder = Scratch::new("bench")?;
    let mut cluster = Cluster::start().await?;
    println!("wal: filling Postgres {} at scale {} …", cluster.version, plan.scale);
    cluster.fill(plan.scale).await?;
    cluster.execute("CREATE TABLE told (n bigint, at timestamptz DEFAULT clock_timestamp())").await?;
    let store = Store::prepare(Tool::Groundskeeper, folder.path(), &cluster).await?;
    store.stream_wal()?;
    let [writing, loaded, quiet] = spans(plan.quick);
    let rounds = plan.rounds.min(ROUNDS);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // In turn, so that neither is always the second.
        let first = round.is_multiple_of(2);
        for streams in [first, !first] {
            let (rate, name) = if streams {
                let keeper = Keeper::start(&store)?;
                keeper.caught_up(&cluster).await?;
                let rate = written(&cluster, writing).await?;
                keeper.stop().await?;
                (rate, "with")
            } else {
                drop_slot(&cluster).await?;
                (written(&cluster, writing).await?, "without")
            };
            println!("wal: {rate:.0} transactions a second {name} the stream");
            if streams { with.push(rate) } else { without.push(rate) }
        }
    }
    let (mut under_load, mut at_one) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        under_load.push(crash(&store, &mut cluster, Some(loaded), loaded).await?);
        at_one.push(crash(&store, &mut cluster, None, quiet).await?);
    }
    Ok(told(&without, &with, &under_load, &at_one))
}

fn told(without: &[f64], with: &[f64], under_load: &[f64], at_one: &[f64]) -> (Vec<Bar>, String) {
    let shares: Vec<f64> = with.iter().zip(without).map(|(with, without)| with / without * 100.0).collect();
    let worst = |losses: &[f64]| losses.iter().copied().fold(0.0, f64::max);
    let mut table = "| | without the stream | with it |\n|---|---|---|\n".to_owned();
    let _ =
        writeln!(table, "| pgbench, transactions a second (median) | {:.0} | {:.0} |", median(without), median(with));
    let each = |losses: &[f64]| losses.iter().map(|lost| format!("{lost:.1} s")).collect::<Vec<_>>().join(", ");
    table.push_str("\n| crash | lost, each time |\n|---|---|\n");
    let _ = writeln!(table, "| under full pgbench | {} |", each(under_load));
    let _ = writeln!(table, "| at one commit a second | {} |", each(at_one));
    let bars = vec![
        Bar::new("backup.wal_lost_under_load", worst(under_load), "s", Wanted::Below, LOST),
        Bar::new("backup.wal_lost_at_one_a_second", worst(at_one), "s", Wanted::Below, LOST),
        Bar::new("backup.wal_writers", median(&shares), "%", Wanted::AtLeast, WRITERS),
    ];
    (bars, table)
}

/// `groundskeeper run`, which streams.
struct Keeper {
    child: Child,
}

impl Keeper {
    fn start(store: &Store) -> Result<Self> {
        let mut command = store.keeper()?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("starting the keeper")? })
    }

    /// Until all that was written is in the repository.
    async fn caught_up(&self, cluster: &Cluster) -> Result<()> {
        let client = cluster.server.client().await;
        let sql = "SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
                   WHERE s.slot_name = 'groundskeeper_wal' AND r.flush_lsn >= pg_current_wal_flush_lsn()";
        let started = Instant::now();
        while client.query_one(sql, &[]).await?.get::<_, i64>(0) == 0 {
            ensure!(started.elapsed() < CAUGHT_UP_WITHIN, "the keeper does not come to the end of the WAL");
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            kill(pid, Signal::TERM)?;
        }
        self.child.wait().await?;
        Ok(())
    }
}

fn kill(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process has an odd number")?;
    match kill_process(pid, signal) {
        // It ended by itself.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}

/// Without a keeper the slot would keep WAL, and Postgres would make new files for what it writes.
async fn drop_slot(cluster: &Cluster) -> Result<()> {
    let sql =
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'groundskeeper_wal'";
    cluster.execute(sql).await
}

fn pgbench(cluster: &Cluster, seconds: u64) -> Command {
    let mut command = Command::new(cluster.programs.join("pgbench"));
    command.args(["-n", "-c", CLIENTS, "-j", "2", "-T", &seconds.to_string(), "postgres"]);
    command.envs(cluster.environment()).kill_on_drop(true);
    command
}

/// Transactions a second.
async fn written(cluster: &Cluster, seconds: u64) -> Result<f64> {
    cluster.execute("CHECKPOINT").await?;
    let done = pgbench(cluster, seconds).output().await.context("cannot start pgbench (package postgresql-contrib)")?;
    ensure!(done.status.success(), "pgbench: {}", String::from_utf8_lossy(&done.stderr));
    rate(&String::from_utf8_lossy(&done.stdout)).context("pgbench does not say how fast it was")
}

/// Of `tps = 1234.567890 (without initial connection time)`.
fn rate(said: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
}

/// One client that writes down what was acknowledged to it. Ends with its server.
fn record(cluster: &Cluster, first: i64, pause: Duration) -> JoinHandle<Result<Vec<Instant>>> {
    let url = cluster.server.url();
    tokio::spawn(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let insert = client.prepare("INSERT INTO told (n) VALUES ($1)").await?;
        let mut acknowledged = Vec::new();
        for n in first.. {
            if client.execute(&insert, &[&n]).await.is_err() {
                break;
            }
            acknowledged.push(Instant::now());
            sleep(pause).await;
        }
        Ok(acknowledged)
    })
}

/// Seconds that a crash takes, `after` so many seconds of work; with a load beside that goes on for longer.
async fn crash(store: &Store, cluster: &mut Cluster, load: Option<u64>, after: u64) -> Result<f64> {
    let keeper = Keeper::start(store)?;
    keeper.caught_up(cluster).await?;
    store.backup(cluster, true).await?;
    let first = last_told(&cluster.server.client().await).await? + 1;
    let load = load.map(|seconds| {
        let mut command = pgbench(cluster, seconds + 60);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    });
    let mut load = load.transpose().context("cannot start pgbench (package postgresql-contrib)")?;
    let pause = if load.is_some() { Duration::ZERO } else { Duration::from_secs(1) };
    let recording = record(cluster, first, pause);
    sleep(Duration::from_secs(after)).await;
    let postmaster = cluster.server.pid().context("the server has ended by itself")?;
    for pid in tree(postmaster) {
        kill(pid, Signal::KILL)?;
    }
    let crashed = Instant::now();
    let acknowledged = recording.await??;
    if let Some(load) = &mut load {
        load.wait().await?;
    }
    keeper.stop().await?;
    let there = restored(store, cluster).await?;
    // Should the loss reach further back, the first of these is lost as well.
    let (all, there) = (acknowledged.len(), usize::try_from((there + 1 - first).max(0))?);
    let lost = acknowledged.get(there).map_or(0.0, |at| crashed.saturating_duration_since(*at).as_secs_f64());
    println!("wal: a crash {}: {there} of {all} commits are there, {lost:.2} s are lost", named(load.is_some()));
    // The folder is not lost in truth, and makes the next round.
    cluster.server.stop_immediate().await?;
    cluster.server.start_again().await?;
    Ok(lost)
}

fn named(load: bool) -> &'static str {
    if load { "under load" } else { "at one commit a second" }
}

async fn last_told(client: &tokio_postgres::Client) -> Result<i64> {
    Ok(client.query_one("SELECT coalesce(max(n), 0) FROM told", &[]).await?.get(0))
}

/// The last commit that is there when everything in the repository was replayed.
async fn restored(store: &Store, cluster: &Cluster) -> Result<i64> {
    let data = store.restore(cluster, &["--to-latest"]).await?;
    let (server, config) = restore::start(&data, store, cluster).await?;
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    let started = Instant::now();
    while client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get(0) {
        if started.elapsed() > CAUGHT_UP_WITHIN {
            bail!("the restored server does not come to the end of its WAL");
        }
        sleep(Duration::from_millis(200)).await;
    }
    let last = last_told(&client).await?;
    drop(client);
    connection.await??;
    drop(server);
    std::fs::remove_dir_all(store.restored())?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_crash_counts_and_the_median_of_what_writers_have() {
        let (bars, table) = told(&[100.0, 200.0, 100.0], &[90.0, 196.0, 99.0], &[0.0, 6.1, 1.0], &[0.4, 0.0, 0.0]);
        let told: Vec<String> = bars.iter().map(Bar::to_string).collect();
        assert_eq!(
            told,
            [
                "bar backup.wal_lost_under_load value=6.1s target=<5s short",
                "bar backup.wal_lost_at_one_a_second value=0.4s target=<5s pass",
                "bar backup.wal_writers value=98% target=>=95% pass",
            ]
        );
        assert!(table.contains("| 100 | 99 |") && table.contains("0.0 s, 6.1 s, 1.0 s"), "{table}");
    }

    #[test]
    fn the_rate_is_read_as_pgbench_says_it() {
        let said = "number of failed transactions: 0 (0.000%)\ntps = 1234.567890 (without initial connection time)\n";
        assert_eq!(rate(said), Some(1_234.567_89));
        assert_eq!(rate("pgbench: error"), None);
    }
}
