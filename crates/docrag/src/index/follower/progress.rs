//! How far this process's indexes are: for readiness, for caches, for marking documents as searchable.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

const NONE: i64 = -1;

/// The last entry of each tenant that an index has applied.
#[derive(Debug, Default)]
struct Seqs {
    /// Of tenants that are not listed.
    floor: i64,
    of: HashMap<String, i64>,
}

#[derive(Debug)]
pub(crate) struct Followed {
    dense_applied: AtomicI64,
    lexical_applied: AtomicI64,
    build: AtomicI64,
    /// Of the vectors that the dense index holds; [`NONE`] before the first model.
    generation: AtomicI64,
    known_serving: AtomicI64,
    /// [`crate::store::models::Serving::complete_seq`] of the model that serves; [`NONE`] while it makes vectors again.
    complete: AtomicI64,
    dense_loaded: AtomicBool,
    lexical_loaded: AtomicBool,
    dense: Mutex<Seqs>,
    lexical: Mutex<Seqs>,
    /// Makes every version before everything is loaded another one.
    unloaded: AtomicU64,
    pub(crate) changed: Notify,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            dense_applied: AtomicI64::new(0),
            lexical_applied: AtomicI64::new(0),
            build: AtomicI64::new(1),
            generation: AtomicI64::new(NONE),
            known_serving: AtomicI64::new(NONE),
            complete: AtomicI64::new(0),
            dense_loaded: AtomicBool::new(false),
            lexical_loaded: AtomicBool::new(false),
            dense: Mutex::default(),
            lexical: Mutex::default(),
            unloaded: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }
}

impl Seqs {
    fn learn(&mut self, seqs: Vec<(String, i64)>) {
        for (tenant, seq) in seqs {
            let known = self.of.entry(tenant).or_insert(seq);
            *known = seq.max(*known);
        }
    }

    fn get(&self, tenant: &str) -> i64 {
        self.of.get(tenant).copied().unwrap_or(self.floor)
    }
}

impl Followed {
    pub(crate) fn dense_applied(&self) -> i64 {
        self.dense_applied.load(Ordering::Acquire)
    }

    pub(crate) fn lexical_applied(&self) -> i64 {
        self.lexical_applied.load(Ordering::Acquire)
    }

    /// What both indexes have applied.
    pub(crate) fn applied(&self) -> i64 {
        self.dense_applied().min(self.lexical_applied())
    }

    pub(crate) fn build(&self) -> i64 {
        self.build.load(Ordering::Acquire)
    }

    pub(crate) fn set_build(&self, build: i64) {
        self.build.store(build, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> Option<i64> {
        some(self.generation.load(Ordering::Acquire))
    }

    pub(crate) fn set_generation(&self, generation: Option<i64>) {
        self.generation.store(generation.unwrap_or(NONE), Ordering::Release);
    }

    /// The serving generation that this process last heard of.
    pub(crate) fn known_serving(&self) -> Option<i64> {
        some(self.known_serving.load(Ordering::Acquire))
    }

    pub(crate) fn set_known_serving(&self, generation: Option<i64>) {
        self.known_serving.store(generation.unwrap_or(NONE), Ordering::Release);
    }

    pub(crate) fn set_complete(&self, seq: Option<i64>) {
        self.complete.store(seq.unwrap_or(NONE), Ordering::Release);
    }

    /// Whether the dense index holds all that the serving model had to make again.
    pub(crate) fn complete(&self) -> bool {
        some(self.complete.load(Ordering::Acquire))
            .is_some_and(|seq| !self.dense_loaded() || self.dense_applied() >= seq)
    }

    pub(crate) fn dense_loaded(&self) -> bool {
        self.dense_loaded.load(Ordering::Acquire)
    }

    pub(crate) fn lexical_loaded(&self) -> bool {
        self.lexical_loaded.load(Ordering::Acquire)
    }

    pub(crate) fn set_dense_loaded(&self) {
        self.dense_loaded.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    pub(crate) fn set_lexical_loaded(&self) {
        self.lexical_loaded.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Whether everything that was committed before this process began can be found.
    pub(crate) fn loaded(&self) -> bool {
        self.dense_loaded() && self.lexical_loaded()
    }

    pub(crate) fn dense_at(&self, applied: i64, seqs: Vec<(String, i64)>) {
        locked(&self.dense).learn(seqs);
        self.dense_applied.store(applied, Ordering::Release);
        self.changed.notify_one();
    }

    pub(crate) fn lexical_at(&self, applied: i64, seqs: Vec<(String, i64)>) {
        locked(&self.lexical).learn(seqs);
        self.lexical_applied.store(applied, Ordering::Release);
        self.changed.notify_one();
    }

    /// Everything up to here was read at once; which tenants changed on the way is not known.
    pub(crate) fn dense_from(&self, applied: i64) {
        *locked(&self.dense) = Seqs { floor: applied, of: HashMap::new() };
        self.dense_at(applied, Vec::new());
    }

    pub(crate) fn lexical_from(&self, applied: i64) {
        *locked(&self.lexical) = Seqs { floor: applied, of: HashMap::new() };
        self.lexical_at(applied, Vec::new());
    }

    /// See [`crate::service::Service::index_version`].
    pub(crate) fn version(&self, model: &str, replica: &str, tenant: &str) -> String {
        if !self.loaded() {
            let count = self.unloaded.fetch_add(1, Ordering::Relaxed);
            return format!("loading.{replica}.{count}");
        }
        let lexical = locked(&self.lexical).get(tenant);
        let dense = locked(&self.dense).get(tenant);
        format!("{model}.{}.{lexical}.{dense}", self.build())
    }
}

fn some(number: i64) -> Option<i64> {
    (number != NONE).then_some(number)
}

fn locked(seqs: &Mutex<Seqs>) -> MutexGuard<'_, Seqs> {
    // Whatever is in there are whole numbers.
    seqs.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded() -> Followed {
        let followed = Followed::default();
        followed.dense_from(10);
        followed.lexical_from(10);
        followed.set_dense_loaded();
        followed.set_lexical_loaded();
        followed
    }

    #[test]
    fn a_version_changes_with_what_its_own_tenant_sees_and_not_with_others() {
        let followed = loaded();
        let before = followed.version("m", "r", "a");
        followed.lexical_at(12, vec![("b".to_owned(), 12)]);
        assert_eq!(followed.version("m", "r", "a"), before);
        followed.lexical_at(13, vec![("a".to_owned(), 13)]);
        let lexical = followed.version("m", "r", "a");
        assert_ne!(lexical, before);
        followed.dense_at(13, vec![("a".to_owned(), 13)]);
        assert_ne!(followed.version("m", "r", "a"), lexical);
        followed.set_build(2);
        assert_eq!(followed.version("m", "r", "a"), "m.2.13.13");
    }

    #[test]
    fn vectors_are_complete_when_the_index_has_followed_them_all() {
        let followed = loaded();
        assert!(followed.complete());
        followed.set_complete(None);
        assert!(!followed.complete());
        followed.set_complete(Some(11));
        assert!(!followed.complete());
        followed.dense_at(11, Vec::new());
        assert!(followed.complete());
    }

    #[test]
    fn nothing_is_cached_under_a_version_before_everything_is_loaded() {
        let followed = Followed::default();
        assert_ne!(followed.version("m", "r", "a"), followed.version("m", "r", "a"));
    }
}
