//! Reads how the planner would answer the statements that take the most time.

use super::explaining::{begin, explained, is_denied, reason, run, statements, take_back};
use super::mask::masked;
use super::observe::{QUERY_SHOWN, gap};
use groundskeeper_core::advice::plannable;
use groundskeeper_core::observation::{Gap, PlanShape, Planned, Plans, Unplanned};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Error};

/// What was not asked until then is told as such. None without `pg_stat_statements`.
pub(super) async fn read(client: &Client, until: Instant) -> Result<Option<Plans>, Gap> {
    let Ok(found) = timeout_at(until, statements(client)).await else {
        return Err(Gap::new("the statements were not read in the time given"));
    };
    let Some(found) = found.map_err(|error| gap(&error))? else { return Ok(None) };
    let mut plans = Plans::default();
    for (query_id, text) in found {
        // What the parser does not know, and what has no plan of its own (BEGIN, COPY), is no question.
        let Ok(Some(question)) = plannable(&text) else { continue };
        let unplanned = match timeout_at(until, plan(client, &question)).await {
            Ok(Ok(Some(plan))) => {
                let query = masked(&text, QUERY_SHOWN);
                plans.seen.push(Planned { query_id, query, plan, is_known: false, before: None });
                continue;
            }
            Ok(Ok(None)) => continue,
            Ok(Err(error)) if error.is_closed() => return Err(gap(&error)),
            Ok(Err(error)) => Unplanned { query_id, is_denied: is_denied(&error), reason: reason(&error) },
            Err(_) => {
                let reason = "there was no time left to explain it".to_owned();
                Unplanned { query_id, is_denied: false, reason }
            }
        };
        plans.unexplained.push(unplanned);
    }
    Ok(Some(plans))
}

async fn plan(client: &Client, (sql, parameters): &(String, usize)) -> Result<Option<PlanShape>, Error> {
    begin(client).await?;
    let answer = explained(client, sql, *parameters, 0).await;
    take_back(client).await?;
    run(client, "ROLLBACK").await?;
    Ok(PlanShape::read(&answer?))
}
