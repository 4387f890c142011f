//! `task run`: a task by hand.

use super::args::{TaskArgs, TaskVerb};
use super::plan::{action_lines, plan_lines};
use super::{Desk, FINDINGS, FINE, Outcome, person};
use crate::app::api::{Request, TaskRunView};
use std::fmt::Write as _;

pub(super) async fn run(desk: &mut Desk, args: TaskArgs) -> Outcome {
    let settings = desk.settings()?;
    let TaskVerb::Run { name, dry_run } = args.verb;
    let doing = format!("running {name}");
    let run: TaskRunView = desk.ask(&settings, &doing, Request::TaskRun { name, dry_run, by: person::name() }).await?;
    desk.show(&run, |paint| {
        let mark = if run.ok { paint.good("✓") } else { paint.critical("✗") };
        let dry = if run.dry_run { " (dry run: nothing was changed)" } else { "" };
        let mut out = format!("{mark} {}{dry}: {}\n", paint.bold(&run.task), run.summary);
        for line in &run.details {
            let _ = writeln!(out, "  {line}");
        }
        if let Some(plan) = run.plan.as_ref().filter(|plan| !plan.items.is_empty()) {
            out.push('\n');
            plan_lines(&mut out, plan, *paint);
        }
        for action in &run.actions {
            out.push('\n');
            action_lines(&mut out, action, &settings, *paint);
        }
        out
    })?;
    Ok(if run.ok { FINE } else { FINDINGS })
}
