//! Asks the planner about statements as `pg_stat_statements` keeps them, without their values.
//!
//! Each is prepared and explained with a generic plan, which needs no values, one by one in the extended protocol, which takes no
//! second statement along, in a transaction that only reads and is rolled back. To plan it takes the lock that to read would
//! (`ACCESS SHARE`, for as long as our transaction lasts). No statement runs, but the planner itself evaluates functions
//! whose arguments are constants, with our rights: what would run code that neither a superuser nor we ourselves own is left out.

use super::observe::get;
use super::statements::WATCHER;
use groundskeeper_core::advice::mentioned;
use groundskeeper_core::remedy::quoted;
use serde_json::Value;
use std::collections::BTreeSet;
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

/// Names of functions that a superuser or our own role does not answer for, of operators that call them, and of views and
/// tables whose rules or policies do. Code in C can only have come from a superuser.
const FOREIGN_CODE: &str = "
WITH RECURSIVE trusted AS MATERIALIZED (SELECT oid FROM pg_roles WHERE rolsuper OR rolname = current_user),
functions AS MATERIALIZED (
  SELECT p.oid, p.proname::text AS name FROM pg_proc p
   WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND p.proowner NOT IN (SELECT oid FROM trusted)
     AND p.prolang NOT IN (SELECT oid FROM pg_language WHERE lanname IN ('c', 'internal'))),
operators AS MATERIALIZED (
  SELECT o.oid, o.oprname::text AS name FROM pg_operator o WHERE o.oprcode::oid IN (SELECT oid FROM functions)),
calls AS MATERIALIZED (
  SELECT d.classid, d.objid FROM pg_depend d
   WHERE d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass)
     AND (d.refclassid = 'pg_proc'::regclass AND d.refobjid IN (SELECT oid FROM functions)
          OR d.refclassid = 'pg_operator'::regclass AND d.refobjid IN (SELECT oid FROM operators))),
relations AS (
  SELECT r.ev_class AS oid FROM calls c JOIN pg_rewrite r ON r.oid = c.objid WHERE c.classid = 'pg_rewrite'::regclass
  UNION
  SELECT p.polrelid FROM calls c JOIN pg_policy p ON p.oid = c.objid WHERE c.classid = 'pg_policy'::regclass
  UNION
  SELECT r.ev_class FROM relations v
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid)
SELECT name FROM functions UNION SELECT name FROM operators
UNION SELECT c.relname::text FROM relations r JOIN pg_class c ON c.oid = r.oid";

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

/// What the planner must not be asked about with our rights.
pub(super) struct ForeignCode(BTreeSet<String>);

impl ForeignCode {
    pub(super) async fn read(client: &Client) -> Result<Self, Error> {
        let rows = client.query_typed(FOREIGN_CODE, &[]).await?;
        Ok(Self(rows.iter().filter_map(|row| get(row, "name").ok()).collect()))
    }

    /// Why this statement is left out.
    pub(super) fn in_the_way(&self, statement: &str) -> Option<String> {
        let name = mentioned(statement, &self.0)?;
        Some(format!("to plan it could run {name} with our rights, which neither a superuser nor our role owns"))
    }
}

/// Begins the transaction in which questions are put to the planner.
pub(super) async fn begin(client: &Client) -> Result<(), Error> {
    client.batch_execute(&format!("BEGIN READ ONLY; SAVEPOINT question; {CAREFULLY}")).await
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
