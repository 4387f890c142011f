//! The WAL of one cluster in the repository: what is there, what is missing, what is put there.
//!
//! Everything here is synchronous and must be called from threads that may block.

use super::name::{self, Kind, Segment};
use super::seal::Seal;
use crate::error::{Error, Result};
use crate::repository::Repository;
use groundskeeper_core::observation::WalGap;
use groundskeeper_core::receipt::Lsn;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What cannot be read off the names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Bytes.
    pub(crate) segment: u64,
    /// WAL that never came here.
    pub(crate) gaps: Vec<WalGap>,
}

/// What of a cluster's WAL is in the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// With when it was put there.
    pub(crate) whole: BTreeMap<Segment, Timestamp>,
    /// By segment the longest, with its bytes.
    pub(crate) partial: BTreeMap<Segment, (u64, Timestamp)>,
    pub(crate) histories: BTreeSet<u32>,
    /// Partial segments that a longer or whole one has made needless.
    needless: Vec<(Segment, u64)>,
}

/// A place on a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) timeline: u32,
    pub(crate) at: Lsn,
}

impl Holdings {
    pub(crate) fn read(names: impl Iterator<Item = (String, Timestamp)>, size: u64) -> Self {
        let mut seen = Self::default();
        for (name, at) in names {
            match name::read(&name, size) {
                Some(Kind::Whole(segment)) => {
                    seen.whole.insert(segment, at);
                }
                Some(Kind::Partial(segment, bytes)) => seen.found_partial(segment, bytes, at),
                Some(Kind::History(timeline)) => {
                    seen.histories.insert(timeline);
                }
                None => {}
            }
        }
        let Self { whole, partial, needless, .. } = &mut seen;
        partial.retain(|segment, (bytes, _)| {
            let is_whole = whole.contains_key(segment);
            if is_whole {
                needless.push((*segment, *bytes));
            }
            !is_whole
        });
        seen
    }

    fn found_partial(&mut self, segment: Segment, bytes: u64, at: Timestamp) {
        let longest = self.partial.entry(segment).or_insert((bytes, at));
        if bytes > longest.0 {
            self.needless.push((segment, longest.0));
            *longest = (bytes, at);
        } else if bytes < longest.0 {
            self.needless.push((segment, bytes));
        }
    }

    /// Where the WAL ends, on the newest timeline that has any.
    pub(crate) fn end(&self, size: u64) -> Option<Position> {
        let timeline = self.whole.keys().chain(self.partial.keys()).map(|segment| segment.timeline).max()?;
        self.end_on(timeline, size)
    }

    pub(crate) fn end_on(&self, timeline: u32, size: u64) -> Option<Position> {
        let whole = self.whole.keys().rfind(|segment| segment.timeline == timeline);
        let partial = self.partial.iter().rfind(|(segment, _)| segment.timeline == timeline);
        let after = whole.map(|segment| segment.start(size).0 + size);
        let inside = partial.map(|(segment, (bytes, _))| segment.start(size).0 + bytes);
        after.max(inside).map(|at| Position { timeline, at: Lsn(at) })
    }

    /// Between the first and the last byte of each timeline, what is not there: timeline, from, to.
    pub(crate) fn holes(&self, size: u64) -> Vec<(u32, Lsn, Lsn)> {
        let mut holes = Vec::new();
        let segments: BTreeSet<Segment> = self.whole.keys().chain(self.partial.keys()).copied().collect();
        let mut before: Option<(Segment, Lsn)> = None;
        for segment in segments {
            if let Some((last, end)) = before
                && last.timeline == segment.timeline
                && end < segment.start(size)
            {
                holes.push((segment.timeline, end, segment.start(size)));
            }
            let bytes = self.partial.get(&segment).map_or(size, |(bytes, _)| *bytes);
            before = Some((segment, Lsn(segment.start(size).0 + bytes)));
        }
        holes
    }
}

/// Everything that is missing of any cluster: what never came, and what is not there any more.
pub(crate) fn gaps(repository: &Repository, now: Timestamp) -> Result<Vec<WalGap>> {
    let mut clusters: BTreeMap<String, Vec<(String, Timestamp)>> = BTreeMap::new();
    for listed in repository.list_beside(name::FOLDER)? {
        // Beside the clusters there are the keys.
        let cluster = listed.name.split('/').nth(1).filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(cluster) = cluster.map(str::to_owned) {
            clusters.entry(cluster).or_default().push((listed.name, listed.at));
        }
    }
    let mut gaps = Vec::new();
    for (cluster, names) in clusters {
        let Some(about) = Archive::about(repository, &cluster)? else { continue };
        let holdings = Holdings::read(names.into_iter(), about.segment);
        gaps.extend(about.with_lost(&cluster, &holdings, now));
    }
    Ok(gaps)
}

