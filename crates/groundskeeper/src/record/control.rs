//! What people decided: kept plans, approvals, pauses, ignored findings. Each decision is in the audit.

use super::audit::append;
use super::{Error, Result, Store, millis, moment};
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::plan::Plan;
use jiff::Timestamp;
use rusqlite::params;

/// Kept plans are for approving and applying soon; older ones are history that the journal tells better.
const PLAN_KEPT_MILLIS: i64 = 7 * 86_400 * 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub hash: String,
    pub who: String,
    pub expires: Timestamp,
    pub any_time: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// None: all actions.
    pub task: Option<String>,
    pub reason: String,
    pub who: String,
    pub since: Timestamp,
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    pub fingerprint: Fingerprint,
    pub reason: String,
    pub who: String,
    pub until: Timestamp,
}

/// The scope under which a pause of all actions is kept; no task has this name.
const ACTIONS: &str = "*";

impl Store {
    pub fn keep_plan(&mut self, plan: &Plan) -> Result<()> {
        self.atomically(|db| {
            db.execute("DELETE FROM plan WHERE made < ?1", params![millis(plan.made) - PLAN_KEPT_MILLIS])?;
            db.execute(
                "INSERT INTO plan (hash, made, body) VALUES (?1, ?2, ?3)
                 ON CONFLICT (hash) DO UPDATE SET made = excluded.made, body = excluded.body",
                params![plan.hash, millis(plan.made), serde_json::to_string(plan)?],
            )?;
            Ok(())
        })
    }

    /// The kept plan whose hash begins so.
    pub fn plan(&self, prefix: &str) -> Result<Plan> {
        let found: Vec<String> = self.by_prefix("SELECT body FROM plan WHERE hash LIKE ?1 || '%'", prefix)?;
        match found.as_slice() {
            [] => Err(Error::Lookup(format!(
                "no plan begins with `{prefix}`; `groundskeeper plan` makes one and shows its hash"
            ))),
            [body] => Ok(serde_json::from_str(body)?),
            _ => Err(Error::Lookup(format!("several plans begin with `{prefix}`; give more digits"))),
        }
    }

    pub fn approve(&mut self, approval: &Approval, now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            db.execute(
                "INSERT INTO approval (hash, who, given, expires, any_time) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![approval.hash, approval.who, millis(now), millis(approval.expires), approval.any_time],
            )?;
            let any_time = if approval.any_time { ", at any time" } else { "" };
            append(
                db,
                now,
                &approval.who,
                "approve",
                &format!("{} until {}{any_time}", approval.hash, approval.expires),
            )
        })
    }

    /// The approval of that plan that is in force.
    pub fn approval(&self, hash: &str, now: Timestamp) -> Result<Option<Approval>> {
        let mut statement = self.connection.prepare(
            "SELECT hash, who, expires, any_time FROM approval WHERE hash = ?1 AND expires > ?2
             ORDER BY any_time DESC, expires DESC LIMIT 1",
        )?;
        let mut rows = statement.query_map(params![hash, millis(now)], |row| {
            Ok(Approval { hash: row.get(0)?, who: row.get(1)?, expires: moment(row.get(2)?), any_time: row.get(3)? })
        })?;
        Ok(rows.next().transpose()?)
    }

    pub fn pause(&mut self, pause: &Pause) -> Result<()> {
        let scope = pause.task.as_deref().unwrap_or(ACTIONS);
        self.atomically(|db| {
            db.execute(
                "INSERT OR REPLACE INTO pause (scope, reason, who, since, until) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![scope, pause.reason, pause.who, millis(pause.since), pause.until.map(millis)],
            )?;
            append(db, pause.since, &pause.who, "pause", &format!("{scope}: {}", pause.reason))
        })
    }

    pub fn resume(&mut self, task: Option<&str>, who: &str, now: Timestamp) -> Result<bool> {
        let scope = task.unwrap_or(ACTIONS);
        self.atomically(|db| {
            let was_paused = db.execute("DELETE FROM pause WHERE scope = ?1", params![scope])? > 0;
            append(db, now, who, "resume", scope)?;
            Ok(was_paused)
        })
    }

    /// The pauses in force.
    pub fn pauses(&self, now: Timestamp) -> Result<Vec<Pause>> {
        let mut statement = self.connection.prepare(
            "SELECT scope, reason, who, since, until FROM pause WHERE until IS NULL OR until > ?1 ORDER BY scope",
        )?;
        let rows = statement.query_map(params![millis(now)], |row| {
            let scope: String = row.get(0)?;
            Ok(Pause {
                task: (scope != ACTIONS).then_some(scope),
                reason: row.get(1)?,
                who: row.get(2)?,
                since: moment(row.get(3)?),
                until: row.get::<_, Option<i64>>(4)?.map(moment),
            })
        })?;
        rows.map(|row| Ok(row?)).collect()
    }

    /// The live finding whose fingerprint begins so.
    pub fn live_fingerprint(&self, prefix: &str) -> Result<Fingerprint> {
        let sql = "SELECT fingerprint FROM finding WHERE ended IS NULL AND fingerprint LIKE ?1 || '%'";
        let found: Vec<String> = self.by_prefix(sql, prefix)?;
        match found.as_slice() {
            [] => Err(Error::Lookup(format!(
                "no open finding begins with `{prefix}`; `groundskeeper findings` lists them"
            ))),
            [fingerprint] => Ok(Fingerprint(fingerprint.clone())),
            _ => Err(Error::Lookup(format!("several findings begin with `{prefix}`; give more digits"))),
        }
    }

    fn by_prefix(&self, sql: &str, prefix: &str) -> Result<Vec<String>> {
        // Hashes are hex digits; anything else (also LIKE's wildcards) can only be a mistake.
        if prefix.len() < 4 || !prefix.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Error::Lookup(format!("`{prefix}` is no hash; give at least four of its hex digits")));
        }
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map(params![prefix.to_lowercase()], |row| row.get(0))?;
        rows.map(|row| Ok(row?)).collect()
    }

    pub fn ignore(&mut self, ignored: &Ignored, now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            db.execute(
                "INSERT OR REPLACE INTO ignored (fingerprint, reason, who, since, until) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![ignored.fingerprint.0, ignored.reason, ignored.who, millis(now), millis(ignored.until)],
            )?;
            let detail = format!("{} until {}: {}", ignored.fingerprint, ignored.until, ignored.reason);
            append(db, now, &ignored.who, "ignore", &detail)
        })
    }

    pub fn unignore(&mut self, prefix: &str, who: &str, now: Timestamp) -> Result<bool> {
        let found: Vec<String> =
            self.by_prefix("SELECT fingerprint FROM ignored WHERE fingerprint LIKE ?1 || '%'", prefix)?;
        let [fingerprint] = found.as_slice() else { return Ok(false) };
        self.atomically(|db| {
            db.execute("DELETE FROM ignored WHERE fingerprint = ?1", params![fingerprint])?;
            append(db, now, who, "unignore", fingerprint)?;
            Ok(true)
        })
    }

    /// The ignored findings whose time has not run out.
    pub fn ignored(&self, now: Timestamp) -> Result<Vec<Ignored>> {
        let mut statement =
            self.connection.prepare("SELECT fingerprint, reason, who, until FROM ignored WHERE until > ?1")?;
        let rows = statement.query_map(params![millis(now)], |row| {
            Ok(Ignored {
                fingerprint: Fingerprint(row.get(0)?),
                reason: row.get(1)?,
                who: row.get(2)?,
                until: moment(row.get(3)?),
            })
        })?;
        rows.map(|row| Ok(row?)).collect()
    }
}
