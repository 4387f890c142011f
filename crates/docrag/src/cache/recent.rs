//! What this process looked up a moment ago.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most `most` entries, each for `fresh_for`. Full of fresh ones, it starts anew: entries are cheap to get again.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    most: usize,
    fresh_for: Duration,
    // A std mutex: it is held for a map access only, never across an await.
    entries: Mutex<HashMap<K, (V, Instant)>>,
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    pub(super) fn new(most: usize, fresh_for: Duration) -> Self {
        Self { most, fresh_for, entries: Mutex::default() }
    }

    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, since) = entries.get(key)?;
        (now.duration_since(*since) < self.fresh_for).then(|| value.clone())
    }

    pub(super) fn put(&self, key: K, value: V, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.most && !entries.contains_key(&key) {
            entries.retain(|_, (_, since)| now.duration_since(*since) < self.fresh_for);
            if entries.len() >= self.most {
                entries.clear();
            }
        }
        entries.insert(key, (value, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_forgotten_after_its_time_and_the_map_stays_small() {
        let (recent, now) = (Recent::new(2, Duration::from_secs(5)), Instant::now());
        recent.put("a", 1, now);
        assert_eq!(recent.get(&"a", now + Duration::from_secs(4)), Some(1));
        assert_eq!(recent.get(&"a", now + Duration::from_secs(5)), None);
        recent.put("b", 2, now + Duration::from_secs(4));
        recent.put("c", 3, now + Duration::from_secs(6));
        assert_eq!(recent.get(&"b", now + Duration::from_secs(6)), Some(2), "the stale one made room");
        recent.put("d", 4, now + Duration::from_secs(6));
        assert_eq!(recent.entries.lock().unwrap().len(), 1);
    }
}
