//! The fault matrix: each fault is really caused on a live stack that a keeper watches, and must give exactly its
//! finding, with evidence, in time; and resolve by itself when the cause is gone.
//!
//! The keeper runs in this process as it runs for users, with a watch of one second instead of thirty and a `for` of
//! two seconds where a check has one, so that a test takes seconds. Binary facts (down, refused, 500) have no `for`.

use crate::bar::{Bar, Wanted};
use crate::stack::Stack;
use anyhow::{Context, Result, anyhow, bail, ensure};
use groundskeeper::app::{self, Daemon, api::FindingView};
use groundskeeper::clock::Clock;
use groundskeeper::config;
use groundskeeper_testing::{HttpTarget, SmallDisk};
use redis::AsyncCommands;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// An area of faults: postgres, redis, http, host. Without one, all.
    area: Option<String>,
    /// One fault by name, as `--list` shows it.
    #[arg(long)]
    only: Option<String>,
    /// Names every fault and the check that must notice it.
    #[arg(long)]
    list: bool,
}

const WATCH_SECONDS: u64 = 1;
/// A finding must be there after one watch interval, its `for` and the reading itself; the machine may be busy.
const SLACK: Duration = Duration::from_secs(8);
const HEAL: Duration = Duration::from_secs(30);

/// A fault and the check that must notice it, alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub name: &'static str,
    pub check: &'static str,
    cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    PostgresStopped,
    ConnectionsUsed,
    IdleInTransaction,
    BlockedSession,
    RedisStopped,
    RedisFull,
    Http500,
    HttpSlow,
    DiskFull,
}

const fn fault(name: &'static str, check: &'static str, cause: Cause) -> Fault {
    Fault { name, check, cause }
}

pub const FAULTS: [Fault; 9] = [
    fault("postgres-stopped", "postgres.unreachable", Cause::PostgresStopped),
    fault("postgres-connections-used", "postgres.connections_near_limit", Cause::ConnectionsUsed),
    fault("postgres-idle-in-transaction", "postgres.idle_in_transaction", Cause::IdleInTransaction),
    fault("postgres-blocked-session", "postgres.blocked_sessions", Cause::BlockedSession),
    fault("redis-stopped", "redis.unreachable", Cause::RedisStopped),
    fault("redis-full", "redis.memory_near_limit", Cause::RedisFull),
    fault("http-500", "http.status_unexpected", Cause::Http500),
    fault("http-slow", "http.slow", Cause::HttpSlow),
    fault("host-disk-full", "host.disk_nearly_full", Cause::DiskFull),
];

/// What the keeper made of a fault.
#[derive(Debug)]
pub struct Outcome {
    pub fault: Fault,
    pub detected: Duration,
    pub resolved: Duration,
    pub finding: FindingView,
}

/// Exit code 0 when everything could be measured.
pub async fn run(options: Options) -> Result<u8> {
    let area_of = |fault: &Fault| fault.name.split('-').next().unwrap_or_default().to_owned();
    let chosen: Vec<Fault> = FAULTS
        .into_iter()
        .filter(|fault| options.area.as_ref().is_none_or(|area| area_of(fault) == *area))
        .filter(|fault| options.only.as_deref().is_none_or(|only| fault.name == only))
        .collect();
    if options.list {
        for fault in &chosen {
            println!("{:<30} {}", fault.name, fault.check);
        }
        return Ok(0);
    }
    ensure!(!chosen.is_empty(), "there is no such fault; `cargo xtask faults --list` names them");
    let mut scene = Scene::start().await?;
    scene.stays_silent(3).await.context("a healthy stack must give no finding")?;
    println!("healthy stack: no finding in 3 rounds\n");
    let mut bars = Vec::new();
    for fault in chosen {
        match scene.play(fault).await {
            Ok(outcome) => {
                println!("{:<30} {}", fault.name, outcome.finding.finding.summary);
                println!(
                    "{:<30} detected after {:.1} s, resolved {:.1} s after the cause was gone\n",
                    "",
                    outcome.detected.as_secs_f64(),
                    outcome.resolved.as_secs_f64()
                );
                bars.push(Bar::new(format!("faults.{}", fault.name), 1.0, "found", Wanted::AtLeast, 1.0));
            }
            Err(error) => {
                println!("{:<30} {error:#}\n", fault.name);
                bars.push(Bar::new(format!("faults.{}", fault.name), 0.0, "found", Wanted::AtLeast, 1.0));
                // A fault that was not healed would spoil the next: begin anew.
                scene.stop().await;
                scene = Scene::start().await?;
            }
        }
    }
    scene.stop().await;
    for bar in bars {
        println!("{bar}");
    }
    Ok(0)
}

