//! What WAL is called: in a server's `pg_wal`, and in the repository.
//!
//! ```text
//! wal/<system identifier>/about.json                                    the segment size, gaps
//! wal/<system identifier>/00000002.history.zst.age                      a timeline's history
//! wal/<system identifier>/00000001/000000010000000000000003.zst.age     a segment
//! wal/<system identifier>/00000001/000000010000000000000004.0000a1f0.partial.zst.age
//! ```
//!
//! A partial segment is named by how many of its bytes it has. So none is ever written over, where WAL ends can be read off
//! a list, and a writer that comes too late harms nothing: the longest counts.

use groundskeeper_core::receipt::Lsn;

/// The folder of all WAL in a repository.
pub(crate) const FOLDER: &str = "wal";
/// In it, what opens all WAL with one key of the repository.
pub(crate) const KEYS: &str = "keys";
const WHOLE: &str = ".zst.age";
const PARTIAL: &str = ".partial.zst.age";
const HISTORY: &str = ".history.zst.age";

/// A segment of a cluster, by its number from the beginning of all WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Segment {
    pub(crate) timeline: u32,
    pub(crate) number: u64,
}

impl Segment {
    /// The one that holds the byte at `at`.
    pub(crate) fn at(timeline: u32, at: Lsn, size: u64) -> Self {
        Self { timeline, number: at.0 / size }
    }

    pub(crate) fn start(self, size: u64) -> Lsn {
        Lsn(self.number * size)
    }

    /// As Postgres calls it: `000000010000000000000003`.
    pub(crate) fn file(self, size: u64) -> String {
        // The number is written in two parts, the upper one counting 4 GiB.
        let each = (1 << 32) / size;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / each, self.number % each)
    }

    pub(crate) fn parsed(file: &str, size: u64) -> Option<Self> {
        let part = |from: usize| u32::from_str_radix(file.get(from..from + 8)?, 16).ok();
        if file.len() != 24 {
            return None;
        }
        let each = (1_u64 << 32) / size;
        let (upper, lower) = (u64::from(part(8)?), u64::from(part(16)?));
        (lower < each).then_some(Self { timeline: part(0)?, number: upper * each + lower })
    }
}

/// The folder of one cluster.
pub(crate) fn cluster(system_identifier: &str) -> String {
    format!("{FOLDER}/{system_identifier}")
}

pub(crate) fn about(system_identifier: &str) -> String {
    format!("{FOLDER}/{system_identifier}/about.json")
}

pub(crate) fn whole(system_identifier: &str, segment: Segment, size: u64) -> String {
    format!("{FOLDER}/{system_identifier}/{:08X}/{}{WHOLE}", segment.timeline, segment.file(size))
}

pub(crate) fn partial(system_identifier: &str, segment: Segment, size: u64, bytes: u64) -> String {
    format!("{FOLDER}/{system_identifier}/{:08X}/{}.{bytes:08x}{PARTIAL}", segment.timeline, segment.file(size))
}

/// What the server calls a history: `00000002.history`.
pub(crate) fn history_file(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

pub(crate) fn history(system_identifier: &str, timeline: u32) -> String {
    format!("{FOLDER}/{system_identifier}/{timeline:08X}{HISTORY}")
}

/// What a file in a cluster's folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Whole(Segment),
    /// With so many bytes.
    Partial(Segment, u64),
    History(u32),
}

/// None for what is none of ours, such as a half-written file of a dead process.
pub(crate) fn read(name: &str, size: u64) -> Option<Kind> {
    let file = name.rsplit('/').next()?;
    if let Some(timeline) = file.strip_suffix(HISTORY) {
        return (timeline.len() == 8).then(|| u32::from_str_radix(timeline, 16).ok().map(Kind::History))?;
    }
    if let Some(segment) = file.strip_suffix(PARTIAL) {
        let (segment, bytes) = segment.split_once('.')?;
        let bytes = u64::from_str_radix(bytes, 16).ok().filter(|bytes| (1..size).contains(bytes))?;
        return Some(Kind::Partial(Segment::parsed(segment, size)?, bytes));
    }
    Some(Kind::Whole(Segment::parsed(file.strip_suffix(WHOLE)?, size)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16 << 20;

    #[test]
    fn segments_are_called_as_the_server_calls_them() {
        for (at, size, file) in [
            (0x1_FE00_0028, SIZE, "0000000300000001000000FE"),
            (0x2_0000_0000, SIZE, "000000030000000200000000"),
            (0x1_FE00_0028, 64 << 20, "00000003000000010000003F"),
            (0x1_FE00_0028, 1 << 20, "000000030000000100000FE0"),
        ] {
            let segment = Segment::at(3, Lsn(at), size);
            assert_eq!(segment.file(size), file);
            assert_eq!(Segment::parsed(file, size), Some(segment));
            assert!(segment.start(size).0 <= at && at < segment.start(size).0 + size);
        }
    }

    #[test]
    fn names_in_the_repository_are_read_back_and_others_are_not() {
        let segment = Segment::at(1, Lsn(0x0300_0000), SIZE);
        assert_eq!(read(&whole("7", segment, SIZE), SIZE), Some(Kind::Whole(segment)));
        assert_eq!(read(&partial("7", segment, SIZE, 0xa1f0), SIZE), Some(Kind::Partial(segment, 0xa1f0)));
        assert_eq!(read(&history("7", 2), SIZE), Some(Kind::History(2)));
        for other in [
            about("7"),
            whole("7", segment, SIZE) + "#1",
            "wal/7/00000001/000000010000000000000003.00000000.partial.zst.age".to_owned(),
            "wal/7/00000001/000000010000000000000003.01000000.partial.zst.age".to_owned(),
            "wal/7/00000001/0000000100000000000001FF.zst.age".to_owned(),
            "wal/7/00000001/key.zst.age".to_owned(),
        ] {
            assert_eq!(read(&other, SIZE), None, "{other}");
        }
    }
}
