//! How much of a table or index is air, by estimators that must agree before anybody acts.
//!
//! Each estimator is wrong in its own way: the statistical one (widths and counts of ANALYZE) does not know how rows are
//! really packed, the pages themselves tell of free space that the next hour may fill, and a baseline ages with its data.
//! Two of them that do not rest on the same facts are seldom wrong together: [`agree`] gives the smaller gain of the two,
//! and nothing where they differ. An estimate is never negative: what is smaller than expected is not bloated.
//!
//! The formulas are those of ioguix's `pgsql-bloat-estimation`, with columns aligned one by one, and corrected for the
//! deduplication of B-trees (13 on), without which an index of few values looks like it had less than nothing to give
//! back (`check_pgactivity` 264). The baseline's rule and limits are `pg_index_watch`'s.

use serde::{Deserialize, Serialize};

/// Bytes of a page's header, of a line pointer, of a B-tree page's own place at the end, of a heap tuple's header and of
/// an index tuple's (`bufpage.h`, `nbtree.h`, `htup_details.h`, `itup.h`).
const PAGE_HEADER: f64 = 24.0;
const LINE_POINTER: f64 = 4.0;
const BTREE_OPAQUE: f64 = 16.0;
const HEAP_TUPLE_HEADER: f64 = 23.0;
const INDEX_TUPLE_HEADER: f64 = 8.0;
/// The bitmap of nulls of an index tuple has a bit for each of the 32 columns that an index may have.
const INDEX_NULL_BITMAP: f64 = 4.0;
/// A row's place in its table, six bytes of it in each posting list (`ItemPointerData`).
const ROW_POINTER: f64 = 6.0;
const MAX_ALIGN: f64 = 8.0;
/// A value from here on has a header of four bytes, which is aligned; a shorter one is not.
const SHORT_VALUE: f64 = 127.0;

/// Below this size an index is mostly header and its bytes per row say nothing (`pg_index_watch`).
pub const SMALLEST_BASELINE: u64 = 128 << 10;

/// A column of a table or index, as `pg_stats` knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// `avg_width`, bytes.
    pub width: f64,
    /// `null_frac`, 0 to 1.
    pub nulls: f64,
    /// What it is aligned to, bytes: 1, 2, 4 or 8.
    pub align: u8,
    /// `attlen` is negative.
    pub is_variable: bool,
    /// `n_distinct`: below zero, a fraction of the rows.
    pub distinct: f64,
}

/// A heap or a B-tree by its catalogue entry, which is as old as its last vacuum or analyze.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// `reltuples`, 0 or more.
    pub rows: f64,
    /// `relpages`.
    pub pages: u64,
    /// `block_size`, bytes.
    pub page_size: u32,
    /// Percent.
    pub fillfactor: f64,
    /// In order; of an index, its key and included columns.
    pub columns: Vec<Column>,
}

impl Shape {
    pub fn size(&self) -> u64 {
        self.pages * u64::from(self.page_size)
    }
}

/// What an estimate rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// `pg_stats` and `reltuples`: cheap, and only as good as the last ANALYZE.
    Statistics,
    /// Its pages were read (`pgstattuple_approx`, `pgstatindex`).
    Pages,
    /// Its own best bytes per row that were recorded.
    Baseline,
}

impl Basis {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Statistics => "the statistics",
            Self::Pages => "its pages",
            Self::Baseline => "its own past",
        }
    }
}

/// What one estimator says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub basis: Basis,
    /// Bytes that it takes.
    pub size: u64,
    /// Bytes that it would take when it was new; at most `size`.
    pub expected: u64,
}

impl Estimate {
    /// `expected` may be anything, also larger than the size or no number at all: nothing is wasted then.
    pub fn new(basis: Basis, size: u64, expected: f64) -> Self {
        let expected = if expected.is_finite() { expected.max(0.0) as u64 } else { size };
        Self { basis, size, expected: expected.min(size) }
    }

    /// A table by its statistics.
    pub fn of_heap(shape: &Shape) -> Self {
        Self::new(Basis::Statistics, shape.size(), heap_pages(shape) * f64::from(shape.page_size))
    }

    /// A B-tree by its statistics. `is_unique` and `deduplicates` as in [`btree_pages`].
    pub fn of_btree(shape: &Shape, is_unique: bool, deduplicates: bool) -> Self {
        let pages = btree_pages(shape, is_unique, deduplicates);
        Self::new(Basis::Statistics, shape.size(), pages * f64::from(shape.page_size))
    }

    /// By the best bytes per row that were ever recorded of it; none where the record is too small to say anything.
    ///
    /// `best_size` and `best_rows` are of the reading with the fewest bytes per row.
    pub fn of_baseline(size: u64, rows: f64, best_size: u64, best_rows: f64) -> Option<Self> {
        let is_telling = best_size >= SMALLEST_BASELINE && best_rows > 0.0 && rows > 0.0;
        is_telling.then(|| Self::new(Basis::Baseline, size, best_size as f64 / best_rows * rows))
    }

