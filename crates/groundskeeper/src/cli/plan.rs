//! `plan`, `approve`, `apply`, `actions`, `undo`.

use super::paint::Paint;
use super::{Desk, FINDINGS, FINE, Outcome, UNKNOWN, counted, moment, person};
use crate::app::api::{ActionResult, ActionView, ApprovalView, PlanView, Request, UndoView};
use crate::config::Settings;
use groundskeeper_core::plan::Plan;
use groundskeeper_core::policy::{Decision, Outcome as Ending};
use groundskeeper_core::remedy::Undo;
use std::fmt::Write as _;

pub(super) async fn plan(desk: &mut Desk) -> Outcome {
    let settings = desk.settings()?;
    let view: PlanView = desk.ask(&settings, "looking and planning", Request::Plan).await?;
    shown(desk, &view)
}

/// A kept plan, and how to go on with it.
pub(super) fn shown(desk: &mut Desk, view: &PlanView) -> Outcome {
    let plan = &view.plan;
    desk.show(view, |paint| {
        let mut out = String::new();
        if view.unread.is_empty() || !plan.items.is_empty() {
            plan_lines(&mut out, plan, *paint);
        }
        for (system, reason) in &view.unread {
            let _ = writeln!(out, "{} {system} could not be looked at: {reason}", paint.bold("?"));
        }
        let hash = plan.short_hash();
        if plan.needing_approval() > 0 {
            let _ = writeln!(out, "\nNext: `groundskeeper approve {hash}`, then `groundskeeper apply {hash}`.");
        } else if plan.to_do().next().is_some() {
            let _ = writeln!(out, "\nNext: `groundskeeper apply {hash}`.");
        }
        out
    })?;
    Ok(if view.unread.is_empty() { FINE } else { UNKNOWN })
}

/// What would be done and why, and what not and why not.
pub(super) fn plan_lines(out: &mut String, plan: &Plan, paint: Paint) {
    if plan.items.is_empty() {
        let _ = writeln!(out, "{}", paint.good("There is nothing to do."));
        return;
    }
    let _ =
        writeln!(out, "{} ({})", paint.bold(&format!("Plan {}", plan.short_hash())), counted(plan.items.len(), "step"));
    for item in &plan.items {
        let decision = match &item.decision {
            Decision::Do => paint.good("do"),
            Decision::NeedsApproval { reason } => format!("{}: {reason}", paint.bold("needs approval")),
            Decision::Skip { reason, .. } => format!("{}: {reason}", paint.bold("not now")),
        };
        let _ = writeln!(out, "\n  {}", item.statement);
        let _ = writeln!(
            out,
            "    on:       {} {}",
            item.step.subject(),
            paint.dim(&format!("({}, {})", item.class, item.remedy))
        );
        let _ = writeln!(out, "    why:      {}", item.why);
        let _ = writeln!(out, "    expected: {}", item.expected);
        let _ = writeln!(out, "    decision: {decision}");
    }
}

pub(super) async fn approve(desk: &mut Desk, hash: String, any_time: bool) -> Outcome {
    let settings = desk.settings()?;
    let request = Request::Approve { hash, any_time, by: person::name() };
    let approval: ApprovalView = desk.ask(&settings, "writing it down", request).await?;
    desk.show(&approval, |_| {
        let short = approval.hash.get(..8).unwrap_or(&approval.hash);
        let mut out = String::new();
        for item in &approval.items {
            let _ = writeln!(out, "  {}", item.statement);
        }
        let waits = approval.items.iter().any(|item| item.class.waits_for_window());
        let when = match (approval.any_time, waits) {
            (true, _) | (_, false) => "at any time",
            (false, true) => {
                "routine and disruptive steps inside the maintenance windows only (`--any-time` lifts that)"
            }
        };
        let _ = writeln!(
            out,
            "{} approved by {}, {when}, until {}. Next: `groundskeeper apply {short}`.",
            counted(approval.items.len(), "step"),
            approval.by,
            moment(approval.expires, &settings)
        );
        out
    })?;
    Ok(FINE)
}

