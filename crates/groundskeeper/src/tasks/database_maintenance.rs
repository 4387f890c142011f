//! Database maintenance: analyzes and vacuums tables that are past *their own* trigger, worst first, in the window.
//!
//! The watch alarms at twice the trigger and only after an hour, because autovacuum is meant to do this work. Once a
//! week this task asks the stricter question: what is past its trigger at all? Never VACUUM FULL, never everything.

use super::{Found, Shop, judge_now};
use crate::app::view;
use crate::record;
use crate::remediation::{Applied, Permission};
use crate::scheduler::{BoxFuture, End, Job, Mode};
use groundskeeper_core::SystemKind;
use groundskeeper_core::check::Tuning;
use groundskeeper_core::finding::Finding;
use groundskeeper_core::plan::plan;
use groundskeeper_core::policy::{Consent, Decision, Outcome};
use std::sync::Arc;

/// The checks whose findings this task mends.
const CHECKS: [&str; 2] = ["postgres.dead_rows_past_trigger", "postgres.statistics_stale"];

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
    CHECKS.iter().fold(tuning.clone(), |tuning, check| tuning.with_threshold(check, "factor", 1.0))
}

async fn maintain(shop: &Shop, mode: Mode) -> record::Result<End<Found>> {
    let tuning = strict(&shop.settings.tuning);
    let judgements = judge_now(shop, &tuning, |system| system.kind == SystemKind::Postgres).await;
    let due: Vec<Finding> = super::watch::failing(&judgements)
        .filter(|finding| CHECKS.contains(&finding.check.as_str()))
        .cloned()
        .collect();
    let not_asked =
        judgements.iter().filter(|judgement| CHECKS.contains(&judgement.check.as_str())).filter_map(|judgement| {
            match &judgement.status {
                groundskeeper_core::Status::Unknown(unknown) => {
                    Some(format!("{}: {}", judgement.system, unknown.reason))
                }
                _ => None,
            }
        });
    let mut details: Vec<String> = not_asked.collect();
    let could_ask = details.is_empty();
    let situation = shop.executor.situation().await?;
    let plan = plan(&due, &shop.settings.policy, &situation, shop.clock.now());
    let applied = if mode == Mode::Real {
        let kept = plan.clone();
        shop.record.with(move |store| store.keep_plan(&kept)).await?;
        let permission = Permission { by: "groundskeeper".into(), consent: Consent::default() };
        shop.executor.apply(&plan, &permission).await?
    } else {
        Vec::new()
    };
    for item in &plan.items {
        let decision = match &item.decision {
            Decision::Do => "would do".to_owned(),
            Decision::NeedsApproval { reason } | Decision::Skip { reason, .. } => format!("would not: {reason}"),
        };
        details.push(format!("{} -- {}; {decision}", item.statement, item.why));
    }
    let helped = applied
        .iter()
        .filter(|applied| matches!(applied, Applied::Done(entry) if entry.outcome == Outcome::Helped))
        .count();
    let done = applied.iter().filter(|applied| matches!(applied, Applied::Done(_))).count();
    let summary = match (plan.items.len(), mode) {
        (0, _) if could_ask => "no table is past its trigger".to_owned(),
        (0, _) => "could not look at every database".to_owned(),
        (due, Mode::DryRun) => format!("{due} due, {} would be done now", plan.to_do().count()),
        (due, Mode::Real) => format!("{due} due, {done} done, {helped} helped, {} held back", due - done),
    };
    let actions = applied.into_iter().map(view::action).collect();
    Ok(End { ok: could_ask && helped == done, summary, found: Found { details, plan: Some(plan), actions } })
}
