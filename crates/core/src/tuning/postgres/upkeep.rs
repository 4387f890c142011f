//! Autovacuum, what the log tells, and what ends what somebody forgot.

use super::{Amount, Desk, MIB, matters, useful};
use crate::observation::Table;
use crate::quantity::format_count;

const VACUUM: &str = "https://www.postgresql.org/docs/current/runtime-config-vacuum.html";
const LOGGING: &str = "https://www.postgresql.org/docs/current/runtime-config-logging.html";
const CLIENT: &str = "https://www.postgresql.org/docs/current/runtime-config-client.html";
const STATISTICS: &str = "https://www.postgresql.org/docs/current/runtime-config-statistics.html";
/// A table of so many rows, and so many dead ones before anybody cleans up, are too many for one share to suit all.
const LARGE: f64 = 10_000_000.0;
const MANY_DEAD: f64 = 1_000_000.0;

pub(super) fn look(desk: &mut Desk<'_>) {
    vacuum(desk);
    log(desk);
    if let Some(current) = desk.number("idle_in_transaction_session_timeout") {
        if current <= 0.0 {
            let reason = "nothing ends a transaction that somebody forgot: it keeps its locks, and vacuum removes nothing. An \
                          hour is a net for the whole server; pg_dump excepts itself. Give applications less: ALTER ROLE … \
                          SET idle_in_transaction_session_timeout = '1min'";
            let hour = Amount::Seconds(3_600.0);
            desk.advise("idle_in_transaction_session_timeout", &hour, useful(reason, CLIENT));
        } else {
            desk.suits("idle_in_transaction_session_timeout");
        }
    }
}

fn vacuum(desk: &mut Desk<'_>) {
    let Ok(tables) = &desk.seen.tables else {
        return desk.cannot("autovacuum_vacuum_scale_factor", "the tables could not be read");
    };
    let is_late = |table: &&Table| {
        table.rows_estimated.is_some_and(|rows| rows >= LARGE) && table.vacuum_trigger >= MANY_DEAD && table.autovacuum
    };
    let late = tables.iter().filter(is_late).max_by(|a, b| a.vacuum_trigger.total_cmp(&b.vacuum_trigger));
    let behind =
        tables.iter().filter(|table| table.autovacuum && table.dead_rows as f64 > 2.0 * table.vacuum_trigger).count();
    if let Some(table) = late
        && desk.settings.number("autovacuum_vacuum_scale_factor").is_some_and(|share| share > 0.05)
    {
        let reason = format!(
            "{}.{} waits for {} dead rows before it is vacuumed. 0.05 for all, or for this table alone: ALTER TABLE … SET \
             (autovacuum_vacuum_scale_factor = 0.02)",
            table.schema,
            table.name,
            format_count(table.vacuum_trigger.round())
        );
        desk.advise("autovacuum_vacuum_scale_factor", &Amount::Number(0.05), matters(reason, VACUUM));
    } else {
        desk.suits("autovacuum_vacuum_scale_factor");
    }
    let own = desk.settings.number("autovacuum_vacuum_cost_limit").filter(|limit| *limit > 0.0);
    let limit = own.or_else(|| desk.settings.number("vacuum_cost_limit")).unwrap_or(200.0);
    if behind >= 3 && limit <= 200.0 {
        let reason = format!(
            "{behind} tables have more than twice the dead rows at which autovacuum starts: it does not keep up. All \
             workers share this budget, so more workers alone would make none of them faster"
        );
        desk.advise("autovacuum_vacuum_cost_limit", &Amount::Number(1_000.0), matters(reason, VACUUM));
    } else {
        desk.suits("autovacuum_vacuum_cost_limit");
    }
}

/// What makes the next trouble possible to understand.
fn log(desk: &mut Desk<'_>) {
    let second = Amount::Seconds(1.0);
    let minutes = Amount::Seconds(600.0);
    let large = Amount::Bytes(10.0 * MIB);
    for (name, amount, reason) in [
        (
            "log_min_duration_statement",
            second,
            "the log names every statement that takes longer than a second, with its \
            values: keep the log as private as the data",
        ),
        (
            "log_autovacuum_min_duration",
            minutes,
            "the log names every autovacuum that takes longer, with what it removed and \
            what it could not; the default from 15 on",
        ),
        ("log_temp_files", large, "the log names the statements whose sorts did not fit into work_mem"),
    ] {
        match desk.number(name) {
            Some(current) if current < 0.0 => desk.advise(name, &amount, useful(reason, LOGGING)),
            Some(_) => desk.suits(name),
            None => {}
        }
    }
    for (name, reason, source) in [
        ("log_lock_waits", "the log names who waited longer than deadlock_timeout for whom", LOGGING),
        (
            "track_io_timing",
            "EXPLAIN and pg_stat_statements tell reading from reckoning; costs nothing noticeable where \
            pg_test_timing shows less than 100 ns",
            STATISTICS,
        ),
    ] {
        match desk.settings.value(name) {
            Some("off") => desk.advise(name, &Amount::Word("on"), useful(reason, source)),
            Some(_) => desk.suits(name),
            None => {}
        }
    }
}
