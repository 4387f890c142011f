//! What a deletion waits for: standbys, slots, the WAL, and autovacuum, which has to clear away what was deleted.

use super::super::observe::read_triggers;
use super::super::sql;
use super::super::triggers::is_switched_off;
use super::{ActError, Work};
use groundskeeper_core::quantity::format_count;
use jiff::Timestamp;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// How often standbys, slots, the WAL and the dead rows are looked at …
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// … or after so many deleted rows, however fast the server is.
const LOOK_AFTER: u64 = 50_000;
/// A standby further behind than this is waited for.
const STANDBY_BEHIND_BYTES: i64 = 64 << 20;
const STANDBY_BEHIND_SECONDS: f64 = 10.0;
/// What slots may keep where `max_slot_wal_keep_size` does not bound it.
const SLOTS_KEEP_BYTES: i64 = 16 << 30;
/// How many times its own trigger a table's dead rows are far past it. Up to the trigger autovacuum does not come, and it needs
/// as much again to come and to be done: whoever deletes a fifth of a table, as a weekly run may, is to get through in one go.
/// The trigger of 5 million rows is 50 + 20 % = 1,000,050, so that 1 million expired ones never come near the double of it.
const FAR_PAST: f64 = 2.0;
/// Of a few dead rows nobody makes a pause: to vacuum them takes moments.
const FEW: f64 = 100_000.0;
/// Autovacuum looks into a database each minute, and may have other tables to do before.
const AUTOVACUUM_WITHIN: Duration = Duration::from_mins(10);

/// What a run has deleted so far.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    rows: u64,
    since_look: u64,
    /// As far as the looks know. A vacuum that has just ended may not have cleared all of it away: it is counted as if.
    since_vacuum: u64,
    /// When the table was vacuumed last, at the last look …
    vacuumed: Option<Timestamp>,
    /// … if there was one.
    has_looked: bool,
}

impl Deleted {
    pub(super) fn add(&mut self, rows: u64) {
        self.rows += rows;
        self.since_look += rows;
        self.since_vacuum += rows;
    }

    pub(super) fn are_many(&self) -> bool {
        self.since_look >= LOOK_AFTER
    }

    fn looked(&mut self, vacuumed: Option<Timestamp>) {
        self.since_look = 0;
        if self.has_looked && self.vacuumed != vacuumed {
            self.since_vacuum = 0;
        }
        (self.vacuumed, self.has_looked) = (vacuumed, true);
    }

    /// What was done, where anything was.
    pub(super) fn told(&self, has_exported: bool) -> Option<String> {
        match self.rows {
            0 if has_exported => Some("no row was deleted, and what was exported stays in the repository".to_owned()),
            0 => None,
            1 => Some("1 row was deleted before that, and stays deleted".to_owned()),
            rows => Some(format!("{} rows were deleted before that, and stay deleted", format_count(rows as f64))),
        }
    }
}

/// A table's dead rows, and who would clear them away.
#[derive(Debug, Clone, PartialEq)]
struct Dead {
    counted: u64,
    /// From so many on autovacuum comes.
    trigger: f64,
    /// Where autovacuum is off.
    off: Option<&'static str>,
    is_at_work: bool,
}

/// What follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    GoOn,
    Pause(String),
    /// For this time; the next run goes on.
    End(String),
}

impl Dead {
    /// Only dead rows that the run itself has made hold it up: each run gets on by as many as the trigger, whatever others
    /// leave behind, and whether or not a vacuum can clear them away. The server's count comes late by a second or more.
    fn verdict(&self, deleted: u64, paused: Duration) -> Verdict {
        let ours = deleted as f64;
        let dead = ours.max(self.counted as f64);
        if ours < self.trigger.max(FEW) || dead <= self.trigger * FAR_PAST {
            return Verdict::GoOn;
        }
        let (dead, trigger) = (format_count(dead), format_count(self.trigger.round()));
        let many = format!("the table has {dead} dead rows, and autovacuum would come at {trigger}");
        match self.off {
            Some(off) => {
                Verdict::End(format!("{many}, but it is off {off}; vacuum the table, and the next run goes on"))
            }
            None if !self.is_at_work && paused >= AUTOVACUUM_WITHIN => Verdict::End(format!(
                "{many}, but has not come for {} min; vacuum the table, and the next run goes on",
                AUTOVACUUM_WITHIN.as_secs() / 60
            )),
            None => Verdict::Pause(format!("{many}; it goes first")),
        }
    }
}

