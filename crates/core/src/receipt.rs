//! What is known of a backup set: what is in it, and how far up the proof ladder it has been shown to be good.
//!
//! A receipt lies beside the repository's own files, so that the proof outlives the keeper that made it.

mod contents;
mod parts;
mod point_id;
mod recovery;
mod tie;

pub use contents::{Contents, DatabaseContents, Fingerprints, Hashed, Moment, TableContents};
pub use parts::{Collection, Configuration, FileTree, Keyspace, Named, SnapshotFile, Vectors};
pub use point_id::PointId;
pub use recovery::Recovery;
pub use tie::{Meanwhile, Outbox, Statements, Tie};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The name of a set: when it was begun, in UTC, and a random end: `20261122T010000Z-3fa2b1c9`. Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SetId(String);

impl SetId {
    pub fn new(begun: Timestamp, random: u32) -> Self {
        Self(format!("{}-{random:08x}", begun.strftime("%Y%m%dT%H%M%SZ")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for SetId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shaped = text.len() == 25
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 => byte == b'T',
                15 => byte == b'Z',
                16 => byte == b'-',
                0..=14 => byte.is_ascii_digit(),
                _ => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
            });
        if shaped { Ok(Self(text.to_owned())) } else { Err(format!("`{text}` is no name of a set")) }
    }
}

impl From<SetId> for String {
    fn from(id: SetId) -> Self {
        id.0
    }
}

impl TryFrom<String> for SetId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A position in Postgres's write-ahead log, written `0/3000028`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff))
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let halves = text.split_once('/').and_then(|(high, low)| {
            let half = |digits: &str| (digits.len() <= 8).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
            Some(half(high)? << 32 | half(low)?)
        });
        halves.map(Self).ok_or_else(|| format!("`{text}` is no WAL position"))
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The steps of the proof ladder, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Every entry and byte that the source sent is in the repository.
    Stored,
    /// The repository's data were read back and are what was written.
    Intact,
    /// Restored into a scratch place, and what its server wrote beside the data finds nothing wrong: `pg_verifybackup`
    /// by the manifest, the CRC64 of an RDB file.
    Restored,
    /// Postgres booted from it and `pg_amcheck` found nothing wrong; Redis loaded it and has as many keys; Qdrant has
    /// recovered the snapshots and counts the points.
    Alive,
    /// The tables hold what they held at the same position of the WAL: as many rows, with the same content.
    Faithful,
    /// Every chunk of Postgres is a point of Qdrant and the other way round, but for what the outbox says is under way.
    Consistent,
}

