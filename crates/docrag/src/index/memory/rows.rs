//! Vectors, one after the other.
//!
//! They stand in blocks: a growing index never copies what it has, and never holds twice what it needs.

#![expect(
    clippy::inline_always,
    reason = "the processor's instructions are those of the function that is inlined into"
)]

use pulp::{Arch, Simd, WithSimd};

const ROWS_PER_BLOCK: usize = 1_024;

#[derive(Debug)]
pub(super) struct Rows {
    dimension: usize,
    len: usize,
    blocks: Vec<Vec<f32>>,
}

/// Which rows.
#[derive(Debug, Clone, Copy)]
pub(in crate::index) enum Slots<'a> {
    All,
    These(&'a [u32]),
}

impl Rows {
    pub(super) fn new(dimension: usize) -> Self {
        Self { dimension, len: 0, blocks: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, slot: usize) -> &[f32] {
        let start = slot % ROWS_PER_BLOCK * self.dimension;
        &self.blocks[slot / ROWS_PER_BLOCK][start..start + self.dimension]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[f32]> + Clone {
        self.blocks.iter().flat_map(|block| block.chunks_exact(self.dimension))
    }

    pub(super) fn push(&mut self, row: &[f32]) {
        if self.len.is_multiple_of(ROWS_PER_BLOCK) {
            // The first block grows, so that a tenant with ten chunks takes the memory of ten.
            let rows = if self.blocks.is_empty() { 1 } else { ROWS_PER_BLOCK };
            self.blocks.push(Vec::with_capacity(rows * self.dimension));
        }
        let last = self.blocks.len() - 1;
        self.blocks[last].extend_from_slice(row);
        self.len += 1;
    }

    pub(super) fn replace(&mut self, slot: usize, row: &[f32]) {
        let start = slot % ROWS_PER_BLOCK * self.dimension;
        self.blocks[slot / ROWS_PER_BLOCK][start..start + self.dimension].copy_from_slice(row);
    }

    /// The last row takes the place of `slot`.
    pub(super) fn swap_remove(&mut self, slot: usize) {
        let last = self.len - 1;
        if slot != last {
            let row = self.get(last).to_vec();
            self.replace(slot, &row);
        }
        let block = &mut self.blocks[last / ROWS_PER_BLOCK];
        block.truncate(last % ROWS_PER_BLOCK * self.dimension);
        if block.is_empty() {
            self.blocks.pop();
        }
        self.len = last;
    }

    /// Cosines to `query`, both being of length 1.
    pub(super) fn cosines(&self, query: &[f32], slots: Slots<'_>) -> Vec<(f32, u32)> {
        Arch::new().dispatch(Cosines { rows: self, query, slots })
    }
}

struct Cosines<'a> {
    rows: &'a Rows,
    query: &'a [f32],
    slots: Slots<'a>,
}

impl WithSimd for Cosines<'_> {
    type Output = Vec<(f32, u32)>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { rows, query, slots } = self;
        match slots {
            Slots::All => {
                let mut scored = Vec::with_capacity(rows.len);
                for (slot, row) in rows.iter().enumerate() {
                    scored.push((dot(simd, query, row), slot as u32));
                }
                scored
            }
            Slots::These(slots) => {
                let mut scored = Vec::with_capacity(slots.len());
                for slot in slots {
                    scored.push((dot(simd, query, rows.get(*slot as usize)), *slot));
                }
                scored
            }
        }
    }
}

/// Four sums, since one would wait for itself.
#[inline(always)]
fn dot<S: Simd>(simd: S, left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = S::as_simd_f32s(left);
    let (right, right_rest) = S::as_simd_f32s(right);
    let zero = simd.splat_f32s(0.0);
    let mut sums = [zero; 4];
    let (left_fours, left_ones) = left.as_chunks::<4>();
    let (right_fours, right_ones) = right.as_chunks::<4>();
    for (a, b) in left_fours.iter().zip(right_fours) {
        sums[0] = simd.mul_add_f32s(a[0], b[0], sums[0]);
        sums[1] = simd.mul_add_f32s(a[1], b[1], sums[1]);
        sums[2] = simd.mul_add_f32s(a[2], b[2], sums[2]);
        sums[3] = simd.mul_add_f32s(a[3], b[3], sums[3]);
    }
    for (a, b) in left_ones.iter().zip(right_ones) {
        sums[0] = simd.mul_add_f32s(*a, *b, sums[0]);
    }
    let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(a, b)| a * b).sum();
    simd.reduce_sum_f32s(sum) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_sums_of_products_at_any_dimension() {
        for dimension in [1, 7, 8, 31, 37, 384] {
            let row = |seed: usize| (0..dimension).map(|i| ((i * 7 + seed) % 13) as f32 - 6.0).collect::<Vec<f32>>();
            let mut rows = Rows::new(dimension);
            (0..3).for_each(|seed| rows.push(&row(seed)));
            let query = row(5);
            for (cosine, slot) in rows.cosines(&query, Slots::All) {
                let plain: f32 = query.iter().zip(row(slot as usize)).map(|(a, b)| a * b).sum();
                assert!((cosine - plain).abs() < 1e-2, "{dimension}: {cosine} {plain}");
            }
        }
    }

    #[test]
    fn removed_rows_leave_no_holes_across_blocks() {
        let mut rows = Rows::new(2);
        (0..2_050).for_each(|i| rows.push(&[i as f32, 0.0]));
        rows.swap_remove(0);
        rows.swap_remove(2_048);
        rows.swap_remove(1_023);
        assert_eq!((rows.len(), rows.blocks.len()), (2_047, 2));
        assert_eq!((rows.get(0)[0], rows.get(1_023)[0], rows.get(2_046)[0]), (2_049.0, 2_047.0, 2_046.0));
        (0..2_047).for_each(|_| rows.swap_remove(0));
        assert!(rows.blocks.is_empty());
    }
}
