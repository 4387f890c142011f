//! `accept`: the present configuration is the right one.

use super::{Desk, FINE, Outcome, counted, person};
use crate::app::api::{AcceptView, Request};
use groundskeeper_core::observation::Drift;
use std::fmt::Write as _;

pub(super) async fn run(desk: &mut Desk, system: String) -> Outcome {
    let settings = desk.settings()?;
    let request = Request::Accept { system, by: person::name() };
    let view: AcceptView = desk.ask(&settings, "reading the server", request).await?;
    desk.show(&view, |_| render(&view))?;
    Ok(FINE)
}

fn render(view: &AcceptView) -> String {
    let mut out = format!("{} is right as it is now: {}\n", view.system, counted(view.settings, "setting"));
    match view.changes.as_deref() {
        None => out.push_str("Nothing was accepted before.\n"),
        Some([]) => out.push_str("It is what was accepted before.\n"),
        Some(changes) => {
            for Drift { setting, accepted, now, owner } in changes {
                let or_default = |value: &Option<String>| value.clone().unwrap_or_else(|| "its default".to_owned());
                // Writing to a String cannot fail.
                let _ = writeln!(out, "  {setting}: {} → {} ({owner})", or_default(accepted), or_default(now));
            }
        }
    }
    out
}
