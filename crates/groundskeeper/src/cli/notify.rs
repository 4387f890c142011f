//! `notify test`.

use super::args::{NotifyArgs, NotifyVerb};
use super::{Desk, FINDINGS, FINE, Outcome};
use crate::app::api::{DeliveryView, Request};
use std::fmt::Write as _;

pub(super) async fn run(desk: &mut Desk, args: NotifyArgs) -> Outcome {
    let settings = desk.settings()?;
    let NotifyVerb::Test { channel } = args.verb;
    let sent: Vec<DeliveryView> = desk.ask(&settings, "sending", Request::NotifyTest { channel }).await?;
    desk.show(&sent, |paint| {
        sent.iter().fold(String::new(), |mut out, delivery| {
            let mark = if delivery.ok { paint.good("✓") } else { paint.critical("✗") };
            let _ = writeln!(out, "{mark} {}: {}", paint.bold(&delivery.channel), delivery.detail);
            out
        })
    })?;
    Ok(if sent.iter().all(|delivery| delivery.ok) { FINE } else { FINDINGS })
}
