//! The daily health check: the full sweep at nine with what the watch does not ask, and the report of the last day.

use super::watch::{mend, tell};
use super::{Found, Round, Shop};
use crate::app::{report, view};
use crate::record;
use crate::scheduler::{BoxFuture, End, Job, Mode};
use std::sync::Arc;

pub(super) struct DailyHealth(pub(super) Arc<Shop>);

impl Job for DailyHealth {
    type Yield = Found;

    fn run(&self, mode: Mode) -> BoxFuture<'_, End<Found>> {
        Box::pin(async move {
            match sweep(&self.0, mode).await {
                Ok(end) => end,
                Err(error) => End { ok: false, summary: error.to_string(), found: Found::default() },
            }
        })
    }
}

async fn sweep(shop: &Shop, mode: Mode) -> record::Result<End<Found>> {
    let round = Round::sweep(shop, mode).await?;
    if mode == Mode::Real {
        tell(shop).await?;
    }
    // Nobody acts on what he did not see himself, and some of it only this round sees.
    let (plan, actions) = mend(shop, &round, mode).await?;
    let now = shop.clock.now();
    let broken = shop.record.with(|store| store.verify_audit()).await?.1;
    shop.present.set_broken_audit(broken.map(|broken| format!("entry {}: {}", broken.seq, broken.why)));
    let report = report::last_24_hours(shop, now).await?;
    let open = report.findings.iter().filter(|line| line.resolved.is_none() && !line.ignored).count();
    let resolved = report.findings.iter().filter(|line| line.resolved.is_some()).count();
    let systems = shop.stack.len();
    let summary =
        format!("{systems} systems, {} checks; {open} open, {resolved} resolved in 24 h", round.judgements.len());
    let details = report.to_text().lines().map(str::to_owned).collect();
    let actions = actions.into_iter().map(view::action).collect();
    Ok(End { ok: true, summary, found: Found { details, plan: Some(plan), actions, ..Found::default() } })
}
