//! Tablespaces that replaying WAL would make.
//!
//! `CREATE TABLESPACE` is in the WAL with the path as it was typed. Replay links to that path again and writes the
//! tablespace's files there: on the machine of the live server, over the live ones. So WAL is looked through before it is
//! replayed. No setting of Postgres does the same.

use super::name::Segment;
use crate::programs::Programs;
use crate::scratch::User;
use groundskeeper_core::receipt::Lsn;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// What `pg_waldump` says where replay stops as well. Anything else means that it has not seen what Postgres would.
const STOPPED: [&str; 3] = ["error in WAL record at", "could not find", "could not read from file"];

/// A place in the WAL of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) at: Lsn,
    pub(crate) timeline: u32,
}

/// What was seen in the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Every tablespace that is made in it: `CREATE 16402 "/disk/ts"`.
    Made(Vec<String>),
    /// The time for it was over.
    OutOfTime,
    /// It was not seen to its end; why.
    NotAll(String),
}

/// The WAL that is looked through: from a place on, and that of every later timeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: Start,
    /// Replay goes no further; None: to the end.
    pub(crate) stops: Option<Start>,
    /// Bytes of a segment.
    pub(crate) size: u64,
}

/// Looks through the WAL in `folder`.
pub(crate) async fn look(
    programs: &Programs,
    folder: &Path,
    span: Span,
    user: Option<&User>,
    within: Duration,
) -> Seen {
    let begun = Instant::now();
    let mut made = Vec::new();
    for (start, end) in stretches(folder, span) {
        let left = within.saturating_sub(begun.elapsed());
        let arguments = vec![
            "--path".into(),
            folder.into(),
            "--rmgr=Tablespace".into(),
            format!("--start={}", start.at).into(),
            // Told no end, it waits five seconds for the segment after the last.
            format!("--end={end}").into(),
            format!("--timeline={}", start.timeline).into(),
        ];
        let said = match programs.run("pg_waldump", arguments, "", user, left).await {
            Ok(said) => said,
            Err(error) => return Seen::NotAll(format!("pg_waldump cannot be run: {error}")),
        };
        if said.status.is_none() {
            return Seen::OutOfTime;
        }
        made.extend(made_in(&said.text).map(str::to_owned));
        if !said.is_success() && !STOPPED.iter().any(|words| said.text.contains(words)) {
            return Seen::NotAll(said.text.trim().to_owned());
        }
    }
    Seen::Made(made)
}

/// Where the WAL begins and ends, timeline by timeline.
fn stretches(folder: &Path, span: Span) -> Vec<(Start, Lsn)> {
    let Span { from, stops, size } = span;
    let mut firsts: BTreeMap<u32, Lsn> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(segment) = entry.file_name().to_str().and_then(|name| Segment::parsed(name, size)) else { continue };
        let start = segment.start(size);
        firsts.entry(segment.timeline).and_modify(|first| *first = start.min(*first)).or_insert(start);
    }
    let later = firsts.into_iter().filter(|(timeline, _)| *timeline > from.timeline);
    let starts = std::iter::once(from).chain(later.map(|(timeline, at)| Start { at, timeline }));
    let ends = |start: Start| {
        let end = end_of_wal(folder, start, size)?;
        let stop = stops.filter(|stop| stop.timeline == start.timeline).map_or(end, |stop| stop.at.min(end));
        (start.at < stop).then_some((start, stop))
    };
    starts.filter_map(ends).collect()
}

/// Where the segments end that follow each other without a gap from the first one on.
fn end_of_wal(folder: &Path, start: Start, size: u64) -> Option<Lsn> {
    let first = Segment::at(start.timeline, start.at, size);
    let mut next = first;
    while folder.join(next.file(size)).is_file() {
        next.number += 1;
    }
    (next > first).then(|| next.start(size))
}

/// Those in the output of `pg_waldump`, but for those that lie in the data directory itself and so have no path.
fn made_in(records: &str) -> impl Iterator<Item = &str> {
    let descriptions = records.lines().filter_map(|line| line.split_once("desc: ").map(|(_, description)| description));
    descriptions.filter(|description| description.starts_with("CREATE") && !description.trim_end().ends_with("\"\""))
}

/// `/disk/ts` of `CREATE 16402 "/disk/ts"`.
pub(crate) fn path_of(made: &str) -> Option<&Path> {
    let (_, quoted) = made.split_once('"')?;
    Some(Path::new(quoted.trim_end().strip_suffix('"')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_is_looked_through_to_its_first_gap_on_every_timeline() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "0000000300000001000000FE",
            "0000000300000001000000FF",
            "000000030000000200000000",
            "000000030000000200000002",
            "000000040000000200000000",
            "000000020000000100000000",
            "00000004.history",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let from = |at, timeline| {
            let span = Span { from: Start { at: Lsn(at), timeline }, stops: None, size: 16 << 20 };
            let stretches = stretches(folder.path(), span);
            stretches.iter().map(|(start, end)| (start.timeline, start.at.0, end.0)).collect::<Vec<_>>()
        };
        let later = (4, 0x2_0000_0000, 0x2_0100_0000);
        assert_eq!(from(0x1_FE00_0028, 3), [(3, 0x1_FE00_0028, 0x2_0100_0000), later]);
        assert_eq!(from(0x2_0100_0028, 3), [later], "without its first segment nothing of it is replayed");
        assert_eq!(from(0x2_0100_0028, 4), []);
        let (from, stop) = (Start { at: Lsn(0x1_FE00_0028), timeline: 3 }, Lsn(0x1_FF00_0100));
        let span = Span { from, stops: Some(Start { at: stop, timeline: 3 }), size: 16 << 20 };
        assert_eq!(stretches(folder.path(), span)[0], (from, stop), "what is not replayed is not looked at");
    }

    #[test]
    fn a_made_tablespace_is_seen_and_a_dropped_one_is_not_one() {
        let line = |description: &str| {
            format!(
                "rmgr: Tablespace  len (rec/tot): 48/ 48, tx: 734, lsn: 0/04000428, prev 0/0, desc: {description}\n"
            )
        };
        let made = |records: &str| made_in(records).map(str::to_owned).collect::<Vec<_>>();
        let records = line("DROP 16399") + &line("CREATE 16402 \"/disk/ts\"") + &line("CREATE 16403 \"\"");
        assert_eq!(made(&records), ["CREATE 16402 \"/disk/ts\""]);
        assert_eq!(path_of("CREATE 16402 \"/disk/ts\""), Some(Path::new("/disk/ts")));
        assert_eq!(made(&line("DROP 16399")), Vec::<String>::new());
        assert_eq!(made("pg_waldump: error: could not find file \"00\""), Vec::<String>::new());
    }
}
