//! One `check` over four systems, against the same questions asked by separate processes, as a cron script asks them.
//!
//! Both sides run as whole processes, in turn, after one round that is not counted. The keeper's connections to
//! Postgres are counted from the server's own log (`log_connections`).

use super::{keeper, median};
use crate::bar::{Bar, Wanted};
use crate::stack::Stack;
use anyhow::{Context, Result, ensure};
use groundskeeper_testing::HttpTarget;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;
use tokio::process::Command;

/// What the keeper's first set of Postgres checks asks, one question a process.
const QUESTIONS: [&str; 17] = [
    "SELECT version()",
    "SELECT count(*), current_setting('max_connections') FROM pg_stat_activity WHERE backend_type = 'client backend'",
    "SELECT pid, state_change FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'",
    "SELECT pid, now() - query_start FROM pg_stat_activity WHERE state = 'active' AND now() - query_start > interval '5 min'",
    "SELECT pid, now() - xact_start FROM pg_stat_activity WHERE now() - xact_start > interval '30 min'",
    "SELECT pid, pg_blocking_pids(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
    "SELECT datname, age(datfrozenxid), mxid_age(datminmxid) FROM pg_database",
    "SELECT datname, pg_database_size(oid) FROM pg_database",
    "SELECT relname, n_live_tup, n_dead_tup, n_mod_since_analyze, last_autovacuum FROM pg_stat_user_tables",
    "SELECT sum(blks_hit), sum(blks_read) FROM pg_stat_database",
    "SELECT checkpoints_timed, checkpoints_req FROM pg_stat_bgwriter",
    "SELECT application_name, replay_lag FROM pg_stat_replication",
    "SELECT archived_count, failed_count, last_failed_time FROM pg_stat_archiver",
    "SELECT extversion FROM pg_extension WHERE extname = 'pg_stat_statements'",
    "SELECT query, calls, mean_exec_time, total_exec_time FROM pg_stat_statements ORDER BY mean_exec_time DESC LIMIT 20",
    "SELECT name, setting FROM pg_settings WHERE name IN ('autovacuum', 'checkpoint_timeout', 'autovacuum_freeze_max_age')",
    "SELECT pg_has_role('pg_monitor', 'USAGE'), pg_has_role('pg_signal_backend', 'USAGE')",
];

const REDIS_QUESTIONS: [&[&str]; 6] = [
    &["PING"],
    &["INFO", "memory"],
    &["INFO", "stats"],
    &["INFO", "clients"],
    &["INFO", "persistence"],
    &["INFO", "replication"],
];

pub(super) async fn measure(rounds: u32) -> Result<Vec<Bar>> {
    let binary = keeper::binary()?;
    let stack = Stack::with_tables().await?;
    let target = HttpTarget::start().await?;
    let health = format!("{}/health", target.url());
    let config = stack.configure(&health, "")?;
    let versions = [
        keeper::version(&binary.display().to_string(), "--version").await?,
        keeper::version(&psql(), "--version").await?,
        keeper::version("redis-cli", "--version").await?,
        keeper::version("curl", "--version").await?,
    ];

    let (mut ours, mut theirs, mut connections) = (Vec::new(), Vec::new(), 0);
    for round in 0..=rounds {
        let before = keeper_connections(&stack)?;
        let started = Instant::now();
        check(&binary, &config).await?;
        let our_time = started.elapsed().as_secs_f64();
        connections = keeper_connections(&stack)? - before;
        let started = Instant::now();
        separate(&stack, &health).await?;
        let their_time = started.elapsed().as_secs_f64();
        if round > 0 {
            println!("round {round}: check {our_time:.3} s, separate processes {their_time:.3} s");
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| theirs / ours).collect();
    let processes = QUESTIONS.len() + REDIS_QUESTIONS.len() + 1 + 4;
    println!(
        "\nmedian of {rounds} rounds: check {:.3} s, {processes} separate processes {:.3} s",
        median(&ours),
        median(&theirs)
    );
    println!("{}", versions.join("; "));
    Ok(vec![
        Bar::new("sweep.wall", median(&ours), "s", Wanted::Below, 1.0),
        Bar::new("sweep.connections", connections as f64, "connections", Wanted::Exactly, 1.0),
        Bar::new("sweep.ratio", median(&ratios), "x", Wanted::AtLeast, 10.0),
    ])
}

async fn check(binary: &Path, config: &Path) -> Result<()> {
    let output = keeper::command(binary, config).args(["check", "--output", "json"]).output().await?;
    ensure!(
        output.status.code().is_some_and(|code| code <= 1),
        "check failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).context("check printed no JSON")?;
    let systems = view["systems"].as_array().map_or(0, Vec::len);
    ensure!(systems == 4, "check answered for {systems} systems instead of 4");
    Ok(())
}

/// The same questions, one process each.
async fn separate(stack: &Stack, http: &str) -> Result<()> {
    let (url, psql) = (stack.keeper_url(), psql());
    for question in QUESTIONS {
        one(&psql, &["-X", "-A", "-t", "-q", "-c", question, &url]).await?;
    }
    let port = stack.redis.port().to_string();
    for question in REDIS_QUESTIONS {
        one("redis-cli", &[&["-p", port.as_str()], question].concat()).await?;
    }
    one("curl", &["-s", "-o", "/dev/null", "-w", "%{http_code} %{time_total}", http]).await?;
    one("df", &["-P"]).await?;
    one("df", &["-Pi"]).await?;
    one("free", &["-b"]).await.or_else(|_| Ok::<(), anyhow::Error>(()))?;
    one("uptime", &[]).await.or_else(|_| Ok::<(), anyhow::Error>(()))
}

/// The program itself: Debian's `psql` on the path is a Perl script around it, and its start is not the peer's fault.
fn psql() -> String {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin/psql")).collect())
        .unwrap_or_default();
    versions.retain(|path: &std::path::PathBuf| path.exists());
    versions.sort();
    versions.pop().map_or_else(|| "psql".to_owned(), |path| path.display().to_string())
}

async fn one(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .with_context(|| format!("{program} is not installed"))?;
    ensure!(status.success(), "{program} {} ended with {status}", arguments.join(" "));
    Ok(())
}

/// Connections of the keeper that the server has logged so far.
fn keeper_connections(stack: &Stack) -> Result<usize> {
    let log = std::fs::read_to_string(stack.postgres.log_file()).context("reading the server's log")?;
    let ours = |line: &&str| {
        line.contains("connection authorized: user=groundskeeper") && line.contains("application_name=groundskeeper")
    };
    let named = log.lines().filter(ours).count();
    // The keeper names itself only after connecting on some versions; psql always does at once.
    let unnamed = log
        .lines()
        .filter(|line| {
            line.contains("connection authorized: user=groundskeeper") && !line.contains("application_name=")
        })
        .count();
    Ok(named + unnamed)
}
