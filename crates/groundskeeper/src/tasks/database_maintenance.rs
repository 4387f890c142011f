//! Database maintenance, in the window: deletes the rows that a rule does not keep, analyzes and vacuums tables that are past
//! *their own* trigger, worst first, and then builds indexes anew that a failed build left invalid or that are mostly air, and
//! moves sequences on that are behind. It also tells sizes, and what they grew by since its last run.
//!
//! Of a table that is to be vacuumed, bloated indexes are built anew before: a new index has no entries of dead rows, so that the
//! vacuum has nothing to write in it, where it would have changed most pages of the old one.
//!
//! The watch alarms at twice the trigger and only after an hour, because autovacuum is meant to do this work. Once a
//! week this task asks the stricter question: what is past its trigger at all? Never VACUUM FULL, never everything.

use super::{Found, Shop, expired, judge_now, sizes};
use crate::app::view;
use crate::record;
use crate::remediation::{Applied, Permission};
use crate::scheduler::{BoxFuture, End, Job, Mode};
use groundskeeper_core::check::{Judgement, Status, Tuning};
use groundskeeper_core::finding::Finding;
use groundskeeper_core::plan::{Plan, PlanItem, plan};
use groundskeeper_core::policy::{Decision, Outcome};
use groundskeeper_core::remedy::Step;
use groundskeeper_core::{SystemId, SystemKind};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The checks that compare a table with its own trigger.
const OF_TRIGGERS: [&str; 2] = ["postgres.dead_rows_past_trigger", "postgres.statistics_stale"];
/// What is known of indexes and columns is as old as their tables' statistics, so these come after the tables.
const AFTER_TABLES: [&str; 4] =
    ["postgres.index_invalid", "postgres.index_bloated", "postgres.sequence_behind", "postgres.statistics_too_coarse"];

/// Builds of one server that its vacuums wait for, with the rests in between; the others come after them.
const BUILDS_FIRST: usize = 2;

const NOTHING_DUE: &str = "no table is past its trigger, no index is invalid or bloated, no sequence is behind, no statistics \
     target is too small, and no row has expired";

pub(super) struct DatabaseMaintenance(pub(super) Arc<Shop>);

impl Job for DatabaseMaintenance {
    type Yield = Found;

    fn run(&self, mode: Mode) -> BoxFuture<'_, End<Found>> {
        Box::pin(async move {
            match maintain(&self.0, mode).await {
                Ok(end) => end,
                Err(error) => End { ok: false, summary: error.to_string(), found: Found::default() },
            }
        })
    }
}

/// The tuning of the watch with the trigger itself as the threshold.
pub(crate) fn strict(tuning: &Tuning) -> Tuning {
    OF_TRIGGERS.iter().fold(tuning.clone(), |tuning, check| tuning.with_threshold(check, "factor", 1.0))
}

async fn maintain(shop: &Shop, mode: Mode) -> record::Result<End<Found>> {
    // First what a rule wants gone: the vacuum afterwards finds its rows.
    let expired::Due { items, troubles, notes } = expired::due(shop).await?;
    let mut details: Vec<String> = troubles.into_iter().map(|(_, trouble)| trouble).collect();
    // Once many rows are gone, nobody can tell by the statistics how large an index should be.
    let deletes = mode == Mode::Real && !items.is_empty();
    let before = if deletes { Some(judged(shop, false).await?) } else { None };
    let mut all = Plan::new(shop.clock.now(), items);
    let mut applied = carry_out(shop, mode, &all).await?;
    let mut judgements = judged(shop, false).await?;
    let mut unasked = not_asked(&judgements);
    let tables = planned(shop, &judgements, &OF_TRIGGERS).await?;
    let bloated = planned(shop, before.as_deref().unwrap_or(&judgements), &["postgres.index_bloated"]).await?;
    let first = builds_before(&tables, bloated);
    applied.extend(carry_out(shop, mode, &first).await?);
    applied.extend(carry_out(shop, mode, &tables).await?);
    if mode == Mode::Real {
        // Sizes are kept for the next run by the last look only: within a run they would confirm themselves.
        judgements = judged(shop, true).await?;
        unasked.extend(not_asked(&judgements));
        unasked.sort();
        unasked.dedup();
    }
    let rest = without(&first, planned(shop, &judgements, &AFTER_TABLES).await?);
    applied.extend(carry_out(shop, mode, &rest).await?);
    details.extend(unasked);
    let could_ask = details.is_empty();
    details.extend(notes);
    all.items.extend(first.items.into_iter().chain(tables.items).chain(rest.items));
    let plan = Plan::new(shop.clock.now(), all.items);
    let kept = plan.clone();
    shop.record.with(move |store| store.keep_plan(&kept)).await?;
    if mode == Mode::DryRun {
        details.extend(plan.items.iter().map(foreseen));
        if plan.items.iter().any(|item| matches!(item.step, Step::DeleteExpired { .. })) {
            details.push("once rows are deleted, their tables and indexes are looked at again: a vacuum and a REINDEX may follow".into());
        }
    }
    details.extend(applied.iter().map(line));
    details.extend(sizes::lines(shop).await?);
    let tally = Tally::of(&applied);
    let mut summary = match (plan.items.len(), mode) {
        (0, _) if could_ask => NOTHING_DUE.to_owned(),
        (0, _) => "nothing done; not everything could be looked at".to_owned(),
        (due, Mode::DryRun) => format!("{due} due, {} would be done now", plan.to_do().count()),
        (due, Mode::Real) => tally.told(due),
    };
    if !could_ask && !plan.items.is_empty() {
        summary.push_str("; not everything could be looked at");
    }
    let ok = could_ask && tally.is_fine();
    let actions = applied.into_iter().map(view::action).collect();
    Ok(End { ok, summary, found: Found { details, plan: Some(plan), actions, receipt: None } })
}

