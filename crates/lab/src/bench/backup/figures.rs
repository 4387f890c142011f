//! What the rounds gave, as bars and as tables. Ratios are taken within a round, and their median is told.

use super::Plan;
use super::pages::Changed;
use super::tools::Tool;
use crate::bar::{Bar, Wanted};
use crate::bench::median;
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stage {
    #[default]
    First,
    /// 1 % of the pages changed, in one place.
    Second,
    /// 1 % of the largest table's pages changed, all over it.
    Scattered,
    Restore,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Scattered => "scattered",
            Self::Restore => "restore",
        }
    }
}

/// One run of one tool. Seconds, megabytes of memory, bytes added to the repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) tool: Tool,
    pub(super) stage: Stage,
    pub(super) wall: f64,
    pub(super) cpu: f64,
    pub(super) server: f64,
    pub(super) memory: f64,
    pub(super) added: f64,
}

impl Default for Run {
    fn default() -> Self {
        let stage = Stage::First;
        Self { tool: Tool::Groundskeeper, stage, wall: 0.0, cpu: 0.0, server: 0.0, memory: 0.0, added: 0.0 }
    }
}

impl Run {
    fn all_cpu(&self) -> f64 {
        self.cpu + self.server
    }
}

#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) versions: String,
    /// Bytes of the cluster without its WAL, one for each round.
    pub(super) source: Vec<f64>,
    pub(super) runs: Vec<Run>,
    pub(super) changed: Vec<(Stage, Changed)>,
    pub(super) is_cold: bool,
}

impl Figures {
    /// One value for each round.
    fn of(&self, tool: Tool, stage: Stage, value: impl Fn(&Run) -> f64) -> Vec<f64> {
        self.runs.iter().filter(|run| run.tool == tool && run.stage == stage).map(value).collect()
    }

    /// One value for each round, for each GB (10^9) of the cluster.
    fn per_gigabyte(&self, tool: Tool, stage: Stage, value: impl Fn(&Run) -> f64) -> Vec<f64> {
        self.of(tool, stage, value).iter().zip(&self.source).map(|(value, bytes)| value / (bytes / 1e9)).collect()
    }

    /// The median, over the rounds, of one tool's value divided by another's.
    fn ratio(&self, stage: Stage, one: Tool, other: Tool, value: impl Fn(&Run) -> f64 + Copy) -> f64 {
        divided(&self.of(one, stage, value), &self.of(other, stage, value))
    }

    pub(super) fn bars(&self, plan: &Plan) -> Vec<Bar> {
        let ours = Tool::Groundskeeper;
        let mut bars = Vec::new();
        if plan.first {
            for (name, peer, target) in [
                ("first_speed_pgbackrest", Tool::PgBackRest, 1.0),
                ("first_speed_pg_dump", Tool::PgDump, 3.0),
                ("first_speed_gzip", Tool::Gzip, 3.0),
            ] {
                let faster = self.ratio(Stage::First, peer, ours, |run| run.wall);
                bars.push(Bar::new(format!("backup.{name}"), faster, "x", Wanted::AtLeast, target));
            }
            let cpu = self.ratio(Stage::First, ours, Tool::PgBackRest, Run::all_cpu);
            bars.push(Bar::new("backup.first_cpu", cpu, "x", Wanted::AtMost, 1.0));
        }
        if plan.second {
            let added = divided(&self.of(ours, Stage::Second, |run| run.added), &self.compressed(Stage::Second));
            bars.push(Bar::new("backup.second_added", added, "x", Wanted::AtMost, 1.5));
            let (first, second) =
                (self.of(ours, Stage::First, |run| run.wall), self.of(ours, Stage::Second, |run| run.wall));
            bars.push(Bar::new("backup.second_speed", divided(&first, &second), "x", Wanted::AtLeast, 1.4));
        }
        if plan.restore {
            let slower = self.ratio(Stage::Restore, ours, Tool::PgBackRest, |run| run.wall);
            bars.push(Bar::new("backup.restore", slower, "x", Wanted::Below, 1.0));
        }
        bars
    }

    /// Bytes of the changed chunks after compression, one for each round.
    fn compressed(&self, stage: Stage) -> Vec<f64> {
        let of_stage = self.changed.iter().filter(|(found, _)| *found == stage);
        of_stage.map(|(_, changed)| changed.compressed as f64).collect()
    }

