//! The weekly maintenance under load: what writers notice of it, and what it gets done.
//!
//! In each round nobody and we, and in the first ones the peers, have a go at the same worn table, with pgbench at 40 % of what this
//! machine can do.
//! The figure is the 99th percentile of the writers' times from the start of the maintenance to its end, divided by that of
//! the same round's baseline.

use super::Plan;
use super::jobs::{Jobs, Who};
use super::load::{self, Load, writers_p99};
use super::worn::{Left, LockWaits, Worn};
use crate::bar::{Bar, Wanted};
use crate::bench::median;
use anyhow::{Context, Result};
use groundskeeper_testing::scratch::Scratch;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Of the capacity, as the target says.
const SHARE: f64 = 0.4;
/// In so many rounds the peers have a go, too: what they cost is far from any limit, and takes no second look.
const ROUNDS_OF_PEERS: u32 = 1;
/// What follows a short job belongs to it.
const AT_LEAST: f64 = 10.0;

/// One party's go at it.
#[derive(Debug, Clone)]
struct Run {
    who: Who,
    round: u32,
    /// Milliseconds. None when pgbench lost all its sessions.
    p99: Option<f64>,
    /// Seconds of the maintenance.
    took: f64,
    waits: LockWaits,
    left: Left,
    /// Why it failed.
    failed: Option<String>,
}

/// Seconds of: finding the capacity, warming up, the baseline. That lasts longer than the five minutes from one checkpoint to the
/// next, so that what the server does by itself falls into it as it does into our maintenance.
fn spans(quick: bool) -> [u64; 3] {
    if quick { [5, 3, 10] } else { [30, 20, 400] }
}

pub(super) async fn measure(plan: &Plan) -> Result<(Vec<Bar>, String)> {
    let folder = Scratch::new("bench")?;
    let jobs = Jobs::new(folder.path())?;
    println!("maintenance: filling a table of {} rows …", plan.rows);
    let mut worn = Worn::fresh(plan.rows).await?;
    let versions = jobs.versions(&worn).await?;
    println!("maintenance: {versions}");
    jobs.acquaint(&worn).await?;
    worn.wear().await?;
    load::prepare(folder.path(), plan.rows)?;
    let [capacity, ..] = spans(plan.quick);
    let capacity = load::capacity(&worn, folder.path(), capacity).await?;
    println!("maintenance: pgbench does {capacity:.0} transactions a second here; from now on {:.0}", capacity * SHARE);
    let mut runs = Vec::new();
    for round in 1..=plan.pairs {
        let mut parties = Who::ALL;
        parties.rotate_left((round as usize - 1) % Who::ALL.len());
        let plays = |who: &Who| round <= ROUNDS_OF_PEERS || matches!(who, Who::Nobody | Who::Groundskeeper);
        for who in parties.into_iter().filter(plays) {
            let turn = Turn { who, round, rate: capacity * SHARE, quick: plan.quick };
            let run = turn.play(&mut worn, &jobs, folder.path()).await?;
            println!("maintenance: {}", run.told());
            runs.push(run);
        }
    }
    let foot = format!(
        "Rounds: {}, of the peers {}; medians (least to most); {} rows, {} of them expired, two of four indexes bloated; pgbench \
         at {:.0} transactions a second, 40 % of {capacity:.0}. {versions}.",
        plan.pairs,
        plan.pairs.min(ROUNDS_OF_PEERS),
        plan.rows,
        plan.rows / 5,
        capacity * SHARE
    );
    Ok((bars(&runs), table(&runs, &foot)))
}

struct Turn {
    who: Who,
    round: u32,
    rate: f64,
    quick: bool,
}

impl Turn {
    async fn play(&self, worn: &mut Worn, jobs: &Jobs, folder: &Path) -> Result<Run> {
        let [_, warm, baseline] = spans(self.quick);
        worn.again().await?;
        let name = format!("load-{}-{:?}", self.round, self.who);
        let load = Load::start(worn, folder, &name, self.rate)?;
        sleep(Duration::from_secs(warm)).await;
        let before = worn.lock_waits()?;
        let (from, started) = (load::now()?, Instant::now());
        let failed = jobs.run(self.who, worn).await?;
        let took = started.elapsed().as_secs_f64();
        let least = if self.who == Who::Nobody { baseline as f64 } else { AT_LEAST };
        sleep(Duration::from_secs_f64((least - took).max(0.0))).await;
        let to = load::now()?;
        // Sessions that a tool has ended are a result of that tool.
        let (p99, lost) = match load.logged_until(to).await {
            Ok(transactions) => (Some(writers_p99(&transactions, from, to)?), None),
            Err(error) if self.who == Who::Nobody => return Err(error),
            Err(error) => (None, Some(error.to_string())),
        };
        std::fs::remove_dir_all(folder.join(&name)).context("cannot remove pgbench's log")?;
        let waits = worn.lock_waits()?.since(before);
        let left = worn.left().await?;
        Ok(Run { who: self.who, round: self.round, p99, took, waits, left, failed: failed.or(lost) })
    }
}

