//! Remedies: the declared ways to mend a finding.
//!
//! A remedy says which finding it answers, how risky it is, what its steps are, how success is recognised and what can
//! be undone. It is data; the executor carries it out under guards. There is no step for what is refused for ever
//! (FLUSHALL, VACUUM FULL, ending a superuser's session): a step that does not exist cannot be reached by a bug.

use crate::finding::{Finding, Target};
use crate::receipt::SetId;
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How much harm a change could do, and with it who decides. Ordered by risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskClass {
    /// Reading. Always runs.
    Observe,
    /// Backups and proofs. Always runs once configured.
    Protect,
    /// Upkeep that no user notices: analyze, vacuum. Autonomy `assist` and up, inside a maintenance window.
    Routine,
    /// Mends one thing and touches one client: ending an idle transaction. Autonomy `auto` and up.
    Corrective,
    /// Users may notice. Needs an approval of the exact plan.
    Disruptive,
}

impl RiskClass {
    /// Whether it is done inside a maintenance window only.
    pub fn waits_for_window(self) -> bool {
        matches!(self, Self::Routine | Self::Disruptive)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Protect => "protect",
            Self::Routine => "routine",
            Self::Corrective => "corrective",
            Self::Disruptive => "disruptive",
        }
    }
}

impl fmt::Display for RiskClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

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
    /// Removes these sets from the repository of backups, as far as no rule of retention keeps them at that moment, and
    /// deletes data that were marked longer than the grace ago.
    PruneRepository {
        system: SystemId,
        sets: Vec<SetId>,
    },
}

impl Step {
    pub fn system(&self) -> &SystemId {
        match self {
            Self::Analyze { system, .. }
            | Self::Vacuum { system, .. }
            | Self::EndIdleSession { system, .. }
            | Self::PruneRepository { system, .. } => system,
        }
    }

    /// What is changed, for cool-downs and the record: `postgres.main table docrag.public.chunks`.
    pub fn subject(&self) -> String {
        format!("{} {}", self.system(), self.target()).trim_end().to_owned()
    }

    pub fn target(&self) -> Target {
        match self {
            Self::Analyze { database, schema, table, .. } | Self::Vacuum { database, schema, table, .. } => {
                Target::Table { database: database.clone(), schema: schema.clone(), name: table.clone() }
            }
            Self::EndIdleSession { pid, backend_start, .. } => {
                Target::Session { pid: *pid, backend_start: *backend_start }
            }
            Self::PruneRepository { .. } => Target::System,
        }
    }

    /// The exact statement that is sent, as `--dry-run` prints it. A vacuum must not cut off the empty end of a table: for
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
            Self::PruneRepository { sets, .. } => {
                let named: Vec<&str> = sets.iter().map(SetId::as_str).collect();
                let sets = if named.is_empty() { "no set".to_owned() } else { named.join(", ") };
                format!("remove {sets}; delete what no set needs, once it was marked for the grace")
            }
        }
    }
}

/// A Postgres identifier, always quoted: the shortest way to be right.
pub fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

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
    /// Those of the step's sets that are in the repository.
    Sets {
        there: Vec<SetId>,
    },
    /// The table or session is not there (any more).
    Gone,
}

/// Whether a finished step did what it was for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "because")]
pub enum Verification {
    Helped(String),
    DidNotHelp(String),
}

/// What can be put back after a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "undo", content = "detail")]
pub enum Undo {
    /// Nothing was changed that could be put back, and why that is safe.
    NotNeeded(String),
    /// It cannot be put back, and what happens instead.
    Impossible(String),
    /// This step puts it back.
    By(Box<Step>),
}

impl Step {
    /// What undoing this step means. The state before it is an argument because later steps (settings, scaling) need
    /// the old value; today's steps do not.
    pub fn undo(&self, _before: &StepState) -> Undo {
        match self {
            Self::Analyze { .. } => {
                Undo::NotNeeded("statistics describe the rows as they are; autovacuum refreshes them anyway".into())
            }
            Self::Vacuum { .. } => {
                Undo::NotNeeded("vacuum removes only rows that no transaction can see any more".into())
            }
            Self::EndIdleSession { .. } => Undo::Impossible(
                "an ended session cannot be resumed; its open transaction was rolled back and its client reconnects"
                    .into(),
            ),
            Self::PruneRepository { .. } => {
                Undo::Impossible("a set that was removed cannot be had back; those that are kept still restore".into())
            }
        }
    }

