//! Asks the planner about statements as `pg_stat_statements` keeps them, without their values.
//!
//! Each is prepared and explained with a generic plan, which needs no values, one by one in the extended protocol, which takes no
//! second statement along, in a transaction that only reads and is rolled back. To plan it takes the lock that to read would
//! (`ACCESS SHARE`, for as long as our transaction lasts). No statement runs, but the planner itself evaluates functions
//! whose arguments are constants, with our rights: where anybody but superusers, we ourselves and those whom the configuration names
//! has made such functions, nothing is explained.

use super::statements::WATCHER;
use groundskeeper_core::remedy::quoted;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row, SimpleQueryMessage};

/// So many statements are looked at, those that take the most time.
pub(super) const STATEMENTS: usize = 50;

const EXTENSION: &str = "SELECT n.nspname::text, e.extversion::text FROM pg_extension e
                           JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'";
const LEFT_OVER: &str = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'groundskeeper\\_question\\_%'";
/// Whatever the session came with: behind some poolers it has no settings of ours.
const CAREFULLY: &str = "SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = '5s'; SET LOCAL jit = off; \
                         SET LOCAL plan_cache_mode = force_generic_plan";

/// A function that the planner itself may evaluate, whoever's statement it plans: not volatile, or behind an operator or a range.
/// Indexes, constraints, policies, views and casts bring them in without a word of the statement, so that one is enough. Code in C
/// can only have come from a superuser.
const FOREIGN_CODE: &str = "
SELECT p.oid::regprocedure::text AS name, pg_get_userbyid(p.proowner)::text AS owner FROM pg_proc p
 WHERE p.pronamespace <> 'pg_catalog'::regnamespace
   AND p.prolang NOT IN (SELECT oid FROM pg_language WHERE lanname IN ('c', 'internal'))
   AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
   AND (p.provolatile <> 'v' OR p.oid IN (SELECT oprcode::oid FROM pg_operator)
        OR p.oid IN (SELECT rngsubdiff::oid FROM pg_range))
   AND p.proowner NOT IN (SELECT oid FROM pg_roles WHERE rolsuper OR rolname = current_user OR rolname = ANY ($1))
 ORDER BY p.oid LIMIT 1";

/// The number and the text of the statements of this database that take the most time, but for those of a role that is only there
/// to watch; none where `pg_stat_statements` cannot be used.
pub(super) async fn statements(client: &Client, most: usize) -> Result<Option<Vec<(i64, String)>>, Error> {
    let rows = client.query_typed(EXTENSION, &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (schema, version): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let is_old = version.split_once('.').is_some_and(|(_, minor)| minor.parse::<u32>().is_ok_and(|minor| minor < 8));
    let time = if is_old { "total_time" } else { "total_exec_time" };
    let sql = format!(
        "SELECT queryid, min(query) AS query FROM {}.pg_stat_statements
  WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND queryid IS NOT NULL AND length(query) < 20000 AND userid IS DISTINCT FROM ({WATCHER})
  GROUP BY queryid ORDER BY sum({time}) DESC, queryid LIMIT $1",
        quoted(&schema)
    );
    match client.query_typed(&sql, &[(&(most as i64), Type::INT8)]).await {
        Ok(rows) => {
            let read = |row: &Row| Ok((row.try_get("queryid")?, row.try_get("query")?));
            rows.iter().map(read).collect::<Result<_, _>>().map(Some)
        }
        // Its library is not loaded.
        Err(error) if error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why no statement of this database may be planned with our rights; none where all is well. `trusted` are roles whose functions may
/// run.
pub(super) async fn foreign_code(client: &Client, trusted: &[String]) -> Result<Option<String>, Error> {
    let rows = client.query_typed(FOREIGN_CODE, &[(&trusted, Type::TEXT_ARRAY)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (name, owner): (String, String) = (row.try_get("name")?, row.try_get("owner")?);
    Ok(Some(format!(
        "to plan a statement could run {name} with our rights, and perhaps other functions of {owner}; where that is trusted: \
         trusted_owners = [{owner:?}] in this server's table of the configuration"
    )))
}

/// Begins the transaction in which questions are put to the planner, and looks once more whose code is there. The reason where
/// nothing must be asked; then, too, `ROLLBACK` is to follow.
pub(super) async fn begin(client: &Client, trusted: &[String]) -> Result<Option<String>, Error> {
    let begun = client.batch_execute(&format!("BEGIN READ ONLY; SAVEPOINT question; {CAREFULLY}")).await;
    let looked = match begun {
        Ok(()) => foreign_code(client, trusted).await,
        Err(error) => Err(error),
    };
    if looked.is_err() {
        run(client, "ROLLBACK").await?;
    }
    looked
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

/// Why a statement could not be explained, with the way out where there is one.
pub(super) fn reason(error: &Error) -> String {
    let Some(said) = error.as_db_error() else { return error.to_string() };
    let state = said.code().code();
    match state {
        "42501" => {
            format!("{}; to explain a statement our role must be allowed to SELECT from its tables", said.message())
        }
        // Data exceptions quote the data.
        _ if state.starts_with("22") => format!("the server cannot plan it (SQLSTATE {state})"),
        _ => format!("{} (SQLSTATE {state})", said.message()),
    }
}
