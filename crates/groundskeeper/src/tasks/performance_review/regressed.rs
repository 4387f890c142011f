//! Statements whose mean of the last week is worse than in the four weeks before.

use crate::record;
use crate::tasks::Shop;
use crate::tasks::history::{Spans, past};
use groundskeeper_core::SystemId;
use groundskeeper_core::check::postgres::regressions::{QUERY_REGRESSED, told};
use groundskeeper_core::observation::{Leaders, Past};

const DAY: f64 = 86_400.0;
const WEEKS: Spans = Spans { latest: 7.0 * DAY, from: 35.0 * DAY, to: 7.0 * DAY };

/// Lines for a person, by the limits of the check, the worst first.
pub(super) async fn lines(shop: &Shop, system: &SystemId, leaders: &Leaders) -> record::Result<Vec<String>> {
    let limits = shop.settings.tuning.limits(&QUERY_REGRESSED);
    let known: Vec<Past> = past(shop, system, WEEKS)
        .await?
        .into_iter()
        .filter(|past| f64::from(past.hours) >= limits.get("minimum_hours"))
        .collect();
    if known.is_empty() {
        return Ok(vec![
            "  no statement has been on record for long enough to be compared with its own past".to_owned(),
        ]);
    }
    let count = known.len();
    let mut slower: Vec<Past> = known
        .into_iter()
        .filter(|past| past.is_slower(limits.get("minimum_factor"), limits.get("minimum_growth")))
        .collect();
    slower.sort_by(|a, b| b.factor().total_cmp(&a.factor()));
    if slower.is_empty() {
        return Ok(vec![format!("  none of {count} statements on record became slower than in the four weeks before")]);
    }
    let line = |past: &Past| {
        let statement = leaders.statements.iter().find(|statement| statement.query_id == past.query_id);
        let query = statement.map_or("(not among the leaders any more)", |statement| &statement.query);
        format!("    {}: {query} [{}]", told(past), past.query_id)
    };
    let heading = "  slower in this week than in the four weeks before".to_owned();
    Ok(std::iter::once(heading).chain(slower.iter().map(line)).collect())
}
