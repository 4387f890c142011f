//! The changes that we can make, each as small as it can be named, and what their targets look like.

use super::setting::{Change, Parameter, SettingValue};
use super::{Advance, Detach, quoted, statistics_statements};
use crate::expiry::{Contained, ExpiredPartition};
use crate::finding::Target;
use crate::observation::Distribution;
use crate::receipt::SetId;
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One change, as small as it can be named. Closed on purpose: what is not listed cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    Analyze {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
    },
    Vacuum {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
    },
    /// Ends a session only while it is still the same backend, still idle in a transaction for at least that many
    /// seconds, and not protected (superuser, replication, backup, autovacuum, our own).
    EndIdleSession {
        system: SystemId,
        pid: i32,
        backend_start: Timestamp,
        idle_seconds: u32,
    },
    /// Lets those behind a session go on: its statement is cancelled, and where that does not free the lock, it is ended.
    /// Only while it is the same backend, not protected, and somebody has waited for it for at least that many seconds.
    EndBlocker {
        system: SystemId,
        pid: i32,
        backend_start: Timestamp,
        waiting_seconds: u32,
    },
    /// Builds an index anew beside the old one, which goes on working until then.
    Reindex {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
        index: String,
        because: Reindexing,
    },
    /// Drops what a `REINDEX CONCURRENTLY` that did not come to its end left on a table: invalid indexes with its own names
    /// (`…_ccnew`, `…_ccold`), while nobody builds an index there.
    DropLeftovers {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
    },
    /// Deletes the rows of a table that are older than a rule of the configuration keeps them, in small batches by an
    /// index, each committed; not those that somebody has locked.
    DeleteExpired {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
        column: String,
        before: Timestamp,
        /// What the rule keeps: `before` is so far back, at least, also by the server's clock.
        keep_seconds: u64,
        /// Only rows that are in the repository of backups by then.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        export: bool,
    },
    /// Sets how closely ANALYZE looks at one column, and has it look.
    SetStatistics {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
        column: String,
        /// None is the server's default.
        target: Option<u32>,
        /// The one that it replaces, and no other: what somebody set meanwhile stays.
        seen: Option<u32>,
    },
    /// Moves a sequence on to the furthest value of the columns that it fills, while nobody can insert into them. Only if it
    /// is behind at that moment, never back, and never beyond `advance.limit`.
    AdvanceSequence {
        system: SystemId,
        database: String,
        schema: String,
        sequence: String,
        advance: Advance,
    },
    /// Detaches a partition and drops it: one that lies wholly before what a rule keeps, while a proven backup set has the
    /// rows that it holds.
    DropPartition {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
        column: String,
        partition_schema: String,
        partition: String,
        before: Timestamp,
        keep_seconds: u64,
        detach: Detach,
        contained_in: Box<Contained>,
    },
    /// Puts a partition back that was detached and not dropped.
    AttachPartition {
        system: SystemId,
        database: String,
        schema: String,
        table: String,
        partition_schema: String,
        partition: String,
        /// The number of the very table that was detached …
        oid: u32,
        /// … and of the one that it was detached from.
        parent: u32,
        /// As `pg_get_expr(relpartbound)` told them before.
        bounds: String,
    },
    /// Gives a setting another value with `ALTER SYSTEM`, and lets the server read it. Only while nobody else keeps the setting
    /// and no other change of settings is under way; what takes a restart is written, and nothing is restarted.
    AlterSystem {
        system: SystemId,
        setting: Parameter,
        /// What the server ran with when this was proposed; to put something back, what we wrote.
        from: SettingValue,
        to: Change,
    },
    /// Removes these sets from the repository of backups, as far as no rule of retention keeps them at that moment, and
    /// deletes data that were marked longer than the grace ago.
    PruneRepository {
        system: SystemId,
        sets: Vec<SetId>,
    },
}

/// Why an index is built anew, which is asked again right before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reindexing {
    /// It takes far more room than its rows need: so many percent of that, and so many bytes more, at least.
    Bloated { percent: u32, wasted: u64 },
    /// A build that failed left it, and no query uses it.
    Invalid,
}

