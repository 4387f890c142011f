//! Giving a setting another value, and taking that back.
//!
//! `ALTER SYSTEM` takes no condition and runs in no transaction: what must hold is asked in the statement right before it, under
//! a lock that keeps other keepers out. Between the file and the reload we may die; the journal's recovery then finds a line
//! that no session runs with, and puts it back. A reload takes up whatever anybody has written meanwhile, so that nothing
//! may be waiting for one. The lock is a session's: behind a pooler it would outlive us, so that there nothing is done.

use super::super::client::{Endpoint, reading_settings};
use super::super::sql;
use super::{ActError, POLL, Work};
use groundskeeper_core::observation::Setting;
use groundskeeper_core::remedy::setting::{Change, Ground, Limits, Line, Parameter, SettingValue, is_same};
use groundskeeper_core::remedy::{Step, StepState, quoted};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// A reload goes by the postmaster to every session; a machine under load takes its time for it.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// A session whose connection was lost ends as soon as its statement does.
const GONE_WITHIN: Duration = Duration::from_secs(3);
/// The lock by which keepers of one server keep out of each other's way: `GRKS` in ASCII.
const ONE_AT_A_TIME: i64 = 0x4752_4b53;

/// Whether another session has it. The lock itself is of one database, and keepers may be connected to several.
const HELD: &str = "
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid::int8 = $1 AND objsubid = 1
                  AND granted AND pid IS DISTINCT FROM pg_backend_pid())";

const ANOTHER: &str = "another keeper changes a setting of this server";

/// A setting of our own by which a session is known again. A pooler drops it, refuses it, or answers from another session.
const SESSION: &str = "groundskeeper.session";

/// A setting, what it is now or what we wrote, and what it is to be.
#[derive(Clone, Copy)]
pub(super) struct Alteration<'a> {
    pub(super) setting: Parameter,
    pub(super) from: &'a SettingValue,
    pub(super) to: &'a Change,
}