    /// Bytes that a rebuild would give back.
    pub fn wasted(&self) -> u64 {
        self.size - self.expected
    }

    /// How many times as large as it need be; 1 or more.
    pub fn ratio(&self) -> f64 {
        self.size as f64 / self.expected.max(1) as f64
    }

    /// At least so many times as large as it need be, and so many bytes too large.
    pub fn is_past(&self, ratio: f64, wasted: f64) -> bool {
        self.size > 0 && self.ratio() >= ratio && self.wasted() as f64 >= wasted
    }
}

/// What two estimators say together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Agreement {
    /// Both are past the limits; the smaller gain and ratio of the two.
    Bloated { wasted: u64, ratio: f64 },
    /// At least one of them says that there is little to gain.
    Sound,
    /// They rest on the same facts, so that the second proves nothing.
    Unproven,
}

/// Whether a rebuild is worth it: only if both say so, from different facts.
pub fn agree(one: &Estimate, other: &Estimate, ratio: f64, wasted: f64) -> Agreement {
    if one.basis == other.basis {
        return Agreement::Unproven;
    }
    if one.is_past(ratio, wasted) && other.is_past(ratio, wasted) {
        return Agreement::Bloated { wasted: one.wasted().min(other.wasted()), ratio: one.ratio().min(other.ratio()) };
    }
    Agreement::Sound
}

/// Pages of a heap with as many rows of that width, packed to its fill factor.
pub fn heap_pages(shape: &Shape) -> f64 {
    let bitmap = if has_nulls(&shape.columns) { (shape.columns.len() as f64 / 8.0).ceil() } else { 0.0 };
    let tuple = aligned(HEAP_TUPLE_HEADER + bitmap) + aligned(data_width(&shape.columns)) + LINE_POINTER;
    let usable = (f64::from(shape.page_size) - PAGE_HEADER) * shape.fillfactor / 100.0;
    (shape.rows / (usable / tuple).floor().max(1.0)).ceil()
}

/// Pages of a B-tree that was just built: leaves to its fill factor, the levels above them, and one page about itself.
///
/// `deduplicates`: rows with the same key share it (13 on; not for every type, nor with included columns). `is_unique`: they
/// never have the same key. How many keys there are follows from the columns' own counts as if these had nothing to do
/// with each other: at most so many, so that the index is expected too large rather than too small.
pub fn btree_pages(shape: &Shape, is_unique: bool, deduplicates: bool) -> f64 {
    let bitmap = if has_nulls(&shape.columns) { INDEX_NULL_BITMAP } else { 0.0 };
    let tuple = aligned(INDEX_TUPLE_HEADER + bitmap) + aligned(data_width(&shape.columns));
    let page = f64::from(shape.page_size) - PAGE_HEADER - BTREE_OPAQUE;
    // The first entry of a page is the highest key that it may hold.
    let usable = (page * shape.fillfactor / 100.0 - tuple - LINE_POINTER).max(tuple);
    let mut bytes = shape.rows * (tuple + LINE_POINTER);
    let keys = if is_unique { shape.rows } else { keys(shape) };
    if deduplicates && keys > 0.0 && shape.rows > keys {
        // A posting list takes at most half of the largest entry, a sixth of a page (`_bt_dedup_pass`).
        let per_list = ((page / 6.0 - tuple) / ROW_POINTER).floor().max(2.0);
        let lists = keys * (shape.rows / keys / per_list).ceil();
        bytes = bytes.min(lists * (tuple + LINE_POINTER) + shape.rows * ROW_POINTER);
    }
    let leaves = (bytes / usable).ceil().max(1.0);
    let fan_out = (page * 0.7 / (tuple + LINE_POINTER)).max(2.0);
    1.0 + (leaves + leaves / (fan_out - 1.0)).ceil()
}

fn keys(shape: &Shape) -> f64 {
    let of_column = |column: &Column| {
        let values = if column.distinct < 0.0 { -column.distinct * shape.rows } else { column.distinct };
        // Unknown counts as all different; no value is one more.
        if values <= 0.0 { shape.rows } else { values + f64::from(u8::from(column.nulls > 0.0)) }
    };
    shape.columns.iter().map(of_column).product::<f64>().min(shape.rows)
}

fn has_nulls(columns: &[Column]) -> bool {
    columns.iter().any(|column| column.nulls > 0.0)
}

/// Bytes of the values with what aligns them. After a value of changing length only the mean of the gap is known.
fn data_width(columns: &[Column]) -> f64 {
    let (mut width, mut is_exact) = (0.0_f64, true);
    for column in columns {
        let align = f64::from(column.align.max(1));
        let gap = match (column.is_variable && column.width < SHORT_VALUE, is_exact) {
            (true, _) => 0.0,
            (false, true) => (width / align).ceil() * align - width,
            (false, false) => (align - 1.0) / 2.0,
        };
        width += (1.0 - column.nulls.clamp(0.0, 1.0)) * (gap + column.width);
        is_exact &= !column.is_variable && column.nulls <= 0.0;
    }
    width
}

