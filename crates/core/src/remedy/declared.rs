//! Every remedy of this build.

use super::{Proposal, Reindexing, Remedy, RiskClass, Step};
use crate::finding::{Finding, Target};
use crate::severity::Severity;
use crate::system::SystemId;
use crate::tuning::postgres;
use crate::{Unit, Value};
use std::collections::BTreeSet;

/// Every remedy of this build.
pub static REMEDIES: &[Remedy] = &[
    Remedy {
        id: "postgres.vacuum_table",
        title: "Vacuum a table whose dead rows are past its own trigger",
        check: Some("postgres.dead_rows_past_trigger"),
        eases: &[],
        class: RiskClass::Routine,
        preconditions: "the table exists, we may vacuum it, nobody holds a conflicting lock (SKIP_LOCKED)",
        verification: "last_vacuum is newer than the step and dead rows went down",
        cooldown: 6.0 * 3600.0,
        hourly_cap: 60,
        propose: |finding| {
            tables(
                finding,
                |system, database, schema, table| Step::Vacuum { system, database, schema, table },
                "dead rows go to about 0; no lock that blocks reads or writes",
            )
        },
    },
    Remedy {
        id: "postgres.analyze_table",
        title: "Analyze a table whose statistics are past its own trigger",
        check: Some("postgres.statistics_stale"),
        eases: &[],
        class: RiskClass::Routine,
        preconditions: "the table exists, we may analyze it, nobody holds a conflicting lock (SKIP_LOCKED)",
        verification: "last_analyze is newer than the step",
        cooldown: 3600.0,
        hourly_cap: 120,
        propose: |finding| {
            tables(
                finding,
                |system, database, schema, table| Step::Analyze { system, database, schema, table },
                "the planner sees today's rows; no lock that blocks reads or writes",
            )
        },
    },
    Remedy {
        id: "postgres.end_idle_in_transaction",
        title: "End a session that sits idle in a transaction",
        check: Some("postgres.idle_in_transaction"),
        eases: &[],
        class: RiskClass::Corrective,
        preconditions: "the same backend (pid and start), still idle in transaction, not superuser, replication, \
                        backup, a tool that copies or migrates, a name in `never_end`, or ours",
        verification: "the backend is gone",
        cooldown: 300.0,
        hourly_cap: 20,
        propose: |finding| {
            let seconds = finding.evidence.iter().filter_map(|evidence| match evidence.threshold {
                Some(Value::Number { value, .. }) => Some(value),
                _ => None,
            });
            let idle_seconds = seconds.fold(f64::INFINITY, f64::min);
            // Without the threshold in evidence there is no limit to hold the step to, so nothing is proposed.
            if !idle_seconds.is_finite() {
                return Vec::new();
            }
            finding
                .offenders
                .iter()
                .filter_map(|offender| match &offender.target {
                    Target::Session { pid, backend_start } => Some(Proposal {
                        step: Step::EndIdleSession {
                            system: finding.system.clone(),
                            pid: *pid,
                            backend_start: *backend_start,
                            // Rounded up: a session may be held to more than the limit, never to less.
                            idle_seconds: idle_seconds.ceil() as u32,
                        },
                        why: offender.note.clone(),
                        expected: "its locks and its snapshot are released; its open transaction is rolled back".into(),
                    }),
                    _ => None,
                })
                .collect()
        },
    },
    Remedy {
        id: "postgres.end_blocker",
        title: "Cancel or end the session that others wait for",
        check: Some("postgres.blocked_sessions"),
        eases: &[],
        class: RiskClass::Corrective,
        preconditions: "the same backend (pid and start), somebody has waited for it for as long as the check's critical \
                        limit; not superuser, replication, backup, a tool that copies or migrates, autovacuum, a name in \
                        `never_end`, or ours",
        verification: "nobody waits for the backend any more, or it is gone",
        cooldown: 300.0,
        hourly_cap: 10,
        propose: blockers,
    },
    Remedy {
        id: "postgres.drop_reindex_leftovers",
        title: "Drop what an interrupted REINDEX CONCURRENTLY left",
        check: Some("postgres.index_invalid"),
        eases: &[],
        class: RiskClass::Corrective,
        preconditions: "the index is invalid, has a name that only REINDEX CONCURRENTLY gives, and nobody builds an index \
                        in the database",
        verification: "no such index is left on the table",
        cooldown: 3600.0,
        hourly_cap: 20,
        propose: |finding| {
            let mut tables = BTreeSet::new();
            let left = indexes(finding).filter(|index| is_rest_of_reindex(index.name));
            left.filter(|index| tables.insert((index.schema, index.table)))
                .map(|index| Proposal {
                    step: Step::DropLeftovers {
                        system: finding.system.clone(),
                        database: index.database.to_owned(),
                        schema: index.schema.to_owned(),
                        table: index.table.to_owned(),
                    },
                    why: index.note.to_owned(),
                    expected: "each write to the table is cheaper; no query could use the index".to_owned(),
                })
                .collect()
        },
    },
    Remedy {
        id: "postgres.rebuild_invalid_index",
        title: "Build an index anew that a failed build left invalid",
        check: Some("postgres.index_invalid"),
        eases: &[],
        class: RiskClass::Routine,
        preconditions: REINDEX_PRECONDITIONS,
        verification: "the name belongs to another index, which is valid",
        cooldown: 24.0 * 3600.0,
        hourly_cap: 10,
        propose: |finding| {
            let left = indexes(finding).filter(|index| !is_rest_of_reindex(index.name));
            left.map(|index| index.reindex(finding, Reindexing::Invalid)).collect()
        },
    },
    Remedy {
        id: "postgres.reindex_bloated_index",
        title: "Build an index anew that is mostly empty space",
        check: Some("postgres.index_bloated"),
        eases: &[],
        class: RiskClass::Routine,
        preconditions: REINDEX_PRECONDITIONS,
        verification: "the name belongs to another index, which is valid and at least a tenth smaller",
        cooldown: 24.0 * 3600.0,
        hourly_cap: 20,
        // What only one estimator says is told as information.
        propose: |finding| {
            if finding.severity < Severity::Warning {
                return Vec::new();
            }
            let limit = |wanted: Unit| {
                finding.evidence.iter().find_map(|evidence| match evidence.threshold {
                    Some(Value::Number { value, unit }) if unit == wanted => Some(value),
                    _ => None,
                })
            };
            let (Some(ratio), Some(wasted)) = (limit(Unit::Ratio), limit(Unit::Bytes)) else { return Vec::new() };
            let because = Reindexing::Bloated { percent: (ratio * 100.0).ceil() as u32, wasted: wasted.ceil() as u64 };
            indexes(finding).map(|index| index.reindex(finding, because)).collect()
        },
    },
    Remedy {
        id: "postgres.raise_statistics_target",
        title: "Let ANALYZE look closer at a column whose common values its sample misses",
        check: Some("postgres.statistics_too_coarse"),
        eases: &[],
        class: RiskClass::Routine,
        preconditions: "a primary; we own the table; the column has the target that was seen; nobody holds a conflicting lock",
        verification: "the list has room left, or fewer rows are out of it, or they are taken for less wrong; otherwise the old \
                       target is put back",
        // A week, less what the next weekly maintenance may be early.
        cooldown: 6.5 * 86_400.0,
        hourly_cap: 10,
        propose: super::statistics::propose,
    },
    Remedy {
        id: "postgres.advance_sequence",
        title: "Move a sequence on that is behind the column that it fills",
        check: Some("postgres.sequence_behind"),
        eases: &[],
        class: RiskClass::Corrective,
        preconditions: "a primary; the sequence fills the same columns as before; the lock on their tables is had at once; it \
                        is still behind, and a taken number near; no range is given up for a few far rows; its rows come by no \
                        subscription, and no program takes whole blocks of it",
        verification: "no value that it comes to is taken",
        cooldown: 3600.0,
        hourly_cap: 20,
        propose: super::sequence::propose,
    },
    Remedy {
        id: crate::expiry::REMEDY,
        title: "Delete the rows that a rule of [[postgres.NAME.retention]] does not keep",
        check: None,
        eases: &[],
        class: RiskClass::Routine,
        preconditions: "a primary; an ordinary table with an index on the column; no trigger on delete; whatever refers to \
                        the table has an index for it, what is deleted with it is bounded, and what it forbids to delete stays; standbys and slots keep up",
        verification: "no row of that age is left",
        cooldown: 3600.0,
        hourly_cap: 60,
        // What is due is a question of the rule: the task plans for itself.
        propose: |_| Vec::new(),
    },
    Remedy {
        id: crate::expiry::DROP,
        title: "Drop a partition that lies wholly before what a rule of [[postgres.NAME.retention]] keeps",
        check: None,
        eases: &[],
        class: RiskClass::Routine,
        preconditions: "a primary; still a partition of the rule's table, its upper bound not after the cut-off by the server's \
                        clock; no other rule keeps its rows; the newest proven backup set has the rows that it holds now; no \
                        foreign key refers to it, nothing depends on it, no publication or trigger has to hear of its rows; \
                        we own it",
        verification: "the table is gone",
        cooldown: 3600.0,
        hourly_cap: 60,
        // What is due is a question of the rule: the task plans for itself.
        propose: |_| Vec::new(),
    },
    Remedy {
        id: postgres::CHANGE,
        title: "Give a setting of Postgres the advised value, as asked for with `tune postgres --plan`",
        check: None,
        eases: &[],
        class: RiskClass::Corrective,
        preconditions: SETTING_PRECONDITIONS,
        verification: SETTING_VERIFICATION,
        // The next one may follow as soon as this one is verified; until then its subject is busy.
        cooldown: 0.001,
        hourly_cap: 20,
        // Never by itself: a person asks for each.
        propose: |_| Vec::new(),
    },
    Remedy {
        id: postgres::WRITE,
        title: "Write a setting of Postgres that the next restart takes up, as asked for with `tune postgres --plan`",
        check: None,
        eases: &[],
        class: RiskClass::Disruptive,
        preconditions: SETTING_PRECONDITIONS,
        verification: "a new session sees that the setting waits for a restart",
        cooldown: 60.0,
        hourly_cap: 2,
        propose: |_| Vec::new(),
    },
    Remedy {
        id: "backup.prune_repository",
        title: "Remove the backup sets that no rule of [backup.keep] keeps, with the task retention or `backup prune`",
        check: Some("backup.repository_nearly_full"),
        eases: &["backup.set_missing"],
        class: RiskClass::Routine,
        preconditions: "no backup or proof works on the repository; no rule keeps the set at that moment: not the newest, \
                        not the newest that is alive, none that is being restored, and the clock is not behind",
        verification: "the sets are not in the repository any more",
        cooldown: 1.0,
        hourly_cap: 60,
        // What goes is a question of the rules, not of a full disk: the task plans for itself.
        propose: |_| Vec::new(),
    },
];

