//! What ties the points of a Qdrant to the chunks of a Postgres, so that the two can be compared after a restore.
//!
//! The two are copied at different moments. What changed in between is known from the outbox: the table that says which
//! chunks an index has to follow.

use serde::{Deserialize, Serialize};

/// One of them. The statements are part of it, so that a set can be compared where its configuration is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tie {
    /// The part with the chunks: `postgres.main`.
    pub postgres: String,
    pub database: String,
    /// The collection with the points, or an alias that leads to it.
    pub collection: String,
    pub statements: Statements,
    /// What happened while the set was made. None: no outbox is known, and all has to agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meanwhile: Option<Meanwhile>,
}

/// How a database is asked, in SQL that names every schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statements {
    /// The id of every chunk that has to be a point: a UUID or a number from 0.
    pub chunks: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox: Option<Outbox>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbox {
    /// The number and the chunk's id of every entry after the number `$1`.
    pub changes: String,
    /// The number up to which the points have followed.
    pub followed: String,
    /// The number up to which entries were removed. None: they never are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<String>,
}

/// What the outbox said after the points were copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Meanwhile {
    Seen {
        /// Entries up to here are gone.
        pruned: Option<i64>,
        /// Every entry since before the copies were begun, with the id of its chunk.
        changes: Vec<(i64, String)>,
    },
    /// The two cannot be compared.
    Lost { why: String },
}

impl Statements {
    /// Those of Doc-RAG.
    pub fn of_docrag() -> Self {
        let of_qdrant = "index_name = 'qdrant' AND replica = 'shared'";
        Self {
            chunks: format!(
                "SELECT v.id FROM public.vectors v WHERE v.embedding IS NOT NULL \
                 AND v.generation = (SELECT generation FROM public.followers WHERE {of_qdrant})"
            ),
            outbox: Some(Outbox {
                changes: "SELECT seq, chunk_id FROM public.outbox WHERE change IN ('vector', 'delete') AND seq > $1"
                    .to_owned(),
                followed: format!("SELECT applied_seq FROM public.followers WHERE {of_qdrant}"),
                pruned: Some("SELECT seq FROM public.outbox_pruned".to_owned()),
            }),
        }
    }
}
