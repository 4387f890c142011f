//! A plan: what would be done and why, and what would not be done and why not.
//!
//! A dry run prints this very value and the executor takes this very value, so they cannot differ. The hash names the
//! exact steps: an approval of one plan is worth nothing for another.

use crate::finding::{Finding, Fingerprint};
use crate::policy::{Consent, Decision, Outcome, PastAction, Policy, Situation, permit};
use crate::remedy::{REMEDIES, Remedy, RiskClass, Step};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanItem {
    pub remedy: String,
    pub class: RiskClass,
    pub step: Step,
    /// The statement that would be sent, for reading.
    pub statement: String,
    pub why: String,
    pub expected: String,
    pub finding: Fingerprint,
    pub decision: Decision,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub made: Timestamp,
    /// SHA-256 over the steps in order, hex. Commands take its first eight digits or more.
    pub hash: String,
    pub items: Vec<PlanItem>,
}

impl Plan {
    pub fn new(made: Timestamp, items: Vec<PlanItem>) -> Self {
        let mut hasher = Sha256::new();
        for item in &items {
            hasher.update(item.remedy.as_bytes());
            hasher.update(b"\n");
            hasher.update(serde_json::to_vec(&item.step).unwrap_or_default());
            hasher.update(b"\n");
        }
        let hash = hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Self { made, hash, items }
    }

    pub fn short_hash(&self) -> &str {
        self.hash.get(..8).unwrap_or(&self.hash)
    }

    pub fn to_do(&self) -> impl Iterator<Item = &PlanItem> {
        self.items.iter().filter(|item| item.decision == Decision::Do)
    }

    pub fn needing_approval(&self) -> usize {
        self.items.iter().filter(|item| matches!(item.decision, Decision::NeedsApproval { .. })).count()
    }
}

/// Plans for open findings. Ended sessions come first (they may be what blocks the rest), then vacuum, then analyze; a
/// table that is vacuumed is analyzed in the same pass and is not planned twice.
pub fn plan(findings: &[Finding], policy: &Policy, situation: &Situation, now: Timestamp) -> Plan {
    let mut situation = situation.clone();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut items = Vec::new();
    for remedy in by_urgency() {
        for finding in findings.iter().filter(|finding| remedy.check == Some(finding.check.as_str())) {
            for proposal in (remedy.propose)(finding) {
                if !taken.insert(proposal.step.subject()) {
                    continue;
                }
                let decision =
                    permit(remedy, &proposal.step, &finding.fingerprint, policy, &situation, Consent::default(), now);
                if decision == Decision::Do {
                    situation.history.push(planned(remedy, &proposal.step, now));
                }
                items.push(PlanItem {
                    remedy: remedy.id.to_owned(),
                    class: remedy.class,
                    statement: proposal.step.statement(),
                    step: proposal.step,
                    why: proposal.why,
                    expected: proposal.expected,
                    finding: finding.fingerprint.clone(),
                    decision,
                });
            }
        }
    }
    Plan::new(now, items)
}

fn by_urgency() -> Vec<&'static Remedy> {
    let mut remedies: Vec<&Remedy> = REMEDIES.iter().collect();
    remedies.sort_by_key(|remedy| std::cmp::Reverse(remedy.class));
    remedies
}

/// Counts a planned step against the caps of the ones after it.
fn planned(remedy: &Remedy, step: &Step, now: Timestamp) -> PastAction {
    PastAction {
        remedy: remedy.id.to_owned(),
        class: remedy.class,
        subject: step.subject(),
        at: now,
        outcome: Outcome::Running,
    }
}

#[cfg(test)]
mod tests;
