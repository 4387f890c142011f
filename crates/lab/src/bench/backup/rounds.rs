//! The rounds: in each, every tool starts with an empty repository.

use super::Plan;
use super::cluster::{Cluster, size_of};
use super::figures::{Figures, Run, Stage};
use super::restore;
use super::tools::{self, Store, Tool};
use anyhow::{Context, Result};
use groundskeeper_testing::scratch::Scratch;
use std::path::Path;

pub(super) async fn play(plan: &Plan) -> Result<Figures> {
    let folder = Scratch::new("bench")?;
    let mut cluster = Cluster::start().await?;
    println!("backup: filling Postgres {} at scale {} …", cluster.version, plan.scale);
    cluster.fill(plan.scale).await?;
    let mut figures = Figures { versions: tools::versions(&cluster).await?, ..Figures::default() };
    println!("{}", figures.versions);
    for round in 0..plan.rounds {
        let place = folder.path().join(format!("round-{round}"));
        std::fs::create_dir(&place)?;
        Round { number: round, plan, cluster: &mut cluster, figures: &mut figures }.play(&place).await?;
        std::fs::remove_dir_all(&place)?;
    }
    if !cluster.is_cold {
        println!("the page cache could not be emptied, which only root can: files were read from memory");
    }
    figures.is_cold = cluster.is_cold;
    Ok(figures)
}

struct Round<'r> {
    number: u32,
    plan: &'r Plan,
    cluster: &'r mut Cluster,
    figures: &'r mut Figures,
}

impl Round<'_> {
    async fn play(&mut self, place: &Path) -> Result<()> {
        let data = self.cluster.server.data_dir();
        let bytes = size_of(&data)? - size_of(&data.join("pg_wal"))?;
        self.figures.source.push(bytes as f64);
        let mut stores = Vec::new();
        for tool in self.in_turn(&self.first_tools()) {
            let store = Store::prepare(tool, place, self.cluster).await?;
            self.backup(&store, Stage::First).await?;
            stores.push(store);
        }
        if self.plan.second {
            self.second(&stores).await?;
        }
        if self.plan.restore {
            for tool in self.in_turn(&Tool::RESTORED) {
                let store = stores.iter().find(|store| store.tool == tool).context("it has made no backup")?;
                let wall = restore::to_the_first_answer(store, self.cluster).await?;
                self.note(Run { tool, stage: Stage::Restore, wall, ..Run::default() });
            }
        }
        Ok(())
    }

    fn first_tools(&self) -> Vec<Tool> {
        let wanted = |tool: &Tool| {
            self.plan.first
                || (self.plan.second && Tool::INCREMENTAL.contains(tool))
                || (self.plan.restore && Tool::RESTORED.contains(tool))
        };
        Tool::ALL.into_iter().filter(wanted).collect()
    }

    /// Another one begins in each round.
    fn in_turn(&self, tools: &[Tool]) -> Vec<Tool> {
        let mut tools = tools.to_vec();
        let begin = self.number as usize % tools.len();
        tools.rotate_left(begin);
        tools
    }

    async fn second(&mut self, stores: &[Store]) -> Result<()> {
        let (mut before, _) = self.cluster.pages(None).await?;
        for stage in [Stage::Second, Stage::Scattered] {
            let pages = before.bytes / 8192;
            match stage {
                Stage::Scattered => self.cluster.change_scattered(self.number).await?,
                _ => self.cluster.change_in_one_place(pages, self.number).await?,
            }
            let (now, changed) = self.cluster.pages(Some(&before)).await?;
            println!(
                "round {}: {} of {} pages changed, in {} chunks with {:.2} MB compressed",
                self.number + 1,
                changed.pages,
                changed.of,
                changed.chunks,
                changed.compressed as f64 / 1e6
            );
            self.figures.changed.push((stage, changed));
            before = now;
            for tool in self.in_turn(&Tool::INCREMENTAL) {
                if let Some(store) = stores.iter().find(|store| store.tool == tool) {
                    self.backup(store, stage).await?;
                }
            }
        }
        Ok(())
    }

    async fn backup(&mut self, store: &Store, stage: Stage) -> Result<()> {
        store.archive(self.cluster).await?;
        self.cluster.cold().await?;
        let is_first = stage == Stage::First;
        // What was there before the first one is either needed by it or removed by it.
        let before = if is_first { 0 } else { store.stored()? };
        let cost = store.backup(self.cluster, is_first).await?;
        let added = store.stored()?.saturating_sub(before);
        self.note(Run {
            tool: store.tool,
            stage,
            wall: cost.wall,
            cpu: cost.cpu,
            server: cost.server,
            memory: cost.memory,
            added: added as f64,
        });
        Ok(())
    }

    fn note(&mut self, run: Run) {
        let (round, tool, stage) = (self.number + 1, run.tool.name(), run.stage.name());
        print!("round {round}: {tool}: {stage} {:.2} s", run.wall);
        if run.stage != Stage::Restore {
            print!(", CPU {:.2} s and {:.2} s of the server", run.cpu, run.server);
            print!(", {:.0} MB resident, {:.2} MB added", run.memory, run.added / 1e6);
        }
        println!();
        self.figures.runs.push(run);
    }
}
