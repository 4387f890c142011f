//! `pause`, `resume`.

use super::args::PauseArgs;
use super::findings::from_now;
use super::status::pause_line;
use super::{Desk, FINE, Outcome, person};
use crate::app::api::{PauseView, Request};

pub(super) async fn pause(desk: &mut Desk, args: PauseArgs) -> Outcome {
    let settings = desk.settings()?;
    let until = args.amount.map(from_now).transpose()?;
    let request = Request::Pause { task: args.task, reason: args.reason, until, by: person::name() };
    let pause: PauseView = desk.ask(&settings, "writing it down", request).await?;
    desk.show(&pause, |_| format!("{}\n", pause_line(&pause, &settings)))?;
    Ok(FINE)
}

pub(super) async fn resume(desk: &mut Desk, task: Option<String>) -> Outcome {
    let settings = desk.settings()?;
    let what = task.clone().unwrap_or_else(|| "all actions".to_owned());
    let was: bool = desk.ask(&settings, "writing it down", Request::Resume { task, by: person::name() }).await?;
    desk.show(&was, |_| {
        if was { format!("The pause of {what} is over.\n") } else { format!("There was no pause of {what}.\n") }
    })?;
    Ok(FINE)
}
