//! Benches: a figure comes from here or is not claimed. Each runs beside its peer in the same run, in turn, and prints
//! the versions of both; ratios matter more than absolute times.

mod backup;
mod docrag;
mod idle;
mod keeper;
mod postgres;
mod process;
mod sweep;
mod table;

use crate::bar::Bar;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};

const QUICK_WARNING: &str = "--quick shows that the bench works; its figures are no measurement";

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// `sweep`, `idle`, `docrag`, `backup`, `postgres`; without one, all of them.
    area: Option<String>,
    /// Names every bench, what it needs and how long it takes.
    #[arg(long)]
    list: bool,
    /// For `docrag`, a folder of judged collections in BEIR's layout, by default `../shared/data`; for `backup` and `postgres`, the
    /// folder on whose disk everything is done, by default the one for temporary files.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Only this part: of `docrag` quality, search, embedding, ingest, and `cargo xtask` knows `crash` as well; of `backup`
    /// first, second, restore, memory, wal; of `postgres` sweep, maintenance.
    #[arg(long)]
    part: Option<String>,
    /// How often `docrag` is killed in the part `crash`, which `cargo xtask` runs.
    #[arg(long, default_value_t = 1_000)]
    cycles: u32,
    /// `docrag` ingests the whole manual, not every fifteenth page of it.
    #[arg(long)]
    full: bool,
    /// Seconds of watching for `idle`.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Rounds: 7 for `sweep`, 5 for `backup`; of `postgres` 7 of its sweep and 5 pairs of its maintenance.
    #[arg(long)]
    rounds: Option<u32>,
    /// The scale of pgbench's tables for `backup`, by default 100.
    #[arg(long)]
    scale: Option<u32>,
    /// Rows of the table that `postgres` maintains, by default 5,000,000.
    #[arg(long)]
    rows: Option<u64>,
    /// Small and once, to see that `backup` or `postgres` works: no measurement.
    #[arg(long)]
    quick: bool,
    /// Writes the tables of `backup` or `postgres` into `docs/benchmarks.md`.
    #[arg(long)]
    record: bool,
}

const AREAS: [(&str, &str); 5] = [
    ("sweep", "one `check` over Postgres, Redis, HTTP and host, against psql, redis-cli, curl and df; 1 minute"),
    ("idle", "memory and CPU of the keeper watching four systems every 30 s; 5 minutes"),
    (
        "docrag",
        "the document service beside ONNX Runtime, bm25s and pgvector (PyPI packages, installed first); the Postgres manual \
         and, for quality, judged collections by --data; 30 minutes, parts by --part",
    ),
    (
        "backup",
        "a first and a second backup, restore, memory and what a crash takes, beside pgBackRest, Barman, restic, pg_dump \
         and pg_basebackup (Debian packages, installed first), on a Postgres of its own; best as root; an hour, parts by \
         --part",
    ),
    (
        "postgres",
        "every check of a Postgres with 500 tables beside check_postgres, and the weekly maintenance of 5 million rows under \
         pgbench beside pg_repack and a plain script (Debian packages, installed first), on a Postgres of its own; an hour \
         and a half, parts by --part",
    ),
];

const SWEEP_ROUNDS: u32 = 7;

/// Exit code 0 when everything could be measured, whatever the figures.
pub async fn run(options: Options) -> Result<u8> {
    if options.list {
        for (name, what) in AREAS {
            println!("{name:<8} {what}");
        }
        return Ok(0);
    }
    if let Some(area) = &options.area
        && !AREAS.iter().any(|(name, _)| name == area)
    {
        bail!("there is no bench `{area}`; `cargo xtask bench --list` names them");
    }
    let wanted = |name: &str| options.area.as_deref().is_none_or(|area| area == name);
    let mut bars: Vec<Bar> = Vec::new();
    if wanted("sweep") {
        bars.extend(sweep::measure(options.rounds.unwrap_or(SWEEP_ROUNDS).max(1)).await?);
    }
    if wanted("idle") {
        bars.extend(idle::measure(options.seconds.max(60)).await?);
    }
    if wanted("docrag") {
        bars.extend(docrag::measure(&options).await?);
    }
    // A part without an area is one of `docrag`.
    if wanted("backup") && (options.area.is_some() || options.part.is_none()) {
        bars.extend(backup::measure(&options).await?);
    }
    if wanted("postgres") && (options.area.is_some() || options.part.is_none()) {
        bars.extend(postgres::measure(&options).await?);
    }
    println!();
    for bar in bars {
        println!("{bar}");
    }
    Ok(0)
}

/// Bars, and the tables that they come from with their names.
type Told = (Vec<Bar>, Vec<(&'static str, String)>);

/// Prints and records what a bench measured; bars only if it was in earnest. Servers and tools end, and folders go, when the
/// work ends: also by Ctrl-C, which only makes it end early.
async fn told(area: &str, options: &Options, work: impl Future<Output = Result<Told>>) -> Result<Vec<Bar>> {
    let mut ended = signal(SignalKind::terminate())?;
    let (bars, tables) = tokio::select! {
        done = work => done?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; nothing is left behind"),
        _ = ended.recv() => bail!("ended by a signal; nothing is left behind"),
    };
    for (name, text) in &tables {
        println!("\n{name}\n\n{text}");
        if options.record {
            table::record(area, name, text)?;
        }
    }
    if options.quick {
        println!("{QUICK_WARNING}:");
        for bar in &bars {
            println!("    no measurement: {bar}");
        }
        return Ok(Vec::new());
    }
    Ok(bars)
}

/// Temporary folders are on the disk that was asked for.
fn works_on(options: &Options) -> Result<()> {
    if let (Some(area), Some(data)) = (&options.area, &options.data) {
        let used = std::env::temp_dir();
        ensure!(
            used == *data,
            "`{area}` works in {}; run it through `cargo xtask bench`, or set TMPDIR",
            used.display()
        );
    }
    Ok(())
}

/// An error when a folder's disk has fewer bytes free.
fn has_room(folder: &Path, wanted: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        free >= wanted,
        "{} has {} GB free and this needs {}; choose another disk with --data, or a smaller --scale",
        folder.display(),
        free / 1_000_000_000,
        wanted / 1_000_000_000
    );
    Ok(())
}

/// A folder with everything in it, owners included. `to` is not there yet.
async fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let mut copy = tokio::process::Command::new("cp");
    copy.args(["--archive", "--reflink=auto", "--no-target-directory"]).arg(from).arg(to).kill_on_drop(true);
    let status = copy.status().await.context("cannot start cp")?;
    ensure!(status.success(), "cannot copy {} to {}: cp ended with {status}", from.display(), to.display());
    Ok(())
}

/// The middle of the values; the lower of the two middles for an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
