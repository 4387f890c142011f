//! The pace of the leading statements, by their `queryid`: three rates each, so that the mean of any span is the quotient
//! of two of them, weighted as it should be.

use super::Samples;
use crate::observation::{Leaders, Postgres, Statement};
use crate::quantity::Unit;

/// By time in all since the statistics began, which changes slowly: the record keeps few series of statements.
const KEPT: usize = 10;
/// A statement that ran less often may never run again.
const MINIMUM_CALLS: u64 = 100;

pub(super) fn statements(to: &mut Samples<'_>, seen: &Postgres, before: Option<&Postgres>, elapsed: f64) {
    let (Some(now), Some(earlier)) = (leaders(seen), before.and_then(leaders)) else { return };
    if elapsed <= 0.0 || now.were_reset_since(earlier) {
        return;
    }
    let mut most: Vec<&Statement> =
        now.statements.iter().filter(|statement| statement.calls >= MINIMUM_CALLS).collect();
    most.sort_by(|a, b| b.time.total_cmp(&a.time));
    for statement in most.into_iter().take(KEPT) {
        let before = earlier.statements.iter().find(|before| before.query_id == statement.query_id);
        let Some(between) = before.and_then(|before| statement.since(before)) else { continue };
        let subject = statement.query_id.to_string();
        to.of("statement_load", &subject, between.time / elapsed, Unit::Ratio);
        to.of("statement_calls", &subject, between.calls as f64 / elapsed, Unit::PerSecond);
        to.of("statement_rows", &subject, between.rows as f64 / elapsed, Unit::PerSecond);
    }
}

fn leaders(seen: &Postgres) -> Option<&Leaders> {
    Some(seen.statements.leaders.as_ref()?.as_ref().ok()?)
}
