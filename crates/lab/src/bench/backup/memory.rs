//! The memory of a backup of a large cluster, and how it grows with the cluster.
//!
//! The data are wide rows that repeat themselves: every chunk is another one, so that the repository has as many to keep
//! in mind as for real data, and they take little room.

use super::Plan;
use super::cluster::{Cluster, size_of};
use super::tools::{Store, Tool};
use crate::bar::{Bar, Wanted};
use crate::bench::median;
use anyhow::Result;
use groundskeeper_testing::scratch::Scratch;
use std::fmt::Write;

const GIB: u64 = 1 << 30;
const SIZES: [u64; 2] = [2 * GIB, 10 * GIB];
const QUICK_SIZES: [u64; 2] = [GIB / 5, GIB / 2];
/// Peaks differ by how threads meet; more than three of them say nothing more.
const ROUNDS: u32 = 3;

fn sizes(quick: bool) -> [u64; 2] {
    if quick { QUICK_SIZES } else { SIZES }
}

/// Bytes that the disk must have free.
pub(super) fn room(quick: bool) -> u64 {
    sizes(quick)[1] * 3 / 2
}

pub(super) async fn measure(plan: &Plan) -> Result<(Vec<Bar>, String)> {
    let folder = Scratch::new("bench")?;
    let mut cluster = Cluster::start().await?;
    cluster.execute("CREATE TABLE filling (t text); ALTER TABLE filling ALTER COLUMN t SET STORAGE PLAIN").await?;
    let (mut pages, mut points) = (0, Vec::new());
    for size in sizes(plan.quick) {
        let wanted = size / 8192;
        while pages < wanted {
            let next = (pages + 100_000).min(wanted);
            // One row fills a page.
            let rows = format!("SELECT repeat(md5(n::text), 220) FROM generate_series({pages} + 1, {next}) n");
            cluster.execute(&format!("INSERT INTO filling {rows}")).await?;
            pages = next;
        }
        let mut peaks = Vec::new();
        for round in 0..plan.rounds.min(ROUNDS) {
            let place = folder.path().join(format!("{size}-{round}"));
            let store = Store::prepare(Tool::Groundskeeper, &place, &cluster).await?;
            cluster.cold().await?;
            let cost = store.backup(&cluster, true).await?;
            peaks.push(cost.memory);
            println!("memory: {:.1} GB: at most {:.0} MB resident, {:.1} s", size as f64 / 1e9, cost.memory, cost.wall);
            std::fs::remove_dir_all(&place)?;
        }
        let data = cluster.server.data_dir();
        points.push(((size_of(&data)? - size_of(&data.join("pg_wal"))?) as f64 / 1e9, median(&peaks)));
    }
    let [(small, small_peak), (large, large_peak)] = points[..] else {
        anyhow::bail!("the memory was measured at {} sizes instead of two", points.len());
    };
    let slope = (large_peak - small_peak) / (large - small) * 1_000.0;
    let mut table = "| cluster | most memory at one moment |\n|---|---|\n".to_owned();
    for (size, peak) in points {
        let _ = writeln!(table, "| {size:.1} GB | {peak:.0} MB |");
    }
    let _ = writeln!(table, "\nThat is {slope:.0} MB more for each TB of the cluster.");
    Ok((vec![Bar::new("backup.memory", large_peak, "MB", Wanted::AtMost, 200.0)], table))
}
