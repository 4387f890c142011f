//! `report`: a day.

use super::{Desk, FINE, Outcome};
use crate::app::api::Request;
use groundskeeper_core::report::DayReport;

pub(super) async fn run(desk: &mut Desk, day: Option<String>) -> Outcome {
    let settings = desk.settings()?;
    let report: DayReport = desk.ask(&settings, "writing the report", Request::Report { day }).await?;
    desk.show(&report, |_| report.to_text())?;
    Ok(FINE)
}
