//! What one tenant has in one corpus.

use super::Slots;
use super::rows::Rows;
use crate::index::ordinals::Ordinals;
use crate::index::sketch::Sketches;
use crate::index::{Allowed, Held, Hit, Point};
use std::collections::HashMap;
use uuid::Uuid;

/// Up to here every vector is compared: it takes half a millisecond, and sketches would save little.
const EXACT_UP_TO: usize = 4_096;

/// So few bits would say too little, and so few numbers are soon compared.
const EXACT_UP_TO_DIMENSION: usize = 127;

/// Candidates that are always compared, and more for each hit that is wanted; `docs/decisions/0012-in-process-index.md`
/// says what each number finds.
const CANDIDATES_AT_LEAST: usize = 2_000;
const CANDIDATES_PER_HIT: usize = 20;

#[derive(Debug)]
pub(super) struct Partition {
    dimension: usize,
    rows: Rows,
    chunks: Vec<Chunk>,
    slots: HashMap<Uuid, u32>,
    documents: Ordinals,
    sketches: Option<Sketches>,
    /// Rows that were there when sketches were made, and rows that came or changed since.
    sketched: usize,
    changed: usize,
}

#[derive(Debug)]
struct Chunk {
    id: Uuid,
    doc_id: Uuid,
    document: u32,
    hash: Box<[u8]>,
}

impl Partition {
    pub(super) fn new(dimension: usize) -> Self {
        Self {
            dimension,
            rows: Rows::new(dimension),
            chunks: Vec::new(),
            slots: HashMap::new(),
            documents: Ordinals::default(),
            sketches: None,
            sketched: 0,
            changed: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = Held> {
        self.chunks.iter().map(|chunk| Held { id: chunk.id, chunk_hash: chunk.hash.to_vec() })
    }

    pub(super) fn upsert(&mut self, point: Point) {
        let document = self.documents.add(point.doc_id);
        let chunk = Chunk { id: point.id, doc_id: point.doc_id, document, hash: point.chunk_hash.into_boxed_slice() };
        if let Some(slot) = self.slots.get(&point.id) {
            let slot = *slot as usize;
            self.rows.replace(slot, &point.vector);
            if let Some(sketches) = &mut self.sketches {
                sketches.replace(slot, &point.vector);
            }
            let before = std::mem::replace(&mut self.chunks[slot], chunk);
            self.documents.remove(before.doc_id);
        } else {
            self.slots.insert(point.id, self.rows.len() as u32);
            self.rows.push(&point.vector);
            if let Some(sketches) = &mut self.sketches {
                sketches.push(&point.vector);
            }
            self.chunks.push(chunk);
        }
        self.changed += 1;
        self.sketch_again_when_worn();
    }

    pub(super) fn delete(&mut self, id: Uuid) {
        let Some(slot) = self.slots.remove(&id) else { return };
        let slot = slot as usize;
        self.rows.swap_remove(slot);
        if let Some(sketches) = &mut self.sketches {
            sketches.swap_remove(slot);
        }
        let chunk = self.chunks.swap_remove(slot);
        self.documents.remove(chunk.doc_id);
        if let Some(moved) = self.chunks.get(slot) {
            self.slots.insert(moved.id, slot as u32);
        }
    }

    /// Each time that as much has come or changed as there was: the mean that sketches are made around has moved.
    fn sketch_again_when_worn(&mut self) {
        let worth_it = self.rows.len() > EXACT_UP_TO && self.dimension > EXACT_UP_TO_DIMENSION;
        if worth_it && self.changed > self.sketched {
            self.sketches = Some(Sketches::of(self.dimension, self.rows.iter()));
            self.sketched = self.rows.len();
            self.changed = 0;
        }
    }

    /// The nearest `limit`, best first; equal ones by id.
    pub(super) fn search(&self, allowed: &Allowed, vector: &[f32], limit: usize, exact: bool) -> Vec<Hit> {
        let chosen = allowed.as_ref().map(|ids| self.documents.chosen(ids));
        let selected: Option<Vec<u32>> = chosen.map(|chosen| {
            if chosen.chunks == 0 {
                return Vec::new();
            }
            let slots = (0_u32..).zip(&self.chunks);
            slots.filter(|(_, chunk)| chosen.contains(chunk.document)).map(|(slot, _)| slot).collect()
        });
        let slots = selected.as_deref().map_or(Slots::All, Slots::These);
        let count = selected.as_ref().map_or(self.rows.len(), Vec::len);
        let candidates = CANDIDATES_AT_LEAST.saturating_add(CANDIDATES_PER_HIT.saturating_mul(limit));
        let scored = match &self.sketches {
            Some(sketches) if !exact && count > EXACT_UP_TO.max(candidates) => {
                self.rows.cosines(vector, Slots::These(&sketches.nearest(vector, slots, candidates)))
            }
            _ => self.rows.cosines(vector, slots),
        };
        self.best(scored, limit)
    }

    fn best(&self, mut scored: Vec<(f32, u32)>, limit: usize) -> Vec<Hit> {
        let id = |slot: u32| self.chunks[slot as usize].id;
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then_with(|| id(a.1).cmp(&id(b.1)));
        if limit == 0 {
            return Vec::new();
        }
        if scored.len() > limit {
            scored.select_nth_unstable_by(limit - 1, order);
            scored.truncate(limit);
        }
        scored.sort_unstable_by(order);
        let hit = |(score, slot): (f32, u32)| {
            let chunk = &self.chunks[slot as usize];
            Hit { id: chunk.id, doc_id: chunk.doc_id, score }
        };
        scored.into_iter().map(hit).collect()
    }
}
