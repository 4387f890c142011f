//! Letting ANALYZE look closer at one column.
//!
//! The target is doubled, one step a week: it says how many rows are read of the whole table for the sample (300 for each) and
//! how long the planner's lists are, so that each step costs. After a step that helped either the list has room left, or fewer
//! rows are out of it, or those that are out of it are taken for less wrong. One that did none of that is put back, lest it
//! costs for ever.

use super::{Proposal, Step, StepState, Verification, quoted};
use crate::finding::{Finding, Target};
use crate::observation::Distribution;
use crate::quantity::{Unit, format_count, format_number};

/// No column goes beyond it: 300,000 rows are read for its sample, and every plan looks through its lists.
pub const LARGEST_TARGET: u32 = 1_000;
/// A figure has to fall by a tenth at least: two samples of the same rows differ by less.
const STILL_AS_MUCH: f64 = 0.9;

/// The next step from a target, if there is one.
pub fn next_target(in_force: u32) -> Option<u32> {
    (in_force < LARGEST_TARGET).then(|| in_force.saturating_mul(2).clamp(1, LARGEST_TARGET))
}

/// What sets a target and what makes it felt, one after the other. -1 is the default of the server in every version.
pub fn statistics_statements(schema: &str, table: &str, column: &str, target: Option<u32>) -> [String; 2] {
    let (whole, column) = (format!("{}.{}", quoted(schema), quoted(table)), quoted(column));
    let target = target.map_or_else(|| "-1".to_owned(), |target| target.to_string());
    [
        format!("ALTER TABLE {whole} ALTER COLUMN {column} SET STATISTICS {target}"),
        format!("ANALYZE {whole} ({column})"),
    ]
}

pub(super) fn propose(finding: &Finding) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    for offender in &finding.offenders {
        let Target::Column { database, schema, table, name, target: Some(target), seen } = &offender.target else {
            continue;
        };
        proposals.push(Proposal {
            step: Step::SetStatistics {
                system: finding.system.clone(),
                database: database.clone(),
                schema: schema.clone(),
                table: table.clone(),
                column: name.clone(),
                target: Some(*target),
                seen: *seen,
                relation: None,
            },
            why: offender.note.clone(),
            expected:
                "the planner knows more of the common values; no lock that blocks reads or writes; put back if it does \
                       not help"
                    .to_owned(),
        });
    }
    proposals
}

/// Back to what it was.
pub(super) fn put_back(step: &Step, before: &StepState) -> Option<Step> {
    let Step::SetStatistics { system, database, schema, table, column, target, .. } = step else { return None };
    let StepState::Column { figures, relation } = before else { return None };
    Some(Step::SetStatistics {
        system: system.clone(),
        database: database.clone(),
        schema: schema.clone(),
        table: table.clone(),
        column: column.clone(),
        target: figures.target,
        seen: *target,
        relation: *relation,
    })
}

/// Whether a step from one target to another takes it back: a proposal never lowers it, and never gives it up.
pub fn puts_back(seen: Option<u32>, target: Option<u32>) -> bool {
    target.is_none_or(|target| seen.is_some_and(|seen| target < seen))
}

/// By the figures that the check compares: did the list grow past what is common, or did the error fall?
pub(super) fn verify(
    (seen, target): (Option<u32>, Option<u32>),
    before: &StepState,
    after: &StepState,
) -> Verification {
    let did_not_help = |because: String| Verification::DidNotHelp(because);
    let (StepState::Column { figures: before, .. }, StepState::Column { figures: after, .. }) = (before, after) else {
        let gone = matches!(after, StepState::Gone);
        return did_not_help(if gone { "the column is gone" } else { "the column was not read" }.to_owned());
    };
    if after.target != target {
        return did_not_help("the column has another target".to_owned());
    }
    // One that is put back has no better list to show.
    if puts_back(seen, target) {
        return Verification::Helped(format!("the target is {} again", after.in_force));
    }
    if target.is_none_or(|target| target <= before.in_force) {
        return did_not_help(format!("the target was {} before, which is no smaller", before.in_force));
    }
    let grown = format!("{} -> {} common values", before.common, after.common);
    let sample = |of: &Distribution| (of.common, of.least.to_bits(), of.others_share.to_bits());
    if sample(before) == sample(after) {
        return did_not_help("its statistics are those of before: the column was not analyzed".to_owned());
    }
    if !after.is_full() {
        return Verification::Helped(format!("{grown}, and there are no more (the target is {})", after.in_force));
    }
    let fell = |figure: fn(&Distribution) -> f64| figure(after) <= figure(before) * STILL_AS_MUCH;
    let told = format!("{grown}; {} against {} before", told(after), told(before));
    if fell(Distribution::error) || fell(|of| of.others_share) {
        Verification::Helped(told)
    } else {
        did_not_help(format!("{told}: a larger list does not help"))
    }
}