    /// Each with the name of its place in the document.
    pub(super) fn tables(&self, plan: &Plan) -> Vec<(&'static str, String)> {
        let mut tables = Vec::new();
        if plan.first {
            tables.push(("first", self.foot(plan, self.first())));
        }
        if plan.second {
            tables.push(("second", self.foot(plan, self.second())));
        }
        if plan.restore {
            tables.push(("restore", self.foot(plan, self.restore())));
        }
        tables
    }

    fn first(&self) -> String {
        let mut text =
            "| tool | seconds | MB/s | CPU s for each GB: all = tool + server | most memory, MB | stored, MB |\n\
                        |---|---|---|---|---|---|\n"
                .to_owned();
        let stage = Stage::First;
        for tool in Tool::ALL {
            let (cpu, server) =
                (self.per_gigabyte(tool, stage, |run| run.cpu), self.per_gigabyte(tool, stage, |run| run.server));
            let all = self.per_gigabyte(tool, stage, Run::all_cpu);
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {:.1} = {:.1} + {:.1} | {:.0} | {:.0} |",
                tool.name(),
                spread(&self.of(tool, stage, |run| run.wall)),
                1e3 / median(&self.per_gigabyte(tool, stage, |run| run.wall)),
                median(&all),
                median(&cpu),
                median(&server),
                median(&self.of(tool, stage, |run| run.memory)),
                median(&self.of(tool, stage, |run| run.added)) / 1e6
            );
        }
        text
    }

    fn second(&self) -> String {
        let mut text = "| changed | tool | seconds | MB/s | added, MB |\n|---|---|---|---|---|\n".to_owned();
        for (stage, what) in [(Stage::Second, "in one place"), (Stage::Scattered, "scattered")] {
            let of_stage = || self.changed.iter().filter(|(found, _)| *found == stage).map(|(_, changed)| changed);
            let share: Vec<f64> = of_stage().map(|found| found.pages as f64 / found.of.max(1) as f64).collect();
            let _ = writeln!(
                text,
                "| {:.2} % of the pages, {what} | the changed chunks of 512 KiB, compressed | | | {:.1} |",
                median(&share) * 100.0,
                median(&self.compressed(stage)) / 1e6
            );
            for tool in Tool::INCREMENTAL {
                let _ = writeln!(
                    text,
                    "| | {} | {} | {:.0} | {:.1} |",
                    tool.name(),
                    spread(&self.of(tool, stage, |run| run.wall)),
                    1e3 / median(&self.per_gigabyte(tool, stage, |run| run.wall)),
                    median(&self.of(tool, stage, |run| run.added)) / 1e6
                );
            }
        }
        text
    }

    fn restore(&self) -> String {
        let mut text = "| tool | seconds to the first answered query |\n|---|---|\n".to_owned();
        for tool in Tool::RESTORED {
            let _ = writeln!(text, "| {} | {} |", tool.name(), spread(&self.of(tool, Stage::Restore, |run| run.wall)));
        }
        text
    }

    fn foot(&self, plan: &Plan, mut text: String) -> String {
        let cache = if self.is_cold { "cold cache" } else { "**warm cache**, for want of root" };
        let _ = writeln!(
            text,
            "\nRounds: {}, medians (least to most); pgbench scale {}, {:.2} GB without WAL, {cache}. {}.",
            plan.rounds,
            plan.scale,
            median(&self.source) / 1e9,
            self.versions
        );
        text
    }
}

fn divided(ones: &[f64], others: &[f64]) -> f64 {
    let ratios: Vec<f64> = ones.iter().zip(others).map(|(one, other)| one / other).collect();
    median(&ratios)
}

/// The median, and between what it lies.
fn spread(values: &[f64]) -> String {
    let (least, most) =
        values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    format!("{:.1} ({least:.1} to {most:.1})", median(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let run = |tool, wall| Run { tool, wall, ..Run::default() };
        let runs = [(1.0, 2.0), (10.0, 30.0), (2.0, 8.0)]
            .into_iter()
            .flat_map(|(ours, theirs)| [run(Tool::Groundskeeper, ours), run(Tool::PgBackRest, theirs)]);
        let figures = Figures { runs: runs.collect(), source: vec![1e9; 3], ..Figures::default() };
        let ratio = figures.ratio(Stage::First, Tool::PgBackRest, Tool::Groundskeeper, |run| run.wall);
        assert!((ratio - 3.0).abs() < 1e-9, "{ratio}");
        assert_eq!(spread(&[3.0, 1.0, 2.0]), "2.0 (1.0 to 3.0)");
    }
}
