//! `audit`: who did what, and whether anybody changed it afterwards.

use super::{Desk, FINDINGS, FINE, Outcome, moment, table};
use crate::app::api::{AuditView, Request};

pub(super) async fn run(desk: &mut Desk, limit: u32) -> Outcome {
    let settings = desk.settings()?;
    let audit: AuditView = desk.ask(&settings, "verifying the audit", Request::Audit { limit }).await?;
    desk.show(&audit, |paint| {
        let rows: Vec<Vec<String>> = audit
            .entries
            .iter()
            .map(|entry| {
                let number = format!("{:>4}", entry.seq);
                vec![number, moment(entry.at, &settings), entry.who.clone(), entry.what.clone(), entry.detail.clone()]
            })
            .collect();
        let listed = table::columns(&rows, "", |_, column, cell| if column < 2 { paint.dim(&cell) } else { cell });
        let verdict = match &audit.broken {
            None => format!("{} The chain holds; its head is {}.", paint.good("✓"), audit.head),
            Some(why) => format!("{} The chain is broken: {why}. Somebody changed the record.", paint.critical("✗")),
        };
        format!("{listed}\n{verdict}\n")
    })?;
    Ok(if audit.broken.is_none() { FINE } else { FINDINGS })
}
