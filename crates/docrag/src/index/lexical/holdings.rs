//! Which chunks the index holds, and what BM25 has to know of each scope as a whole.
//!
//! tantivy shows a commit some time after a chunk was handed to it. Meanwhile both the old and the new writing of a chunk
//! are known here, so that a search finds the one that it can see: new writings come before the commit, old ones go after.

use super::Text;
use crate::index::ordinals::{Chosen, Ordinals};
use crate::index::{Hit, Scope};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

#[derive(Debug, Default)]
pub(super) struct Holdings {
    chunks: HashMap<Uuid, u64>,
    writings: HashMap<u64, Writing>,
    numbers: HashMap<Scope, u32>,
    totals: HashMap<u32, Totals>,
    documents: Ordinals,
    next_key: u64,
    next_scope: u32,
}

/// A chunk as it was handed to tantivy at one time.
#[derive(Debug)]
struct Writing {
    id: Uuid,
    doc_id: Uuid,
    scope: u32,
    words: u32,
}

/// Of one scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) chunks: u64,
    pub(super) words: u64,
}

/// The numbers that tantivy is given for a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    pub(super) key: u64,
    pub(super) document: u32,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    id: Uuid,
    pub(super) old: Option<u64>,
    new: Option<u64>,
}

impl Holdings {
    pub(super) fn begin_delete(&mut self, id: Uuid) -> Step {
        Step { id, old: self.chunks.remove(&id), new: None }
    }

    pub(super) fn begin_upsert(&mut self, text: &Text, words: u32) -> (Step, Numbers) {
        let scope = self.number(&text.scope);
        let totals = self.totals.entry(scope).or_default();
        totals.chunks += 1;
        totals.words += u64::from(words);
        let document = self.documents.add(text.doc_id);
        let key = self.next_key;
        self.next_key += 1;
        self.writings.insert(key, Writing { id: text.id, doc_id: text.doc_id, scope, words });
        let old = self.chunks.insert(text.id, key);
        (Step { id: text.id, old, new: Some(key) }, Numbers { key, document })
    }

    /// tantivy shows the step.
    pub(super) fn finish(&mut self, step: Step) {
        if let Some(old) = step.old {
            self.forget(old);
        }
    }

    /// tantivy will never show the step.
    pub(super) fn undo(&mut self, step: Step) {
        match step.old {
            Some(old) => self.chunks.insert(step.id, old),
            None => self.chunks.remove(&step.id),
        };
        if let Some(new) = step.new {
            self.forget(new);
        }
    }

    fn forget(&mut self, key: u64) {
        let Some(writing) = self.writings.remove(&key) else { return };
        self.documents.remove(writing.doc_id);
        let Some(totals) = self.totals.get_mut(&writing.scope) else { return };
        totals.chunks -= 1;
        totals.words -= u64::from(writing.words);
        if totals.chunks == 0 {
            self.totals.remove(&writing.scope);
            self.numbers.retain(|_, number| *number != writing.scope);
        }
    }

    /// The number of a scope that will have a chunk; never used again after its last one has gone.
    pub(super) fn number(&mut self, scope: &Scope) -> u32 {
        if let Some(number) = self.numbers.get(scope) {
            return *number;
        }
        self.next_scope += 1;
        self.numbers.insert(scope.clone(), self.next_scope);
        self.next_scope
    }

    pub(super) fn scope(&self, scope: &Scope) -> Option<(u32, Totals)> {
        let number = self.numbers.get(scope)?;
        Some((*number, *self.totals.get(number)?))
    }

    pub(super) fn chosen(&self, documents: &HashSet<Uuid>) -> Chosen {
        self.documents.chosen(documents)
    }

    /// Nothing when the writing went since it was found.
    pub(super) fn hit(&self, key: u64, score: f32) -> Option<Hit> {
        let writing = self.writings.get(&key)?;
        Some(Hit { id: writing.id, doc_id: writing.doc_id, score })
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn ids(&self) -> Vec<Uuid> {
        let mut ids: Vec<Uuid> = self.chunks.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(id: u128, doc_id: u128, tenant: &str) -> Text {
        Text {
            id: Uuid::from_u128(id),
            doc_id: Uuid::from_u128(doc_id),
            scope: Scope { tenant: tenant.to_owned(), corpus: "c".to_owned() },
            title: String::new(),
            heading: String::new(),
            content: String::new(),
        }
    }

    #[test]
    fn both_writings_are_known_until_the_new_one_is_shown_and_a_step_can_be_undone() {
        let mut holdings = Holdings::default();
        let first = text(1, 10, "a");
        let (step, old) = holdings.begin_upsert(&first, 5);
        holdings.finish(step);
        let (step, new) = holdings.begin_upsert(&first, 7);
        assert!([old.key, new.key].iter().all(|key| holdings.hit(*key, 1.0).is_some()));
        holdings.undo(step);
        assert_eq!(holdings.scope(&first.scope).unwrap().1, Totals { chunks: 1, words: 5 });
        assert!(holdings.hit(new.key, 1.0).is_none() && holdings.hit(old.key, 1.0).is_some());
        let step = holdings.begin_delete(first.id);
        holdings.undo(step);
        assert_eq!(holdings.ids(), [first.id]);
        let step = holdings.begin_delete(first.id);
        assert_eq!((holdings.len(), holdings.hit(old.key, 1.0).is_some()), (0, true));
        holdings.finish(step);
        assert_eq!((holdings.scope(&first.scope), holdings.hit(old.key, 1.0)), (None, None));
    }

    #[test]
    fn a_scopes_number_is_its_own_for_ever() {
        let mut holdings = Holdings::default();
        let (a, b) = (text(1, 10, "a"), text(2, 20, "b"));
        let (step, first) = holdings.begin_upsert(&a, 5);
        let number = holdings.number(&a.scope);
        assert_eq!(holdings.scope(&a.scope).unwrap().0, number);
        holdings.finish(step);
        let step = holdings.begin_delete(a.id);
        holdings.finish(step);
        let (_, second) = holdings.begin_upsert(&b, 5);
        assert_ne!(holdings.number(&b.scope), number);
        assert_ne!(first.key, second.key);
    }
}
