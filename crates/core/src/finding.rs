//! A fact that a check judged wrong, with the evidence and the next step.
//!
//! A finding's identity is its fingerprint: check, system and subject. Everything else (the number, the sentence, the
//! severity) may change while the finding stays the same one. Many sick things of one kind (two hundred stale tables)
//! are *one* finding with many offenders, so that a person gets one message and a remedy still gets every name.

use crate::quantity::Value;
use crate::receipt::Rung;
use crate::remedy::Advance;
use crate::severity::Severity;
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// The first 16 hex digits of the SHA-256 of check, system and subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    pub fn of(check: &str, system: &SystemId, subject: &Target) -> Self {
        let digest = Sha256::digest(format!("{check}\n{system}\n{subject}"));
        Self(digest.iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
    }

    /// Enough to type; commands accept any unique prefix.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What exactly is meant: the system as a whole, or a thing in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Target {
    System,
    Database {
        name: String,
    },
    Table {
        database: String,
        schema: String,
        name: String,
    },
    Index {
        database: String,
        schema: String,
        table: String,
        name: String,
    },
    Column {
        database: String,
        schema: String,
        table: String,
        name: String,
        /// The statistics target that it may be given, where it may.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<u32>,
        /// The target of its own that it was seen with; none is the server's default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<u32>,
    },
    Sequence {
        database: String,
        schema: String,
        name: String,
        /// How it may be moved on, where it may.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        advance: Option<Box<Advance>>,
    },
    /// A backend is pid *and* start time: pids are used again.
    Session {
        pid: i32,
        backend_start: Timestamp,
    },
    Standby {
        name: String,
    },
    Path {
        path: String,
    },
    /// A step of the proof ladder.
    Rung {
        rung: Rung,
    },
    /// A part that a backup set should hold.
    Source {
        system: String,
    },
    /// A setting of the server.
    Setting {
        name: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::System => String::new(),
            Self::Database { name } => format!("database {name}"),
            Self::Table { database, schema, name } => format!("table {database}.{schema}.{name}"),
            Self::Index { database, schema, name, .. } => format!("index {database}.{schema}.{name}"),
            Self::Column { database, schema, table, name, .. } => format!("column {database}.{schema}.{table}.{name}"),
            Self::Sequence { database, schema, name, .. } => format!("sequence {database}.{schema}.{name}"),
            Self::Session { pid, backend_start } => format!("session {pid} (started {backend_start:.3})"),
            Self::Standby { name } => format!("standby {name}"),
            Self::Path { path } => path.clone(),
            Self::Rung { rung } => format!("rung {} {rung}", rung.number()),
            Self::Source { system } => system.clone(),
            Self::Setting { name } => format!("setting {name}"),
        };
        f.pad(&text)
    }
}

/// One measured fact: the value, the threshold it crossed (if one did), and where it came from (the SQL, the INFO
/// field, the URL), so that a person can look at the same place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub what: String,
    pub value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Value>,
    pub source: String,
}

/// One of the things that make up a finding. A remedy acts on these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offender {
    pub target: Target,
    /// How bad, to sort by; the unit is the check's own.
    pub weight: f64,
    /// One line for a person: who, since when, how much.
    pub note: String,
}

/// A finding as the judging function writes it: without check and system, which the evaluator knows better.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub subject: Target,
    pub severity: Severity,
    pub summary: String,
    pub evidence: Vec<Evidence>,
    pub offenders: Vec<Offender>,
    pub fix: String,
}

impl Draft {
    /// `summary` is one plain sentence with the number in it, about the system as a whole unless `about` says otherwise.
    pub fn new(severity: Severity, summary: impl Into<String>) -> Self {
        Self {
            subject: Target::System,
            severity,
            summary: summary.into(),
            evidence: Vec::new(),
            offenders: Vec::new(),
            fix: String::new(),
        }
    }

    #[must_use]
    pub fn about(mut self, subject: Target) -> Self {
        self.subject = subject;
        self
    }

    /// A measured value without a threshold of its own.
    #[must_use]
    pub fn saw(mut self, what: impl Into<String>, value: Value, source: impl Into<String>) -> Self {
        self.evidence.push(Evidence { what: what.into(), value, threshold: None, source: source.into() });
        self
    }

    /// A measured value and the threshold that it crossed.
    #[must_use]
    pub fn against(
        mut self,
        what: impl Into<String>,
        value: Value,
        threshold: Value,
        source: impl Into<String>,
    ) -> Self {
        self.evidence.push(Evidence { what: what.into(), value, threshold: Some(threshold), source: source.into() });
        self
    }

    /// Worst first, whatever the order given.
    #[must_use]
    pub fn offenders(mut self, mut offenders: Vec<Offender>) -> Self {
        offenders.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        self.offenders = offenders;
        self
    }

    /// The exact next step: a statement, a command, a setting.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub fingerprint: Fingerprint,
    pub check: String,
    pub system: SystemId,
    pub subject: Target,
    pub severity: Severity,
    pub summary: String,
    pub evidence: Vec<Evidence>,
    #[serde(default)]
    pub offenders: Vec<Offender>,
    pub fix: String,
}

impl Finding {
    pub fn from_draft(check: &str, system: &SystemId, draft: Draft) -> Self {
        Self {
            fingerprint: Fingerprint::of(check, system, &draft.subject),
            check: check.to_owned(),
            system: system.clone(),
            subject: draft.subject,
            severity: draft.severity,
            summary: draft.summary,
            evidence: draft.evidence,
            offenders: draft.offenders,
            fix: draft.fix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SystemKind;

    #[test]
    fn a_fingerprint_depends_on_check_system_and_subject_only() {
        let main = SystemId::new(SystemKind::Postgres, "main");
        let other = SystemId::new(SystemKind::Postgres, "other");
        let one = Finding::from_draft("postgres.x", &main, Draft::new(Severity::Info, "3 of 5"));
        let two = Finding::from_draft("postgres.x", &main, Draft::new(Severity::Critical, "5 of 5"));
        assert_eq!(one.fingerprint, two.fingerprint);
        assert_ne!(one.fingerprint, Fingerprint::of("postgres.x", &other, &Target::System));
        assert_ne!(one.fingerprint, Fingerprint::of("postgres.x", &main, &Target::Database { name: "a".into() }));
        assert_eq!(one.fingerprint.0.len(), 16);
    }
}
