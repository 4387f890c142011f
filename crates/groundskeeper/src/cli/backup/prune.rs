//! `backup prune`: which sets go and why, and their removal.

use super::super::paint::Paint;
use super::super::{Desk, FINDINGS, FINE, Outcome, counted, person, table};
use super::settings;
use crate::app::api::{ActionResult, BackupPruneView, Request};
use crate::tasks::space;
use groundskeeper_core::policy::Outcome as Ended;
use groundskeeper_core::quantity::format_bytes;
use jiff::tz::TimeZone;

pub(super) async fn run(desk: &mut Desk, apply: bool) -> Outcome {
    let settings = settings(desk)?;
    let doing = if apply { "removing sets" } else { "reading the repository" };
    let request = Request::BackupPrune { apply, by: person::name() };
    let view: BackupPruneView = desk.ask_counting(&settings, doing, request).await?;
    desk.show(&view, |paint| told(&view, apply, &settings.zone, *paint))?;
    let fine = view
        .action
        .as_ref()
        .is_none_or(|action| matches!(action.result, ActionResult::Ended { outcome: Ended::Helped, .. }));
    Ok(if fine { FINE } else { FINDINGS })
}

fn told(view: &BackupPruneView, apply: bool, zone: &TimeZone, paint: Paint) -> String {
    let plan = &view.plan;
    if plan.sets.is_empty() {
        return format!("There is no set in {} yet; `groundskeeper backup run` makes one.\n", view.repository);
    }
    let name = zone.iana_name().unwrap_or("local");
    let mut rows = vec![vec!["SET".to_owned(), format!("MADE ({name})"), String::new(), "BECAUSE".to_owned()]];
    rows.extend(plan.sets.iter().map(|judged| {
        vec![
            judged.set.to_string(),
            judged.made.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
            if judged.verdict.is_removed() { "goes" } else { "stays" }.to_owned(),
            judged.verdict.why(),
        ]
    }));
    let mut out = table::columns(&rows, "", |line, column, cell| match (line, column) {
        (0, _) => paint.bold(&cell),
        (_, 2) if cell == "goes" => paint.critical(&cell),
        _ => cell,
    });
    let count = plan.removed().count();
    let (going, all) = (counted(count, "set"), plan.sets.len());
    let go = if count == 1 { "goes" } else { "go" };
    let mut lines = vec![format!("Kept: {}. {going} of {all} {go}, which {}.", plan.keep, space(plan.freed))];
    if plan.freed.waiting > 0 {
        let waiting = format_bytes(plan.freed.waiting as f64);
        lines.push(format!("{waiting} of removed sets wait for a prune a day after their mark."));
    }
    match view.action.as_ref().map(|action| &action.result) {
        Some(ActionResult::Ended { outcome: Ended::Helped, detail }) => {
            lines.push(format!("{} {detail}", paint.good("✓")));
        }
        Some(ActionResult::Ended { detail, .. }) => lines.push(format!("{} {detail}", paint.critical("✗"))),
        Some(ActionResult::Skipped { reason }) => lines.push(format!("{} held back: {reason}", paint.critical("✗"))),
        None if !plan.is_due() => lines.push("There is nothing to do.".to_owned()),
        None if !apply => lines.push("Nothing was changed; `groundskeeper backup prune --apply` does it.".to_owned()),
        None => {}
    }
    out.push('\n');
    out.push_str(&lines.join("\n"));
    out.push('\n');
    out
}
