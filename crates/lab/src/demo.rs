//! The demo: one Sunday of the calendar, compressed, on a live stack under load.
//!
//! Three things go wrong on purpose: tables that nobody vacuumed, a session that is left idle in a transaction, and a
//! Redis that goes away for an hour. The keeper finds them, mends what it may, and the report tells of it. `--once`
//! ends by itself and fails when anything of that did not happen, or anything else did.

use crate::service::Service;
use crate::stack::{DOCUMENTS, Stack};
use crate::workload::Workload;
use anyhow::{Context, Result};
use groundskeeper::app::{self, Daemon};
use groundskeeper::clock::Clock;
use groundskeeper::config;
use groundskeeper_core::SystemKind;
use groundskeeper_core::policy::Outcome;
use groundskeeper_core::report::DayReport;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, civil::Weekday};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// End by itself after the day; exit 1 when something that should have happened did not.
    #[arg(long)]
    once: bool,
    /// Real seconds for the day.
    #[arg(long, default_value_t = 100)]
    seconds: u32,
}

const DAY_SECONDS: f64 = 86_400.0;

/// The demo's configuration beside its systems. Ages inside a database are real seconds even when the day is compressed,
/// hence the small threshold of idle sessions.
const SETTINGS: &str = r#"
# Yours starts at "observe", where nothing is changed. The demo shows what "auto" does.
autonomy = "auto"

[maintenance]
windows = ["Sun 02:00-05:00"]

[tasks.watch]
every = "20m"

[checks."postgres.idle_in_transaction"]
warning = 4
critical = 600

# The watch leaves worn tables to the weekly maintenance, so that the demo shows that one at work.
[checks."postgres.dead_rows_past_trigger"]
for = "12h"

[checks."postgres.statistics_stale"]
for = "12h"
"#;

pub async fn run(options: Options) -> Result<u8> {
    let started = Instant::now();
    step(started, "starting a private Postgres and Redis");
    let mut stack = Stack::start().await?;
    step(started, "starting a small HTTP service on them, and its users");
    let service = Service::start(&stack.app_url(), &stack.redis.url(), &stack.log_folder().join("access.log")).await?;
    let workload = Workload::start(&service, DOCUMENTS);
    stack.wear_out().await?;

    let page = page_address();
    let more = format!("{SETTINGS}\n[web]\nlisten = \"{page}\"\n");
    let file = stack.configure(&service.url("/health"), &more)?;
    append_logs(&file, &stack)?;
    let settings = config::load(Some(&file)).context("the demo's own configuration")?;

    let sunday = last_sunday();
    let speed = DAY_SECONDS / f64::from(options.seconds.max(30));
    step(started, &format!("one Sunday of the calendar in {} seconds ({speed:.0} times as fast)", options.seconds));
    let clock = Clock::compressed(sunday, speed);
    let daemon = app::start(settings, clock.clone()).await.map_err(|error| anyhow::anyhow!(error.message))?;
    if let Some(address) = daemon.page {
        step(started, &format!("the page: http://{address}"));
    }

    let day = Day { started, clock: &clock, sunday };
    let told = tokio::select! {
        told = day.live(&mut stack) => told,
        _ = tokio::signal::ctrl_c() => { eprintln!(); daemon.stop().await; return Ok(130) }
    };
    told?;
    let day_name = sunday.to_zoned(TimeZone::UTC).date().to_string();
    let report = daemon.app.report(Some(day_name)).await.map_err(|error| anyhow::anyhow!(error.message))?;
    println!("\n{}", report.to_text());

    let code = if options.once { judge(&report) } else { wait(&daemon, started).await };
    daemon.stop().await;
    let (answered, failed) = workload.stop().await;
    step(started, &format!("the service answered {answered} requests, {failed} failed; everything is gone again"));
    Ok(code)
}

/// What happens during the day.
struct Day<'a> {
    started: Instant,
    clock: &'a Clock,
    sunday: Timestamp,
}