impl About {
    /// The gaps that were written down, and what is missing besides.
    pub(crate) fn with_lost(&self, system_identifier: &str, holdings: &Holdings, now: Timestamp) -> Vec<WalGap> {
        let size = self.segment;
        let known = |timeline: u32, from: Lsn| self.gaps.iter().any(|gap| gap.timeline == timeline && gap.from == from);
        let lost = holdings.holes(size).into_iter().filter(|(timeline, from, _)| !known(*timeline, *from));
        let lost = lost.map(|(timeline, from, to)| WalGap {
            system_identifier: system_identifier.to_owned(),
            timeline,
            from,
            to,
            noticed: now,
            why: format!("{} is not in the repository", Segment::at(timeline, from, size).file(size)),
        });
        self.gaps.iter().cloned().chain(lost).collect()
    }
}

/// The folder of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    repository: Arc<Repository>,
    seal: Seal,
    system_identifier: String,
    pub(crate) size: u64,
}

impl Archive {
    pub(crate) fn new(repository: Arc<Repository>, seal: Seal, system_identifier: &str, size: u64) -> Self {
        Self { repository, seal, system_identifier: system_identifier.to_owned(), size }
    }

    /// None where no WAL of that cluster was ever stored.
    pub(crate) fn about(repository: &Repository, system_identifier: &str) -> Result<Option<About>> {
        let Some(json) = repository.get_beside(&name::about(system_identifier))? else { return Ok(None) };
        serde_json::from_slice(&json).map(Some).map_err(|error| Error::Damaged {
            place: repository.place().to_owned(),
            why: format!("{}: {error}", name::about(system_identifier)),
        })
    }

    pub(crate) fn known(&self) -> Result<Option<About>> {
        Self::about(&self.repository, &self.system_identifier)
    }

    pub(crate) fn keep_about(&self, about: &About) -> Result<()> {
        let json = serde_json::to_vec_pretty(about).map_err(|error| Error::Worker(error.to_string()))?;
        self.repository.put_beside(&name::about(&self.system_identifier), json)
    }

    pub(crate) fn holdings(&self) -> Result<Holdings> {
        let listed = self.repository.list_beside(&name::cluster(&self.system_identifier))?;
        Ok(Holdings::read(listed.into_iter().map(|listed| (listed.name, listed.at)), self.size))
    }

    /// Takes away what nobody needs. It is no matter when that fails: the next one does it.
    pub(crate) fn tidy(&self, holdings: &Holdings) {
        for (segment, bytes) in &holdings.needless {
            self.drop_partial(*segment, *bytes);
        }
    }

    fn drop_partial(&self, segment: Segment, bytes: u64) {
        let name = name::partial(&self.system_identifier, segment, self.size, bytes);
        if let Err(error) = self.repository.remove_beside(&name) {
            tracing::warn!(%error, name, "a partial segment that is not needed any more could not be removed");
        }
    }

    /// Safe when it returns. `before` is what the last one had of the same segment, which it makes needless.
    pub(crate) fn put(&self, segment: Segment, content: &[u8], before: Option<u64>) -> Result<()> {
        let bytes = content.len() as u64;
        let name = if bytes == self.size {
            name::whole(&self.system_identifier, segment, self.size)
        } else {
            name::partial(&self.system_identifier, segment, self.size, bytes)
        };
        // The mount point of a disk that is gone is an empty folder, which would take anything.
        self.repository.must_be_there()?;
        self.repository.put_beside(&name, self.seal.lock(content)?)?;
        if let Some(before) = before.filter(|before| *before != bytes) {
            self.drop_partial(segment, before);
        }
        Ok(())
    }

    pub(crate) fn put_history(&self, timeline: u32, content: &[u8]) -> Result<()> {
        self.repository.put_beside(&name::history(&self.system_identifier, timeline), self.seal.lock(content)?)
    }

