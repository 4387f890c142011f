//! What a reading cannot know: how the leading statements used to be, and how large everything was.

use super::Shop;
use crate::record::{self, Paces};
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::{Observation, Pace, Past};
use groundskeeper_core::quantity::after;
use jiff::Timestamp;

const HOUR: f64 = 3_600.0;
const DAY: f64 = 24.0 * HOUR;

/// Which hours are compared with which, in seconds before now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spans {
    /// The latest time begins here and ends now.
    pub(super) latest: f64,
    /// The time before begins and ends here.
    pub(super) from: f64,
    pub(super) to: f64,
}

/// The hour that runs and the one before it (a mean of minutes would be noise) against a week. The last day is left out of
/// that week, so that a change stays news for a day at least.
const PRESENT: Spans = Spans { latest: 2.0 * HOUR, from: 8.0 * DAY, to: DAY };

/// As far as growth is looked at: each day of the week twice.
const GROWTH_DAYS: u32 = 14;

/// The reading with the past of the statements and of the sizes in it.
pub(super) async fn with_past(shop: &Shop, system: &SystemId, observation: Observation) -> record::Result<Observation> {
    let Observation::Postgres(mut reading) = observation else { return Ok(observation) };
    if let Ok(seen) = &mut reading.outcome {
        if let Some(Ok(_)) = seen.statements.leaders {
            seen.statements.past = past(shop, system, PRESENT).await?;
        }
        let (now, system) = (shop.clock.now(), system.clone());
        seen.room.past = shop.record.with(move |store| store.sizes(&system, GROWTH_DAYS, now)).await?;
    }
    Ok(Observation::Postgres(reading))
}

/// The statements on record that have both a latest time and one before it.
pub(super) async fn past(shop: &Shop, system: &SystemId, spans: Spans) -> record::Result<Vec<Past>> {
    let (now, system) = (shop.clock.now(), system.clone());
    let paces = shop.record.with(move |store| store.paces(&system, after(now, -spans.from), after(now, HOUR))).await?;
    Ok(compared(&paces, spans, now))
}

fn compared(paces: &Paces, spans: Spans, now: Timestamp) -> Vec<Past> {
    let within = |hours: &[(Timestamp, Pace)], from: f64, to: f64| -> Vec<Pace> {
        let is_in = |at: Timestamp| at >= after(now, -from) && at < after(now, -to);
        hours.iter().filter(|(at, _)| is_in(*at)).map(|(_, hour)| *hour).collect()
    };
    let pasts = paces.iter().filter_map(|(query_id, hours)| {
        Past::of(*query_id, &within(hours, spans.latest, -HOUR), &within(hours, spans.from, spans.to))
    });
    pasts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_hours_are_compared_with_the_week_and_not_with_the_day_between() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let hours: Vec<(Timestamp, Pace)> = (0..300)
            .rev()
            .map(|ago| {
                let mean = if ago < 20 { 0.1 } else { 0.01 };
                (after(now, -f64::from(ago) * HOUR - 1.0), Pace { load: mean, calls: 1.0, rows: 1.0 })
            })
            .collect();
        let compared = compared(&Paces::from([(7, hours)]), PRESENT, now);
        assert_eq!(compared.len(), 1);
        assert_eq!((compared[0].query_id, compared[0].hours), (7, 168));
        assert!(compared[0].is_slower(9.9, 0.0) && !compared[0].is_slower(10.1, 0.0), "{compared:?}");
    }
}
