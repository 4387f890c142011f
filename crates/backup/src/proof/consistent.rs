//! Rung 6: every chunk of the restored Postgres is a point of the restored Qdrant, and the other way round, but for what
//! the outbox says was under way while the set was made.

use groundskeeper_core::quantity::format_count;
use groundskeeper_core::receipt::{ClimbOutcome, Meanwhile, PointId, Tie};
use groundskeeper_systems::postgres::tie::Chunks;
use std::collections::HashSet;

/// Ids that are named of many.
const NAMED: usize = 5;

/// A tie of a set, and what a drill found at its two ends.
#[derive(Debug)]
pub(crate) struct Tied<'a> {
    pub(crate) tie: &'a Tie,
    /// The part with the points.
    pub(crate) qdrant: &'a str,
    pub(crate) chunks: Option<Result<Chunks, String>>,
    pub(crate) points: Option<Result<Vec<PointId>, String>>,
}

impl Tied<'_> {
    pub(crate) fn outcome(self) -> ClimbOutcome {
        match self.compared() {
            Ok(Ok(shown)) => ClimbOutcome::Proven { shown, not_covered: Vec::new() },
            Ok(Err(why)) => ClimbOutcome::Failed { why },
            Err(why) => ClimbOutcome::NotTried { why },
        }
    }

    /// The outer error is why they were not compared.
    fn compared(self) -> Result<Result<String, String>, String> {
        let Self { tie, qdrant, chunks, points } = self;
        let chunks = chunks.ok_or_else(|| format!("{} was not asked for its chunks", tie.postgres))?;
        let chunks = chunks.map_err(|why| format!("{}: {why}", tie.postgres))?;
        let points = points.ok_or_else(|| format!("no Qdrant was asked for the points of {qdrant}"))?;
        let points = points.map_err(|why| format!("{qdrant}: {why}"))?;
        let changed = changed(tie, &chunks)?;
        let both = format!(
            "{} chunks of {} and {} points of {qdrant}",
            count(chunks.ids.len()),
            tie.postgres,
            count(points.len())
        );
        let missing: Vec<PointId> = only_in_first(&chunks.ids, &points).collect();
        let orphaned: Vec<PointId> = only_in_first(&points, &chunks.ids).collect();
        let differ = missing.len() + orphaned.len();
        let unexplained = |ids: Vec<PointId>| ids.into_iter().filter(|id| !changed.contains(id)).collect::<Vec<_>>();
        let (missing, orphaned) = (unexplained(missing), unexplained(orphaned));
        let wrong = [(missing, "chunks without a point"), (orphaned, "points without a chunk")];
        let wrong: Vec<String> =
            wrong.iter().filter(|(ids, _)| !ids.is_empty()).map(|(ids, what)| told(ids, what)).collect();
        if !wrong.is_empty() {
            return Ok(Err(format!("{both} do not agree: {}", wrong.join("; "))));
        }
        let under_way = match differ {
            0 => String::new(),
            differ => format!(", but for {} that changed while the set was made", count(differ)),
        };
        Ok(Ok(format!("{both} agree{under_way}")))
    }
}

/// Chunks that may differ with right.
fn changed(tie: &Tie, chunks: &Chunks) -> Result<HashSet<PointId>, String> {
    let (under_way, meanwhile) = match (&chunks.under_way, &tie.meanwhile) {
        (None, None) => return Ok(HashSet::new()),
        (Some(under_way), Some(meanwhile)) => (under_way, meanwhile),
        _ => return Err("the outbox was asked at one of the two moments only".to_owned()),
    };
    let Meanwhile::Seen { pruned, changes } = meanwhile else {
        let Meanwhile::Lost { why } = meanwhile else { return Ok(HashSet::new()) };
        return Err(format!("what changed while the set was made is not known: {why}"));
    };
    if pruned.is_some_and(|pruned| pruned > under_way.followed) {
        return Err("the outbox was pruned while the set was made, so what changed meanwhile is not known".to_owned());
    }
    let later = changes.iter().filter(|(seq, _)| *seq > under_way.followed).map(|(_, id)| id.parse());
    let mut changed = later.collect::<Result<HashSet<PointId>, String>>()?;
    changed.extend(under_way.changes.iter().map(|(_, id)| *id));
    Ok(changed)
}

