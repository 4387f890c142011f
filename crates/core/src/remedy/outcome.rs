//! What a finished step was good for, and what can be put back.

use super::setting::{Change, SettingValue};
use super::{Reindexing, Step, StepState};
use crate::quantity::{format_bytes, format_count};
use crate::receipt::SetId;
use serde::{Deserialize, Serialize};

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
    /// What undoing this step means, by the state before it.
    pub fn undo(&self, before: &StepState) -> Undo {
        match self {
            Self::Analyze { .. } => {
                Undo::NotNeeded("statistics describe the rows as they are; autovacuum refreshes them anyway".into())
            }
            Self::Vacuum { .. } => {
                Undo::NotNeeded("vacuum removes only rows that no transaction can see any more".into())
            }
            Self::EndIdleSession { .. } | Self::EndBlocker { .. } => Undo::Impossible(
                "an ended session cannot be resumed; its open transaction was rolled back and its client reconnects"
                    .into(),
            ),
            // The old index works until the new one has its name; only what was left in between is in the way.
            Self::Reindex { system, database, schema, table, .. } => Undo::By(Box::new(Step::DropLeftovers {
                system: system.clone(),
                database: database.clone(),
                schema: schema.clone(),
                table: table.clone(),
                relation: if let StepState::Index { relation, .. } = before { *relation } else { None },
            })),
            Self::DropLeftovers { .. } => {
                Undo::NotNeeded("no query could use what was dropped, and each write is cheaper without it".into())
            }
            Self::DeleteExpired { export: true, .. } => Undo::Impossible(
                "the rows are in the repository of backups: `groundskeeper backup exports` lists them, and --read gives \
                 them for psql"
                    .into(),
            ),
            Self::DeleteExpired { .. } => {
                Undo::Impossible("rows that were deleted come back only out of a backup set".into())
            }
            Self::SetStatistics { .. } => super::statistics::put_back(self, before).map_or_else(
                || Undo::Impossible("the target that it had is not known".into()),
                |step| Undo::By(Box::new(step)),
            ),
            Self::AdvanceSequence { .. } => Undo::NotNeeded(
                "the numbers that it skipped are in the table; with the old ones inserts would fail again".into(),
            ),
            Self::DropPartition { .. } | Self::AttachPartition { .. } => self.undo_parting(before),
            Self::AlterSystem { to, .. } => self.undo_setting(to, before),
            Self::PruneRepository { .. } => {
                Undo::Impossible("a set that was removed cannot be had back; those that are kept still restore".into())
            }
        }
    }

    /// The old line, or none: what the server ran with before it.
    fn undo_setting(&self, to: &Change, before: &StepState) -> Undo {
        let (Self::AlterSystem { system, setting, .. }, Change::Set { value }) = (self, to) else {
            return Undo::Impossible(
                "it put an earlier change back; to make that once more is a change of its own".into(),
            );
        };
        let StepState::Setting { line, .. } = before else {
            return Undo::Impossible("what the setting was before is not known".into());
        };
        match line.as_deref().map(SettingValue::try_from).transpose() {
            Ok(line) => Undo::By(Box::new(Self::AlterSystem {
                system: system.clone(),
                setting: *setting,
                from: value.clone(),
                to: Change::PutBack { line },
            })),
            Err(why) => Undo::Impossible(why),
        }
    }

    /// Whether there is nothing left that this step, as the undo of another, could put back.
    pub fn has_nothing_to_undo(&self, state: &StepState) -> bool {
        match self {
            Self::AlterSystem { to: Change::PutBack { .. }, .. } => self.has_taken(state, state),
            Self::SetStatistics { target, .. } => match state {
                StepState::Column { figures, .. } => figures.target == *target,
                _ => *state == StepState::Gone,
            },
            _ => *state == StepState::Gone,
        }
    }

    /// Whether the target is as the step is to make it.
    pub fn has_taken(&self, before: &StepState, after: &StepState) -> bool {
        matches!(self.verify(before, after), Verification::Helped(_))
    }

    /// Judges a finished step by the target's state before and after. Only the server's own times are compared with
    /// each other, so that clocks that differ do not matter.
    pub fn verify(&self, before: &StepState, after: &StepState) -> Verification {
        const SKIPPED: &str = "the server skipped the table: another session holds a lock on it";
        let did_not_help = |because: &str| Verification::DidNotHelp(because.to_owned());
        match (self, before, after) {
            (Self::AlterSystem { setting, to, .. }, _, _) => to.verify(*setting, before, after),
            (Self::EndIdleSession { pid, .. } | Self::EndBlocker { pid, .. }, _, StepState::Gone) => {
                Verification::Helped(format!("session {pid} is gone"))
            }
            (Self::EndIdleSession { pid, .. }, _, _) => {
                Verification::DidNotHelp(format!("session {pid} is still connected"))
            }
            (
                Self::DeleteExpired { .. },
                StepState::Expired { rows, is_more, .. },
                StepState::Expired { rows: left, is_more: more_left, referred, .. },
            ) => expired((*rows, *is_more), (*left, *more_left), *referred),
            (Self::EndBlocker { pid, .. }, _, StepState::Blocker { holds_up: 0, .. }) => {
                Verification::Helped(format!("session {pid} holds up nobody any more"))
            }
            (Self::EndBlocker { pid, .. }, _, _) => {
                Verification::DidNotHelp(format!("session {pid} still holds up others"))
            }
            (Self::SetStatistics { target, seen, .. }, before, after) => {
                super::statistics::verify((*seen, *target), before, after)
            }
            (Self::AdvanceSequence { .. }, before, after) => super::sequence::verify(before, after),
            (Self::Reindex { because, .. }, before, after) => reindexed(*because, before, after),
            (Self::DropLeftovers { .. }, StepState::Leftovers { names }, StepState::Gone) => {
                Verification::Helped(format!("{} dropped", counted(names.len(), "leftover")))
            }
            (Self::DropLeftovers { .. }, _, StepState::Leftovers { names }) => {
                Verification::DidNotHelp(format!("{} still there", names.join(", ")))
            }
            (Self::PruneRepository { .. }, StepState::Sets { there: before }, StepState::Sets { there: after }) => {
                pruned(before, after)
            }
            (Self::DropPartition { .. } | Self::AttachPartition { .. }, before, after) => {
                self.verify_parting(before, after)
            }
            (Self::DropLeftovers { .. }, _, _) => did_not_help("the indexes of the table were not read"),
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
            (Self::Vacuum { .. } | Self::Analyze { .. } | Self::DeleteExpired { .. }, _, _) => {
                did_not_help("the state before or after is not that of a table")
            }
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// The new index has the name of the old one, works, and is smaller, as far as that was the reason.
fn reindexed(because: Reindexing, before: &StepState, after: &StepState) -> Verification {
    let (
        StepState::Index { oid: old, size: before, is_valid: was_valid, .. },
        StepState::Index { oid, size: after, is_valid, .. },
    ) = (before, after)
    else {
        let gone = matches!(after, StepState::Gone);
        return Verification::DidNotHelp(if gone { "the index is gone" } else { "the index was not read" }.to_owned());
    };
    let (from, to) = (format_bytes(*before as f64), format_bytes(*after as f64));
    match because {
        _ if old == oid => Verification::DidNotHelp("the index is still the old one".to_owned()),
        _ if !is_valid => Verification::DidNotHelp("the new index is not valid".to_owned()),
        Reindexing::Invalid if *was_valid => Verification::Helped(format!("built anew, {to}")),
        Reindexing::Invalid => Verification::Helped(format!("valid again, {to}")),
        Reindexing::Bloated { .. } if *after as f64 > *before as f64 * STILL_AS_LARGE => {
            Verification::DidNotHelp(format!("built anew, and hardly smaller: {from} -> {to}; it was not bloated"))
        }
        Reindexing::Bloated { .. } => Verification::Helped(format!("{from} -> {to}")),
    }
}

/// A tenth is what a fresh index loses by its fill factor within days; whoever gains less gained nothing.
const STILL_AS_LARGE: f64 = 0.9;

fn expired((before, is_more): (u64, bool), (left, more_left): (u64, bool), referred: u64) -> Verification {
    let gone = format_count(before.saturating_sub(left) as f64);
    let more = if is_more { "more than " } else { "" };
    let stay = match referred {
        0 => String::new(),
        _ => format!("; {} stay, because others refer to them", format_count(referred as f64)),
    };
    match left {
        0 if more_left => {
            Verification::Helped(format!("{more}{gone} rows deleted; not all of that age were looked at{stay}"))
        }
        0 => Verification::Helped(format!("{more}{gone} rows deleted, none of that age is left{stay}")),
        _ if left < before => Verification::Helped(format!(
            "{more}{gone} rows deleted; {} are left: locked by somebody, or written meanwhile{stay}",
            format_count(left as f64)
        )),
        _ => Verification::DidNotHelp(format!("{} rows of that age are still there", format_count(left as f64))),
    }
}

fn pruned(before: &[SetId], after: &[SetId]) -> Verification {
    let counted = |count: usize| counted(count, "set");
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