/// What would become of one step.
fn foreseen(item: &PlanItem) -> String {
    let decision = match &item.decision {
        Decision::Do => "would do".to_owned(),
        Decision::NeedsApproval { reason } | Decision::Skip { reason, .. } => format!("would not: {reason}"),
    };
    format!("{} -- {}; expected: {}; {decision}", item.statement, item.why, item.expected)
}

/// Asks all Postgres now, by the stricter question.
async fn judged(shop: &Shop, remembers: bool) -> record::Result<Vec<Judgement>> {
    let is_postgres = |system: &SystemId| system.kind == SystemKind::Postgres;
    judge_now(shop, &strict(&shop.settings.tuning), is_postgres, remembers).await
}

/// What is to be done about the findings of those checks.
async fn planned(shop: &Shop, judgements: &[Judgement], checks: &[&str]) -> record::Result<Plan> {
    let now = shop.clock.now();
    let ignored = shop.record.with(move |store| store.ignored(now)).await?;
    let due: Vec<Finding> = super::watch::failing(judgements)
        .filter(|finding| checks.contains(&finding.check.as_str()))
        .filter(|finding| !ignored.iter().any(|ignored| ignored.fingerprint == finding.fingerprint))
        .cloned()
        .collect();
    let situation = shop.executor.situation().await?;
    Ok(plan(&due, &shop.settings.policy, &situation, now))
}

/// Of the builds that may be done now those of tables that are to be vacuumed.
fn builds_before(vacuums: &Plan, builds: Plan) -> Plan {
    let is_vacuumed = |of: (&SystemId, &str, &str, &str)| {
        vacuums.items.iter().any(|item| {
            matches!(&item.step, Step::Vacuum { system, database, schema, table }
                if (system, database.as_str(), schema.as_str(), table.as_str()) == of)
        })
    };
    let mut of_server: BTreeMap<SystemId, usize> = BTreeMap::new();
    let mut items = builds.items;
    items.retain(|item| {
        let Step::Reindex { system, database, schema, table, .. } = &item.step else { return false };
        if item.decision != Decision::Do || !is_vacuumed((system, database, schema, table)) {
            return false;
        }
        let count = of_server.entry(system.clone()).or_default();
        *count += 1;
        *count <= BUILDS_FIRST
    });
    Plan::new(builds.made, items)
}

/// Each is tried once in a run.
fn without(tried: &Plan, plan: Plan) -> Plan {
    let mut items = plan.items;
    items.retain(|item| !tried.items.iter().any(|other| other.step.subject() == item.step.subject()));
    Plan::new(plan.made, items)
}

/// Nothing in a dry run.
async fn carry_out(shop: &Shop, mode: Mode, plan: &Plan) -> record::Result<Vec<Applied>> {
    if mode == Mode::DryRun || plan.items.is_empty() {
        return Ok(Vec::new());
    }
    let kept = plan.clone();
    shop.record.with(move |store| store.keep_plan(&kept)).await?;
    shop.executor.apply(plan, &Permission::by_itself()).await
}

fn is_mended_here(check: &str) -> bool {
    OF_TRIGGERS.contains(&check) || AFTER_TABLES.contains(&check)
}