pub(super) async fn apply(desk: &mut Desk, hash: String) -> Outcome {
    let settings = desk.settings()?;
    let request = Request::Apply { hash, by: person::name() };
    let actions: Vec<ActionView> = desk.ask(&settings, "carrying out the plan", request).await?;
    desk.show(&actions, |paint| listed(&actions, &settings, *paint, "There was nothing to do."))?;
    Ok(if actions.iter().all(is_fine) { FINE } else { FINDINGS })
}

/// What a guard stopped did not happen, and whoever asked for it should notice.
fn is_fine(action: &ActionView) -> bool {
    matches!(action.result, ActionResult::Ended { outcome: Ending::Helped | Ending::Running, .. })
}

pub(super) async fn actions(desk: &mut Desk, limit: u32) -> Outcome {
    let settings = desk.settings()?;
    let actions: Vec<ActionView> = desk.ask(&settings, "reading the journal", Request::Actions { limit }).await?;
    desk.show(&actions, |paint| listed(&actions, &settings, *paint, "Nothing was done yet."))?;
    Ok(FINE)
}

fn listed(actions: &[ActionView], settings: &Settings, paint: Paint, none: &str) -> String {
    if actions.is_empty() {
        return format!("{none}\n");
    }
    let mut out = String::new();
    for action in actions {
        action_lines(&mut out, action, settings, paint);
    }
    out
}

pub(super) fn action_lines(out: &mut String, action: &ActionView, settings: &Settings, paint: Paint) {
    let (mark, result) = match &action.result {
        ActionResult::Skipped { reason } => (paint.dim("○"), format!("not done: {reason}")),
        ActionResult::Ended { outcome, detail } => {
            let (mark, word) = match outcome {
                Ending::Helped => (paint.good("✓"), "helped"),
                Ending::DidNotHelp => (paint.critical("✗"), "did not help"),
                Ending::Failed => (paint.critical("✗"), "failed"),
                Ending::Abandoned => (paint.dim("○"), "abandoned before it happened"),
                Ending::Running => (paint.bold("…"), "running"),
            };
            (mark, if detail.is_empty() { word.to_owned() } else { format!("{word}: {detail}") })
        }
    };
    let entry = action.entry.map(|entry| format!("#{entry} ")).unwrap_or_default();
    // What a guard stopped did not happen at any time, by anybody.
    let (at, by) = match &action.result {
        ActionResult::Skipped { .. } => (String::new(), String::new()),
        ActionResult::Ended { .. } => (format!("{}  ", moment(action.at, settings)), format!(" · by {}", action.by)),
    };
    let _ = writeln!(out, "{mark} {entry}{at}{}", action.statement);
    let _ = writeln!(out, "    {result}");
    let about = format!("{} · {}{by} · {}", action.subject, action.class, action.why);
    let _ = writeln!(out, "    {}", paint.dim(&about));
}

pub(super) async fn undo(desk: &mut Desk, entry: i64) -> Outcome {
    let settings = desk.settings()?;
    let request = Request::Undo { entry, by: person::name() };
    let undone: UndoView = desk.ask(&settings, "undoing", request).await?;
    desk.show(&undone, |paint| {
        let mut out = match &undone.undo {
            Undo::NotNeeded(why) => format!("#{entry} needs no undoing: {why}.\n"),
            Undo::Impossible(why) => format!("#{entry} cannot be undone: {why}.\n"),
            Undo::By(step) => format!("#{entry} is undone by: {}\n", step.statement()),
        };
        if let Some(action) = &undone.action {
            action_lines(&mut out, action, &settings, *paint);
        }
        out
    })?;
    let failed =
        matches!(undone.undo, Undo::Impossible(_)) || undone.action.as_ref().is_some_and(|action| !is_fine(action));
    Ok(if failed { FINDINGS } else { FINE })
}
