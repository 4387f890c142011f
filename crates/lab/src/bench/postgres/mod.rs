//! The care of Postgres beside its peers: one look at everything (`sweep`), and the weekly maintenance under load
//! (`maintenance`).
//!
//! Every server is the bench's own, on a free port, in a temporary folder. Peers are Debian's packages, and none of the tests
//! needs them.

mod actions;
mod jobs;
mod load;
mod maintenance;
mod sweep;
mod tables;
mod worn;

use super::{Options, Told};
use crate::bar::Bar;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Parts that can be asked for alone with `--part`.
pub(super) const PARTS: [&str; 2] = ["sweep", "maintenance"];
const SWEEP_ROUNDS: u32 = 7;
const PAIRS: u32 = 5;
const ROWS: u64 = 5_000_000;
const QUICK_ROWS: u64 = 100_000;
/// A row of the worn table with its indexes, its template, and the WAL of rewriting it.
const ROOM_PER_ROW: u64 = 2_000;
const ROOM: u64 = 3 << 30;

/// What is to be measured.
#[derive(Debug, Clone)]
struct Plan {
    sweep: bool,
    maintenance: bool,
    /// Rounds of `sweep`, and pairs of `maintenance`.
    rounds: u32,
    pairs: u32,
    rows: u64,
    quick: bool,
}

impl Plan {
    fn new(options: &Options) -> Result<Self> {
        if let Some(part) = &options.part
            && !PARTS.contains(&part.as_str())
        {
            bail!("the bench `postgres` has no part `{part}`; it has {}", PARTS.join(", "));
        }
        ensure!(!(options.record && options.quick), "--quick measures nothing that could be recorded");
        ensure!(!(options.record && cfg!(debug_assertions)), "a debug build measures nothing that could be recorded");
        let wanted = |name: &str| options.part.as_deref().is_none_or(|part| part == name);
        let (rounds, pairs, rows) = if options.quick { (1, 1, QUICK_ROWS) } else { (SWEEP_ROUNDS, PAIRS, ROWS) };
        Ok(Self {
            sweep: wanted("sweep"),
            maintenance: wanted("maintenance"),
            rounds: options.rounds.unwrap_or(rounds).max(1),
            pairs: options.rounds.unwrap_or(pairs).max(1),
            rows: options.rows.unwrap_or(rows).max(10_000),
            quick: options.quick,
        })
    }

    /// Bytes that the disk must have free.
    fn room(&self) -> u64 {
        if self.maintenance { ROOM + self.rows * ROOM_PER_ROW } else { ROOM }
    }
}

pub(super) async fn measure(options: &Options) -> Result<Vec<Bar>> {
    let plan = Plan::new(options)?;
    super::works_on(options)?;
    super::has_room(&std::env::temp_dir(), plan.room())?;
    super::told("postgres", options, run(&plan)).await
}

async fn run(plan: &Plan) -> Result<Told> {
    let (mut bars, mut tables) = (Vec::new(), Vec::new());
    if plan.sweep {
        let (more, table) = sweep::measure(plan.rounds, plan.quick).await?;
        bars.extend(more);
        tables.push(("sweep", table));
    }
    if plan.maintenance {
        let (more, table) = maintenance::measure(plan).await?;
        bars.extend(more);
        tables.push(("maintenance", table));
    }
    Ok((bars, tables))
}

/// Where the server's own programs are, and its version.
async fn programs(client: &tokio_postgres::Client) -> Result<(PathBuf, String)> {
    let sql = "SELECT setting, current_setting('server_version') FROM pg_config() WHERE name = 'BINDIR'";
    let row = client.query_one(sql, &[]).await?;
    Ok((PathBuf::from(row.get::<_, &str>(0)), row.get(1)))
}

/// `NAME VERSION`, or which Debian package has the program.
async fn peer(program: &Path, package: &str) -> Result<String> {
    let output = Command::new(program).arg("--version").output().await;
    let output = output.with_context(|| {
        format!(
            "{} is not installed; `apt-get install {package}`, or run this by `cargo xtask bench`",
            program.display()
        )
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn plan(words: &[&str]) -> Result<Plan> {
        Plan::new(&Line::parse_from([&["bench", "postgres"], words].concat()).options)
    }

    #[test]
    fn the_issues_values_are_the_defaults_and_a_quick_run_is_never_recorded() {
        let whole = plan(&[]).unwrap();
        assert_eq!((whole.rounds, whole.pairs, whole.rows), (7, 5, 5_000_000));
        assert!(whole.sweep && whole.maintenance);
        let small = plan(&["--part", "maintenance", "--rounds", "2", "--rows", "50000"]).unwrap();
        assert!(!small.sweep && small.maintenance);
        assert_eq!((small.pairs, small.rows), (2, 50_000));
        assert!(plan(&["--part", "wal"]).unwrap_err().to_string().contains("sweep, maintenance"));
        assert!(plan(&["--quick", "--record"]).is_err());
    }
}
