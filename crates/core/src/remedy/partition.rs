//! Detaching and dropping a partition, and attaching it again: what is sent, what came of it, and what can be put back.

use super::{Step, StepState, Undo, Verification, quoted};
use crate::expiry::restored_by;
use crate::quantity::format_bytes;
use serde::{Deserialize, Serialize};

/// How a partition leaves its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detach {
    /// Nobody waits for it: from Postgres 14 on, where no default partition is there.
    Concurrently,
    /// Under a lock against everybody, for an instant.
    Plainly,
    /// A detach was begun and did not come to its end. Only what we began ourselves goes on so.
    Finalize,
}

impl Step {
    /// The statement that takes a partition out of its table.
    pub fn detach_statement(&self, detach: Detach) -> String {
        let (parent, partition) = self.family();
        let how = match detach {
            Detach::Concurrently => " CONCURRENTLY",
            Detach::Plainly => "",
            Detach::Finalize => " FINALIZE",
        };
        format!("ALTER TABLE {parent} DETACH PARTITION {partition}{how}")
    }

    pub(super) fn parting_statement(&self) -> String {
        let (parent, partition) = self.family();
        match self {
            Self::DropPartition { detach, before, contained_in, .. } => format!(
                "{}; DROP TABLE {partition} -- wholly before '{before}', and in the set {}",
                self.detach_statement(*detach),
                contained_in.set
            ),
            Self::AttachPartition { bounds, .. } => {
                format!("ALTER TABLE {parent} ATTACH PARTITION {partition} {bounds}")
            }
            _ => String::new(),
        }
    }

    /// Table and partition, quoted.
    fn family(&self) -> (String, String) {
        match self {
            Self::DropPartition { schema, table, partition_schema, partition, .. }
            | Self::AttachPartition { schema, table, partition_schema, partition, .. } => {
                let name = |schema: &str, name: &str| format!("{}.{}", quoted(schema), quoted(name));
                (name(schema, table), name(partition_schema, partition))
            }
            _ => (String::new(), String::new()),
        }
    }

    pub(super) fn undo_parting(&self, before: &StepState) -> Undo {
        match (self, before) {
            (
                Self::DropPartition { system, database, schema, table, partition_schema, partition, .. },
                StepState::Partition { oid, parent: Some(parent), bounds: Some(bounds), .. },
            ) => Undo::By(Box::new(Self::AttachPartition {
                system: system.clone(),
                database: database.clone(),
                schema: schema.clone(),
                table: table.clone(),
                partition_schema: partition_schema.clone(),
                partition: partition.clone(),
                oid: *oid,
                parent: *parent,
                bounds: bounds.clone(),
            })),
            (Self::DropPartition { .. }, _) => Undo::Impossible("it was no partition when the step began".into()),
            _ => Undo::NotNeeded("the partition is where it was before".into()),
        }
    }

    pub(super) fn verify_parting(&self, before: &StepState, after: &StepState) -> Verification {
        use Verification::{DidNotHelp, Helped};
        match (self, before, after) {
            (Self::DropPartition { contained_in, .. }, StepState::Partition { bytes, .. }, StepState::Gone) => Helped(
                format!("dropped, {} freed; its rows are in the set {}", format_bytes(*bytes as f64), contained_in.set),
            ),
            (Self::DropPartition { .. }, _, StepState::Partition { is_pending: true, .. }) => {
                DidNotHelp("its detach was begun and is not finished".into())
            }
            (Self::DropPartition { .. }, _, StepState::Partition { bounds: Some(_), .. }) => {
                DidNotHelp("it is still attached".into())
            }
            (Self::DropPartition { .. }, _, StepState::Partition { bounds: None, .. }) => {
                DidNotHelp("it is detached, and was not dropped".into())
            }
            (Self::AttachPartition { .. }, _, StepState::Gone) => Helped("nothing of it is left detached".into()),
            (Self::AttachPartition { .. }, _, _) => DidNotHelp("it is still detached".into()),
            _ => DidNotHelp("the state before or after is not that of a partition".into()),
        }
    }

