//! For tests: reads the answers of all checks of a system, so that "exactly one finding" is one line.

use super::{Judgement, Status};
use crate::severity::Severity;

/// The findings over all checks: (check, severity).
pub(crate) fn failing(judgements: &[Judgement]) -> Vec<(String, Severity)> {
    let mut found = Vec::new();
    for judgement in judgements {
        if let Status::Failing { findings } = &judgement.status {
            for finding in findings {
                assert!(!finding.evidence.is_empty(), "{} shows no evidence", finding.check);
                assert!(!finding.fix.is_empty(), "{} says no next step", finding.check);
                found.push((finding.check.clone(), finding.severity));
            }
        }
    }
    found
}

pub(crate) fn one(check: &str, severity: Severity) -> Vec<(String, Severity)> {
    vec![(check.to_owned(), severity)]
}

pub(crate) fn status(judgements: &[Judgement], check: &str) -> &'static str {
    judgements.iter().find(|judgement| judgement.check == check).map(|found| found.status.as_str()).unwrap()
}