/// A live stack with a keeper on it.
pub struct Scene {
    stack: Stack,
    http: HttpTarget,
    disk: SmallDisk,
    daemon: Daemon,
}

impl Scene {
    pub async fn start() -> Result<Self> {
        let stack = Stack::with_tables().await?;
        let http = HttpTarget::start().await?;
        let disk = SmallDisk::mount(64)?;
        let file = stack.configure(&http.url(), &settings())?;
        let text = std::fs::read_to_string(&file)?
            .replace("[host.local]", &format!("[host.local]\nmounts = [\"{}\"]", disk.path().display()));
        std::fs::write(&file, text)?;
        let settings = config::load(Some(&file)).context("the lab's own configuration")?;
        let daemon = app::start(settings, Clock::wall()).await.map_err(|error| anyhow!(error.message))?;
        let scene = Self { stack, http, disk, daemon };
        scene.wait_round().await?;
        Ok(scene)
    }

    pub async fn stop(self) {
        self.daemon.stop().await;
    }

    /// No finding, pending ones included, for so many rounds.
    pub async fn stays_silent(&self, rounds: u32) -> Result<()> {
        for _ in 0..rounds {
            self.wait_round().await?;
            let seen = self.findings().await?;
            ensure!(seen.is_empty(), "reported: {}", described(&seen));
        }
        Ok(())
    }

