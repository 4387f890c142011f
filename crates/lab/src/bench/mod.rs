//! Benches: a figure comes from here or is not claimed. Each runs beside its peer in the same run, in turn, and prints
//! the versions of both; ratios matter more than absolute times.

mod backup;
mod docrag;
mod idle;
mod keeper;
mod process;
mod sweep;

use crate::bar::Bar;
use anyhow::{Result, bail};
use std::path::PathBuf;

#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// `sweep`, `idle`, `docrag`, `backup`; without one, all of them.
    area: Option<String>,
    /// Names every bench, what it needs and how long it takes.
    #[arg(long)]
    list: bool,
    /// For `docrag`, a folder of judged collections in BEIR's layout, by default `../shared/data`; for `backup`, the folder
    /// on whose disk everything is done, by default the one for temporary files.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Only this part: of `docrag` quality, search, embedding, ingest, and `cargo xtask` knows `crash` as well; of `backup`
    /// first, second, restore, memory, wal.
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
    /// Rounds: 7 for `sweep`, 5 for `backup`.
    #[arg(long)]
    rounds: Option<u32>,
    /// The scale of pgbench's tables for `backup`, by default 100.
    #[arg(long)]
    scale: Option<u32>,
    /// Small and once, to see that `backup` works: no measurement.
    #[arg(long)]
    quick: bool,
    /// Writes the tables of `backup` into `docs/benchmarks.md`.
    #[arg(long)]
    record: bool,
}

const AREAS: [(&str, &str); 4] = [
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
    println!();
    for bar in bars {
        println!("{bar}");
    }
    Ok(0)
}

/// The middle of the values; the lower of the two middles for an even number.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
