//! What the tables of a Postgres held at one position of its WAL, to be compared with a restored copy.

use super::Lsn;
use serde::{Deserialize, Serialize};

/// Whether it is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Fingerprints {
    Taken(Contents),
    /// The set is as good as it would be with them; that it is faithful cannot be shown.
    NotTaken {
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// A recovery that stops before the first WAL record at or after this position has exactly these contents.
    pub at: Lsn,
    /// How nobody could write in between.
    pub moment: Moment,
    /// Every transaction below this number was over at that position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_below: Option<u64>,
    pub databases: Vec<DatabaseContents>,
    /// What was not looked at, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
}

/// How the position was found at which everything was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Nobody wrote.
    Quiet,
    /// The tables were locked `IN SHARE MODE` for an instant.
    Locked,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseContents {
    pub name: String,
    pub tables: Vec<TableContents>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableContents {
    /// With its schema, quoted as SQL wants it.
    pub name: String,
    pub rows: u64,
    /// The sum of the 64-bit hashes of all rows, in any order.
    pub fingerprint: String,
    /// What is hashed of a row.
    #[serde(default)]
    pub hashed: Hashed,
    /// Of a large table only so many per cent of its pages were read: the same in every copy (`TABLESAMPLE SYSTEM`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<f64>,
}

/// How a row is hashed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hashed {
    /// Its text (`hashtextextended`): every type has one, and making it takes long.
    #[default]
    Text,
    /// Its values, by the hash functions of their types (`hash_record_extended`, from Postgres 14 on): where all have one.
    Record,
}

impl Contents {
    pub fn tables(&self) -> impl Iterator<Item = (&str, &TableContents)> {
        self.databases.iter().flat_map(|database| database.tables.iter().map(|table| (database.name.as_str(), table)))
    }
}