fn aligned(bytes: f64) -> f64 {
    (bytes / MAX_ALIGN).ceil() * MAX_ALIGN
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(width: f64, align: u8, is_variable: bool) -> Column {
        Column { width, nulls: 0.0, align, is_variable, distinct: -1.0 }
    }

    fn shape(rows: f64, pages: u64, fillfactor: f64, columns: Vec<Column>) -> Shape {
        Shape { rows, pages, page_size: 8_192, fillfactor, columns }
    }

    /// Measured on Postgres 15 with freshly loaded tables and freshly built indexes; the rows are 100,000.
    #[test]
    fn what_was_just_made_is_estimated_to_a_few_percent() {
        // CREATE TABLE t (a int, b bigint, c text): 32-character text; 24 + 16 + 33 bytes and a line pointer.
        let heap = shape(1e5, 0, 100.0, vec![column(4.0, 4, false), column(8.0, 8, false), column(33.0, 4, true)]);
        assert!((heap_pages(&heap) - 1_031.0).abs() <= 1.0, "{}", heap_pages(&heap));
        // An index of a unique bigint: 276 pages.
        let unique = shape(1e5, 0, 90.0, vec![column(8.0, 8, false)]);
        assert!((btree_pages(&unique, true, true) - 276.0).abs() <= 3.0, "{}", btree_pages(&unique, true, true));
        // Of 100 different values: 91 pages deduplicated, 278 without.
        let few = shape(1e5, 0, 90.0, vec![Column { distinct: 100.0, ..column(8.0, 8, false) }]);
        let pages = btree_pages(&few, false, true);
        assert!((pages - 91.0).abs() <= 5.0, "{pages}");
        assert!((btree_pages(&few, false, false) - 278.0).abs() <= 3.0);
    }

    #[test]
    fn two_estimators_must_rest_on_different_facts_and_both_say_so() {
        let by = |basis, expected| Estimate::new(basis, 100 << 20, f64::from(expected) * 1_048_576.0);
        let (statistics, pages) = (by(Basis::Statistics, 20), by(Basis::Pages, 40));
        let limits = (2.0, 10e6);
        assert_eq!(
            agree(&statistics, &pages, limits.0, limits.1),
            Agreement::Bloated { wasted: 60 << 20, ratio: 2.5 },
            "the more careful of the two"
        );
        assert_eq!(agree(&statistics, &by(Basis::Pages, 90), limits.0, limits.1), Agreement::Sound);
        assert_eq!(agree(&statistics, &statistics, limits.0, limits.1), Agreement::Unproven);
    }

    #[test]
    fn a_baseline_that_is_too_small_says_nothing() {
        assert_eq!(Estimate::of_baseline(10 << 20, 1e5, 100 << 10, 1e4), None);
        assert_eq!(Estimate::of_baseline(10 << 20, 1e5, 1 << 20, 0.0), None);
        let grown = Estimate::of_baseline(10 << 20, 2e5, 2 << 20, 1e5).unwrap();
        assert_eq!((grown.expected, grown.wasted()), (4 << 20, 6 << 20));
    }

    #[test]
    fn what_is_smaller_than_expected_wastes_nothing() {
        let estimate = Estimate::new(Basis::Statistics, 1_000, 5_000.0);
        assert_eq!((estimate.wasted(), estimate.is_past(1.5, 0.0)), (0, false));
        assert_eq!(Estimate::new(Basis::Pages, 1_000, f64::NAN).wasted(), 0);
        assert!(!Estimate::new(Basis::Pages, 0, 0.0).is_past(0.0, 0.0));
    }

    proptest! {
        #[test]
        fn no_figures_make_it_negative_or_infinite(
            rows in 0.0_f64..1e12, pages in 0_u64..1 << 32, fillfactor in 10.0_f64..=100.0,
            width in 0.0_f64..100_000.0, nulls in 0.0_f64..=1.0, distinct in -1.0_f64..1e12, unique: bool, dedup: bool,
        ) {
            let columns = vec![Column { nulls, distinct, ..column(width, 8, true) }, column(8.0, 8, false)];
            let shape = shape(rows, pages, fillfactor, columns);
            for estimate in [Estimate::of_heap(&shape), Estimate::of_btree(&shape, unique, dedup)] {
                prop_assert!(estimate.expected <= estimate.size);
                prop_assert!(estimate.ratio().is_finite());
            }
            prop_assert!(heap_pages(&shape).is_finite() && btree_pages(&shape, unique, dedup) >= 1.0);
        }
    }
}