impl Step {
    pub fn system(&self) -> &SystemId {
        match self {
            Self::Analyze { system, .. }
            | Self::Vacuum { system, .. }
            | Self::EndIdleSession { system, .. }
            | Self::EndBlocker { system, .. }
            | Self::Reindex { system, .. }
            | Self::DropLeftovers { system, .. }
            | Self::DeleteExpired { system, .. }
            | Self::AdvanceSequence { system, .. }
            | Self::SetStatistics { system, .. }
            | Self::DropPartition { system, .. }
            | Self::AttachPartition { system, .. }
            | Self::AlterSystem { system, .. }
            | Self::PruneRepository { system, .. } => system,
        }
    }

    /// The setting that it changes, if it changes one.
    pub fn setting(&self) -> Option<Parameter> {
        if let Self::AlterSystem { setting, .. } = self { Some(*setting) } else { None }
    }

    /// What is changed, for cool-downs and the record: `postgres.main table docrag.public.chunks`.
    pub fn subject(&self) -> String {
        // One setting of a server at a time: the one before must be known to have helped.
        if let Self::AlterSystem { system, .. } = self {
            return format!("{system} settings");
        }
        // To sweep up on a table is not to work on it: neither waits for the other.
        let part = match self {
            Self::DropLeftovers { .. } => " leftovers".to_owned(),
            // A table may have a rule for each of its columns.
            Self::DeleteExpired { column, .. } => format!(" by {column}"),
            _ => String::new(),
        };
        format!("{} {}{part}", self.system(), self.target()).trim_end().to_owned()
    }

    pub fn target(&self) -> Target {
        match self {
            Self::Analyze { database, schema, table, .. }
            | Self::Vacuum { database, schema, table, .. }
            | Self::DropLeftovers { database, schema, table, .. }
            | Self::DeleteExpired { database, schema, table, .. } => {
                Target::Table { database: database.clone(), schema: schema.clone(), name: table.clone() }
            }
            Self::DropPartition { database, partition_schema: schema, partition, .. }
            | Self::AttachPartition { database, partition_schema: schema, partition, .. } => {
                Target::Table { database: database.clone(), schema: schema.clone(), name: partition.clone() }
            }
            Self::Reindex { database, schema, table, index, .. } => Target::Index {
                database: database.clone(),
                schema: schema.clone(),
                table: table.clone(),
                name: index.clone(),
            },
            Self::SetStatistics { database, schema, table, column, .. } => Target::Column {
                database: database.clone(),
                schema: schema.clone(),
                table: table.clone(),
                name: column.clone(),
                target: None,
                seen: None,
            },
            Self::AdvanceSequence { database, schema, sequence, .. } => Target::Sequence {
                database: database.clone(),
                schema: schema.clone(),
                name: sequence.clone(),
                advance: None,
            },
            Self::EndIdleSession { pid, backend_start, .. } | Self::EndBlocker { pid, backend_start, .. } => {
                Target::Session { pid: *pid, backend_start: *backend_start }
            }
            Self::AlterSystem { setting, .. } => Target::Setting { name: setting.to_string() },
            Self::PruneRepository { .. } => Target::System,
        }
    }

