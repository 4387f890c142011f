//! Messages to people, durable before the first attempt, so that a crash or a dead channel loses none.

use super::{Result, Store, millis, moment};
use groundskeeper_core::finding::Fingerprint;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

/// No attempt is put off for longer.
const LONGEST_WAIT_MILLIS: i64 = 660_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: i64,
    pub created: Timestamp,
    /// `webhook.team`, `email.oncall`.
    pub channel: String,
    /// JSON of the notice; the channel renders it at each attempt.
    pub body: String,
    pub attempts: u32,
}

/// What a channel heard last of a finding that was open then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    pub at: Timestamp,
    /// JSON of the line that told it.
    pub line: String,
    /// When the message that told it was given up; none while it waits and when it arrived.
    pub lost: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageCounts {
    pub sent: u64,
    pub failed: u64,
}

impl Store {
    /// Puts a message in the box of a channel and notes what it tells of as open (`told`: the lines) and that the channel
    /// needs to hear nothing more about what is `over`, in one transaction.
    pub fn post(
        &mut self,
        channel: &str,
        body: &str,
        told: &[(Fingerprint, String)],
        over: &[Fingerprint],
        now: Timestamp,
    ) -> Result<()> {
        self.atomically(|db| {
            db.execute(
                "INSERT INTO message (created, channel, body, due) VALUES (?1, ?2, ?3, ?1)",
                params![millis(now), channel, body],
            )?;
            let message = db.last_insert_rowid();
            forget(db, channel, over)?;
            for (fingerprint, line) in told {
                db.execute(
                    "INSERT OR REPLACE INTO announced (channel, fingerprint, at, line, message) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![channel, fingerprint.0, millis(now), line, message],
                )?;
            }
            Ok(())
        })
    }

    /// What a channel has heard of, until it hears that it is over.
    pub fn announced(&self, channel: &str) -> Result<BTreeMap<Fingerprint, Heard>> {
        let mut statement =
            self.connection.prepare("SELECT fingerprint, at, line, lost FROM announced WHERE channel = ?1")?;
        let rows = statement.query_map(params![channel], |row| {
            let lost = row.get::<_, Option<i64>>(3)?.map(moment);
            Ok((Fingerprint(row.get(0)?), Heard { at: moment(row.get(1)?), line: row.get(2)?, lost }))
        })?;
        rows.map(|row| Ok(row?)).collect()
    }

    pub fn forget_announced(&mut self, channel: &str, over: &[Fingerprint]) -> Result<()> {
        self.atomically(|db| forget(db, channel, over))
    }

    /// Messages whose next attempt is due, oldest first. One that is due later than any wait lasts was put off before the
    /// clock was set back, and is due too.
    pub fn due_messages(&self, now: Timestamp) -> Result<Vec<Message>> {
        let mut statement = self.connection.prepare(
            "SELECT id, created, channel, body, attempts FROM message
             WHERE sent IS NULL AND given_up IS NULL AND (due <= ?1 OR due > ?2)
             ORDER BY id LIMIT 100",
        )?;
        let rows = statement.query_map(params![millis(now), millis(now) + LONGEST_WAIT_MILLIS], |row| {
            Ok(Message {
                id: row.get(0)?,
                created: moment(row.get(1)?),
                channel: row.get(2)?,
                body: row.get(3)?,
                attempts: row.get(4)?,
            })
        })?;
        rows.map(|row| Ok(row?)).collect()
    }

    pub fn message_sent(&mut self, id: i64, now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            db.execute(
                "UPDATE message SET sent = ?2, attempts = attempts + 1, error = NULL WHERE id = ?1",
                params![id, millis(now)],
            )?;
            Ok(())
        })
    }

    /// An attempt failed; without a next one the message is given up: it stays in the record, and what it told of counts
    /// as lost.
    pub fn message_failed(&mut self, id: i64, error: &str, next: Option<Timestamp>, now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            db.execute(
                "UPDATE message SET attempts = attempts + 1, error = ?2, due = ?3, given_up = ?4 WHERE id = ?1",
                params![id, error, millis(next.unwrap_or(now)), next.is_none().then(|| millis(now))],
            )?;
            if next.is_none() {
                db.execute("UPDATE announced SET lost = ?2 WHERE message = ?1", params![id, millis(now)])?;
            }
            Ok(())
        })
    }

    /// Channels with messages that wait for another attempt or were given up in the span: (channel, number, last error).
    pub fn failing_channels(&self, since: Timestamp) -> Result<Vec<(String, u64, String)>> {
        let mut statement = self.connection.prepare(
            "SELECT channel, count(*), max(error) FROM message
             WHERE sent IS NULL AND error IS NOT NULL AND created >= ?1 GROUP BY channel ORDER BY channel",
        )?;
        let rows = statement
            .query_map(params![millis(since)], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get(2)?)))?;
        rows.map(|row| Ok(row?)).collect()
    }

    pub fn message_counts(&self, from: Timestamp, to: Timestamp) -> Result<MessageCounts> {
        let counts = self.connection.query_row(
            "SELECT count(sent), count(given_up) FROM message WHERE created >= ?1 AND created < ?2",
            params![millis(from), millis(to)],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        Ok(MessageCounts { sent: counts.0 as u64, failed: counts.1 as u64 })
    }
}

fn forget(db: &Connection, channel: &str, over: &[Fingerprint]) -> Result<()> {
    for fingerprint in over {
        db.execute("DELETE FROM announced WHERE channel = ?1 AND fingerprint = ?2", params![channel, fingerprint.0])?;
    }
    Ok(())
}