impl Day<'_> {
    fn at(&self, hour: i64) -> Timestamp {
        self.sunday + SignedDuration::from_hours(hour)
    }

    async fn live(&self, stack: &mut Stack) -> Result<()> {
        let say = |hour: &str, what: &str| step(self.started, &format!("{hour}  {what}"));
        say("00:00", "two tables are past their vacuum and analyze triggers; maintenance is due at 02:15");
        self.clock.sleep_until(self.at(6)).await;
        say("06:00", "somebody opens a transaction and walks away");
        let forgotten = stack.postgres.client_at(&stack.app_url()).await;
        forgotten.batch_execute("BEGIN; SELECT count(*) FROM documents").await?;
        self.clock.sleep_until(self.at(14)).await;
        drop(forgotten);
        say("14:00", "Redis stops");
        stack.redis.stop().await?;
        self.clock.sleep_until(self.at(17)).await;
        say("17:00", "Redis is back");
        stack.redis.start_again().await?;
        // A little into the next day, so that the last runs of this one are in its report.
        self.clock.sleep_until(self.at(24)).await;
        say("24:00", "the day is over");
        Ok(())
    }
}

/// Whether the day went as it must: what was broken was found, mended and resolved, and nothing else was reported.
fn judge(report: &DayReport) -> u8 {
    let mut wrong: Vec<String> = Vec::new();
    for (check, resolved) in [("postgres.idle_in_transaction", true), ("redis.unreachable", true)] {
        match report.findings.iter().find(|line| line.check == check) {
            None => wrong.push(format!("{check} was caused and not found")),
            Some(line) if resolved && line.resolved.is_none() => wrong.push(format!("{check} did not resolve")),
            Some(_) => {}
        }
    }
    let planted = ["postgres.idle_in_transaction", "redis.unreachable"];
    for line in &report.findings {
        // The machine itself may have troubles of its own; they are shown and are not the demo's doing.
        if line.system.kind != SystemKind::Host && !planted.contains(&line.check.as_str()) {
            wrong.push(format!("{} was reported and not caused: {}", line.check, line.summary));
        }
    }
    for remedy in ["postgres.vacuum_table", "postgres.analyze_table", "postgres.end_idle_in_transaction"] {
        if !report.actions.iter().any(|action| action.remedy == remedy && action.outcome == Outcome::Helped) {
            wrong.push(format!("{remedy} did not help"));
        }
    }
    for task in ["watch", "daily-health", "performance-review", "database-maintenance"] {
        match report.runs.iter().find(|run| run.task == task) {
            None => wrong.push(format!("{task} did not run")),
            Some(run) if run.failed > 0 => wrong.push(format!("{task} failed: {}", run.last_summary)),
            Some(_) => {}
        }
    }
    if wrong.is_empty() {
        println!("demo: everything that was broken was found and mended, and nothing else was reported");
        return 0;
    }
    for line in wrong {
        println!("demo: {line}");
    }
    1
}

async fn wait(daemon: &Daemon, started: Instant) -> u8 {
    if let Some(address) = daemon.page {
        step(started, &format!("the page stays open at http://{address} until Ctrl-C"));
    }
    let _ = tokio::signal::ctrl_c().await;
    eprintln!();
    0
}

fn step(started: Instant, what: &str) {
    eprintln!("[{:>4} s] {what}", started.elapsed().as_secs());
}

/// The keeper's own port when it is free.
fn page_address() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 7070));
    if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
}

fn append_logs(file: &std::path::Path, stack: &Stack) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let folder = stack.log_folder();
    Ok(std::fs::write(file, format!("{text}\n[logs.service]\nfolder = \"{}\"\n", folder.display()))?)
}

/// Midnight (UTC) of the last Sunday that is over.
fn last_sunday() -> Timestamp {
    let mut date = Clock::wall().now().to_zoned(TimeZone::UTC).date().saturating_sub(1.day());
    while date.weekday() != Weekday::Sunday {
        date = date.saturating_sub(1.day());
    }
    date.to_zoned(TimeZone::UTC).map_or_else(|_| Clock::wall().now(), |midnight| midnight.timestamp())
}
