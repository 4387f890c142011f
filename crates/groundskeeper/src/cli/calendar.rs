//! `calendar`: every task, when it runs next and how it last ended.

use super::{Desk, FINE, Outcome, moment, table};
use crate::app::api::{CalendarEntry, CalendarState, Request};

pub(super) async fn run(desk: &mut Desk) -> Outcome {
    let settings = desk.settings()?;
    let entries: Vec<CalendarEntry> = desk.ask(&settings, "reading the calendar", Request::Calendar).await?;
    desk.show(&entries, |paint| {
        let head = ["TASK", "SCHEDULE", "NEXT", "LAST", "WHAT IT DOES"].map(str::to_owned).to_vec();
        let mut rows = vec![head];
        rows.extend(entries.iter().map(|entry| {
            let next = match (entry.state, entry.next) {
                (CalendarState::NotAvailable, _) => "not in this version".to_owned(),
                (CalendarState::NotConfigured, _) => "not configured".to_owned(),
                (CalendarState::Disabled, _) => "switched off".to_owned(),
                (CalendarState::Paused, _) => "paused".to_owned(),
                (CalendarState::Scheduled, Some(at)) => moment(at, &settings),
                (CalendarState::Scheduled, None) => "–".to_owned(),
            };
            let last = entry.last.as_ref();
            let last = last
                .map_or_else(|| "–".to_owned(), |run| format!("{} {}", moment(run.started, &settings), run.outcome));
            let zone = if entry.zone == settings.zone_name { String::new() } else { format!(" ({})", entry.zone) };
            vec![entry.task.clone(), format!("{}{zone}", entry.schedule), next, last, entry.what.clone()]
        }));
        table::columns(&rows, "", |line, column, cell| {
            let away = |entry: &CalendarEntry| entry.state != CalendarState::Scheduled;
            match line.checked_sub(1).and_then(|index| entries.get(index)) {
                None => paint.bold(&cell),
                Some(entry) if away(entry) || column == 4 => paint.dim(&cell),
                Some(_) => cell,
            }
        })
    })?;
    Ok(FINE)
}
