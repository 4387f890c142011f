//! The demo: one Sunday of the calendar, compressed, on a live stack under load.
//!
//! The stack is Doc-RAG on a Postgres and a Redis, with some pages of the Postgres manual and users who search, ask and
//! write. A backup set is made and proven, and afterwards restored and asked. Three things go wrong on purpose: tables that nobody vacuumed, a session that is left idle in a transaction,
//! and a Redis that goes away for three hours. The keeper finds them, mends what it may, and the report tells of it.
//! `--once` ends by itself and fails when anything of that did not happen, or anything else did.

use crate::docrag::{DocRag, Place};
use crate::recovery;
use crate::stack::Stack;
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
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// End by itself after the day; exit 1 when something that should have happened did not.
    #[arg(long)]
    once: bool,
    /// Real seconds for the day.
    #[arg(long, default_value_t = 100)]
    seconds: u32,
    /// Ingest the whole Postgres manual (16 MB, about 20 minutes on two cores) instead of a few pages.
    #[arg(long)]
    full: bool,
}

/// Where Debian's `postgresql-doc-15` puts the manual.
const MANUAL: &str = "/usr/share/doc/postgresql-doc-15/html";
/// What an administrator looks up most; together at most `MOST_CHUNKS` chunks.
const PAGES: [&str; 12] = [
    "routine-vacuuming.html",
    "wal-intro.html",
    "wal-configuration.html",
    "wal-reliability.html",
    "checksums.html",
    "routine-reindex.html",
    "logfile-maintenance.html",
    "backup-dump.html",
    "backup-file.html",
    "monitoring-locks.html",
    "diskusage.html",
    "runtime-config-resource.html",
];
const MOST_CHUNKS: u64 = 300;
/// Asked of the service, and the page that an answer must cite.
const QUESTION: &str = "How are transaction ID wraparound failures prevented?";
const ANSWER_IS_ON: &str = "routine-vacuuming.html";

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
    step(started, "starting Doc-RAG on them");
    let service = start_service(&stack).await?;
    let mut wrong = teach(&service, started, options.full).await?;
    let workload = Workload::start(&service);
    stack.settle().await?;
    wear_out(&stack).await?;

    let page = page_address();
    let more = format!("{SETTINGS}\n[web]\nlisten = \"{page}\"\n{}", recovery::configure(&stack)?);
    let file = stack.configure(&service.url("/health/ready"), &more)?;
    append_logs(&file, &stack)?;
    let settings = config::load(Some(&file)).context("the demo's own configuration")?;
    recovery::init(&settings).await?;

    let sunday = last_sunday();
    let speed = DAY_SECONDS / f64::from(options.seconds.max(30));
    step(started, &format!("one Sunday of the calendar in {} seconds ({speed:.0} times as fast)", options.seconds));
    let clock = Clock::compressed(sunday, speed);
    let daemon = app::start(settings.clone(), clock.clone()).await.map_err(|error| anyhow::anyhow!(error.message))?;
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

    wrong.extend(judge(&report));
    step(started, "restoring the newest backup set into an empty folder, as after a disaster");
    let (brought, missed) = recovery::bring_back(&settings, &stack).await.context("restoring the newest backup set")?;
    step(started, &brought);
    wrong.extend(missed);
    let (answered, failed) = workload.counts();
    if answered == 0 || failed > 0 {
        wrong.push(format!("of the users' requests {answered} were answered and {failed} failed"));
    }
    let code = if options.once { verdict(&wrong) } else { wait(&daemon, &service, started).await };
    daemon.stop().await;
    let (answered, failed) = workload.stop().await;
    service.stop().await?;
    step(started, &format!("Doc-RAG answered {answered} requests, {failed} failed; everything is gone again"));
    Ok(code)
}

async fn start_service(stack: &Stack) -> Result<DocRag> {
    let (database, redis) = (stack.app_url(), stack.redis.url());
    let log = stack.log_folder().join("docrag.log");
    let place = Place { folder: stack.folder(), database: &database, redis: Some(&redis), log: &log, more: "" };
    DocRag::start(&place).await
}

/// Ingests the manual and asks it a question. Gives what was not as it must be.
async fn teach(service: &DocRag, started: Instant, full: bool) -> Result<Vec<String>> {
    let files = pages(full)?;
    step(started, &format!("Doc-RAG reads {} pages of the Postgres manual", files.len()));
    let chunks = service.ingest(&files).await?;
    step(started, &format!("{chunks} chunks are embedded and can be searched; asking: {QUESTION}"));
    let answer = service.ask(QUESTION).await?;
    println!("\n{}\n", show(&answer));
    let mut wrong = Vec::new();
    if !cites(&answer, ANSWER_IS_ON) {
        wrong.push(format!("the answer to \"{QUESTION}\" does not cite {ANSWER_IS_ON}"));
    }
    if !full && chunks > MOST_CHUNKS {
        wrong.push(format!("the pages gave {chunks} chunks, more than {MOST_CHUNKS}"));
    }
    Ok(wrong)
}

