//! Findings over time, and the latest answer of every check.

use super::{Result, Store, millis, moment};
use groundskeeper_core::check::{Judgement, Status};
use groundskeeper_core::lifecycle::{Change, Track};
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

const COLUMNS: &str = "body, first_seen, last_seen, opened, clear_since, ended";

fn read(row: &Row<'_>) -> rusqlite::Result<(String, Track0)> {
    Ok((
        row.get(0)?,
        Track0 {
            first_seen: moment(row.get(1)?),
            last_seen: moment(row.get(2)?),
            opened: row.get::<_, Option<i64>>(3)?.map(moment),
            clear_since: row.get::<_, Option<i64>>(4)?.map(moment),
            ended: row.get::<_, Option<i64>>(5)?.map(moment),
        },
    ))
}

/// The times of a row, before its body is parsed.
struct Track0 {
    first_seen: Timestamp,
    last_seen: Timestamp,
    opened: Option<Timestamp>,
    clear_since: Option<Timestamp>,
    ended: Option<Timestamp>,
}

fn assemble((body, times): (String, Track0)) -> Result<(Track, Option<Timestamp>)> {
    let track = Track {
        finding: serde_json::from_str(&body)?,
        first_seen: times.first_seen,
        last_seen: times.last_seen,
        opened: times.opened,
        clear_since: times.clear_since,
    };
    Ok((track, times.ended))
}

impl Store {
    /// Tracks that have not ended: pending, open or clearing.
    pub fn live_tracks(&self) -> Result<Vec<Track>> {
        let found = self.tracks("WHERE ended IS NULL", [])?;
        Ok(found.into_iter().map(|(track, _)| track).collect())
    }

    /// Tracks that opened, and were open at some time in the span; with the moment of their end.
    pub fn tracks_between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<(Track, Option<Timestamp>)>> {
        self.tracks(
            "WHERE opened IS NOT NULL AND opened < ?2 AND (ended IS NULL OR ended >= ?1)",
            params![millis(from), millis(to)],
        )
    }

    fn tracks(&self, condition: &str, values: impl rusqlite::Params) -> Result<Vec<(Track, Option<Timestamp>)>> {
        let sql = format!("SELECT {COLUMNS} FROM finding {condition} ORDER BY first_seen");
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map(values, read)?;
        rows.map(|row| assemble(row?)).collect()
    }

    /// Keeps what one round of judging brought: the answers of all checks and the changes of all findings.
    pub fn keep_round(&mut self, judgements: &[Judgement], changes: &[Change], now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            for judgement in judgements {
                keep_status(db, judgement, now)?;
            }
            for change in changes {
                keep_change(db, change, now)?;
            }
            Ok(())
        })
    }

    /// Since when each check of each system has had its present answer: (system, check, answer, since).
    pub fn statuses(&self) -> Result<Vec<(String, String, String, Timestamp)>> {
        let mut statement = self.connection.prepare("SELECT system, check_id, status, since FROM status")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, moment(row.get(3)?))))?;
        rows.map(|row| Ok(row?)).collect()
    }

    /// Ends the tracks and forgets the answers of systems and checks that are not looked at any more.
    pub fn retire(&mut self, still: impl Fn(&str, &str) -> bool, now: Timestamp) -> Result<usize> {
        let known: Vec<(String, String)> = {
            let mut statement = self.connection.prepare(
                "SELECT system, check_id FROM status UNION SELECT system, check_id FROM finding WHERE ended IS NULL",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()?
        };
        self.atomically(|db| {
            let mut ended = 0;
            for (system, check) in known.iter().filter(|(system, check)| !still(system, check)) {
                ended += db.execute(
                    "UPDATE finding SET ended = ?3 WHERE system = ?1 AND check_id = ?2 AND ended IS NULL",
                    params![system, check, millis(now)],
                )?;
                db.execute("DELETE FROM status WHERE system = ?1 AND check_id = ?2", params![system, check])?;
            }
            Ok(ended)
        })
    }
}

fn keep_status(db: &Connection, judgement: &Judgement, now: Timestamp) -> Result<()> {
    let reason = if let Status::Unknown(unknown) = &judgement.status { Some(unknown.reason.as_str()) } else { None };
    db.prepare_cached(
        "INSERT INTO status (system, check_id, status, reason, since, judged) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
         ON CONFLICT (system, check_id) DO UPDATE SET
           since = CASE WHEN status = excluded.status THEN since ELSE excluded.since END,
           status = excluded.status, reason = excluded.reason, judged = excluded.judged",
    )?
    .execute(params![
        judgement.system.to_string(),
        judgement.check,
        judgement.status.as_str(),
        reason,
        millis(now)
    ])?;
    Ok(())
}

fn keep_change(db: &Connection, change: &Change, now: Timestamp) -> Result<()> {
    let track = &change.track;
    let finding = &track.finding;
    if change.event == groundskeeper_core::lifecycle::Event::Forgotten {
        // It never opened, so nobody heard of it, and a blip that nobody heard of is no history.
        db.execute("DELETE FROM finding WHERE fingerprint = ?1 AND ended IS NULL", params![finding.fingerprint.0])?;
        return Ok(());
    }
    db.prepare_cached(
        "INSERT INTO finding (fingerprint, check_id, system, body, first_seen, last_seen, opened, clear_since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (fingerprint) WHERE ended IS NULL DO UPDATE SET
           body = excluded.body, first_seen = excluded.first_seen, last_seen = excluded.last_seen,
           opened = excluded.opened, clear_since = excluded.clear_since",
    )?
    .execute(params![
        finding.fingerprint.0,
        finding.check,
        finding.system.to_string(),
        serde_json::to_string(finding)?,
        millis(track.first_seen),
        millis(track.last_seen),
        track.opened.map(millis),
        track.clear_since.map(millis),
    ])?;
    if change.event.is_end() {
        // Not in the statement above: a row that is inserted as ended meets no conflict with the live one.
        db.execute(
            "UPDATE finding SET ended = ?2 WHERE fingerprint = ?1 AND ended IS NULL",
            params![finding.fingerprint.0, millis(now)],
        )?;
    }
    Ok(())
}
