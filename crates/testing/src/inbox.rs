//! What a receiver was sent, and waiting for it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::Notify;

/// A list that can be waited on. The lock is std's: it is never held across an await.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    items: Mutex<Vec<T>>,
    arrived: Notify,
}

impl<T: Clone> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self { items: Mutex::new(Vec::new()), arrived: Notify::new() }
    }

    fn items(&self) -> MutexGuard<'_, Vec<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: T) {
        self.items().push(item);
        self.arrived.notify_waiters();
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.items().clone()
    }

    /// Everything that has arrived, once that is at least `count`.
    pub(crate) async fn wait_for(&self, count: usize, within: Duration) -> Result<Vec<T>> {
        let enough = async {
            loop {
                // Registered before looking: an item that arrives in between would otherwise be missed.
                let arrived = self.arrived.notified();
                let items = self.all();
                if items.len() >= count {
                    return items;
                }
                arrived.await;
            }
        };
        match tokio::time::timeout(within, enough).await {
            Ok(items) => Ok(items),
            Err(_) => bail!("{} of {count} arrived within {within:?}", self.all().len()),
        }
    }
}
