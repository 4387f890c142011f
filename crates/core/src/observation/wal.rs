//! The stream of a Postgres's WAL into the repository, as whoever streams it tells.

use crate::receipt::{Cluster, Lsn, Receipt};
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The stream of one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WalStream {
    pub system: SystemId,
    /// Streaming was asked for since then.
    pub since: Timestamp,
    /// Which cluster it is; none before the first answer.
    pub system_identifier: Option<String>,
    pub timeline: Option<u32>,
    /// Up to here its WAL is in the repository, on a disk.
    pub durable: Option<Lsn>,
    /// So far its own WAL had come when it was last heard.
    pub written: Option<Lsn>,
    /// All that the server had written by then is in the repository: what was written later is what a disaster would
    /// take.
    pub safe_until: Option<Timestamp>,
    /// The longest that anything written was not yet in the repository, over the last hour: the measured RPO.
    pub worst_seconds: Option<f64>,
    /// Bytes of WAL that the server keeps for us.
    pub retained: Option<u64>,
    /// With more than this the slot is given up, or would be.
    pub retained_limit: u64,
    /// The slot was given up then, so that the server's disk does not fill up.
    pub gave_up: Option<Timestamp>,
    /// Why it does not stream now.
    pub trouble: Option<String>,
    /// WAL that is missing in the repository.
    pub gaps: Vec<WalGap>,
}

/// WAL that never came into the repository, or is not there any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalGap {
    pub system_identifier: String,
    pub timeline: u32,
    pub from: Lsn,
    /// From here on there is WAL again.
    pub to: Lsn,
    pub noticed: Timestamp,
    pub why: String,
}

impl WalGap {
    /// Whether a set was made of that cluster after the gap: from that set on, all WAL is there.
    pub fn is_closed_by(&self, receipts: &[Receipt]) -> bool {
        let after = |cluster: &Cluster| {
            cluster.system_identifier == self.system_identifier
                && (cluster.timeline > self.timeline || cluster.start >= self.to)
        };
        let clusters = receipts.iter().flat_map(|receipt| &receipt.parts).filter_map(|part| part.postgres.as_ref());
        clusters.into_iter().any(after)
    }
}
