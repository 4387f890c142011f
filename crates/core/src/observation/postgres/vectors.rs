//! What pgvector has in the connected database: its indexes, columns without one, and what its searches are told to do.

use super::TableName;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Vectors {
    /// The largest 500, valid ones only.
    pub indexes: Vec<VectorIndex>,
    /// Columns of vectors on whose table no index of vectors is, of the largest 200 tables.
    pub unindexed: Vec<VectorColumn>,
    /// What the server, databases and roles are given besides the defaults; what a session gives itself is not seen.
    pub settings: Vec<VectorSetting>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VectorIndex {
    pub table: TableName,
    pub name: String,
    pub kind: VectorIndexKind,
    /// Bytes, from `relpages`.
    pub size: u64,
    /// Scans since the statistics were reset.
    pub scans: u64,
    /// None for an expression.
    pub column: Option<String>,
    /// `vector_cosine_ops` …: which operator of a query it answers.
    pub operators: String,
    /// Rows that are in it, as estimated; none when they were never counted.
    pub rows: Option<f64>,
    /// Of its table.
    pub dead_rows: u64,
    /// Seconds of one vacuum of its table, on average (18 on).
    pub vacuum_seconds: Option<f64>,
}

/// What it was made with, or the defaults of pgvector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "method")]
pub enum VectorIndexKind {
    Hnsw { m: u32, ef_construction: u32 },
    IvfFlat { lists: u32 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VectorColumn {
    pub table: TableName,
    pub name: String,
    /// `vector`, `halfvec`, `sparsevec`.
    pub kind: String,
    /// None where each row may have its own number.
    pub dimensions: Option<u32>,
    pub rows: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorSetting {
    /// `hnsw.ef_search`, `hnsw.iterative_scan`, `ivfflat.probes`, `maintenance_work_mem`.
    pub name: String,
    pub value: String,
    /// `the server`, `role app`, `role app in database docrag` …
    pub of: String,
}

impl VectorIndex {
    pub fn is_hnsw(&self) -> bool {
        matches!(self.kind, VectorIndexKind::Hnsw { .. })
    }
}

impl Vectors {
    /// The largest number that anybody is given; none where nobody is given one.
    pub fn most(&self, name: &str) -> Option<f64> {
        let given = self.settings.iter().filter(|setting| setting.name == name);
        given.filter_map(|setting| setting.value.parse().ok()).max_by(f64::total_cmp)
    }
}