/// The setting's own row. A value of our role or database covers the server's, and `source` says so.
const OWN: &str = "
SELECT name, coalesce(setting, '') AS value, boot_val AS boot, unit, source, context, sourcefile AS file,
       sourceline::int8 AS line, pending_restart AS pending, vartype AS kind, min_val AS least, max_val AS most,
       coalesce(enumvals, '{}') AS words,
       (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory
  FROM pg_settings WHERE name = $1";

const LINES: &str = "
SELECT coalesce(sourcefile, '') AS file, sourceline::int8 AS line, coalesce(setting, '') AS value, error
  FROM pg_file_settings WHERE lower(name) = $1 ORDER BY seqno";

/// Without `pg_read_all_settings` some settings have no row, and what our reload would make of their lines could not be told.
const MAY_SEE: &str = "
SELECT has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')
       AND has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')
       AND pg_has_role('pg_read_all_settings', 'USAGE'),
       current_setting('server_version_num')::int4";

/// What is wrong in the files, waits for a restart, or is gone from the files and still in force; but for the setting itself.
/// With whether no reload takes it up. A command line wins over any line: a server that was started with
/// `-c max_connections=200` calls the line of initdb one that cannot be applied, and waits for a restart for good.
const WAITING: &str = "
SELECT coalesce(f.name, 'a line') || ' (' || coalesce(f.sourcefile, '') || ':' || coalesce(f.sourceline::text, '') || '): '
       || f.error AS what, coalesce(s.context = 'postmaster', false) AS by_restart
  FROM pg_file_settings f LEFT JOIN pg_settings s ON lower(s.name) = lower(f.name)
 WHERE f.error IS NOT NULL AND lower(f.name) IS DISTINCT FROM $1
   AND s.source IS DISTINCT FROM 'command line'
UNION ALL
SELECT name || ' waits for a restart', true FROM pg_settings
 WHERE pending_restart AND name <> $1 AND source <> 'command line'
UNION ALL
SELECT s.name || ' is gone from the files and still in force', s.context = 'postmaster' FROM pg_settings s
 WHERE s.source = 'configuration file' AND s.name <> $1
   AND NOT EXISTS (SELECT FROM pg_file_settings f WHERE lower(f.name) = lower(s.name))";

/// Also when it was put there by its rename, or with its old time. Of the same second it cannot be told.
const CHANGED_SINCE: &str = "
SELECT coalesce((SELECT greatest(modification, change) > pg_conf_load_time() FROM pg_stat_file($1, true)), false)";

/// What the files say and what is in force. Texts may hold a secret: the server compares them itself; some it has put in order
/// (`iso, mdy`). What our role or database has a value of its own for cannot be told, for it covers the server's; that of how
/// times and texts are shown, which databases often have, is passed over. A setting of no library that is loaded has no row,
/// and is asked for by its name. What a command line or the server itself fixes stays.
const WRITTEN: &str = "
WITH last AS (
  SELECT DISTINCT ON (lower(name)) lower(name) AS name, coalesce(setting, '') AS setting
    FROM pg_file_settings WHERE name IS NOT NULL AND error IS NULL ORDER BY lower(name), seqno DESC)
SELECT coalesce(s.name, f.name) AS name, s.unit,
       coalesce(s.source IN ('global', 'database', 'user', 'database user'), false) AS covered,
       CASE
         WHEN s.name IS NULL THEN f.setting = coalesce(current_setting(f.name, true), '')
         WHEN lower(s.name) IN ('datestyle', 'timezone', 'log_timezone', 'default_text_search_config') THEN
           regexp_replace(lower(f.setting), '\\s|^pg_catalog\\.', '', 'g')
             IN (regexp_replace(lower(s.setting), '\\s|^pg_catalog\\.', '', 'g'),
                 regexp_replace(lower(s.reset_val), '\\s|^pg_catalog\\.', '', 'g'))
         ELSE rtrim(f.setting, '/') IN (rtrim(coalesce(s.setting, ''), '/'), rtrim(coalesce(s.reset_val, ''), '/'))
       END AS is_same,
       CASE WHEN s.vartype <> 'string' THEN f.setting END AS written,
       CASE WHEN s.vartype <> 'string' THEN s.reset_val END AS value
  FROM last f LEFT JOIN pg_settings s ON lower(s.name) = f.name
 WHERE coalesce(s.source, '') NOT IN ('command line', 'override', 'client', 'session')
   AND coalesce(s.name, f.name) <> $1
   AND NOT (s.source IN ('global', 'database', 'user', 'database user')
            AND lower(s.name) IN ('datestyle', 'timezone', 'default_text_search_config', 'search_path', 'lc_messages',
                                  'lc_monetary', 'lc_numeric', 'lc_time'))";

const FILES: &str = "SELECT DISTINCT sourcefile FROM pg_file_settings WHERE sourcefile IS NOT NULL";

/// In a session that can be told from others. It has no other settings of ours, for they would cover those of the server that
/// are compared with its files.
pub(super) async fn alter(
    endpoint: &Endpoint,
    step: &Step,
    of: Alteration<'_>,
    deadline: Duration,
) -> Result<(), ActError> {
    // Random enough: it only has to differ from what an earlier session left.
    let mark = format!("{:016x}", RandomState::new().build_hasher().finish());
    let begun = Work::begin(endpoint, step, vec![(SESSION, mark.clone())], deadline).await;
    let work = match (begun, of.to) {
        // The setting is the server's, whatever became of the database that we connect to: it is still to be put back.
        (Err(ActError::Precondition { what, reason }), Change::PutBack { .. }) => {
            return Err(ActError::Failed { what, message: reason, retryable: true });
        }
        (begun, _) => begun?,
    };
    let done = Box::pin(work.alter_system(of, &mark)).await;
    work.finish().await;
    done
}

impl Work<'_> {
    async fn alter_system(&self, of: Alteration<'_>, mark: &str) -> Result<(), ActError> {
        let client = self.client()?;
        self.is_one_session(client, mark).await?;
        self.alone(client, of.to).await?;
        let done = self.alter(client, of).await;
        self.unlock(client).await;
        done
    }

    /// Failures and no preconditions: they will not pass by themselves. Behind several addresses the undo could meet another
    /// server than the one that was changed.
    async fn is_one_session(&self, client: &Client, mark: &str) -> Result<(), ActError> {
        if self.endpoint.has_several_hosts() {
            let why = "its url names several servers, of which settings are changed one by one: give it one that names this server";
            return Err(self.failed(why.to_owned(), false));
        }
        if self.session.is_settled() {
            let asked = format!("SELECT current_setting('{SESSION}', true)");
            let answer: Option<String> = self.wait(client.query_typed_one(&asked, &[])).await?.get(0);
            if answer.as_deref() == Some(mark) {
                return Ok(());
            }
        }
        let why =
            "a pooler in between gives us no session of our own, so nothing was changed; connect to the server itself";
        Err(self.failed(why.to_owned(), false))
    }

    /// Takes the lock. Whoever has it is left his change; what is put back is worth a moment's waiting, and is to be tried again
    /// afterwards: a session that we lost may take a moment to go.
    async fn alone(&self, client: &Client, to: &Change) -> Result<(), ActError> {
        let key = [(&ONE_AT_A_TIME as _, Type::INT8)];
        let give_up = (Instant::now() + GONE_WITHIN).min(self.until);
        loop {
            let taken = self.wait(client.query_typed_one("SELECT pg_try_advisory_lock($1)", &key)).await?;
            if taken.get(0) {
                if !self.is_held().await? {
                    return Ok(());
                }
                self.unlock(client).await;
            }
            match to {
                Change::Set { .. } => return Err(self.precondition(ANOTHER)),
                Change::PutBack { .. } if Instant::now() >= give_up => {
                    return Err(self.failed(ANOTHER.to_owned(), true));
                }
                Change::PutBack { .. } => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The end of the session does it, too; where something in between keeps the session, nothing else does.
    async fn unlock(&self, client: &Client) {
        let key = [(&ONE_AT_A_TIME as _, Type::INT8)];
        if let Err(error) = self.wait(client.query_typed_one("SELECT pg_advisory_unlock($1)", &key)).await {
            tracing::debug!(%error, "the lock of the settings goes with the session");
        }
    }

    /// Whether another session is about to change a setting, as that of a keeper that was killed may be.
    pub(super) async fn is_held(&self) -> Result<bool, ActError> {
        let key = [(&ONE_AT_A_TIME as _, Type::INT8)];
        Ok(self.wait(self.client()?.query_typed_one(HELD, &key)).await?.get(0))
    }

    /// Only with the lock in hand.
    async fn alter(&self, client: &Client, of: Alteration<'_>) -> Result<(), ActError> {
        self.may_alter(client, of.setting).await?;
        let Some(ground) = self.ground(client, of.setting).await? else {
            return Err(self.precondition("this server has no such setting"));
        };
        if let Some(reason) = ground.refusal(of.setting, of.from, of.to) {
            return Err(self.precondition(reason));
        }
        let before = ground.state();
        // Not before: it would have covered the server's own.
        let left = self.until.saturating_duration_since(Instant::now()).as_millis().max(1);
        self.wait(client.batch_execute(&format!("SET statement_timeout = {left}"))).await?;
        if !of.to.is_written(ground.line()) {
            self.wait(client.batch_execute(&of.to.writing(of.setting))).await?;
        }
        if let (Change::PutBack { .. }, Some(first)) = (of.to, ground.by_reload.first()) {
            // A line that nobody has read yet is gone without a trace.
            if !is_ours_in_force(&ground, of) {
                return Ok(());
            }
            let why = format!(
                "its line is put back, and nothing was reloaded, for another change of settings is not finished: {first}; \
                 SELECT pg_reload_conf() when it is"
            );
            return Err(self.failed(why, false));
        }
        if !self.wait(client.query_typed_one("SELECT pg_reload_conf()", &[])).await?.get::<_, bool>(0) {
            return Err(self.failed("the server could not be told to read its files".to_owned(), true));
        }
        self.until_taken(client, of, &before).await
    }

    /// Nothing is written by whoever could not have it read afterwards.
    async fn may_alter(&self, client: &Client, setting: Parameter) -> Result<(), ActError> {
        let (may_see, version) = self.may_see(client).await?;
        let alter = if version >= 150_000 {
            "has_parameter_privilege($1, 'ALTER SYSTEM')"
        } else {
            "(SELECT rolsuper AND $1 <> '' FROM pg_roles WHERE rolname = current_user)"
        };
        let sql = format!("SELECT has_function_privilege('pg_catalog.pg_reload_conf()', 'EXECUTE') AND {alter}");
        let name = setting.as_str();
        let row = self.wait(client.query_typed_one(&sql, &[(&name, Type::TEXT)])).await?;
        if may_see && row.get(0) { Ok(()) } else { Err(self.denied(setting)) }
    }

    async fn may_see(&self, client: &Client) -> Result<(bool, i32), ActError> {
        let row = self.wait(client.query_typed_one(MAY_SEE, &[])).await?;
        Ok((row.get(0), row.get(1)))
    }

    fn denied(&self, setting: Parameter) -> ActError {
        let message = format!("we may not change {setting}, have it read, or see what the server's files say");
        ActError::Denied { what: self.what(), message, fix: self.missing_grant() }
    }

    /// None where the server has no such setting.
    async fn ground(&self, client: &Client, setting: Parameter) -> Result<Option<Ground>, ActError> {
        let name = setting.as_str();
        let named: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
        let ask = |sql: &'static str| self.wait(client.query_typed(sql, &named));
        let rows = ask(OWN).await?;
        let Some(own) = rows.first() else { return Ok(None) };
        let lines = ask(LINES).await?.iter().map(line).collect();
        let mut waits = Waits::default();
        for row in ask(WAITING).await? {
            let kind = if row.get("by_restart") { &mut waits.by_restart } else { &mut waits.by_reload };
            kind.push(row.get("what"));
        }
        waits.by_reload.extend(ask(WRITTEN).await?.iter().filter_map(unread));
        waits.by_reload.extend(self.changed_files(client).await?);
        let files = self.wait(client.query_typed(FILES, &[])).await?;
        let allowed = "SELECT coalesce(current_setting('allow_alter_system', true), 'on') = 'on'";
        let allowed: bool = self.wait(client.query_typed_one(allowed, &[])).await?.get(0);
        let keeper = if allowed {
            files.iter().find_map(|row| operator(row.get(0))).map(str::to_owned)
        } else {
            Some("whoever set allow_alter_system = off".to_owned())
        };
        Ok(Some(standing(own, lines, waits, keeper)))
    }

    /// Files of access and of certificates that our reload would take up, as far as we may look at them.
    async fn changed_files(&self, client: &Client) -> Result<Vec<String>, ActError> {
        let mut changed = Vec::new();
        let mut files = self.wait(client.query_typed(sql::RELOADED_FILES, &[])).await?;
        if self.wait(client.query_typed_one(sql::SEES_INCLUDED_FILES, &[])).await?.get(0) {
            for question in sql::included_files() {
                // What the server cannot read now, a reload does not take up.
                let told = async {
                    match client.query_typed(&question, &[]).await {
                        Err(error) if sql::is_unreadable_file(&error) => Ok(Vec::new()),
                        told => told,
                    }
                };
                files.extend(self.wait(told).await?);
            }
        }
        for row in files {
            let (path, may_see): (Option<String>, bool) = (row.get("path"), row.get("may_see"));
            let Some(path) = path.filter(|_| may_see) else { continue };
            let named: [(&(dyn ToSql + Sync), Type); 1] = [(&path, Type::TEXT)];
            if self.wait(client.query_typed_one(CHANGED_SINCE, &named)).await?.get(0) {
                changed.push(format!("{path} was changed and not read yet"));
            }
        }
        Ok(changed)
    }

    /// In new sessions: what an old one runs with may be of before.
    async fn until_taken(&self, client: &Client, of: Alteration<'_>, before: &StepState) -> Result<(), ActError> {
        let give_up = (Instant::now() + TAKEN_WITHIN).min(self.until);
        loop {
            let is_taken = Box::pin(self.is_taken(of, before));
            if matches!(timeout_at(give_up, is_taken).await, Ok(Ok(true))) {
                return Ok(());
            }
            if Instant::now() >= give_up {
                let ground = self.ground(client, of.setting).await?;
                let error = ground.and_then(|ground| ground.lines.last().and_then(|line| line.error.clone()));
                let error = error.map_or_else(String::new, |error| format!(": {error}"));
                return Err(self.failed(format!("the server did not take it up{error}"), false));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn is_taken(&self, of: Alteration<'_>, before: &StepState) -> Result<bool, ActError> {
        let left = self.until.saturating_duration_since(Instant::now());
        let fresh = Work::begin(self.endpoint, self.step, reading_settings(left), left).await?;
        let state = fresh.setting_state(of.setting).await;
        fresh.finish().await;
        Ok(self.step.has_taken(before, &state?))
    }

    pub(super) async fn setting_state(&self, setting: Parameter) -> Result<StepState, ActError> {
        let client = self.client()?;
        if !self.may_see(client).await?.0 {
            return Err(self.denied(setting));
        }
        let name = setting.as_str();
        let named: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
        let rows = self.wait(client.query_typed(OWN, &named)).await?;
        let Some(own) = rows.first() else { return Ok(StepState::Gone) };
        let lines = self.wait(client.query_typed(LINES, &named)).await?.iter().map(line).collect();
        Ok(standing(own, lines, Waits::default(), None).state())
    }
}

/// Other changes: what a reload takes up or stumbles over, and what it does not touch.
#[derive(Default)]
struct Waits {
    by_reload: Vec<String>,
    by_restart: Vec<String>,
}

fn standing(own: &Row, lines: Vec<Line>, waits: Waits, keeper: Option<String>) -> Ground {
    let Waits { by_reload, by_restart } = waits;
    let data_directory = own.get("data_directory");
    Ground { setting: of_row(own), limits: limits(own), lines, by_reload, by_restart, data_directory, keeper }
}

/// Whether the server runs with the line that is put back now, or waits for a restart to do so.
fn is_ours_in_force(ground: &Ground, of: Alteration<'_>) -> bool {
    let unit = ground.setting.unit.as_deref();
    ground.setting.pending_restart || is_same(of.from.as_str(), &ground.setting.value, unit)
}

/// What to grant to a role for it.
pub(super) fn grants(role: &str, setting: Parameter) -> String {
    let role = quoted(role);
    format!(
        "as a superuser in this database: GRANT ALTER SYSTEM ON PARAMETER {setting} TO {role} (15 on; before, only a superuser \
         may); GRANT EXECUTE ON FUNCTION pg_reload_conf(), pg_show_all_file_settings() TO {role}; GRANT SELECT ON \
         pg_file_settings TO {role}; GRANT pg_read_all_settings TO {role}; `groundskeeper grants --for tune` prints them"
    )
}

fn of_row(row: &Row) -> Setting {
    Setting {
        name: row.get("name"),
        value: row.get("value"),
        unit: row.get("unit"),
        source: row.get("source"),
        context: row.get("context"),
        boot: row.get("boot"),
        file: row.get("file"),
        line: number(row),
        pending_restart: row.get("pending"),
    }
}

fn limits(row: &Row) -> Limits {
    Limits { kind: row.get("kind"), least: row.get("least"), most: row.get("most"), words: row.get("words") }
}

fn line(row: &Row) -> Line {
    Line { file: row.get("file"), line: number(row), value: row.get("value"), error: row.get("error") }
}

fn number(row: &Row) -> Option<u32> {
    row.get::<_, Option<i64>>("line").and_then(|line| u32::try_from(line).ok())
}

/// A setting whose file says something that is not in force.
fn unread(row: &Row) -> Option<String> {
    let (name, unit): (String, Option<String>) = (row.get("name"), row.get("unit"));
    let (written, value): (Option<String>, Option<String>) = (row.get("written"), row.get("value"));
    if row.get("covered") {
        return Some(format!(
            "whether the server runs with what its files say of {name} cannot be told, for our role or this database has a \
             value of its own (ALTER ROLE … RESET {name})"
        ));
    }
    let agree = row.get::<_, Option<bool>>("is_same").unwrap_or(false)
        || matches!((&written, &value), (Some(one), Some(other)) if is_same(one, other, unit.as_deref()));
    (!agree).then(|| format!("{name} was written anew and not read yet"))
}

/// Who keeps the configuration, by the names of the files that only they write.
fn operator(file: &str) -> Option<&'static str> {
    match file.rsplit('/').next().unwrap_or(file) {
        "postgresql.base.conf" => Some("Patroni"),
        "override.conf" => Some("CloudNativePG"),
        _ => None,
    }
}
