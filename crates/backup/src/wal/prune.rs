//! WAL that leads on from no set any more.
//!
//! Of a cluster without any set nothing is removed: its first set may be under way.

use super::archive::Archive;
use super::name::{self, Kind, Segment};
use crate::error::Result;
use crate::repository::{Listed, Repository};
use groundskeeper_core::receipt::{Cluster, Receipt};
use std::collections::BTreeMap;

/// Removes what leads on from none of the sets that stay; only counts it unless `apply`. Gives the bytes, as they are
/// stored. Of a set whose receipt was lost nobody knows what it needs: then nothing goes.
pub(crate) fn prune(repository: &Repository, receipts: &[Receipt], apply: bool) -> Result<u64> {
    if receipts.iter().any(|receipt| receipt.parts.is_empty()) {
        return Ok(0);
    }
    let parts = receipts.iter().flat_map(|receipt| &receipt.parts);
    let mut clusters: BTreeMap<&str, Vec<&Cluster>> = BTreeMap::new();
    for cluster in parts.filter_map(|part| part.postgres.as_ref()) {
        clusters.entry(cluster.system_identifier.as_str()).or_default().push(cluster);
    }
    let mut bytes = 0;
    for (id, sets) in clusters {
        let Some(about) = Archive::about(repository, id)? else { continue };
        let size = about.segment;
        let listed = repository.list_beside(&name::cluster(id))?.into_iter();
        let segments: Vec<(Segment, Listed)> =
            listed.filter_map(|file| Some((segment_of(&file.name, size)?, file))).collect();
        // By the last one it is known what is missing after it.
        let last = segments.iter().map(|(segment, _)| *segment).max();
        for (segment, file) in segments {
            if Some(segment) == last || is_needed(segment, &sets, size) {
                continue;
            }
            bytes += file.size;
            if apply {
                repository.remove_beside(&file.name)?;
            }
        }
    }
    Ok(bytes)
}

fn segment_of(file: &str, size: u64) -> Option<Segment> {
    match name::read(file, size)? {
        Kind::Whole(segment) | Kind::Partial(segment, _) => Some(segment),
        Kind::History(_) => None,
    }
}

/// Whether a set leads on to this segment.
fn is_needed(segment: Segment, sets: &[&Cluster], size: u64) -> bool {
    let leads = |set: &&Cluster| {
        segment.timeline > set.timeline
            || (segment.timeline == set.timeline && segment.number >= Segment::at(set.timeline, set.start, size).number)
    };
    sets.iter().any(leads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::Lsn;

    const SIZE: u64 = 16 << 20;

    fn set(timeline: u32, start: u64) -> Cluster {
        Cluster {
            version: 150_000,
            system_identifier: "7".into(),
            timeline,
            start: Lsn(start),
            stop: Lsn(start),
            tablespaces: Vec::new(),
            superuser: "postgres".into(),
            settings: BTreeMap::new(),
            read_in_place: false,
        }
    }

    #[test]
    fn a_segment_is_needed_from_the_one_in_which_the_oldest_set_begins() {
        let (old, young) = (set(1, 5 * SIZE + 7), set(2, 9 * SIZE));
        let needed = |timeline, number, sets: &[&Cluster]| is_needed(Segment { timeline, number }, sets, SIZE);
        for (timeline, number, both, only_young) in [
            (1, 4, false, false),
            (1, 5, true, false),
            (1, 8, true, false),
            (2, 8, true, false),
            (2, 9, true, true),
            (3, 1, true, true),
        ] {
            assert_eq!(needed(timeline, number, &[&old, &young]), both, "{timeline}/{number}");
            assert_eq!(needed(timeline, number, &[&young]), only_young, "{timeline}/{number}");
        }
    }
}
