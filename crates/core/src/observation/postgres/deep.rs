//! What only the deeper rounds ask: the daily health check, the weekly maintenance, and a plan that somebody asks for.
//!
//! To find it out means to look into users' tables, by an index and for a moment each, or to plan their statements. The watch does
//! not do that.

use super::{Distributions, Plans, TableName};
use crate::observation::Part;
use crate::remedy::{Advance, FilledColumn};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deep {
    pub sequences: Part<Sequences>,
    pub distributions: Part<Distributions>,
    /// None where `pg_stat_statements` cannot be used.
    pub plans: Part<Option<Plans>>,
}

/// The sequences of the connected database that fill integer columns, against what those columns hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sequences {
    /// How many were compared.
    pub compared: u64,
    /// Those whose next values are in the table already, or some of them.
    pub behind: Vec<SequenceBehind>,
    /// Those that were not compared, and why.
    pub not_compared: Vec<(TableName, NotCompared)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceBehind {
    pub sequence: TableName,
    /// The columns that it fills, its next value, and how far it may be moved: half of what is left of its range.
    pub advance: Advance,
    pub last: i64,
    /// The first value on its way that is in a column.
    pub first: i64,
    /// The furthest one, as far as it may be moved.
    pub taken: i64,
    /// The nearest one that is further away than that.
    pub beyond: Option<i64>,
    /// A unique index of that column alone is in the way of its next values.
    pub is_unique: bool,
    /// The rows come by a subscription, which never moves sequences.
    pub is_subscribed: bool,
    /// So many values each session takes in advance; 1 is none.
    pub cache: i64,
    /// The program asks for a number itself and uses all up to the next step, as Hibernate's pooled allocation does.
    pub in_blocks: bool,
    /// Wherever one looks on the way to the furthest, at least a tenth of the numbers is taken. Looked at where it matters only.
    pub is_dense: bool,
}

/// Within so many numbers inserts will come to one that is taken.
const NEAR: i128 = 1_000;
/// One part in so many of what is left of the range may be passed by for a few rows.
const SMALL_PART: i128 = 100;

/// Why a sequence that is behind is left to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftAlone {
    Subscribed,
    InBlocks,
    NoRoom,
    Far,
    Sparse,
}

impl LeftAlone {
    pub fn told(self) -> &'static str {
        match self {
            Self::Subscribed => "its rows come by a subscription",
            Self::InBlocks => "a program takes whole blocks of numbers from it",
            Self::NoRoom => "to move it there would use up more than half of what is left of its range",
            Self::Far => "the first number that is taken is more than 1,000 away",
            Self::Sparse => "to pass by a few far rows would use up more than 1 % of what is left of its range",
        }
    }
}

fn distance(from: i64, to: i64) -> i128 {
    (i128::from(to) - i128::from(from)).abs()
}

impl SequenceBehind {
    /// None where it may be moved without a person.
    pub fn left_alone(&self) -> Option<LeftAlone> {
        match self {
            one if one.is_subscribed => Some(LeftAlone::Subscribed),
            one if one.in_blocks => Some(LeftAlone::InBlocks),
            one if !one.leaves_room() => Some(LeftAlone::NoRoom),
            one if !one.is_near() => Some(LeftAlone::Far),
            one if !one.is_small_part() && !one.is_dense => Some(LeftAlone::Sparse),
            _ => None,
        }
    }

    /// Whether it depends on `is_dense`, which takes a closer look.
    pub fn asks_for_density(&self) -> bool {
        self.left_alone() == Some(LeftAlone::Sparse)
    }

    /// A far number is in nobody's way for a long time.
    fn is_near(&self) -> bool {
        distance(self.advance.next, self.first) < NEAR * i128::from(self.advance.increment).abs()
    }

    /// The limit is in the middle of what is left.
    fn is_small_part(&self) -> bool {
        distance(self.advance.next, self.taken) * SMALL_PART <= distance(self.last, self.advance.limit) * 2
    }

    /// Whether it may be moved without a person: behind the furthest value there must be as much room again as the move
    /// takes. A single far number (the type's largest as a marker) leaves it; rows that go on beyond the limit do not, and to
    /// move there would use up more than half of what is left.
    pub fn leaves_room(&self) -> bool {
        self.beyond.is_none_or(|beyond| distance(self.taken, beyond) >= distance(self.last, self.taken))
    }
}

/// Why a sequence was not compared with its column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotCompared {
    /// Its position is hidden from us.
    HiddenSequence,
    /// We may not select from that table, or row security would hide rows.
    HiddenTable(TableName),
    /// No B-tree begins with that column, which is a part of a unique key: to look would read the whole table.
    WithoutIndex(FilledColumn),
    /// A part of the table is on another server.
    Foreign(TableName),
    /// It fills more tables than are looked into for one sequence.
    ManyTables(u64),
    /// The time was over.
    Late,
    /// The server said no: a lock, a timeout.
    Failed(String),
}
