//! Retention: which backup sets no rule of `[backup.keep]` keeps.
//!
//! It tells, and removes only when `apply = true` says so. That is the approval that a routine action needs; every other
//! guard holds, the maintenance window among them. It is journalled and verified like any other action.

use super::backup::failed;
use super::{Found, Shop};
use crate::app::backup::NOT_CONFIGURED;
use crate::app::{CallError, view};
use crate::remediation::{Applied, Permission};
use crate::scheduler::{BoxFuture, End, Job, Mode};
use groundskeeper_backup::{Freed, PrunePlan};
use groundskeeper_core::finding::{Fingerprint, Target};
use groundskeeper_core::plan::{Plan, PlanItem};
use groundskeeper_core::policy::{Decision, Outcome};
use groundskeeper_core::quantity::{after, format_bytes};
use groundskeeper_core::remedy::{self, Step};
use groundskeeper_core::retention::Reason;
use groundskeeper_core::{SystemId, SystemKind};
use std::sync::Arc;

const REMEDY: &str = "backup.prune_repository";

pub(super) struct Retention(pub(super) Arc<Shop>);

/// What would go, and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Retained {
    pub(crate) plan: PrunePlan,
    /// None when nobody may, or nothing is to be done.
    pub(crate) applied: Option<Applied>,
}

impl Job for Retention {
    type Yield = Found;

    fn run(&self, mode: Mode) -> BoxFuture<'_, End<Found>> {
        Box::pin(async move {
            let shop = &self.0;
            let applies = shop.settings.keep.apply;
            let expires = after(shop.clock.now(), shop.settings.policy.approval_seconds);
            // In the window only, unlike what a person asks for.
            let permission = Permission::by_itself().approved(false, expires);
            let permission = (mode == Mode::Real && applies).then_some(permission);
            match retain(shop, permission.as_ref()).await {
                Ok(retained) => ended(retained, applies),
                Err(error) => failed(error.message),
            }
        })
    }
}

/// Looks which sets no rule keeps, and with a permission removes them.
pub(crate) async fn retain(shop: &Shop, permission: Option<&Permission>) -> Result<Retained, CallError> {
    let lookout = shop.stack.lookout().ok_or_else(|| CallError::usage(NOT_CONFIGURED))?;
    let _alone = shop.repository.lock().await;
    let now = shop.clock.now();
    let plan = lookout.vault().plan_prune(now).await?;
    let Some(permission) = permission.filter(|_| plan.is_due()) else { return Ok(Retained { plan, applied: None }) };
    let steps = Plan::new(now, item(&plan).into_iter().collect());
    let kept = steps.clone();
    shop.record.with(move |store| store.keep_plan(&kept)).await?;
    // Whoever holds the repository does not wait for a vacuum.
    let applied = shop.executor.try_apply(&steps, permission).await?;
    Ok(Retained { plan, applied: applied.into_iter().next() })
}

fn item(plan: &PrunePlan) -> Option<PlanItem> {
    let system = SystemId::new(SystemKind::Backup, "main");
    let remedy = remedy::find(REMEDY)?;
    let step = Step::PruneRepository {
        system: system.clone(),
        sets: plan.removed().map(|judged| judged.set.clone()).collect(),
    };
    Some(PlanItem {
        remedy: remedy.id.to_owned(),
        class: remedy.class,
        statement: step.statement(),
        step,
        why: format!("[backup.keep]: {}", plan.keep),
        expected: space(plan.freed),
        // The finding that it would mend, whether it is open or not: its own alarm does not hold it back.
        finding: Fingerprint::of(remedy.check?, &system, &Target::System),
        decision: Decision::Do,
    })
}

/// `frees 2 GiB now (1 GiB of it WAL), and 1 GiB with the first prune a day later`
pub(crate) fn space(freed: Freed) -> String {
    let bytes = |amount: u64| format_bytes(amount as f64);
    let now = match (freed.now, freed.wal) {
        (0, 0) => None,
        (data, 0) => Some(format!("{} now", bytes(data))),
        (0, wal) => Some(format!("{} of WAL now", bytes(wal))),
        (data, wal) => Some(format!("{} now ({} of it WAL)", bytes(data + wal), bytes(wal))),
    };
    let later = (freed.later > 0).then(|| format!("{} with the first prune a day later", bytes(freed.later)));
    match (now, later) {
        (None, None) => "frees nothing".to_owned(),
        (Some(now), Some(later)) => format!("frees {now}, and {later}"),
        (now, later) => format!("frees {}", now.or(later).unwrap_or_default()),
    }
}