    /// What undoing means when it is also known how the step ended: what was dropped cannot be attached again.
    pub fn undo_after(&self, before: &StepState, after: Option<&StepState>) -> Undo {
        match (restored_by(self), after) {
            (Some(way), Some(StepState::Gone)) => Undo::Impossible(way),
            _ => self.undo(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::Contained;
    use crate::receipt::{Hashed, SetId};
    use crate::system::{SystemId, SystemKind};
    use jiff::Timestamp;

    fn drop(detach: Detach) -> Step {
        let before: Timestamp = "2026-08-24T02:00:00Z".parse().unwrap();
        Step::DropPartition {
            system: SystemId::new(SystemKind::Postgres, "main"),
            database: "docrag".into(),
            schema: "public".into(),
            table: "audit".into(),
            column: "at".into(),
            partition_schema: "Old".into(),
            partition: "a\"; --".into(),
            before,
            keep_seconds: 90 * 86_400,
            detach,
            contained_in: Box::new(Contained {
                set: SetId::new(before, 7),
                system_identifier: "7421".into(),
                timeline: 1,
                rows: 12,
                fingerprint: "7".into(),
                hashed: Hashed::Record,
                finished_below: 4_242,
                sample: None,
            }),
        }
    }

    fn state(bounds: Option<&str>, is_pending: bool) -> StepState {
        let parent = bounds.is_some().then_some(41);
        StepState::Partition { oid: 42, parent, bounds: bounds.map(str::to_owned), is_pending, bytes: 1 << 20 }
    }

    const BOUNDS: &str = "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')";

    #[test]
    fn what_is_detached_is_attached_again_with_its_old_bounds_and_what_is_dropped_is_not() {
        let (step, before) = (drop(Detach::Concurrently), state(Some(BOUNDS), false));
        let Undo::By(undo) = step.undo(&before) else { panic!() };
        assert_eq!(
            undo.statement(),
            "ALTER TABLE \"public\".\"audit\" ATTACH PARTITION \"Old\".\"a\"\"; --\" FOR VALUES FROM ('2026-01-01') TO \
             ('2026-02-01')"
        );
        assert_eq!(undo.subject(), step.subject());
        assert_eq!(step.undo_after(&before, Some(&state(None, false))), Undo::By(undo.clone()));
        let Undo::Impossible(way) = step.undo_after(&before, Some(&StepState::Gone)) else { panic!() };
        assert!(way.contains("backup restore --set 20260824T020000Z-00000007 --only postgres.main"), "{way}");
        assert!(matches!(undo.undo(&before), Undo::NotNeeded(_)));
    }

    #[test]
    fn a_drop_helped_when_the_table_is_gone_and_an_attach_when_nothing_is_left() {
        let (step, before) = (drop(Detach::Plainly), state(Some(BOUNDS), false));
        assert!(
            step.statement()
                .starts_with("ALTER TABLE \"public\".\"audit\" DETACH PARTITION \"Old\".\"a\"\"; --\"; DROP")
        );
        assert!(drop(Detach::Finalize).statement().contains("\" FINALIZE; DROP TABLE"));
        let Verification::Helped(told) = step.verify(&before, &StepState::Gone) else { panic!() };
        assert_eq!(told, "dropped, 1 MiB freed; its rows are in the set 20260824T020000Z-00000007");
        for after in [state(None, false), state(Some(BOUNDS), true), before.clone()] {
            assert!(matches!(step.verify(&before, &after), Verification::DidNotHelp(_)), "{after:?}");
        }
        let Undo::By(attach) = step.undo(&before) else { panic!() };
        assert!(matches!(attach.verify(&state(None, false), &StepState::Gone), Verification::Helped(_)));
        assert!(matches!(attach.verify(&state(None, false), &state(None, false)), Verification::DidNotHelp(_)));
    }
}
