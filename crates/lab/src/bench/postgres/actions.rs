//! What `check_postgres` asks that we ask as well.

/// An action, how it is called, and the checks of ours that answer it.
pub(super) struct Action {
    pub(super) name: &'static str,
    /// Thresholds where it wants some. They are such that a healthy server is fine.
    pub(super) arguments: &'static [&'static str],
    pub(super) checks: &'static [&'static str],
}

const fn action(name: &'static str, arguments: &'static [&'static str], checks: &'static [&'static str]) -> Action {
    Action { name, arguments, checks }
}

/// Left out: what we have no threshold for (the number of WAL files, the age of a checkpoint), what needs a second server
/// (`hot_standby_delay`, `same_schema`), what is about other programs (pgBouncer, Bucardo, Slony), and the second of two
/// actions with one question (`last_autovacuum`). And what we measure as a rate between two readings, which one look cannot
/// answer (`commitratio`, `hitratio`).
pub(super) const SHARED: [Action; 17] = [
    action("connection", &[], &["postgres.unreachable"]),
    action("backends", &[], &["postgres.connections_near_limit"]),
    action("txn_idle", &["--critical=300"], &["postgres.idle_in_transaction"]),
    action("query_time", &["--critical=300"], &["postgres.long_query"]),
    action("txn_time", &["--critical=1800"], &["postgres.long_transaction"]),
    action("locks", &[], &["postgres.blocked_sessions"]),
    action("prepared_txns", &[], &["postgres.prepared_transaction_forgotten"]),
    action("txn_wraparound", &[], &["postgres.transaction_id_age"]),
    action("autovac_freeze", &[], &["postgres.transaction_id_age"]),
    action("last_vacuum", &["--critical=7d"], &["postgres.dead_rows_past_trigger"]),
    action("last_analyze", &["--critical=7d"], &["postgres.statistics_stale"]),
    action("archive_ready", &[], &["postgres.archive_failing"]),
    action("replication_slots", &["--critical=1TB"], &["postgres.slot_retaining"]),
    action("disabled_triggers", &[], &["postgres.trigger_disabled"]),
    action("bloat", &["--critical=1TB"], &["postgres.table_bloated", "postgres.index_bloated"]),
    action("sequence", &[], &["postgres.integer_key_running_out"]),
    action("version", &["--warning=13.0"], &["postgres.minor_version_behind"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::check::catalogue::CHECKS;

    #[test]
    fn each_action_is_answered_by_a_check_that_there_is() {
        for action in &SHARED {
            assert!(!action.checks.is_empty(), "{} is not shared", action.name);
            for id in action.checks {
                assert!(CHECKS.iter().any(|check| check.id == *id), "{}: there is no check {id}", action.name);
            }
        }
    }
}