impl Work<'_> {
    /// Waits until nothing asks for a pause. False when it was told to end.
    pub(super) async fn without_pressure(
        &self,
        client: &Client,
        relation: u32,
        deleted: &mut Deleted,
        mut halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, ActError> {
        let mut asked = None;
        loop {
            let pressure = match self.pressure(client).await? {
                None => {
                    let since = *asked.get_or_insert_with(Instant::now);
                    self.dead_rows(client, relation, deleted, since.elapsed()).await?
                }
                pressure => pressure,
            };
            let Some(pressure) = pressure else { return Ok(true) };
            tracing::debug!(pressure, "deleting old rows pauses");
            if timeout(LOOK_EVERY, halt.as_mut()).await.is_ok() {
                return Ok(false);
            }
            if Instant::now() + LOOK_EVERY >= self.until {
                return Err(self.failed(format!("it paused until its time was over: {pressure}"), true));
            }
        }
    }

    /// What asks for a pause, if anything does.
    async fn pressure(&self, client: &Client) -> Result<Option<String>, ActError> {
        const PRESSURE: &str = "
SELECT (SELECT format('the standby %s is behind', coalesce(nullif(application_name, ''), host(client_addr)))
          FROM pg_stat_replication
         WHERE state IS NULL OR (state IN ('streaming', 'catchup')
           AND (pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) > $1 OR extract(epoch FROM replay_lag) > $2)) LIMIT 1),
       (SELECT slot_name::text FROM pg_replication_slots
         WHERE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > coalesce(
           (SELECT nullif(setting::int8, -1) * 1048576 / 2 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), $3)
         LIMIT 1),
       pg_wal_lsn_diff(pg_current_wal_lsn(), (SELECT redo_lsn FROM pg_control_checkpoint()))::int8
         > (SELECT setting::int8 * 1048576 FROM pg_settings WHERE name = 'max_wal_size') / 2,
       EXISTS (SELECT 1 FROM pg_stat_replication WHERE state IS NULL)";
        let values: [(&(dyn ToSql + Sync), Type); 3] = [
            (&STANDBY_BEHIND_BYTES, Type::INT8),
            (&STANDBY_BEHIND_SECONDS, Type::FLOAT8),
            (&SLOTS_KEEP_BYTES, Type::INT8),
        ];
        let row = self.wait(client.query_typed_one(PRESSURE, &values)).await?;
        if row.get::<_, bool>(3) {
            let why =
                format!("how far the standbys are behind is hidden; grant pg_monitor to {}", self.endpoint.role());
            return Err(self.failed(why, false));
        }
        if let Some(slot) = row.get::<_, Option<String>>(1) {
            // Nobody knows when its consumer comes back: to wait for it would be to wait for ever.
            return Err(
                self.failed(format!("the slot {slot} keeps as much WAL as it may; it goes on another time"), false)
            );
        }
        let is_much_wal = row.get::<_, Option<bool>>(2).unwrap_or(false);
        let wal = is_much_wal.then(|| "half of max_wal_size was written since the last checkpoint".to_owned());
        Ok(row.get::<_, Option<String>>(0).or(wal))
    }

    /// Whether the table's dead rows ask for a pause; `paused` is for how long they have done so.
    async fn dead_rows(
        &self,
        client: &Client,
        relation: u32,
        deleted: &mut Deleted,
        paused: Duration,
    ) -> Result<Option<String>, ActError> {
        let question = format!(
            "{}, coalesce(c.reloptions, '{{}}') AS options, greatest(c.reltuples, 0)::float8 AS rows,
       pg_stat_get_dead_tuples(c.oid) AS dead_rows,
       greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) AS vacuumed,
       current_setting('autovacuum')::bool AND current_setting('track_counts')::bool AS is_on,
       EXISTS (SELECT 1 FROM pg_stat_progress_vacuum p WHERE p.datname = current_database() AND p.relid = c.oid) AS at_work
  FROM pg_class c WHERE c.oid = $1",
            sql::TRIGGERS
        );
        let rows = self.wait(client.query_typed(&question, &[(&relation, Type::OID)])).await?;
        // Whoever looks for the table next says that it is gone.
        let Some(row) = rows.first() else { return Ok(None) };
        deleted.looked(row.get("vacuumed"));
        let options: Vec<String> = row.get("options");
        let triggers = read_triggers(row).map_err(|why| self.failed(why, false))?.of_table(&options);
        let dead = Dead {
            counted: u64::try_from(row.get::<_, i64>("dead_rows")).unwrap_or(0),
            trigger: triggers.vacuum_at(row.get("rows")),
            off: match row.get("is_on") {
                true if is_switched_off(&options) => Some("for this table"),
                true => None,
                false => Some("on this server"),
            },
            is_at_work: row.get("at_work"),
        };
        match dead.verdict(deleted.since_vacuum, paused) {
            Verdict::GoOn => Ok(None),
            Verdict::Pause(why) => Ok(Some(why)),
            Verdict::End(why) => Err(self.failed(why, true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Dead = Dead { counted: 0, trigger: 60_050.0, off: None, is_at_work: false };
    const NO_TIME: Duration = Duration::ZERO;

    #[test]
    fn a_pause_begins_far_past_the_trigger_and_with_rows_that_we_deleted() {
        let verdict = |counted, deleted| Dead { counted, ..TABLE }.verdict(deleted, NO_TIME);
        assert_eq!(verdict(0, 99_999), Verdict::GoOn, "few");
        assert_eq!(verdict(0, 120_100), Verdict::GoOn, "twice the trigger");
        assert!(matches!(verdict(0, 120_101), Verdict::Pause(_)), "the server has not counted them yet");
        assert!(matches!(verdict(120_101, 100_000), Verdict::Pause(_)), "others leave dead rows as well");
        assert_eq!(verdict(5_000_000, 99_999), Verdict::GoOn, "those of others alone hold up nobody");
        let small = Dead { trigger: 60.0, ..TABLE };
        assert_eq!(small.verdict(99_999, NO_TIME), Verdict::GoOn);
        assert!(matches!(small.verdict(100_000, NO_TIME), Verdict::Pause(_)));
    }

    #[test]
    fn a_weekly_run_through_a_fifth_of_5_million_rows_is_never_held_up() {
        for off in [None, Some("on this server")] {
            // As many rows again are changed by users meanwhile.
            let dead = Dead { counted: 2_000_000, trigger: 50.0 + 0.2 * 5e6, off, is_at_work: false };
            assert_eq!(dead.verdict(1_000_000, Duration::from_hours(1)), Verdict::GoOn);
        }
    }

    #[test]
    fn nobody_waits_for_a_vacuum_that_does_not_come() {
        let dead = Dead { counted: 200_000, ..TABLE };
        let late = AUTOVACUUM_WITHIN;
        assert!(matches!(dead.verdict(150_000, late / 2), Verdict::Pause(_)));
        assert!(matches!(dead.verdict(150_000, late), Verdict::End(why) if why.contains("has not come for 10 min")));
        let at_work = Dead { is_at_work: true, ..dead.clone() };
        assert!(matches!(at_work.verdict(150_000, late * 2), Verdict::Pause(_)), "it is being done");
        let off = Dead { off: Some("for this table"), ..dead };
        let Verdict::End(why) = off.verdict(150_000, NO_TIME) else { panic!("it waits for ever") };
        assert_eq!(
            why,
            "the table has 200,000 dead rows, and autovacuum would come at 60,050, but it is off for this table; vacuum the \
             table, and the next run goes on"
        );
    }

    #[test]
    fn a_vacuum_that_was_done_meanwhile_ends_a_pause() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let mut deleted = Deleted::default();
        deleted.add(LOOK_AFTER);
        assert!(deleted.are_many());
        deleted.looked(at(1));
        assert_eq!(
            (deleted.since_vacuum, deleted.are_many()),
            (LOOK_AFTER, false),
            "that one was before the first look"
        );
        deleted.add(10);
        deleted.looked(at(1));
        assert_eq!(deleted.since_vacuum, LOOK_AFTER + 10);
        deleted.looked(at(2));
        assert_eq!(deleted.since_vacuum, 0);
        let mut never = Deleted::default();
        never.add(3);
        never.looked(None);
        never.looked(at(1));
        assert_eq!(never.since_vacuum, 0, "it was the first one ever");
    }

    #[test]
    fn what_was_done_is_told_where_anything_was() {
        let mut deleted = Deleted::default();
        assert_eq!(deleted.told(false), None);
        assert!(deleted.told(true).unwrap().contains("what was exported stays"));
        deleted.add(12_000);
        assert_eq!(deleted.told(true).unwrap(), "12,000 rows were deleted before that, and stay deleted");
    }
}