impl Run {
    fn told(&self) -> String {
        let mut text = format!("round {}: {}: ", self.round, self.who.name());
        match self.p99 {
            Some(p99) => _ = write!(text, "writers' p99 {p99:.1} ms"),
            None => text.push_str("the load broke off"),
        }
        if self.who != Who::Nobody {
            let (Left { expired, bloated }, took) = (self.left, self.took);
            let _ = write!(text, ", {took:.1} s; {expired} rows expired and {bloated} indexes bloated are left");
        }
        let _ = write!(text, "; {} lock waits, {} of users", self.waits.all, self.waits.users);
        if let Some(failed) = &self.failed {
            let _ = write!(text, "; failed: {failed}");
        }
        text
    }
}

fn of(runs: &[Run], who: Who) -> impl Iterator<Item = &Run> {
    runs.iter().filter(move |run| run.who == who)
}

/// Each round's p99 divided by that of its baseline. A load that broke off is infinitely late.
fn ratios(runs: &[Run], who: Who) -> Vec<f64> {
    let baseline = |round| of(runs, Who::Nobody).find(|run| run.round == round)?.p99;
    let ratio = |run: &Run| Some(run.p99.unwrap_or(f64::INFINITY) / baseline(run.round)?);
    of(runs, who).filter_map(ratio).collect()
}

/// The last two say whether it was done at all: who does nothing is in nobody's way.
fn bars(runs: &[Run]) -> Vec<Bar> {
    let ours = || of(runs, Who::Groundskeeper);
    let waits: usize = ours().map(|run| run.waits.all).sum();
    let expired = ours().map(|run| run.left.expired).max().unwrap_or_default();
    let bloated = ours().map(|run| run.left.bloated).max().unwrap_or_default();
    let exactly =
        |name: &str, value: f64, unit| Bar::new(format!("postgres.{name}"), value, unit, Wanted::Exactly, 0.0);
    vec![
        Bar::new("postgres.maintenance_p99", median(&ratios(runs, Who::Groundskeeper)), "x", Wanted::AtMost, 1.2),
        exactly("maintenance_lock_waits", waits as f64, "waits"),
        exactly("maintenance_expired_left", expired as f64, "rows"),
        exactly("maintenance_bloated_left", bloated as f64, "indexes"),
    ]
}

fn table(runs: &[Run], foot: &str) -> String {
    let mut text =
        "| who | writers' p99, ms | divided by the baseline's | lock waits, all rounds (of users) | seconds | \
                    expired rows left | bloated indexes left | failed |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for who in Who::ALL {
        let p99: Vec<f64> = of(runs, who).map(|run| run.p99.unwrap_or(f64::INFINITY)).collect();
        let took: Vec<f64> = of(runs, who).map(|run| run.took).collect();
        let (all, users) =
            of(runs, who).fold((0, 0), |(all, users), run| (all + run.waits.all, users + run.waits.users));
        let worst = of(runs, who).map(|run| (run.left.expired, run.left.bloated));
        let (expired, bloated) = worst.fold((0, 0), |worst, left| (worst.0.max(left.0), worst.1.max(left.1)));
        let failed = of(runs, who).filter(|run| run.failed.is_some()).count();
        let (ratio, took) = match who {
            Who::Nobody => ("1".to_owned(), String::new()),
            _ => (format!("{:.2}", median(&ratios(runs, who))), format!("{:.1}", median(&took))),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {ratio} | {all} ({users}) | {took} | {expired} | {bloated} | {failed} of {} |",
            who.name(),
            spread(&p99),
            p99.len()
        );
    }
    let _ = writeln!(text, "\n{foot}");
    text
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

    fn run(who: Who, round: u32, p99: Option<f64>) -> Run {
        let (waits, left) = (LockWaits::default(), Left::default());
        Run { who, round, p99, took: 1.0, waits, left, failed: None }
    }

    #[test]
    fn each_is_compared_with_the_baseline_of_its_own_round() {
        let runs = [
            run(Who::Nobody, 1, Some(10.0)),
            run(Who::Groundskeeper, 1, Some(11.0)),
            run(Who::Groundskeeper, 2, Some(30.0)),
            run(Who::Nobody, 2, Some(20.0)),
            run(Who::PgRepack, 2, None),
        ];
        let ours = ratios(&runs, Who::Groundskeeper);
        assert!((ours[0] - 1.1).abs() < 1e-9 && (ours[1] - 1.5).abs() < 1e-9, "{ours:?}");
        assert_eq!(ratios(&runs, Who::PgRepack), [f64::INFINITY]);
    }

    #[test]
    fn whoever_left_the_work_undone_does_not_pass() {
        let mut undone = run(Who::Groundskeeper, 1, Some(10.0));
        undone.left = Left { expired: 7, bloated: 1 };
        let bars = bars(&[run(Who::Nobody, 1, Some(10.0)), undone]);
        let passes: Vec<bool> = bars.iter().map(Bar::passes).collect();
        assert_eq!(passes, [true, true, false, false]);
    }
}
