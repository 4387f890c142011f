//! Asks the planner about statements as `pg_stat_statements` keeps them, without their values.
//!
//! Nothing is run: each statement is prepared and explained with a generic plan, which needs no values. To plan it takes the lock
//! that to run it would (`ACCESS SHARE`, for as long as our transaction lasts, never waited for longer than `lock_timeout`).
//! Statements go to the server one by one in the extended protocol, which takes no second one along, in a transaction that only
//! reads and is rolled back.

use groundskeeper_core::remedy::quoted;
use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// So many statements, those that take the most time.
const STATEMENTS: i64 = 50;

const EXTENSION: &str = "SELECT n.nspname::text, e.extversion::text FROM pg_extension e
                           JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'";
const LEFT_OVER: &str = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'groundskeeper\\_question\\_%'";

/// The number and the text of the statements of this database that take the most time; none without `pg_stat_statements`.
pub(super) async fn statements(client: &Client) -> Result<Option<Vec<(i64, String)>>, Error> {
    let rows = client.query_typed(EXTENSION, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (schema, version): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let is_old = version.split_once('.').is_some_and(|(_, minor)| minor.parse::<u32>().is_ok_and(|minor| minor < 8));
    let time = if is_old { "total_time" } else { "total_exec_time" };
    let sql = format!(
        "SELECT queryid, min(query) AS query FROM {}.pg_stat_statements
  WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND queryid IS NOT NULL AND length(query) < 20000
  GROUP BY queryid ORDER BY sum({time}) DESC, queryid LIMIT $1",
        quoted(&schema)
    );
    let rows = client.query_typed(&sql, &[(&STATEMENTS, Type::INT8)]).await?;
    rows.iter().map(|row| Ok((row.try_get("queryid")?, row.try_get("query")?))).collect::<Result<_, _>>().map(Some)
}

/// Begins the transaction in which questions are put to the planner.
pub(super) async fn begin(client: &Client) -> Result<(), Error> {
    run(client, "BEGIN READ ONLY").await?;
    run(client, "SAVEPOINT question").await?;
    run(client, "SET LOCAL plan_cache_mode = force_generic_plan").await
}

/// Takes back what was prepared meanwhile, also when something failed; `ROLLBACK` is to follow. Behind a pooler the session is
/// somebody else's after that: nothing of ours may stay in it.
pub(super) async fn take_back(client: &Client) -> Result<(), Error> {
    run(client, "ROLLBACK TO SAVEPOINT question").await?;
    for row in client.query_typed(LEFT_OVER, &[]).await? {
        run(client, &format!("DEALLOCATE {}", quoted(row.try_get("name")?))).await?;
    }
    Ok(())
}

/// The generic plan, as `EXPLAIN (FORMAT JSON)` has it; null where it said something else. Prepared anew each time: a plan that
/// is kept knows nothing of a new index. `number` is the question's own within the transaction.
pub(super) async fn explained(client: &Client, sql: &str, parameters: usize, number: usize) -> Result<Value, Error> {
    let name = format!("groundskeeper_question_{number}");
    run(client, &format!("PREPARE {name} AS {sql}")).await?;
    let nulls = vec!["NULL"; parameters].join(", ");
    let values = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    // All of this text is ours; the driver knows the type of a plan as text only.
    let explained = client.simple_query(&format!("EXPLAIN (FORMAT JSON) EXECUTE {name}{values}")).await?;
    run(client, &format!("DEALLOCATE {name}")).await?;
    let plan = explained.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => serde_json::from_str(row.get(0)?).ok(),
        _ => None,
    });
    Ok(plan.unwrap_or_default())
}

pub(super) async fn run(client: &Client, sql: &str) -> Result<(), Error> {
    client.query_typed(sql, &[]).await.map(|_| ())
}

/// Whether the statement's tables may not be read by us.
pub(super) fn is_denied(error: &Error) -> bool {
    error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Why a statement could not be explained, with the way out where there is one.
pub(super) fn reason(error: &Error) -> String {
    let Some(said) = error.as_db_error() else { return error.to_string() };
    if is_denied(error) {
        return format!(
            "{}; to explain a statement our role must be allowed to SELECT from its tables",
            said.message()
        );
    }
    format!("{} (SQLSTATE {})", said.message(), said.code().code())
}
