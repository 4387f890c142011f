//! Sketches: a bit per dimension, whether a vector is above the mean there.
//!
//! Vectors that are near each other differ in few bits, and bits are counted thirty times faster than cosines are
//! computed. So the nearest sketches are the candidates, and cosines decide among them. The mean matters: embeddings of
//! one corpus share a direction, and without it many bits would be the same for all.

#![expect(
    clippy::inline_always,
    reason = "the processor's instructions are those of the function that is inlined into"
)]

use super::memory::Slots;
use pulp::{Arch, Simd, WithSimd};

#[derive(Debug)]
pub(super) struct Sketches {
    mean: Vec<f32>,
    words: usize,
    bits: Vec<u64>,
}

impl Sketches {
    /// Of these rows, in their order, around their own mean.
    pub(super) fn of<'a>(dimension: usize, rows: impl Iterator<Item = &'a [f32]> + Clone) -> Self {
        let mut sums = vec![0.0_f64; dimension];
        let mut count = 0_usize;
        for row in rows.clone() {
            count += 1;
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let mean = sums.iter().map(|sum| (sum / count.max(1) as f64) as f32).collect();
        let mut sketches =
            Self { mean, words: dimension.div_ceil(64), bits: Vec::with_capacity(count * dimension.div_ceil(64)) };
        rows.for_each(|row| sketches.push(row));
        sketches
    }

    pub(super) fn push(&mut self, row: &[f32]) {
        let words = self.words;
        self.bits.resize(self.bits.len() + words, 0);
        let start = self.bits.len() - words;
        sketch(&self.mean, row, &mut self.bits[start..]);
    }

    pub(super) fn replace(&mut self, slot: usize, row: &[f32]) {
        sketch(&self.mean, row, &mut self.bits[slot * self.words..(slot + 1) * self.words]);
    }

    /// The last one takes the place of `slot`.
    pub(super) fn swap_remove(&mut self, slot: usize) {
        let last = self.bits.len() - self.words;
        self.bits.copy_within(last.., slot * self.words);
        self.bits.truncate(last);
    }

    /// The `wanted` slots whose sketches differ least from the query's, in no order.
    pub(super) fn nearest(&self, query: &[f32], slots: Slots<'_>, wanted: usize) -> Vec<u32> {
        let mut bits = vec![0; self.words];
        sketch(&self.mean, query, &mut bits);
        let differences = Arch::new().dispatch(Differences { sketches: self, query: &bits, slots });
        let (limit, mut ties) = limit(&differences, self.words * 64, wanted);
        let mut nearest = Vec::with_capacity(wanted.min(differences.len()));
        for (at, difference) in differences.iter().enumerate() {
            if *difference > limit || (*difference == limit && ties == 0) {
                continue;
            }
            ties -= usize::from(*difference == limit);
            nearest.push(match slots {
                Slots::All => at as u32,
                Slots::These(slots) => slots[at],
            });
        }
        nearest
    }
}

fn sketch(mean: &[f32], row: &[f32], words: &mut [u64]) {
    for (word, (row, mean)) in words.iter_mut().zip(row.chunks(64).zip(mean.chunks(64))) {
        *word = row.iter().zip(mean).rev().fold(0, |word, (value, mean)| word << 1 | u64::from(value > mean));
    }
}

/// The largest difference that is taken for `wanted` of them, and how many of those that differ so much.
fn limit(differences: &[u16], bits: usize, wanted: usize) -> (u16, usize) {
    let mut counts = vec![0_usize; bits + 1];
    for difference in differences {
        counts[usize::from(*difference)] += 1;
    }
    let mut left = wanted;
    for (difference, count) in counts.iter().enumerate() {
        if *count >= left {
            return (difference as u16, left);
        }
        left -= count;
    }
    (bits as u16, left)
}

struct Differences<'a> {
    sketches: &'a Sketches,
    query: &'a [u64],
    slots: Slots<'a>,
}

impl WithSimd for Differences<'_> {
    type Output = Vec<u16>;

    /// `simd` is not named: it is the processor's instruction for counting bits that matters, which the compiler uses here.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
        // A number of words that is known makes this a third faster; these are the usual models'.
        match self.sketches.words {
            6 => differences::<6>(&self),
            12 => differences::<12>(&self),
            16 => differences::<16>(&self),
            24 => differences::<24>(&self),
            _ => differences_of_any(&self),
        }
    }
}

