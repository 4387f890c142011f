//! The indexes and constraints of the connected database, as its catalogue has them.

use crate::observation::Part;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Each part is a question of its own: one that fails takes no other with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Structure {
    /// Of user tables, the largest 5,000.
    pub indexes: Part<Vec<Index>>,
    pub foreign_keys: Part<ForeignKeys>,
    /// Tables without a primary key.
    pub without_key: Part<Vec<TableName>>,
    /// Constraints that new rows must meet and old ones were never checked against (`NOT VALID`).
    pub unvalidated: Part<Vec<Named>>,
    /// Triggers that were switched off, those of foreign keys among them.
    pub disabled_triggers: Part<Vec<Trigger>>,
}

/// A database that was read and has nothing of all that.
impl Default for Structure {
    fn default() -> Self {
        Self {
            indexes: Ok(Vec::new()),
            foreign_keys: Ok(ForeignKeys::default()),
            without_key: Ok(Vec::new()),
            unvalidated: Ok(Vec::new()),
            disabled_triggers: Ok(Vec::new()),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ForeignKeys {
    /// Those whose columns no index of their own table begins with.
    pub unindexed: Vec<ForeignKey>,
    /// Those with a column whose type differs from that of the column that it refers to.
    pub mismatched: Vec<ForeignKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// Something of a table that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub table: TableName,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub table: TableName,
    pub name: String,
    /// The foreign key (or other constraint) that it is a part of.
    pub constraint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    pub table: TableName,
    pub name: String,
    /// `btree`, `hash`, `hnsw` …
    pub method: String,
    /// Bytes, from `relpages`.
    pub size: u64,
    /// Scans since the statistics were reset.
    pub scans: u64,
    /// `indisvalid`: queries may use it.
    pub is_valid: bool,
    /// Somebody builds it at this moment.
    pub is_being_built: bool,
    pub is_unique: bool,
    /// Primary key, exclusion, or what a unique constraint, a foreign key or the replica identity rests on.
    pub is_needed: bool,
    /// A part of a partitioned table's index.
    pub is_partition: bool,
    /// The key columns, in order: column number (0 for an expression), operator class, collation and options.
    pub keys: Vec<String>,
    /// The numbers of the columns that are only included.
    pub included: Vec<i32>,
    /// What it enforces: two unique indexes of the same columns may treat nulls or the moment of the check differently.
    pub rule: String,
    /// A sum of the expressions and of the predicate; empty when there are none.
    pub expressions: String,
    pub predicate: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForeignKey {
    pub table: TableName,
    pub name: String,
    pub columns: Vec<String>,
    pub referenced: TableName,
    /// Its table has partitions: an index cannot be made concurrently on all of them at once.
    pub is_partitioned: bool,
    /// Rows of the table that refers, as estimated; none when it was never analyzed.
    pub rows: Option<f64>,
}