    /// Causes a fault, waits for exactly its finding, heals, waits for its end.
    pub async fn play(&mut self, fault: Fault) -> Result<Outcome> {
        let caused = Instant::now();
        let held = self.cause(fault.cause).await.context("causing the fault")?;
        let allowed = Duration::from_secs(WATCH_SECONDS) + patience(fault.cause) + SLACK;
        let finding = loop {
            ensure!(caused.elapsed() < allowed, "{} was not found within {} s", fault.check, allowed.as_secs());
            tokio::time::sleep(Duration::from_millis(100)).await;
            let open = self.findings().await?;
            if let Some(found) = open.iter().find(|found| found.finding.check == fault.check && found.opened.is_some())
            {
                break found.clone();
            }
        };
        let detected = caused.elapsed();
        for _ in 0..2 {
            self.wait_round().await?;
            let open = self.findings().await?;
            ensure!(
                open.len() == 1 && open[0].finding.check == fault.check,
                "expected {} alone, got: {}",
                fault.check,
                described(&open)
            );
        }
        ensure!(!finding.finding.evidence.is_empty(), "{} has no evidence", fault.check);
        ensure!(finding.finding.fix.len() > 10, "{} says no next step", fault.check);
        self.heal(fault.cause, held).await.context("healing the fault")?;
        let healed = Instant::now();
        while !self.findings().await?.is_empty() {
            if healed.elapsed() > HEAL {
                bail!("it did not resolve: {}", described(&self.findings().await?));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Outcome { fault, detected, resolved: healed.elapsed(), finding })
    }

    async fn findings(&self) -> Result<Vec<FindingView>> {
        let all = self.daemon.app.findings(true).await.map_err(|error| anyhow!(error.message))?;
        Ok(all.into_iter().filter(|found| found.resolved.is_none()).collect())
    }

    /// Waits until a round of the watch that began after this call has ended.
    async fn wait_round(&self) -> Result<()> {
        let mut rounds = 0;
        let mut last = self.watched().await?;
        let started = Instant::now();
        while rounds < 2 {
            ensure!(started.elapsed() < Duration::from_mins(1), "the watch does not run");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.watched().await?;
            if now != last {
                last = now;
                rounds += 1;
            }
        }
        Ok(())
    }

    async fn watched(&self) -> Result<Option<jiff::Timestamp>> {
        Ok(self.daemon.app.status().await.map_err(|error| anyhow!(error.message))?.watched)
    }

    async fn cause(&mut self, cause: Cause) -> Result<Vec<Client>> {
        let url = self.stack.app_url();
        match cause {
            Cause::PostgresStopped => self.stack.postgres.stop().await?,
            Cause::ConnectionsUsed => return self.use_up_connections().await,
            Cause::IdleInTransaction => {
                let session = self.stack.postgres.client_at(&url).await;
                session.batch_execute("BEGIN; UPDATE documents SET title = title WHERE id = 1").await?;
                return Ok(vec![session]);
            }
            Cause::BlockedSession => {
                // The holder works, so that it is not reported as idle in its transaction as well.
                for work in ["SELECT pg_sleep(120)", "SELECT 1"] {
                    let session = self.stack.postgres.client_at(&url).await;
                    let busy = format!("BEGIN; UPDATE documents SET title = title WHERE id = 2; {work}");
                    // It ends with an error when the fault is healed.
                    tokio::spawn(async move { session.batch_execute(&busy).await });
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
            Cause::RedisStopped => self.stack.redis.stop().await?,
            Cause::RedisFull => self.fill_redis().await?,
            Cause::Http500 => self.http.set_status(500),
            Cause::HttpSlow => self.http.set_delay(Duration::from_millis(1500)),
            Cause::DiskFull => self.disk.fill_to(97)?,
        }
        Ok(Vec::new())
    }

    async fn heal(&mut self, cause: Cause, held: Vec<Client>) -> Result<()> {
        match cause {
            Cause::PostgresStopped => self.stack.postgres.start_again().await?,
            Cause::ConnectionsUsed | Cause::IdleInTransaction => drop(held),
            Cause::BlockedSession => {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
                self.stack.postgres.client().await.batch_execute(end).await?;
            }
            Cause::RedisStopped => self.stack.redis.start_again().await?,
            Cause::RedisFull => {
                let mut redis = self.stack.redis.connection().await;
                redis::cmd("UNLINK").arg("ballast").query_async::<()>(&mut redis).await?;
                set_policy(&mut redis, "allkeys-lru").await?;
            }
            Cause::Http500 => self.http.set_status(200),
            Cause::HttpSlow => self.http.set_delay(Duration::ZERO),
            Cause::DiskFull => self.disk.fill_to(1)?,
        }
        Ok(())
    }

    /// Opens sessions until 95 % of what `max_connections` leaves for everybody is used.
    async fn use_up_connections(&self) -> Result<Vec<Client>> {
        let admin = self.stack.postgres.client().await;
        let row = admin
            .query_one(
                "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
                        (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend')",
                &[],
            )
            .await?;
        let (usable, used): (i32, i32) = (row.get(0), row.get(1));
        // Rounded up, and one stays free for the keeper itself.
        let wanted = (usable * 95 + 99) / 100 - used;
        let mut held = vec![admin];
        for _ in 0..wanted {
            held.push(self.stack.postgres.client_at(&self.stack.app_url()).await);
        }
        Ok(held)
    }

    /// Fills Redis to its limit with a policy that evicts nothing, so that writes are refused.
    async fn fill_redis(&self) -> Result<()> {
        let mut redis = self.stack.redis.connection().await;
        set_policy(&mut redis, "noeviction").await?;
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            let pushed: redis::RedisResult<i64> = redis.rpush("ballast", &chunk[..]).await;
            if pushed.is_err() {
                return Ok(());
            }
        }
        bail!("100 MiB did not fill a Redis of 64 MiB")
    }
}

async fn set_policy(redis: &mut redis::aio::MultiplexedConnection, policy: &str) -> Result<()> {
    Ok(redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg(policy).query_async::<()>(redis).await?)
}

/// How long a condition must last before its check may speak, beside the watch interval.
fn patience(cause: Cause) -> Duration {
    Duration::from_secs(match cause {
        Cause::PostgresStopped | Cause::RedisStopped | Cause::Http500 => 0,
        Cause::IdleInTransaction | Cause::BlockedSession => 3 + 2 + WATCH_SECONDS,
        _ => 2 + WATCH_SECONDS,
    })
}

fn settings() -> String {
    const HOLD: &str = "for = \"2s\"\nclear_after = \"0s\"";
    let held = [
        ("postgres.connections_near_limit", ""),
        ("postgres.idle_in_transaction", "warning = 3"),
        ("postgres.blocked_sessions", "warning = 3"),
        ("redis.memory_near_limit", ""),
        ("http.slow", ""),
        ("host.disk_nearly_full", ""),
    ];
    let held = held.map(|(check, more)| format!("[checks.\"{check}\"]\n{HOLD}\n{more}\n"));
    // The machine may be busy building something else; that is not a fault of this stack.
    let off = ["host.load_high", "host.memory_low"].map(|check| format!("[checks.\"{check}\"]\nenabled = false\n"));
    format!(
        "[web]\nlisten = \"off\"\n\n[tasks.watch]\nevery = \"{WATCH_SECONDS}s\"\n\n{}\n{}\n",
        held.join("\n"),
        off.join("\n")
    )
}

fn described(findings: &[FindingView]) -> String {
    if findings.is_empty() {
        return "nothing".to_owned();
    }
    findings
        .iter()
        .map(|found| format!("{} ({})", found.finding.check, found.finding.summary))
        .collect::<Vec<_>>()
        .join("; ")
}
