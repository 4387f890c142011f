//! Reads how the planner would answer the statements that take the most time.

use super::explaining::{STATEMENTS, begin, explained, foreign_code, reason, run, statements, take_back};
use super::mask::masked;
use super::observe::{QUERY_SHOWN, gap};
use groundskeeper_core::advice::plannable;
use groundskeeper_core::observation::{Gap, NotPlanned, PlanShape, Planned, Plans, Unplanned};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// With all partitions in it: those that a value leaves out are all, where the value is NULL. And as a session with few rights to
/// workers has it, whatever ours came with.
const WHOLE: &str = "SET LOCAL enable_partition_pruning = off; SET LOCAL parallel_setup_cost = 1000000000";

/// Among so many, for what reads no table of users takes places too.
const CONSIDERED: usize = 4 * STATEMENTS;

/// What was not asked until then is told as such. None where `pg_stat_statements` cannot be used.
pub(super) async fn read(client: &Client, trusted: &[String], until: Instant) -> Result<Option<Plans>, Gap> {
    let late = || Gap::new("the statements were not read in the time given");
    let found =
        timeout_at(until, statements(client, CONSIDERED)).await.map_err(|_| late())?.map_err(|error| gap(&error))?;
    let Some(found) = found else { return Ok(None) };
    let foreign = timeout_at(until, foreign_code(client, trusted)).await.map_err(|_| late())?;
    if let Some(why) = foreign.map_err(|error| gap(&error))? {
        return Ok(Some(Plans { kept_from: Some(why), ..Plans::default() }));
    }
    let (mut plans, mut is_late) = (Plans::default(), false);
    for (query_id, text) in found {
        if plans.seen.len() + plans.unexplained.len() == STATEMENTS {
            break;
        }
        let question = match plannable(&text) {
            Ok(Some(question)) => question,
            // It writes, has no plan of its own, or reads no table of users.
            Ok(None) => continue,
            Err(_) => {
                plans.unexplained.push(refused(query_id, "it is not SQL as our parser knows it"));
                continue;
            }
        };
        is_late |= Instant::now() >= until;
        let asked = if is_late { None } else { timeout_at(until, plan(client, &question, trusted)).await.ok() };
        match asked {
            Some(Ok(Some(plan))) => {
                let query = masked(&text, QUERY_SHOWN);
                plans.seen.push(Planned { query_id, query, plan, is_known: false, earlier: Vec::new() });
            }
            Some(Ok(None)) => plans.unexplained.push(refused(query_id, "the server gave no plan for it")),
            Some(Err(error)) if error.as_db_error().is_none() => return Err(gap(&error)),
            Some(Err(error)) => {
                plans.unexplained.push(Unplanned { query_id, kind: kind(&error), reason: reason(&error) });
            }
            None => {
                is_late = true;
                let reason = "there was no time left to explain it".to_owned();
                plans.unexplained.push(Unplanned { query_id, kind: NotPlanned::Late, reason });
            }
        }
    }
    Ok(Some(plans))
}

fn refused(query_id: i64, reason: impl Into<String>) -> Unplanned {
    Unplanned { query_id, kind: NotPlanned::Refused, reason: reason.into() }
}

fn kind(error: &Error) -> NotPlanned {
    match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => NotPlanned::Denied,
        Some(code) if [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(code) => NotPlanned::Late,
        _ => NotPlanned::Refused,
    }
}

/// None where there is none, or where somebody has made a function meanwhile that nobody answers for.
async fn plan(
    client: &Client,
    (sql, parameters): &(String, usize),
    trusted: &[String],
) -> Result<Option<PlanShape>, Error> {
    let answer = match begin(client, trusted).await? {
        Some(_) => Ok(serde_json::Value::Null),
        None => match client.batch_execute(WHOLE).await {
            Ok(()) => explained(client, sql, *parameters, 0).await,
            Err(error) => Err(error),
        },
    };
    let taken_back = take_back(client).await;
    run(client, "ROLLBACK").await?;
    taken_back?;
    Ok(PlanShape::read(&answer?))
}