pub(crate) fn pages(full: bool) -> Result<Vec<PathBuf>> {
    let folder = Path::new(MANUAL);
    let missing = "the manual is not installed; `cargo xtask setup` installs postgresql-doc-15";
    if !full {
        let files: Vec<PathBuf> = PAGES.iter().map(|page| folder.join(page)).collect();
        anyhow::ensure!(files.iter().all(|file| file.is_file()), "{missing}");
        return Ok(files);
    }
    let entries = std::fs::read_dir(folder).context(missing)?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "html"));
    files.sort();
    Ok(files)
}

/// Makes `vectors` need a vacuum and `user_sessions` an analyze, past their own triggers. An indexed column is changed and
/// changed back: the dead rows of other updates would be pruned by whoever reads the page next.
async fn wear_out(stack: &Stack) -> Result<()> {
    let app = stack.postgres.client_at(&stack.app_url()).await;
    // Below a thousand dead rows, nobody is told.
    for _ in 0..5 {
        app.batch_execute(
            "UPDATE vectors SET chunk_hash = chunk_hash || '\\x00';
             UPDATE vectors SET chunk_hash = substring(chunk_hash FOR length(chunk_hash) - 1);",
        )
        .await?;
    }
    app.batch_execute(
        "INSERT INTO user_sessions (id, key_id, tenant, hash, expires_at)
           SELECT gen_random_uuid(), (SELECT min(id::text)::uuid FROM api_keys), 'demo', sha256(n::text::bytea),
                  now() + interval '1 day'
           FROM generate_series(1, 2000) n;",
    )
    .await?;
    Ok(())
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
        say("00:00", "the repository of backups is empty; a set is due at 01:00, its proof at 08:00");
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

/// What is to be found and to pass. A repository without a set is what the day begins with.
const PLANTED: [&str; 3] = ["postgres.idle_in_transaction", "redis.unreachable", "backup.set_missing"];

/// What did not go as it must: what was broken was found, mended and resolved, and nothing else was reported.
fn judge(report: &DayReport) -> Vec<String> {
    let mut wrong: Vec<String> = Vec::new();
    for check in PLANTED {
        match report.findings.iter().find(|line| line.check == check) {
            None => wrong.push(format!("{check} was caused and not found")),
            Some(line) if line.resolved.is_none() => wrong.push(format!("{check} did not resolve")),
            Some(_) => {}
        }
    }
    for line in &report.findings {
        // The machine itself may have troubles of its own; they are shown and are not the demo's doing.
        if line.system.kind != SystemKind::Host && !PLANTED.contains(&line.check.as_str()) {
            wrong.push(format!("{} was reported and not caused: {}", line.check, line.summary));
        }
    }
    for remedy in ["postgres.vacuum_table", "postgres.analyze_table", "postgres.end_idle_in_transaction"] {
        if !report.actions.iter().any(|action| action.remedy == remedy && action.outcome == Outcome::Helped) {
            wrong.push(format!("{remedy} did not help"));
        }
    }
    for task in ["watch", "daily-health", "performance-review", "database-maintenance", "backup", "backup-verification"]
    {
        match report.runs.iter().find(|run| run.task == task) {
            None => wrong.push(format!("{task} did not run")),
            Some(run) if run.failed > 0 => wrong.push(format!("{task} failed: {}", run.last_summary)),
            Some(_) => {}
        }
    }
    wrong
}

fn verdict(wrong: &[String]) -> u8 {
    if wrong.is_empty() {
        println!(
            "demo: the manual was cited, everything that was broken was found and mended, nothing else was reported, and \
             the backup came back"
        );
        return 0;
    }
    for line in wrong {
        println!("demo: {line}");
    }
    1
}

async fn wait(daemon: &Daemon, service: &DocRag, started: Instant) -> u8 {
    step(started, &format!("Doc-RAG's page: {}  (key: {})", service.url("/"), service.key()));
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

/// The answer's text and what it cites, for people.
fn show(answer: &Value) -> String {
    let text = answer["answer"].as_str().unwrap_or_default();
    let cited: Vec<String> = citations(answer).map(|(number, source)| format!("[{number}] {source}")).collect();
    format!("{text}\n\n{}", cited.join("\n"))
}

fn cites(answer: &Value, source: &str) -> bool {
    citations(answer).any(|(_, cited)| cited == source)
}

/// Number and source of each citation, once each.
fn citations(answer: &Value) -> impl Iterator<Item = (u64, &str)> {
    let list = |name: &str| answer[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let cited: BTreeSet<u64> = list("citations").iter().filter_map(|citation| citation["n"].as_u64()).collect();
    list("passages").iter().filter_map(move |passage| {
        let number = passage["n"].as_u64().filter(|number| cited.contains(number))?;
        Some((number, passage["source"].as_str()?))
    })
}
