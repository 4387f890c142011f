//! What the tables of a Postgres held at one position of its WAL, and the WAL from the end of its base backup to there: the
//! folder `wal-after/` beside `data/`. A drill replays that WAL and compares.
//!
//! The set is good without: what goes wrong here is told in the receipt.

use crate::error::{Error, Result};
use crate::repository::feed::Feed;
use crate::vault::PostgresSource;
use groundskeeper_core::quantity::format_bytes;
use groundskeeper_core::receipt::{Cluster, Fingerprints, Lsn};
use groundskeeper_systems::postgres::contents::hold;
use groundskeeper_systems::postgres::walsender::Piece;
use rustic_core::repofile::Metadata;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;
use tempfile::SpooledTempFile;

/// To connect.
const DEADLINE: Duration = Duration::from_secs(30);
/// For all tables together. Meanwhile what was deleted there cannot be vacuumed.
const READING: Duration = Duration::from_mins(2);
/// For the WAL, which is there already.
const FETCHING: Duration = Duration::from_mins(2);
/// Bytes of WAL between the end of the backup and the position. What is far more was not quiet enough.
const MOST_WAL: u64 = 1 << 30;
/// Bytes of a segment that wait in memory, and not in the folder for temporary files.
const IN_MEMORY: usize = 1 << 20;
pub(crate) const WAL_AFTER: &str = "wal-after";

/// Whole segments, the last one filled up with zeros.
pub(crate) struct Tail {
    segments: Vec<Segment>,
}

struct Segment {
    name: String,
    size: u64,
    content: SpooledTempFile,
}

/// Finds the position, fetches the WAL up to it and reads the tables.
pub(crate) async fn take(source: &PostgresSource, cluster: &Cluster) -> (Fingerprints, Option<Tail>) {
    match taken(source, cluster).await {
        Ok((contents, tail)) => (contents, Some(tail)),
        Err(why) => (Fingerprints::NotTaken { why }, None),
    }
}

async fn taken(source: &PostgresSource, cluster: &Cluster) -> std::result::Result<(Fingerprints, Tail), String> {
    let held = Box::pin(hold(&source.endpoint)).await?;
    let fetching = Box::pin(tail(source, cluster, held.end));
    let late = |_| format!("the WAL up to {} did not come within {} s", held.end, FETCHING.as_secs());
    let tail = tokio::time::timeout(FETCHING, fetching).await.map_err(late)??;
    Ok((Fingerprints::Taken(Box::pin(held.read(READING)).await), tail))
}

/// The WAL from the segment in which the backup ended.
async fn tail(source: &PostgresSource, cluster: &Cluster, end: Lsn) -> std::result::Result<Tail, String> {
    let told = |error: groundskeeper_systems::postgres::walsender::WalSenderError| error.to_string();
    let spooling = |error: std::io::Error| {
        format!("the WAL after the backup cannot wait in {}: {error}", std::env::temp_dir().display())
    };
    let mut sender = source.endpoint.replicate(DEADLINE).await.map_err(told)?;
    let told_size = sender.show("wal_segment_size").await.map_err(told)?;
    let size = segment_size(&told_size).ok_or_else(|| format!("`wal_segment_size` is `{told_size}`"))?;
    let start = Lsn(cluster.stop.0 / size * size);
    if end.0.saturating_sub(start.0) > MOST_WAL {
        return Err(format!("more than {} of WAL were written meanwhile", format_bytes(MOST_WAL as f64)));
    }
    let mut stream = sender.stream_what_is_there(start, cluster.timeline).await.map_err(told)?;
    let (mut segments, mut next): (Vec<Segment>, Lsn) = (Vec::new(), start);
    while next < end {
        let (start, bytes) = match stream.next().await.map_err(told)? {
            Piece::Data { start, bytes, .. } => (start, bytes),
            Piece::Keepalive { .. } => continue,
            Piece::End(_) => return Err(format!("timeline {} was left before {end}", cluster.timeline)),
        };
        if start != next {
            return Err(format!("the server sent WAL from {start} on where {next} was due"));
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            if next.0.is_multiple_of(size) {
                let name = segment_name(cluster.timeline, next, size);
                segments.push(Segment { name, size, content: tempfile::spooled_tempfile(IN_MEMORY) });
            }
            let room = usize::try_from(size - next.0 % size).unwrap_or(usize::MAX);
            let (here, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(segment) = segments.last_mut() {
                segment.content.write_all(here).map_err(spooling)?;
            }
            next.0 += here.len() as u64;
            bytes = later;
        }
    }
    stream.close().await;
    for segment in &mut segments {
        segment.content.set_len(size).map_err(spooling)?;
        segment.content.seek(SeekFrom::Start(0)).map_err(spooling)?;
    }
    Ok(Tail { segments })
}

/// `16MB` or `1GB`.
fn segment_size(text: &str) -> Option<u64> {
    let unit = |suffix: &str, bits: u32| text.strip_suffix(suffix)?.parse::<u64>().ok().map(|number| number << bits);
    unit("MB", 20).or_else(|| unit("GB", 30)).filter(|size| size.is_power_of_two())
}

pub(super) fn segment_name(timeline: u32, at: Lsn, size: u64) -> String {
    let (number, each) = (at.0 / size, (1 << 32) / size);
    format!("{timeline:08X}{:08X}{:08X}", number / each, number % each)
}

impl Tail {
    pub(crate) fn send(self, feed: &mut Feed, system: &str) -> Result<()> {
        feed.folder(Path::new(WAL_AFTER), Metadata { mode: Some(0o700), ..Metadata::default() });
        for Segment { name, size, mut content } in self.segments {
            let meta = Metadata { mode: Some(0o600), ..Metadata::default() };
            feed.file(&Path::new(WAL_AFTER).join(&name), size, meta, &mut content).map_err(|error| Error::Source {
                system: system.to_owned(),
                why: format!("{name}: {error}"),
                retryable: true,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_the_names_that_postgres_gives_them() {
        assert_eq!(segment_name(1, Lsn(0x3000_0028), 16 << 20), "000000010000000000000030");
        assert_eq!(segment_name(0x1f, Lsn(0x1_ff00_0000), 16 << 20), "0000001F00000001000000FF");
        assert_eq!(segment_name(1, Lsn(0x2_4000_0000), 1 << 30), "000000010000000200000001");
    }

    #[test]
    fn the_size_of_a_segment_is_read_with_its_unit() {
        assert_eq!(segment_size("16MB"), Some(16 << 20));
        assert_eq!(segment_size("1GB"), Some(1 << 30));
        assert_eq!((segment_size("16"), segment_size("3MB")), (None, None));
    }
}
