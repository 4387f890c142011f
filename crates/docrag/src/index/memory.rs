//! The dense index in this process: vectors as they are, and sketches of them to find candidates by.
//!
//! Each tenant's corpus is a partition of its own, so nothing is ever compared across. A search holds a partition's
//! reading lock; a change holds its writing lock for a few vectors at a time, so that neither waits long for the other.
//! Each process has its own index and fills it from Postgres at start.

mod partition;
mod rows;

use super::{Allowed, Change, Held, Hit, IndexError, Scope};
use partition::Partition;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(super) use rows::Slots;

/// It was measured up to here; more are held as well, and searched more slowly.
pub const MOST_CHUNKS: u64 = 200_000;

/// Changes made under one writing lock: about 100 µs.
const CHANGES_PER_LOCK: usize = 64;

#[derive(Debug)]
pub struct MemoryIndex {
    dimension: usize,
    served: RwLock<Arc<Set>>,
    build: RwLock<Option<Arc<Set>>>,
}

/// All partitions of one build.
#[derive(Debug, Default)]
struct Set {
    partitions: RwLock<HashMap<Scope, Arc<RwLock<Partition>>>>,
}

impl MemoryIndex {
    pub fn new(dimension: usize) -> Self {
        Self { dimension, served: RwLock::default(), build: RwLock::default() }
    }

    pub fn apply(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        self.check(&changes)?;
        self.served().apply(self.dimension, changes);
        Ok(())
    }

    pub fn search(
        &self,
        scope: &Scope,
        allowed: &Allowed,
        vector: &[f32],
        limit: usize,
        exact: bool,
    ) -> Result<Vec<Hit>, IndexError> {
        if vector.len() != self.dimension {
            return Err(self.wrong_dimension("the query's vector", vector.len()));
        }
        let Some(partition) = read(&self.served().partitions).get(scope).cloned() else { return Ok(Vec::new()) };
        Ok(read(&partition).search(allowed, vector, limit, exact))
    }

    /// Of this tenant, or of all of them; sorted by id.
    pub fn held(&self, tenant: Option<&str>) -> Vec<Held> {
        let served = self.served();
        let partitions: Vec<_> = read(&served.partitions)
            .iter()
            .filter(|(scope, _)| tenant.is_none_or(|tenant| scope.tenant == tenant))
            .map(|(_, partition)| Arc::clone(partition))
            .collect();
        let mut held = Vec::new();
        for partition in partitions {
            held.extend(read(&partition).held());
        }
        held.sort_unstable();
        held
    }

    pub fn count(&self) -> u64 {
        self.served().all().iter().map(|partition| read(partition).len() as u64).sum()
    }

    pub fn begin_build(&self) {
        *write(&self.build) = Some(Arc::default());
    }

    pub fn fill_build(&self, changes: Vec<Change>) -> Result<(), IndexError> {
        self.check(&changes)?;
        let build = read(&self.build).clone().ok_or_else(no_build)?;
        build.apply(self.dimension, changes);
        Ok(())
    }

    /// Searches that run go on in what they began in, which goes with the last of them.
    pub fn switch_build(&self) -> Result<(), IndexError> {
        let build = write(&self.build).take().ok_or_else(no_build)?;
        *write(&self.served) = build;
        Ok(())
    }

    fn served(&self) -> Arc<Set> {
        read(&self.served).clone()
    }

    fn check(&self, changes: &[Change]) -> Result<(), IndexError> {
        for change in changes {
            if let Change::Upsert(point) = change
                && point.vector.len() != self.dimension
            {
                return Err(self.wrong_dimension(&format!("the vector of chunk {}", point.id), point.vector.len()));
            }
        }
        Ok(())
    }

    fn wrong_dimension(&self, what: &str, got: usize) -> IndexError {
        let expected = self.dimension;
        IndexError::Refused {
            index: "memory",
            cause: format!("{what} has {got} numbers, the index holds vectors of {expected}; was the model changed?"),
        }
    }
}

impl Set {
    fn apply(&self, dimension: usize, changes: Vec<Change>) {
        let mut by_scope: HashMap<Scope, Vec<Change>> = HashMap::new();
        for change in changes {
            let scope = match &change {
                Change::Upsert(point) => Scope { tenant: point.tenant.clone(), corpus: point.corpus.clone() },
                Change::Delete { scope, .. } => scope.clone(),
            };
            by_scope.entry(scope).or_default().push(change);
        }
        for (scope, changes) in by_scope {
            let partition = self.partition(dimension, &scope);
            let mut changes = changes.into_iter().peekable();
            while changes.peek().is_some() {
                let mut partition = write(&partition);
                for change in changes.by_ref().take(CHANGES_PER_LOCK) {
                    match change {
                        Change::Upsert(point) => partition.upsert(point),
                        Change::Delete { id, .. } => partition.delete(id),
                    }
                }
            }
            drop(partition);
            self.forget_when_empty(&scope);
        }
    }

    fn partition(&self, dimension: usize, scope: &Scope) -> Arc<RwLock<Partition>> {
        if let Some(partition) = read(&self.partitions).get(scope) {
            return partition.clone();
        }
        write(&self.partitions)
            .entry(scope.clone())
            .or_insert_with(|| Arc::new(RwLock::new(Partition::new(dimension))))
            .clone()
    }

    /// Nobody else has the partition when only the map does: whoever takes it from there holds the map's lock.
    fn forget_when_empty(&self, scope: &Scope) {
        let mut partitions = write(&self.partitions);
        if let Some(partition) = partitions.get_mut(scope)
            && let Some(partition) = Arc::get_mut(partition)
            && partition.get_mut().unwrap_or_else(PoisonError::into_inner).len() == 0
        {
            partitions.remove(scope);
        }
    }

    fn all(&self) -> Vec<Arc<RwLock<Partition>>> {
        read(&self.partitions).values().cloned().collect()
    }
}

fn no_build() -> IndexError {
    IndexError::Refused { index: "memory", cause: "no build was begun".to_owned() }
}

/// A search that panicked has changed nothing, and one change is made whole before the next: the lock is still good.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Point;
    use uuid::Uuid;

    #[test]
    fn a_corpus_whose_last_vector_has_gone_takes_no_memory() {
        let index = MemoryIndex::new(2);
        let scope = Scope { tenant: "a".to_owned(), corpus: "b".to_owned() };
        let point = Point {
            id: Uuid::from_u128(1),
            doc_id: Uuid::from_u128(2),
            tenant: scope.tenant.clone(),
            corpus: scope.corpus.clone(),
            chunk_hash: vec![0; 32],
            model_fingerprint: "model:0".to_owned(),
            generation: 1,
            vector: vec![1.0, 0.0],
        };
        index.apply(vec![Change::Upsert(point.clone())]).unwrap();
        assert_eq!(index.served().all().len(), 1);
        index.apply(vec![Change::Delete { id: point.id, scope: scope.clone() }]).unwrap();
        assert_eq!(index.served().all().len(), 0);
        index.apply(vec![Change::Upsert(point)]).unwrap();
        assert_eq!(index.search(&scope, &None, &[1.0, 0.0], 1, true).unwrap().len(), 1);
    }
}