/// The databases that could not be looked at, and why.
fn not_asked(judgements: &[Judgement]) -> Vec<String> {
    let asked = judgements.iter().filter(|judgement| is_mended_here(&judgement.check));
    let reasons = asked.filter_map(|judgement| match &judgement.status {
        Status::Unknown(unknown) if unknown.kind.is_trouble() => {
            Some(format!("{}: {}", judgement.system, unknown.reason))
        }
        _ => None,
    });
    reasons.collect()
}

/// What happened to one step.
fn line(applied: &Applied) -> String {
    match applied {
        Applied::Skipped { item, reason, .. } => format!("{} -- {}; held back: {reason}", item.statement, item.why),
        Applied::Done(entry) => {
            let word = match entry.outcome {
                Outcome::Helped => "helped",
                Outcome::DidNotHelp => "did not help",
                Outcome::Failed => "failed",
                Outcome::Abandoned => "was not needed or not possible any more",
                Outcome::Running => "is under way",
            };
            format!("{} -- {}; {word}: {}", entry.step.statement(), entry.why, entry.detail)
        }
    }
}

/// How the steps of a plan ended.
#[derive(Debug, Default)]
struct Tally<'a> {
    done: usize,
    helped: usize,
    /// The first reason of those that were held back, and whether it was one of something wrong.
    held: Option<(&'a str, bool)>,
    held_back: usize,
}

impl<'a> Tally<'a> {
    fn of(applied: &'a [Applied]) -> Self {
        let mut tally = Self::default();
        for applied in applied {
            let (reason, amiss) = match applied {
                // Its precondition did not hold any more; that is no more than another reason to hold it back.
                Applied::Done(entry) if entry.outcome == Outcome::Abandoned => (&entry.detail, false),
                Applied::Done(entry) => {
                    tally.done += 1;
                    tally.helped += usize::from(entry.outcome == Outcome::Helped);
                    continue;
                }
                Applied::Skipped { reason, amiss, .. } => (reason, *amiss),
            };
            tally.held_back += 1;
            // What is wrong goes before what only waits.
            if tally.held.is_none_or(|(_, first)| amiss && !first) {
                tally.held = Some((reason, amiss));
            }
        }
        tally
    }

    fn is_fine(&self) -> bool {
        self.helped == self.done && !self.held.is_some_and(|(_, amiss)| amiss)
    }

    fn told(&self, due: usize) -> String {
        let Self { done, helped, held_back, .. } = self;
        let why = self.held.map(|(reason, _)| format!(": {reason}")).unwrap_or_default();
        format!("{due} due, {done} done, {helped} helped, {held_back} held back{why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::finding::{Fingerprint, Target};
    use groundskeeper_core::remedy::{Reindexing, RiskClass};
    use jiff::Timestamp;

    fn item(step: Step, decision: Decision) -> PlanItem {
        PlanItem {
            remedy: "a.remedy".into(),
            class: RiskClass::Routine,
            statement: step.statement(),
            finding: Fingerprint::of("a.check", step.system(), &Target::System),
            step,
            why: String::new(),
            expected: String::new(),
            decision,
        }
    }

    fn build(server: &str, table: &str, index: &str) -> PlanItem {
        let step = Step::Reindex {
            system: SystemId::new(SystemKind::Postgres, server),
            database: "docrag".into(),
            schema: "public".into(),
            table: table.into(),
            index: index.into(),
            because: Reindexing::Bloated { percent: 300, wasted: 1 << 30 },
        };
        item(step, Decision::Do)
    }

    fn vacuum(server: &str, table: &str) -> PlanItem {
        let system = SystemId::new(SystemKind::Postgres, server);
        let (database, schema) = ("docrag".into(), "public".into());
        item(Step::Vacuum { system, database, schema, table: table.into() }, Decision::Do)
    }

    #[test]
    fn builds_of_tables_that_are_to_be_vacuumed_come_first_up_to_two_on_each_server() {
        let now = Timestamp::UNIX_EPOCH;
        let vacuums = Plan::new(now, vec![vacuum("main", "notes"), vacuum("other", "notes")]);
        let mut held = build("main", "notes", "held");
        held.decision = Decision::NeedsApproval { reason: "nobody approved it".into() };
        let builds = vec![
            build("main", "quiet", "of_no_vacuum"),
            held,
            build("main", "notes", "first"),
            build("main", "notes", "second"),
            build("main", "notes", "later"),
            build("other", "notes", "of_another_server"),
        ];
        let first = builds_before(&vacuums, Plan::new(now, builds.clone()));
        assert_eq!(first.items, [builds[2].clone(), builds[3].clone(), builds[5].clone()]);
        assert_eq!(without(&first, Plan::new(now, builds.clone())).items.len(), 3);
        assert!(builds_before(&Plan::new(now, Vec::new()), Plan::new(now, builds)).items.is_empty());
    }
}
