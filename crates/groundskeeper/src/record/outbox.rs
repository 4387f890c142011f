//! Messages to people, durable before the first attempt, so that a crash or a dead channel loses none.

use super::{Result, Store, millis, moment};
use groundskeeper_core::finding::Fingerprint;
use jiff::Timestamp;
use rusqlite::params;
use std::collections::BTreeMap;

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

/// That a channel was told of a finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard {
    pub channel: String,
    pub fingerprint: Fingerprint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageCounts {
    pub sent: u64,
    pub failed: u64,
}

impl Store {
    /// Puts a message in the box of a channel and notes which findings it tells of as open, in one transaction.
    pub fn post(&mut self, channel: &str, body: &str, told: &[Fingerprint], now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            db.execute(
                "INSERT INTO message (created, channel, body, due) VALUES (?1, ?2, ?3, ?1)",
                params![millis(now), channel, body],
            )?;
            for fingerprint in told {
                db.execute(
                    "INSERT OR REPLACE INTO announced (channel, fingerprint, at) VALUES (?1, ?2, ?3)",
                    params![channel, fingerprint.0, millis(now)],
                )?;
            }
            Ok(())
        })
    }

    /// When each channel last heard of each finding.
    pub fn announced(&self) -> Result<BTreeMap<Heard, Timestamp>> {
        let mut statement = self.connection.prepare("SELECT channel, fingerprint, at FROM announced")?;
        let rows = statement.query_map([], |row| {
            Ok((Heard { channel: row.get(0)?, fingerprint: Fingerprint(row.get(1)?) }, moment(row.get(2)?)))
        })?;
        rows.map(|row| Ok(row?)).collect()
    }

    pub fn forget_announced(&mut self, over: &[Heard]) -> Result<()> {
        self.atomically(|db| {
            for heard in over {
                db.execute(
                    "DELETE FROM announced WHERE channel = ?1 AND fingerprint = ?2",
                    params![heard.channel, heard.fingerprint.0],
                )?;
            }
            Ok(())
        })
    }

    /// Messages whose next attempt is due, oldest first.
    pub fn due_messages(&self, now: Timestamp) -> Result<Vec<Message>> {
        let mut statement = self.connection.prepare(
            "SELECT id, created, channel, body, attempts FROM message
             WHERE sent IS NULL AND given_up IS NULL AND due <= ?1 ORDER BY id LIMIT 100",
        )?;
        let rows = statement.query_map(params![millis(now)], |row| {
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

    /// An attempt failed; without a next one the message is given up (and stays in the record).
    pub fn message_failed(&mut self, id: i64, error: &str, next: Option<Timestamp>, now: Timestamp) -> Result<()> {
        self.atomically(|db| {
            db.execute(
                "UPDATE message SET attempts = attempts + 1, error = ?2, due = ?3, given_up = ?4 WHERE id = ?1",
                params![id, error, millis(next.unwrap_or(now)), next.is_none().then(|| millis(now))],
            )?;
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