fn told(figures: &Distribution) -> String {
    let (share, error) = (figures.others_share * 100.0, format_count(figures.error().round()));
    format!("{} of the rows out of it with an error of {error}", format_number(share, Unit::Percent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{Draft, Offender};
    use crate::remedy::{Undo, find};
    use crate::severity::Severity;
    use crate::system::{SystemId, SystemKind};

    fn step(target: Option<u32>) -> Step {
        let (database, schema, table) = ("docrag".into(), "public".into(), "chunks".into());
        let system = SystemId::new(SystemKind::Postgres, "main");
        let (column, seen, relation) = ("tenant".into(), None, None);
        Step::SetStatistics { system, database, schema, table, column, target, seen, relation }
    }

    fn column(target: Option<u32>, common: u32, least: f64) -> StepState {
        let in_force = target.unwrap_or(100);
        let figures = Distribution { target, in_force, common, least, others_share: 0.5, others: 50_000.0 };
        StepState::Column { figures, relation: Some(77) }
    }

    #[test]
    fn targets_double_up_to_a_thousand() {
        assert_eq!([100, 300, 600, 1_000, 5_000].map(next_target), [Some(200), Some(600), Some(1_000), None, None]);
    }

    #[test]
    fn the_statements_are_those_of_every_version() {
        assert_eq!(
            step(Some(200)).statement(),
            "ALTER TABLE \"public\".\"chunks\" ALTER COLUMN \"tenant\" SET STATISTICS 200; ANALYZE \"public\".\"chunks\" (\"tenant\")"
        );
        assert!(step(None).statement().contains("SET STATISTICS -1;"));
        assert_eq!(step(None).subject(), "postgres.main column docrag.public.chunks.tenant");
    }

    #[test]
    fn it_helped_when_the_list_holds_all_that_is_common_or_the_error_fell() {
        use Verification::{DidNotHelp, Helped};
        let verdict = |after: &StepState| step(Some(200)).verify(&column(None, 100, 0.001), after);
        assert!(matches!(verdict(&column(Some(200), 150, 0.001)), Helped(_)), "no more are common");
        assert!(matches!(verdict(&column(Some(200), 200, 0.0005)), Helped(_)), "half the error");
        assert!(matches!(verdict(&column(Some(200), 200, 0.00095)), DidNotHelp(_)), "as wrong as before");
        let fewer = Distribution { others_share: 0.4, others: 40_000.0, ..figures(&column(Some(200), 200, 0.001)) };
        let fewer = StepState::Column { figures: fewer, relation: None };
        assert!(matches!(verdict(&fewer), Helped(_)), "as wrong for fewer rows");
        assert!(matches!(verdict(&column(None, 100, 0.001)), DidNotHelp(_)), "it was not set");
        assert!(matches!(verdict(&StepState::Gone), DidNotHelp(_)));
        assert!(matches!(verdict(&column(Some(200), 100, 0.001)), DidNotHelp(_)), "set, and not analyzed");
        let lowered = step(Some(200)).verify(&column(Some(5_000), 5_000, 0.000_1), &column(Some(200), 200, 0.001));
        assert!(matches!(lowered, DidNotHelp(_)), "somebody's own target was lowered: {lowered:?}");
    }

    fn figures(state: &StepState) -> Distribution {
        let StepState::Column { figures, .. } = state else { panic!("{state:?}") };
        *figures
    }

    #[test]
    fn it_is_put_back_to_the_very_target_of_before() {
        for old in [None, Some(150)] {
            let before = column(old, 150, 0.001);
            let Undo::By(undo) = step(Some(300)).undo(&before) else { panic!("nothing is put back") };
            assert!(
                matches!(&*undo, Step::SetStatistics { target, seen: Some(300), relation: Some(77), .. } if *target == old),
                "{undo:?}: only what was set is taken back, and from that very table"
            );
            assert!(undo.has_nothing_to_undo(&before) && undo.has_nothing_to_undo(&StepState::Gone));
            assert!(!undo.has_nothing_to_undo(&column(Some(300), 300, 0.001)));
            let back = undo.verify(&column(Some(300), 300, 0.0009), &before);
            assert!(matches!(back, Verification::Helped(_)), "{back:?}");
            assert!(matches!(
                undo.verify(&column(Some(300), 300, 0.001), &column(Some(300), 300, 0.001)),
                Verification::DidNotHelp(_)
            ));
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_into_the_journal_is_read() {
        let old = r#"{"state":"column","target":null,"in_force":100,"common":100,"least":0.001,"others_share":0.5,"others":50000.0}"#;
        let read: StepState = serde_json::from_str(old).unwrap();
        assert_eq!(read, StepState::Column { figures: figures(&column(None, 100, 0.001)), relation: None });
        assert_eq!(serde_json::to_string(&read).unwrap(), old, "and an earlier version reads it");
        let kept = serde_json::to_string(&column(Some(200), 100, 0.001)).unwrap();
        assert_eq!(serde_json::from_str::<StepState>(&kept).unwrap(), column(Some(200), 100, 0.001));
        let Undo::By(undo) = step(Some(300)).undo(&read) else { panic!("nothing is put back") };
        assert!(matches!(&*undo, Step::SetStatistics { relation: None, .. }), "{undo:?}");
        let known: Step = serde_json::from_str(&serde_json::to_string(&undo).unwrap()).unwrap();
        assert_eq!(known, *undo);
    }

    #[test]
    fn each_column_of_a_finding_is_proposed_with_its_own_target() {
        let target = |name: &str, target, seen| Target::Column {
            database: "docrag".into(),
            schema: "public".into(),
            table: "chunks".into(),
            name: name.into(),
            target,
            seen,
        };
        let offenders = [target("tenant", Some(200), Some(100)), target("at_its_end", None, Some(1_000))]
            .map(|target| Offender { target, weight: 1.0, note: "coarse".into() });
        let draft = Draft::new(Severity::Info, "2 columns").offenders(offenders.to_vec());
        let system = SystemId::new(SystemKind::Postgres, "main");
        let finding = Finding::from_draft("postgres.statistics_too_coarse", &system, draft);
        let steps: Vec<Step> = (find("postgres.raise_statistics_target").unwrap().propose)(&finding)
            .into_iter()
            .map(|proposal| proposal.step)
            .collect();
        assert!(matches!(&steps[..], [Step::SetStatistics { target: Some(200), seen: Some(100), .. }]), "{steps:?}");
    }
}
