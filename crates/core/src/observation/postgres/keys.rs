//! Counters that come to an end: integer keys and the sequences that fill them.

use super::TableName;
use serde::{Deserialize, Serialize};

/// Those that end before `bigint` does, of the connected database. Sequences that start again at their end are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IntegerKeys {
    /// At most 500 sequences and 500 keys without one.
    pub keys: Vec<IntegerKey>,
    /// Sequences whose position is hidden from us.
    pub hidden_sequences: Vec<TableName>,
    /// Keys without a sequence whose statistics are hidden from us.
    pub hidden_keys: Vec<TableName>,
    /// Sequences beyond the 500 that were read.
    pub unread: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntegerKey {
    /// The table and the column that it fills; none for a sequence that no column is known to use.
    pub column: Option<(TableName, String)>,
    /// None for a key that something else fills.
    pub sequence: Option<TableName>,
    /// `integer`, `smallint`; of a sequence without a column, its own type.
    pub of_type: String,
    /// 0 to 1: how much of what it may count is used.
    pub used: f64,
    /// The last value that it gave; of a key without a sequence, the largest that the last ANALYZE met.
    pub last: i64,
    /// The last that the column and the sequence both allow.
    pub limit: i64,
}