    /// The statement that is sent, as `--dry-run` prints it; behind `--`, what is chosen at that very moment. A vacuum must not cut off the empty end of a table: for
    /// that it locks the table against everyone, and on a standby against every reader.
    pub fn statement(&self) -> String {
        match self {
            Self::Analyze { schema, table, .. } => {
                format!("ANALYZE (SKIP_LOCKED) {}.{}", quoted(schema), quoted(table))
            }
            Self::Vacuum { schema, table, .. } => {
                format!(
                    "VACUUM (ANALYZE, SKIP_LOCKED, TRUNCATE false, PARALLEL 0) {}.{}",
                    quoted(schema),
                    quoted(table)
                )
            }
            Self::EndIdleSession { pid, idle_seconds, .. } => format!(
                "SELECT pg_terminate_backend({pid}) -- same session, still idle in transaction >= {idle_seconds} s"
            ),
            Self::EndBlocker { pid, waiting_seconds, .. } => format!(
                "SELECT pg_cancel_backend({pid}) -- then pg_terminate_backend({pid}) if it still holds up sessions that \
                 have waited >= {waiting_seconds} s"
            ),
            Self::Reindex { schema, index, .. } => {
                format!("REINDEX INDEX CONCURRENTLY {}.{}", quoted(schema), quoted(index))
            }
            Self::DropLeftovers { schema, table, .. } => format!(
                "DROP INDEX CONCURRENTLY -- each invalid index named …_ccnew or …_ccold of {}.{}",
                quoted(schema),
                quoted(table)
            ),
            Self::DeleteExpired { schema, table, column, before, export, .. } => format!(
                "DELETE FROM {}.{} WHERE {} < '{before}' -- by its index, batches of at most {LARGEST_BATCH} rows{}",
                quoted(schema),
                quoted(table),
                quoted(column),
                if *export { ", each row once it is in the repository of backups" } else { "" }
            ),
            Self::SetStatistics { schema, table, column, target, .. } => {
                statistics_statements(schema, table, column, *target).join("; ")
            }
            Self::AdvanceSequence { schema, sequence, advance, .. } => advance.statement(schema, sequence),
            Self::DropPartition { .. } | Self::AttachPartition { .. } => self.parting_statement(),
            Self::AlterSystem { setting, to, .. } => format!("{}; SELECT pg_reload_conf()", to.writing(*setting)),
            Self::PruneRepository { sets, .. } => {
                let named: Vec<&str> = sets.iter().map(SetId::as_str).collect();
                let sets = if named.is_empty() { "no set".to_owned() } else { named.join(", ") };
                format!("remove {sets}; delete what no set needs, once it was marked for the grace")
            }
        }
    }
}

/// Rows that are deleted in one transaction, at most: few enough for a batch to last for a fraction of a second.
pub const LARGEST_BATCH: u32 = 5_000;

/// What a step's target looked like before the step: the basis of verification and undo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum StepState {
    Table {
        live_rows: u64,
        dead_rows: u64,
        modified_since_analyze: u64,
        vacuumed: Option<Timestamp>,
        analyzed: Option<Timestamp>,
    },
    Session {
        user: String,
        application: String,
        idle_seconds: f64,
        query: String,
    },
    /// A session that others wait for.
    Blocker {
        user: String,
        application: String,
        query: String,
        /// How many sessions wait for it directly.
        holds_up: u32,
    },
    Index {
        /// The number of the index itself: a `REINDEX CONCURRENTLY` gives the name to a new one.
        oid: u32,
        /// Bytes.
        size: u64,
        is_valid: bool,
    },
    /// Rows that a rule wants gone.
    Expired {
        rows: u64,
        /// So many were counted, and there are more.
        is_more: bool,
        /// The oldest moment in the rule's column.
        oldest: Option<Timestamp>,
        /// So many more are of that age, and stay because rows of other tables refer to them.
        #[serde(default)]
        referred: u64,
    },
    /// What a rule means for a table that is partitioned by its column.
    Partitions {
        due: Vec<ExpiredPartition>,
        /// What stays although some of its rows are due, a sentence each.
        notes: Vec<String>,
    },
    /// A table that is, or was, a partition.
    Partition {
        oid: u32,
        /// The number of the table that it is a partition of.
        parent: Option<u32>,
        /// As `pg_get_expr(relpartbound)` tells them; none when it is detached.
        bounds: Option<String>,
        /// Its detach was begun and is not finished.
        is_pending: bool,
        /// With its indexes.
        bytes: u64,
    },
    /// What was left on a table by a `REINDEX CONCURRENTLY`.
    Leftovers {
        names: Vec<String>,
    },
    /// What the planner knows of a column's values.
    Column(Distribution),
    /// Where a sequence is, and how far its columns are ahead of it.
    Sequence {
        last: i64,
        is_called: bool,
        /// None when it has come to its end.
        next: Option<i64>,
        /// The furthest value of its columns that it has not come to.
        taken: Option<i64>,
    },
    /// A setting of a server, and its line in `postgresql.auto.conf`.
    Setting {
        /// In force, as one writes it.
        value: String,
        unit: Option<String>,
        /// Whoever gave it its value.
        owner: String,
        line: Option<String>,
        pending_restart: bool,
    },
    /// Those of the step's sets that are in the repository.
    Sets {
        there: Vec<SetId>,
    },
    /// The table or session is not there (any more).
    Gone,
}
