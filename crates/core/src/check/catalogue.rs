//! Every check of this build, in the order in which they are run and shown.

use super::{Check, backup, host, http, logs, postgres, redis};
use crate::system::SystemKind;

/// One line a check. Reachability comes first: when it fails, the others of that system are unknown.
pub static CHECKS: &[&Check] = &[
    // postgres
    &postgres::availability::UNREACHABLE,
    &postgres::availability::SLOW_TO_ANSWER,
    &postgres::connections::CONNECTIONS_NEAR_LIMIT,
    &postgres::leak::CONNECTION_LEAK,
    &postgres::pools::POOLS_OVERSIZED,
    &postgres::activity::IDLE_IN_TRANSACTION,
    &postgres::activity::LONG_QUERY,
    &postgres::activity::LONG_TRANSACTION,
    &postgres::locks::BLOCKED_SESSIONS,
    &postgres::transactions::DEADLOCKS,
    &postgres::transactions::ROLLBACKS_FREQUENT,
    &postgres::horizon::PREPARED_TRANSACTION_FORGOTTEN,
    &postgres::wraparound::TRANSACTION_ID_AGE,
    &postgres::horizon::XMIN_HELD_BACK,
    &postgres::vacuum::DEAD_ROWS_PAST_TRIGGER,
    &postgres::vacuum::STATISTICS_STALE,
    &postgres::estimates::STATISTICS_TOO_COARSE,
    &postgres::configuration::AUTOVACUUM_OFF,
    &postgres::vacuuming::AUTOVACUUM_WORKERS_SATURATED,
    &postgres::vacuuming::AUTOVACUUM_THROTTLED,
    &postgres::bloat::TABLE_BLOATED,
    &postgres::bloat::INDEX_BLOATED,
    &postgres::disk::DISK_FILLING,
    &postgres::cache::CACHE_HIT_LOW,
    &postgres::temporary::TEMPORARY_FILES_LARGE,
    &postgres::queries::QUERY_SLOW,
    &postgres::queries::QUERY_HEAVY,
    &postgres::regressions::QUERY_REGRESSED,
    &postgres::plans::PLAN_REGRESSED,
    &postgres::queries::QUERY_SPILLS,
    &postgres::queries::QUERY_MISSES_CACHE,
    &postgres::wal::CHECKPOINTS_REQUESTED,
    &postgres::wal::ARCHIVE_FAILING,
    &postgres::horizon::SLOT_RETAINING,
    &postgres::replication::REPLICATION_LAG,
    &postgres::indexes::INDEX_INVALID,
    &postgres::indexes::INDEX_DUPLICATE,
    &postgres::indexes::INDEX_OVERLAPPING,
    &postgres::usage::INDEX_UNUSED,
    &postgres::indexes::FOREIGN_KEY_WITHOUT_INDEX,
    &postgres::keys::INTEGER_KEY_RUNNING_OUT,
    &postgres::sequences::SEQUENCE_BEHIND,
    &postgres::scans::INDEX_MISSING,
    &postgres::vectors::VECTOR_INDEX_UNSUITED,
    &postgres::schema::PRIMARY_KEY_MISSING,
    &postgres::schema::CONSTRAINT_NOT_VALIDATED,
    &postgres::schema::FOREIGN_KEY_TYPES_DIFFER,
    &postgres::schema::TRIGGER_DISABLED,
    &postgres::settings::CRASH_UNSAFE,
    &postgres::settings::RESTART_PENDING,
    &postgres::settings::CHECKSUMS_OFF,
    &postgres::settings::EXTENSION_OUTDATED,
    &postgres::drift::SETTINGS_DRIFTED,
    &postgres::suitability::SETTINGS_UNSUITED,
    &postgres::access::HBA_TRUST,
    &postgres::access::HBA_INVALID,
    &postgres::access::TLS_OFF,
    &postgres::security::SUPERUSERS_MANY,
    &postgres::security::SCHEMA_PUBLIC_CREATE,
    &postgres::security::SEARCH_PATH_OPEN,
    &postgres::security::GRANTS_EXCESSIVE,
    &postgres::versions::MINOR_VERSION_BEHIND,
    &postgres::configuration::STATEMENTS_MISSING,
    &postgres::configuration::GRANTS_MISSING,
    // redis
    &redis::reach::UNREACHABLE,
    &redis::reach::SLOW_TO_ANSWER,
    &redis::reach::LOADING,
    &redis::memory::MEMORY_NEAR_LIMIT,
    &redis::memory::NO_MEMORY_LIMIT,
    &redis::memory::POLICY_UNSUITED,
    &redis::memory::FRAGMENTATION_HIGH,
    &redis::traffic::HIT_RATE_LOW,
    &redis::traffic::EVICTIONS_HIGH,
    &redis::traffic::REJECTED_CONNECTIONS,
    &redis::traffic::COMMAND_ERRORS,
    &redis::durability::SAVE_FAILING,
    &redis::durability::REPLICA_LINK_DOWN,
    // http
    &http::reach::UNREACHABLE,
    &http::answer::STATUS_UNEXPECTED,
    &http::answer::BODY_UNEXPECTED,
    &http::answer::SLOW,
    &http::certificate::CERTIFICATE_EXPIRING,
    &http::certificate::CERTIFICATE_UNTRUSTED,
    // host
    &host::disk::DISK_NEARLY_FULL,
    &host::disk::INODES_NEARLY_FULL,
    &host::disk::MOUNT_READ_ONLY,
    &host::load::MEMORY_LOW,
    &host::load::LOAD_HIGH,
    &host::clock::CLOCK_UNSYNCHRONISED,
    // logs
    &logs::reach::UNREACHABLE,
    &logs::size::FOLDER_TOO_LARGE,
    &logs::size::FILE_TOO_LARGE,
    &logs::size::GROWING_FAST,
    // backup
    &backup::reach::UNREACHABLE,
    &backup::reach::KEY_UNREADABLE,
    &backup::sets::SET_MISSING,
    &backup::sets::SYSTEM_MISSING,
    &backup::proof::PROOF_MISSING,
    &backup::proof::RUNG_FAILED,
    &backup::space::REPOSITORY_NEARLY_FULL,
    &backup::wal::WAL_LAGGING,
    &backup::wal::WAL_GAP,
    &backup::wal::SLOT_RETENTION,
];