#[inline(always)]
fn differences<const WORDS: usize>(task: &Differences<'_>) -> Vec<u16> {
    let (sketches, _) = task.sketches.bits.as_chunks::<WORDS>();
    let (query, _) = task.query.as_chunks::<WORDS>();
    match task.slots {
        Slots::All => {
            let mut differences = vec![0; sketches.len()];
            for (difference, sketch) in differences.iter_mut().zip(sketches) {
                *difference = differing(sketch, &query[0]);
            }
            differences
        }
        Slots::These(slots) => {
            let mut differences = vec![0; slots.len()];
            for (difference, slot) in differences.iter_mut().zip(slots) {
                *difference = differing(&sketches[*slot as usize], &query[0]);
            }
            differences
        }
    }
}

#[inline(always)]
fn differences_of_any(task: &Differences<'_>) -> Vec<u16> {
    let words = task.sketches.words;
    match task.slots {
        Slots::All => task.sketches.bits.chunks_exact(words).map(|sketch| differing(sketch, task.query)).collect(),
        Slots::These(slots) => slots
            .iter()
            .map(|slot| differing(&task.sketches.bits[*slot as usize * words..][..words], task.query))
            .collect(),
    }
}

#[inline(always)]
fn differing(left: &[u64], right: &[u64]) -> u16 {
    let mut sum = 0;
    for (a, b) in left.iter().zip(right) {
        sum += (a ^ b).count_ones();
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// As many different rows as wanted, the same in every run.
    fn rows(count: usize, dimension: usize) -> Vec<Vec<f32>> {
        let mut state = 42_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..count).map(|_| (0..dimension).map(|_| next()).collect()).collect()
    }

    #[rstest]
    fn a_vector_is_nearest_to_itself_at_any_dimension(#[values(3, 64, 70, 384)] dimension: usize) {
        let rows = rows(40, dimension);
        let sketches = Sketches::of(dimension, rows.iter().map(Vec::as_slice));
        let mut bits = vec![0; dimension.div_ceil(64)];
        for (slot, row) in rows.iter().enumerate() {
            sketch(&sketches.mean, row, &mut bits);
            let differences =
                Arch::new().dispatch(Differences { sketches: &sketches, query: &bits, slots: Slots::All });
            assert_eq!(differences[slot], 0);
            let three = [1, slot as u32, 2];
            let chosen =
                Arch::new().dispatch(Differences { sketches: &sketches, query: &bits, slots: Slots::These(&three) });
            assert_eq!(chosen, three.map(|slot| differences[slot as usize]));
        }
    }

    #[test]
    fn as_many_are_found_as_are_wanted_whatever_the_ties() {
        let row = vec![1.0, -1.0, 0.5, 0.25];
        let other = vec![-1.0, 1.0, -0.5, 0.0];
        let rows: Vec<&[f32]> = std::iter::repeat_n(row.as_slice(), 10).chain([other.as_slice(); 5]).collect();
        let sketches = Sketches::of(4, rows.iter().copied());
        for wanted in [0, 1, 9, 10, 11, 15, 100] {
            let nearest = sketches.nearest(&row, Slots::All, wanted);
            assert_eq!(nearest.len(), wanted.min(15));
            assert_eq!(nearest.iter().filter(|slot| **slot < 10).count(), wanted.min(10));
        }
    }

    #[test]
    fn replacing_and_removing_give_what_making_anew_gives() {
        let mut rows = rows(30, 70);
        let mut sketches = Sketches::of(70, rows.iter().map(Vec::as_slice));
        rows[4] = rows[7].clone();
        sketches.replace(4, &rows[4]);
        rows.swap_remove(2);
        sketches.swap_remove(2);
        rows.swap_remove(28);
        sketches.swap_remove(28);
        let mut again = Sketches { mean: sketches.mean.clone(), words: 2, bits: Vec::new() };
        for row in &rows {
            again.push(row);
        }
        assert_eq!(sketches.bits, again.bits);
    }
}