const REINDEX_PRECONDITIONS: &str = "a primary, not 14.0 to 14.3; we own the table; a plain index of no exclusion constraint and no partitioned table; \
     nobody else builds an index in the database; no transaction there is older than 30 s; standbys and slots keep up; \
     the disk has room for twice the index";

const SETTING_PRECONDITIONS: &str = "the setting is on the list of those that are changed, and the server runs with the value that the plan was made for; \
     no file, command line, environment or operator keeps it; no other change of settings or of files of access is unfinished; no \
     pooler is in between; the server takes the value";

const SETTING_VERIFICATION: &str = "a new session runs with the value";

/// `REINDEX CONCURRENTLY` names what it builds and what it replaces so, with a number if the name is taken.
pub fn is_rest_of_reindex(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name.ends_with("_ccnew") || name.ends_with("_ccold")
}

/// An index that a finding is about.
struct Named<'f> {
    database: &'f str,
    schema: &'f str,
    table: &'f str,
    name: &'f str,
    note: &'f str,
}

impl Named<'_> {
    fn reindex(&self, finding: &Finding, because: Reindexing) -> Proposal {
        Proposal {
            step: Step::Reindex {
                system: finding.system.clone(),
                database: self.database.to_owned(),
                schema: self.schema.to_owned(),
                table: self.table.to_owned(),
                index: self.name.to_owned(),
                because,
            },
            why: self.note.to_owned(),
            expected: match because {
                Reindexing::Bloated { .. } => {
                    "the index takes as much room as its rows need; reads and writes go on meanwhile"
                }
                Reindexing::Invalid => "queries can use the index again; reads and writes go on meanwhile",
            }
            .to_owned(),
        }
    }
}