/// The checks of one kind of system.
pub fn of(kind: SystemKind) -> impl Iterator<Item = &'static Check> {
    CHECKS.iter().copied().filter(move |check| check.system() == kind)
}

pub fn find(id: &str) -> Option<&'static Check> {
    CHECKS.iter().copied().find(|check| check.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_start_with_their_system() {
        let mut seen = BTreeSet::new();
        for check in CHECKS {
            assert!(seen.insert(check.id), "{} is listed twice", check.id);
            assert!(
                check.id.starts_with(&format!("{}.", check.system())),
                "{} belongs to {}",
                check.id,
                check.system()
            );
        }
    }

    #[test]
    fn every_check_tells_a_person_what_it_means_how_to_see_it_and_what_to_do() {
        for check in CHECKS {
            for (part, text) in [
                ("title", check.title),
                ("means", check.runbook.means),
                ("confirm", check.runbook.confirm),
                ("act", check.runbook.act),
                ("source", check.source),
            ] {
                assert!(text.len() > 8, "{}: {part} is missing", check.id);
            }
            for threshold in check.thresholds {
                assert!(threshold.why.len() > 8, "{}: why {} = {}?", check.id, threshold.name, threshold.default);
            }
        }
    }

    #[test]
    fn every_remedy_answers_a_check_that_exists() {
        for remedy in crate::remedy::REMEDIES {
            let known = remedy.check.is_none_or(|check| find(check).is_some());
            assert!(known, "{} answers the unknown check {:?}", remedy.id, remedy.check);
        }
    }
}