    /// Judges a finished step by the target's state before and after. Only the server's own times are compared with
    /// each other, so that clocks that differ do not matter.
    pub fn verify(&self, before: &StepState, after: &StepState) -> Verification {
        const SKIPPED: &str = "the server skipped the table: another session holds a lock on it";
        let did_not_help = |because: &str| Verification::DidNotHelp(because.to_owned());
        match (self, before, after) {
            (Self::EndIdleSession { pid, .. }, _, StepState::Gone) => {
                Verification::Helped(format!("session {pid} is gone"))
            }
            (Self::EndIdleSession { pid, .. }, _, _) => {
                Verification::DidNotHelp(format!("session {pid} is still connected"))
            }
            (Self::PruneRepository { .. }, StepState::Sets { there: before }, StepState::Sets { there: after }) => {
                pruned(before, after)
            }
            (Self::PruneRepository { .. }, _, _) => did_not_help("the sets of the repository are not known"),
            (_, _, StepState::Gone) => did_not_help("the table is gone"),
            (
                Self::Analyze { .. },
                StepState::Table { analyzed: earlier, .. },
                StepState::Table { analyzed, modified_since_analyze, .. },
            ) => {
                if analyzed > earlier {
                    Verification::Helped(format!("analyzed; {modified_since_analyze} rows modified since"))
                } else {
                    did_not_help(SKIPPED)
                }
            }
            (
                Self::Vacuum { .. },
                StepState::Table { vacuumed: earlier, dead_rows: dead_before, .. },
                StepState::Table { vacuumed, dead_rows, .. },
            ) => {
                if vacuumed <= earlier {
                    did_not_help(SKIPPED)
                } else if *dead_before > 0 && dead_rows >= dead_before {
                    Verification::DidNotHelp(format!(
                        "vacuumed, but {dead_rows} dead rows remain: an old transaction, a slot or a standby needs them"
                    ))
                } else {
                    Verification::Helped(format!("dead rows {dead_before} -> {dead_rows}"))
                }
            }
            (Self::Vacuum { .. } | Self::Analyze { .. }, _, _) => {
                did_not_help("the state before or after is not that of a table")
            }
        }
    }
}

fn pruned(before: &[SetId], after: &[SetId]) -> Verification {
    let counted = |count: usize| if count == 1 { "1 set".to_owned() } else { format!("{count} sets") };
    let (removed, stayed) = (before.len().saturating_sub(after.len()), counted(after.len()));
    match (before.len(), after.len()) {
        (0, _) => {
            Verification::Helped("no set was to be removed; what no set needs goes when its grace is over".into())
        }
        (_, 0) => Verification::Helped(format!("{} removed", counted(removed))),
        _ if removed > 0 => Verification::Helped(format!("{} removed; {stayed} stayed, kept by now", counted(removed))),
        _ => Verification::DidNotHelp(format!("{stayed} of the plan stayed, kept by now")),
    }
}

/// A step whose intent is in the journal. The `act` modules take nothing else, so that no change can happen that the
/// journal does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalledStep {
    entry: i64,
    step: Step,
}

impl JournalledStep {
    /// To be called by the journal, with the id of the row that is already durable.
    pub fn recorded(entry: i64, step: Step) -> Self {
        Self { entry, step }
    }

    pub fn entry(&self) -> i64 {
        self.entry
    }

    pub fn step(&self) -> &Step {
        &self.step
    }
}

/// A declared fix for the findings of one check.
#[derive(Debug)]
pub struct Remedy {
    pub id: &'static str,
    pub title: &'static str,
    /// The check whose findings it answers.
    pub check: &'static str,
    /// Checks that fail as well when that one does: their alarms do not hold the cure back either.
    pub eases: &'static [&'static str],
    pub class: RiskClass,
    /// What must hold at the moment of execution, in words; the executor and the server enforce it.
    pub preconditions: &'static str,
    pub verification: &'static str,
    /// Seconds before the same remedy may touch the same subject again.
    pub cooldown: f64,
    /// At most so many executions of this remedy in an hour.
    pub hourly_cap: u32,
    pub propose: fn(&Finding) -> Vec<Proposal>,
}

/// A step that a remedy proposes, with the effect that a person can expect.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    pub step: Step,
    pub why: String,
    pub expected: String,
}

/// Every remedy of this build.
pub static REMEDIES: &[Remedy] = &[
    Remedy {
        id: "postgres.vacuum_table",
        title: "Vacuum a table whose dead rows are past its own trigger",
        check: "postgres.dead_rows_past_trigger",
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
        check: "postgres.statistics_stale",
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
        check: "postgres.idle_in_transaction",
        eases: &[],
        class: RiskClass::Corrective,
        preconditions: "the same backend (pid and start), still idle in transaction, not superuser, replication, \
                        backup, a tool that copies or migrates, a name in `never_end`, or ours",
        verification: "the backend is gone",
        cooldown: 300.0,
        hourly_cap: 20,
        propose: |finding| {
            let seconds = finding.evidence.iter().filter_map(|evidence| match evidence.threshold {
                Some(crate::Value::Number { value, .. }) => Some(value),
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
        id: "backup.prune_repository",
        title: "Remove the backup sets that no rule of [backup.keep] keeps, with the task retention or `backup prune`",
        check: "backup.repository_nearly_full",
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

/// The remedy with that id.
pub fn find(id: &str) -> Option<&'static Remedy> {
    REMEDIES.iter().find(|remedy| remedy.id == id)
}

#[cfg(test)]
mod tests;
