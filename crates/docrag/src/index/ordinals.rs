//! Documents as small numbers, so that "only these documents" is a bit per document and not a hash per chunk.

use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Documents that have at least one chunk. A number is used again once its document has no chunk any more.
#[derive(Debug, Default)]
pub(super) struct Ordinals {
    by_id: HashMap<Uuid, u32>,
    /// How many chunks each number has; 0 is a free number.
    chunks: Vec<u32>,
    free: Vec<u32>,
}

impl Ordinals {
    /// Counts one more chunk of a document.
    pub(super) fn add(&mut self, doc_id: Uuid) -> u32 {
        let ordinal = *self.by_id.entry(doc_id).or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.chunks.push(0);
                self.chunks.len() as u32 - 1
            })
        });
        self.chunks[ordinal as usize] += 1;
        ordinal
    }

    /// Counts one chunk less.
    pub(super) fn remove(&mut self, doc_id: Uuid) {
        let Some(ordinal) = self.by_id.get(&doc_id).copied() else { return };
        let chunks = &mut self.chunks[ordinal as usize];
        *chunks -= 1;
        if *chunks == 0 {
            self.by_id.remove(&doc_id);
            self.free.push(ordinal);
        }
    }

    /// The documents of `ids` that are here.
    pub(super) fn chosen(&self, ids: &HashSet<Uuid>) -> Chosen {
        let mut chosen = Chosen { bits: vec![0; self.chunks.len().div_ceil(64)], chunks: 0 };
        let mut choose = |ordinal: u32| {
            chosen.bits[ordinal as usize / 64] |= 1 << (ordinal % 64);
            chosen.chunks += self.chunks[ordinal as usize] as usize;
        };
        // Whichever is shorter is walked.
        if ids.len() <= self.by_id.len() {
            ids.iter().filter_map(|id| self.by_id.get(id)).for_each(|ordinal| choose(*ordinal));
        } else {
            self.by_id.iter().filter(|(id, _)| ids.contains(id)).for_each(|(_, ordinal)| choose(*ordinal));
        }
        chosen
    }
}

/// Some documents.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    bits: Vec<u64>,
    /// That these documents have together.
    pub(super) chunks: usize,
}

impl Chosen {
    pub(super) fn contains(&self, ordinal: u32) -> bool {
        self.bits.get(ordinal as usize / 64).is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_without_chunks_is_not_chosen_and_its_number_is_used_again() {
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        let mut ordinals = Ordinals::default();
        assert_eq!([ordinals.add(a), ordinals.add(b), ordinals.add(a)], [0, 1, 0]);
        ordinals.remove(b);
        ordinals.remove(c);
        assert_eq!(ordinals.chosen(&HashSet::from([b])).chunks, 0);
        assert_eq!(ordinals.add(c), 1);
        let chosen = ordinals.chosen(&HashSet::from([a, b]));
        assert_eq!(
            (chosen.chunks, chosen.contains(0), chosen.contains(1), chosen.contains(70)),
            (2, true, false, false)
        );
        let of_many = ordinals.chosen(&(1..100).map(Uuid::from_u128).collect());
        assert_eq!((of_many.chunks, of_many.contains(1)), (3, true));
    }
}