fn indexes(finding: &Finding) -> impl Iterator<Item = Named<'_>> {
    finding.offenders.iter().filter_map(|offender| match &offender.target {
        Target::Index { database, schema, table, name } => {
            Some(Named { database, schema, table, name, note: &offender.note })
        }
        _ => None,
    })
}

/// Only when somebody has waited for as long as wakes a person: before that, the queue may well clear by itself.
fn blockers(finding: &Finding) -> Vec<Proposal> {
    let wait = finding.evidence.iter().find_map(|evidence| match evidence.threshold {
        Some(Value::Number { value, .. }) if finding.severity == Severity::Critical => Some(value),
        _ => None,
    });
    let Some(wait) = wait else { return Vec::new() };
    let sessions = finding.offenders.iter().filter_map(|offender| match offender.target {
        Target::Session { pid, backend_start } => Some((pid, backend_start, &offender.note)),
        _ => None,
    });
    sessions
        .map(|(pid, backend_start, note)| Proposal {
            step: Step::EndBlocker {
                system: finding.system.clone(),
                pid,
                backend_start,
                waiting_seconds: wait.ceil() as u32,
            },
            why: note.clone(),
            expected: "those behind it go on; its statement, and if need be its transaction, is rolled back".to_owned(),
        })
        .collect()
}

fn tables(finding: &Finding, step: fn(SystemId, String, String, String) -> Step, expected: &str) -> Vec<Proposal> {
    finding
        .offenders
        .iter()
        .filter_map(|offender| match &offender.target {
            Target::Table { database, schema, name } => Some(Proposal {
                step: step(finding.system.clone(), database.clone(), schema.clone(), name.clone()),
                why: offender.note.clone(),
                expected: expected.to_owned(),
            }),
            _ => None,
        })
        .collect()
}
