//! Timelines: each promotion begins a new one, and its history says where each of those before was left.

use groundskeeper_core::receipt::Lsn;

/// Behind all WAL.
pub(crate) const NEVER: Lsn = Lsn(u64::MAX);

/// The way to a timeline: the timelines before it with where each was left, oldest first, and itself without an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    steps: Vec<(u32, Option<Lsn>)>,
}

impl Path {
    /// The first timeline has no history.
    pub(crate) fn alone(timeline: u32) -> Self {
        Self { steps: vec![(timeline, None)] }
    }

    /// Out of `1<tab>0/3000000<tab>no recovery target specified`. None when it is no history.
    pub(crate) fn parsed(timeline: u32, history: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(history);
        let mut steps = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut fields = line.split_whitespace();
            steps.push((fields.next()?.parse().ok()?, Some(fields.next()?.parse().ok()?)));
        }
        let ascending = steps.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ascending || steps.last().is_none_or(|(last, _)| *last >= timeline) {
            return None;
        }
        steps.push((timeline, None));
        Some(Self { steps })
    }

    /// Where a timeline was left; the last never is, so [`NEVER`]. None for one that is not on the way.
    pub(crate) fn left(&self, timeline: u32) -> Option<Lsn> {
        self.steps.iter().find(|(step, _)| *step == timeline).map(|(_, left)| left.unwrap_or(NEVER))
    }

    /// The timeline after one, on the way.
    pub(crate) fn after(&self, timeline: u32) -> Option<u32> {
        self.steps.iter().map(|(step, _)| *step).find(|step| *step > timeline)
    }

    /// The timeline on which `at` was written.
    pub(crate) fn holding(&self, at: Lsn) -> u32 {
        let found = self.steps.iter().find(|(_, left)| left.is_none_or(|left| at < left));
        // The last has no end.
        found.or(self.steps.last()).map_or(1, |(timeline, _)| *timeline)
    }

    /// All of them, from one on.
    pub(crate) fn from(&self, timeline: u32) -> impl Iterator<Item = (u32, Option<Lsn>)> {
        self.steps.iter().copied().filter(move |(step, _)| *step >= timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_the_way_to_its_timeline() {
        let text = b"1\t0/5000000\tno recovery target specified\n\n2\t0/7000060\tbefore 2026-11-22 01:00:00+00\n";
        let path = Path::parsed(4, text).unwrap();
        assert_eq!(path.left(1), Some(Lsn(0x500_0000)));
        assert_eq!((path.left(4), path.left(3)), (Some(NEVER), None));
        assert_eq!((path.after(1), path.after(2), path.after(4)), (Some(2), Some(4), None));
        assert_eq!([0x4ff_ffff, 0x500_0000, 0x700_0060].map(|at| path.holding(Lsn(at))), [1, 2, 4]);
        assert_eq!(path.from(2).collect::<Vec<_>>(), [(2, Some(Lsn(0x700_0060))), (4, None)]);
        assert_eq!(Path::alone(1).holding(Lsn(7)), 1);
    }

    #[test]
    fn what_is_no_history_is_not_read_as_one() {
        for text in [&b""[..], b"1\n", b"x\t0/5\n", b"4\t0/5000000\n", b"2\t0/5000000\n1\t0/6000000\n"] {
            assert_eq!(Path::parsed(4, text), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