impl Rung {
    pub const ALL: [Self; 6] =
        [Self::Stored, Self::Intact, Self::Restored, Self::Alive, Self::Faithful, Self::Consistent];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Intact => "intact",
            Self::Restored => "restored",
            Self::Alive => "alive",
            Self::Faithful => "faithful",
            Self::Consistent => "consistent",
        }
    }

    /// From 1.
    pub fn number(self) -> usize {
        self as usize + 1
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One attempt at a rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Climb {
    pub rung: Rung,
    pub at: Timestamp,
    /// Seconds.
    pub took: f64,
    pub outcome: ClimbOutcome,
}

impl Climb {
    /// Whether it is still unknown that the set restores. What its tables held cannot be known of every server.
    pub fn leaves_open(&self) -> bool {
        self.rung <= Rung::Alive && matches!(self.outcome, ClimbOutcome::NotTried { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum ClimbOutcome {
    /// `shown` says what was looked at, `not_covered` what this rung cannot speak for here.
    Proven {
        shown: String,
        not_covered: Vec<String>,
    },
    Failed {
        why: String,
    },
    /// It could not be tried (no scratch space, no programs of that version): not the set's fault, and no proof either.
    NotTried {
        why: String,
    },
}

/// One system's share of a set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its folder at the top of the snapshot: `postgres.main`, or `groundskeeper` for the keeper's own store.
    pub name: String,
    pub entries: u64,
    /// Bytes at the source.
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Cluster>,
    /// What the tables of that Postgres held right after its base backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<Fingerprints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Keyspace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileTree>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qdrant: Option<Vectors>,
}

/// What has to be known of a Postgres to start it from its base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// `server_version_num`: 150014.
    pub version: u32,
    pub system_identifier: String,
    pub timeline: u32,
    /// The WAL that it needs to be consistent goes from here …
    pub start: Lsn,
    /// … to here.
    pub stop: Lsn,
    pub tablespaces: Vec<Tablespace>,
    /// The name of the role that `initdb` made: a superuser that is always there.
    pub superuser: String,
    /// Settings without which it may not start: `max_connections`, `shared_preload_libraries` …
    pub settings: BTreeMap<String, String>,
    /// Its files were read in its data directory; otherwise the server sent them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_in_place: bool,
}

impl Cluster {
    /// 15 of 150014.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    pub location: String,
}

/// A part that should be in the set and is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its name, as [`Part::name`] would be.
    pub system: String,
    pub why: String,
}

/// All that is known of one set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub set: SetId,
    pub made: Timestamp,
    /// Seconds from the first byte asked for to the promoted snapshot.
    pub took: f64,
    pub parts: Vec<Part>,
    pub missing: Vec<Missing>,
    /// Bytes that this set added to the repository, after deduplication, compression and encryption.
    pub added: u64,
    /// Attempts at the rungs, oldest first.
    pub climbs: Vec<Climb>,
}

impl Receipt {
    /// Whether every system that should be in it is. Of a set whose receipt was lost nobody knows.
    pub fn is_whole(&self) -> bool {
        !self.parts.is_empty() && self.missing.is_empty()
    }

    /// What is known of a part that is in it and not all there, a sentence each: the rest of the part is good.
    pub fn gaps(&self) -> Vec<String> {
        let told = |part: &Part| {
            let unreadable = part.files.as_ref().map(|tree| &tree.unreadable)?;
            (unreadable.count > 0).then(|| format!("{}: could not be read, and not stored: {unreadable}", part.name))
        };
        let nodes = |part: &Part| {
            let not_covered = part.qdrant.as_ref().map(|vectors| vectors.not_covered.join(", "))?;
            let why = "is in the cluster and not in `urls`, so what lies on it is not stored";
            (!not_covered.is_empty()).then(|| format!("{}: {not_covered} {why}", part.name))
        };
        self.parts.iter().flat_map(|part| told(part).into_iter().chain(nodes(part))).collect()
    }

    /// Bytes at the sources.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The rungs that it can climb: chunks can be compared with points only where something ties them.
    pub fn ladder(&self) -> impl Iterator<Item = Rung> {
        let tied = self.parts.iter().any(|part| part.qdrant.as_ref().is_some_and(|vectors| vectors.tie.is_some()));
        let climbed = self.climbs.iter().any(|climb| climb.rung == Rung::Consistent);
        Rung::ALL.into_iter().filter(move |rung| *rung != Rung::Consistent || tied || climbed)
    }

    /// The last attempt at a rung that came to a verdict.
    pub fn last(&self, rung: Rung) -> Option<&Climb> {
        let mut verdicts = self.climbs.iter().filter(|climb| !matches!(climb.outcome, ClimbOutcome::NotTried { .. }));
        verdicts.rfind(|climb| climb.rung == rung)
    }

    /// How far up it is proven: a rung counts when those below it do and its own last verdict was good.
    pub fn proven(&self) -> Option<Rung> {
        let good =
            |rung: &Rung| self.last(*rung).is_some_and(|climb| matches!(climb.outcome, ClimbOutcome::Proven { .. }));
        Rung::ALL.into_iter().take_while(good).last()
    }

    /// When it was last shown to be as good as `rung`, if it is.
    pub fn proven_at(&self, rung: Rung) -> Option<Timestamp> {
        self.proven().filter(|proven| *proven >= rung).and_then(|_| self.last(rung)).map(|climb| climb.at)
    }

    /// The rungs whose last verdict was bad, with the reason.
    pub fn failed(&self) -> impl Iterator<Item = (Rung, &str)> {
        Rung::ALL.into_iter().filter_map(|rung| match &self.last(rung)?.outcome {
            ClimbOutcome::Failed { why } => Some((rung, why.as_str())),
            _ => None,
        })
    }

    /// The measured recovery time in seconds: from the start of the restore to the first answered query.
    pub fn recovery_time(&self) -> Option<f64> {
        let took = |rung| self.last(rung).map(|climb| climb.took);
        (self.proven()? >= Rung::Alive).then(|| Some(took(Rung::Restored)? + took(Rung::Alive)?)).flatten()
    }
}
