//! The things under care and their names: `postgres.main`, `redis.cache`, `http.api`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The kinds of system that this build can look after. A kind that is not listed is not supported yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemKind {
    Postgres,
    Redis,
    Http,
    Host,
    Logs,
    /// The repository of backups: one in an installation, `backup.main`.
    Backup,
}

impl SystemKind {
    pub const ALL: [Self; 6] = [Self::Postgres, Self::Redis, Self::Http, Self::Host, Self::Logs, Self::Backup];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Http => "http",
            Self::Host => "host",
            Self::Logs => "logs",
            Self::Backup => "backup",
        }
    }
}

impl fmt::Display for SystemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SystemKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no kind of system; use postgres, redis, http, host, logs or backup"))
    }
}

/// One instance under care, written `kind.name` as in the table of the configuration that declares it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SystemId {
    pub kind: SystemKind,
    pub name: String,
}

impl SystemId {
    pub fn new(kind: SystemKind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.kind, self.name))
    }
}

impl FromStr for SystemId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text
            .split_once('.')
            .ok_or_else(|| format!("`{text}` names no system; write kind.name, such as postgres.main"))?;
        Ok(Self::new(kind.parse()?, name))
    }
}

impl From<SystemId> for String {
    fn from(id: SystemId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for SystemId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