    /// A whole segment. None when it is not there.
    pub(crate) fn whole(&self, segment: Segment) -> Result<Option<Vec<u8>>> {
        let name = name::whole(&self.system_identifier, segment, self.size);
        let Some(content) = self.get(&name)? else { return Ok(None) };
        self.sized(&name, content, self.size).map(Some)
    }

    /// So many bytes of a segment. None when it is not there: a longer one may have come meanwhile.
    pub(crate) fn partial(&self, segment: Segment, bytes: u64) -> Result<Option<Vec<u8>>> {
        let name = name::partial(&self.system_identifier, segment, self.size, bytes);
        let Some(content) = self.get(&name)? else { return Ok(None) };
        self.sized(&name, content, bytes).map(Some)
    }

    pub(crate) fn history(&self, timeline: u32) -> Result<Option<Vec<u8>>> {
        self.get(&name::history(&self.system_identifier, timeline))
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(stored) = self.repository.get_beside(name)? else { return Ok(None) };
        self.seal.unlock(&stored, self.size).map(Some).map_err(|why| self.damaged(name, &why))
    }

    fn sized(&self, name: &str, content: Vec<u8>, bytes: u64) -> Result<Vec<u8>> {
        if content.len() as u64 == bytes {
            return Ok(content);
        }
        Err(self.damaged(name, &format!("it holds {} bytes instead of {bytes}", content.len())))
    }

    fn damaged(&self, name: &str, why: &str) -> Error {
        Error::Damaged { place: self.repository.place().to_owned(), why: format!("{name}: {why}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16 << 20;

    fn segment(timeline: u32, number: u64) -> Segment {
        Segment { timeline, number }
    }

    fn holdings(whole: &[(u32, u64)], partial: &[(u32, u64, u64)]) -> Holdings {
        let whole = whole.iter().map(|(timeline, number)| name::whole("7", segment(*timeline, *number), SIZE));
        let partial = partial
            .iter()
            .map(|(timeline, number, bytes)| name::partial("7", segment(*timeline, *number), SIZE, *bytes));
        Holdings::read(whole.chain(partial).map(|name| (name, Timestamp::UNIX_EPOCH)), SIZE)
    }

    #[test]
    fn the_end_is_that_of_the_longest_partial_or_the_last_whole_segment() {
        assert_eq!(holdings(&[], &[]).end(SIZE), None);
        let at = |whole: &[(u32, u64)], partial: &[(u32, u64, u64)]| holdings(whole, partial).end(SIZE).unwrap();
        assert_eq!(at(&[(1, 3), (1, 4)], &[]), Position { timeline: 1, at: Lsn(5 * SIZE) });
        assert_eq!(at(&[(1, 3)], &[(1, 4, 7), (1, 4, 900)]), Position { timeline: 1, at: Lsn(4 * SIZE + 900) });
        assert_eq!(at(&[(1, 3), (1, 4)], &[(1, 4, 900)]), Position { timeline: 1, at: Lsn(5 * SIZE) });
        assert_eq!(at(&[(1, 9)], &[(2, 4, 10)]), Position { timeline: 2, at: Lsn(4 * SIZE + 10) });
    }

    #[test]
    fn what_a_longer_one_replaces_is_needless() {
        let seen = holdings(&[(1, 3)], &[(1, 3, 5), (1, 4, 7), (1, 4, 900), (1, 4, 8)]);
        let mut needless = seen.needless.clone();
        needless.sort_unstable();
        assert_eq!(needless, [(segment(1, 3), 5), (segment(1, 4), 7), (segment(1, 4), 8)]);
        assert_eq!(seen.partial.len(), 1);
    }

    #[test]
    fn a_missing_segment_is_a_hole_and_a_partial_one_in_the_middle_is_too() {
        assert_eq!(holdings(&[(1, 3), (1, 4)], &[(1, 5, 9)]).holes(SIZE), []);
        assert_eq!(holdings(&[(1, 3), (1, 6)], &[]).holes(SIZE), [(1, Lsn(4 * SIZE), Lsn(6 * SIZE))]);
        assert_eq!(holdings(&[(1, 5)], &[(1, 4, 9)]).holes(SIZE), [(1, Lsn(4 * SIZE + 9), Lsn(5 * SIZE))]);
        assert_eq!(holdings(&[(1, 9), (2, 4)], &[]).holes(SIZE), [], "each timeline by itself");
    }
}