fn ended(retained: Retained, applies: bool) -> End<Found> {
    let Retained { plan, applied } = retained;
    let going = plan.removed().count();
    let sets = |count: usize| if count == 1 { "1 set".to_owned() } else { format!("{count} sets") };
    let mut details: Vec<String> =
        plan.removed().map(|judged| format!("{}: {}", judged.set, judged.verdict.why())).collect();
    details.extend(remarkable(&plan));
    let of = format!("of {}", plan.sets.len());
    let (ok, summary) = match &applied {
        None if !plan.is_due() => (true, format!("every rule is kept: none {of} would go")),
        None => {
            let hint = if applies { "" } else { "; `groundskeeper backup prune --apply`, or apply = true, does it" };
            (true, format!("{} {of} would go, which {}{hint}", sets(going), space(plan.freed)))
        }
        Some(Applied::Skipped { reason, amiss, .. }) => {
            (!amiss, format!("{} {of} would go; held back: {reason}", sets(going)))
        }
        Some(Applied::Done(entry)) => (
            matches!(entry.outcome, Outcome::Helped | Outcome::Abandoned),
            format!("{}; {}", entry.detail, space(plan.freed)),
        ),
    };
    let actions = applied.into_iter().map(view::action).collect();
    End { ok, summary, found: Found { details, actions, ..Found::default() } }
}

/// What a person should hear of sets that stay.
fn remarkable(plan: &PrunePlan) -> impl Iterator<Item = String> {
    let odd = |reason: &&Reason| matches!(reason, Reason::ReceiptLost | Reason::InUse | Reason::ClockBehind);
    plan.sets.iter().filter_map(move |judged| {
        let groundskeeper_core::retention::Verdict::Kept { because } = &judged.verdict else { return None };
        let why = because.iter().find(odd)?;
        Some(format!("{} stays: {why}", judged.set))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::SetId;
    use groundskeeper_core::retention::{Dismissal, Judged, Keep, Verdict};
    use jiff::Timestamp;

    fn plan(freed: Freed) -> PrunePlan {
        let made = Timestamp::UNIX_EPOCH;
        let judged = |number, verdict| Judged { set: SetId::new(made, number), made, verdict };
        let sets = vec![
            judged(2, Verdict::Kept { because: vec![Reason::Newest, Reason::ReceiptLost] }),
            judged(1, Verdict::Removed { because: Dismissal::NoRule }),
        ];
        PrunePlan { keep: Keep::default(), sets, freed }
    }

    #[test]
    fn a_run_that_may_only_tell_says_what_would_go_and_how_it_would() {
        let freed = Freed { now: 1 << 30, later: 1 << 20, ..Freed::default() };
        let end = ended(Retained { plan: plan(freed), applied: None }, false);
        assert!(end.ok);
        assert_eq!(
            end.summary,
            "1 set of 2 would go, which frees 1 GiB now, and 1 MiB with the first prune a day later; \
             `groundskeeper backup prune --apply`, or apply = true, does it"
        );
        assert_eq!(
            end.found.details,
            [
                "19700101T000000Z-00000001: no rule keeps it: newer sets fill every one",
                "19700101T000000Z-00000002 stays: its receipt is lost, so nobody knows what is in it",
            ]
        );
    }

    #[test]
    fn what_wal_frees_is_said_with_the_rest() {
        let of = |now, later, wal| space(Freed { now, later, wal, waiting: 7 });
        assert_eq!(of(0, 0, 0), "frees nothing");
        assert_eq!(of(0, 0, 1 << 20), "frees 1 MiB of WAL now");
        assert_eq!(of(1 << 20, 0, 1 << 20), "frees 2 MiB now (1 MiB of it WAL)");
        assert_eq!(of(0, 1 << 30, 0), "frees 1 GiB with the first prune a day later");
        assert_eq!(of(0, 1 << 30, 1 << 20), "frees 1 MiB of WAL now, and 1 GiB with the first prune a day later");
    }

    #[test]
    fn what_is_due_is_one_journalled_step_that_names_the_sets() {
        let item = item(&plan(Freed::default())).unwrap();
        assert!(item.statement.starts_with("remove 19700101T000000Z-00000001; "), "{}", item.statement);
        assert_eq!(item.why, "[backup.keep]: the last 3, 7 daily, 4 weekly, 6 monthly");
    }
}