/// Both are in order.
fn only_in_first<'a>(first: &'a [PointId], second: &'a [PointId]) -> impl Iterator<Item = PointId> + 'a {
    let mut second = second.iter().peekable();
    first.iter().copied().filter(move |id| {
        while second.next_if(|other| *other < id).is_some() {}
        second.peek() != Some(&id)
    })
}

/// `chunks without a point: 2 (7, 9)`
fn told(ids: &[PointId], what: &str) -> String {
    let named: Vec<String> = ids.iter().take(NAMED).map(PointId::to_string).collect();
    let more = if ids.len() > NAMED { " …" } else { "" };
    format!("{what}: {} ({}{more})", count(ids.len()), named.join(", "))
}

fn count(number: usize) -> String {
    format_count(number as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::Statements;
    use groundskeeper_systems::postgres::tie::UnderWay;

    fn ids(numbers: &[u64]) -> Vec<PointId> {
        numbers.iter().copied().map(PointId::Number).collect()
    }

    fn tie(meanwhile: Option<Meanwhile>) -> Tie {
        Tie {
            postgres: "postgres.main".into(),
            database: "docrag".into(),
            collection: "docrag".into(),
            statements: Statements::of_docrag(),
            meanwhile,
        }
    }

    fn outcome(tie: &Tie, chunks: &[u64], under_way: Option<UnderWay>, points: &[u64]) -> ClimbOutcome {
        let chunks = Some(Ok(Chunks { ids: ids(chunks), under_way }));
        Tied { tie, qdrant: "qdrant.main", chunks, points: Some(Ok(ids(points))) }.outcome()
    }

    fn seen(pruned: Option<i64>, changes: &[(i64, u64)]) -> Meanwhile {
        let changes = changes.iter().map(|(seq, id)| (*seq, id.to_string())).collect();
        Meanwhile::Seen { pruned, changes }
    }

    #[test]
    fn without_an_outbox_everything_has_to_agree() {
        let tie = tie(None);
        assert!(matches!(outcome(&tie, &[1, 2, 3], None, &[1, 2, 3]), ClimbOutcome::Proven { .. }));
        assert!(matches!(outcome(&tie, &[], None, &[]), ClimbOutcome::Proven { .. }));
        let ClimbOutcome::Failed { why } = outcome(&tie, &[1, 2, 4, 6], None, &[2, 3, 6, 9]) else {
            panic!("it differs")
        };
        assert!(
            why.contains("chunks without a point: 2 (1, 4)") && why.contains("points without a chunk: 2 (3, 9)"),
            "{why}"
        );
    }

    #[test]
    fn what_the_outbox_names_may_differ_and_nothing_else() {
        // 4 was in the outbox of the restored database, 3 came after its position, and 5 before the points had followed.
        let under_way = || Some(UnderWay { followed: 10, changes: vec![(11, PointId::Number(4))] });
        let tie = tie(Some(seen(Some(10), &[(9, 5), (12, 3)])));
        let ClimbOutcome::Proven { shown, .. } = outcome(&tie, &[1, 4], under_way(), &[1, 3]) else {
            panic!("it agrees")
        };
        assert!(shown.ends_with("but for 2 that changed while the set was made"), "{shown}");
        let ClimbOutcome::Failed { why } = outcome(&tie, &[1, 4], under_way(), &[1, 5]) else {
            panic!("5 had been followed")
        };
        assert!(why.contains("points without a chunk: 1 (5)"), "{why}");
    }

    #[test]
    fn what_is_not_known_is_not_compared() {
        let under_way = || Some(UnderWay { followed: 10, changes: Vec::new() });
        let late = tie(Some(seen(Some(11), &[])));
        let ClimbOutcome::NotTried { why } = outcome(&late, &[1], under_way(), &[1]) else { panic!("it was pruned") };
        assert!(why.contains("pruned"), "{why}");
        let lost = tie(Some(Meanwhile::Lost { why: "no server".into() }));
        assert!(matches!(outcome(&lost, &[1], under_way(), &[1]), ClimbOutcome::NotTried { .. }));
        let tie = tie(None);
        let unasked = Tied { tie: &tie, qdrant: "qdrant.main", chunks: None, points: Some(Ok(Vec::new())) };
        assert!(matches!(unasked.outcome(), ClimbOutcome::NotTried { .. }));
    }
}
