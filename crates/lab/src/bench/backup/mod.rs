//! Backups beside their peers: the first backup, the next one after little has changed, restore, memory; and the WAL stream,
//! which is measured by crashes.
//!
//! Every tool backs up the same Postgres to the same disk, in turn, from a cold cache, with a repository of its own in
//! every round. CPU time counts the server's processes too: who reads the files through the server must not look cheap.

mod cluster;
mod figures;
mod memory;
mod meter;
mod pages;
mod restore;
mod rounds;
mod tools;
mod wal;

use super::{Options, QUICK_WARNING, Told};
use crate::bar::Bar;
use anyhow::{Result, bail, ensure};

/// Parts that can be asked for alone with `--part`.
pub(super) const PARTS: [&str; 5] = ["first", "second", "restore", "memory", "wal"];
const SCALE: u32 = 100;
const ROUNDS: u32 = 5;
const QUICK_SCALE: u32 = 5;
/// A cluster at scale 1 has about 19 MB: it lies there twice, and up to seven repositories and a restored copy with it.
const ROOM_PER_SCALE: u64 = 130 << 20;
/// The WAL, and what everybody else needs.
const ROOM: u64 = 4 << 30;

/// What is to be measured.
#[derive(Debug, Clone)]
struct Plan {
    scale: u32,
    rounds: u32,
    quick: bool,
    first: bool,
    second: bool,
    restore: bool,
    memory: bool,
    wal: bool,
}

impl Plan {
    fn new(options: &Options) -> Result<Self> {
        if let Some(part) = &options.part
            && !PARTS.contains(&part.as_str())
        {
            bail!("the bench `backup` has no part `{part}`; it has {}", PARTS.join(", "));
        }
        ensure!(!(options.record && options.quick), "--quick measures nothing that could be recorded");
        ensure!(!(options.record && cfg!(debug_assertions)), "a debug build measures nothing that could be recorded");
        let wanted = |name: &str| options.part.as_deref().is_none_or(|part| part == name);
        let (scale, rounds) = if options.quick { (QUICK_SCALE, 1) } else { (SCALE, ROUNDS) };
        Ok(Self {
            scale: options.scale.unwrap_or(scale).max(1),
            rounds: options.rounds.unwrap_or(rounds).max(1),
            quick: options.quick,
            first: wanted("first"),
            second: wanted("second"),
            restore: wanted("restore"),
            memory: wanted("memory"),
            wal: wanted("wal"),
        })
    }

    /// Bytes that the disk must have free.
    fn room(&self) -> u64 {
        let fills = self.first || self.second || self.restore || self.wal;
        let rounds = if fills { u64::from(self.scale) * ROOM_PER_SCALE } else { 0 };
        let memory = if self.memory { memory::room(self.quick) } else { 0 };
        ROOM + rounds.max(memory)
    }
}

pub(super) async fn measure(options: &Options) -> Result<Vec<Bar>> {
    let plan = Plan::new(options)?;
    super::works_on(options)?;
    super::has_room(&std::env::temp_dir(), plan.room())?;
    super::told("backup", options, run(&plan)).await
}

async fn run(plan: &Plan) -> Result<Told> {
    if plan.quick {
        println!("{QUICK_WARNING}");
    }
    let (mut bars, mut tables) = (Vec::new(), Vec::new());
    if plan.first || plan.second || plan.restore {
        let figures = rounds::play(plan).await?;
        bars.extend(figures.bars(plan));
        tables.extend(figures.tables(plan));
    }
    if plan.memory {
        let (more, table) = memory::measure(plan).await?;
        bars.extend(more);
        tables.push(("memory", table));
    }
    if plan.wal {
        let (more, table) = wal::measure(plan).await?;
        bars.extend(more);
        tables.push(("wal", table));
    }
    Ok((bars, tables))
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
        Plan::new(&Line::parse_from([&["bench", "backup"], words].concat()).options)
    }

    #[test]
    fn a_part_is_measured_alone_and_a_quick_run_is_never_recorded() {
        let whole = plan(&[]).unwrap();
        assert_eq!((whole.scale, whole.rounds), (100, 5));
        assert!(whole.first && whole.second && whole.restore && whole.memory && whole.wal);
        let memory = plan(&["--part", "memory", "--quick"]).unwrap();
        assert!(memory.memory && memory.quick && !memory.first && memory.rounds == 1);
        assert_eq!(plan(&["--scale", "20", "--rounds", "3"]).unwrap().rounds, 3);
        assert!(plan(&["--part", "third"]).unwrap_err().to_string().contains("first, second, restore, memory, wal"));
        assert!(plan(&["--quick", "--record"]).is_err());
    }
}
