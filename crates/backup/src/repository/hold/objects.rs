//! Holds in an object store: `holds/SET/ID` says who restores the set, `holds/SET/going` who removes it.
//!
//! Each writes its own before it looks for the other's, so that of two who come together at least one sees the other. Who
//! restores waits for who removes, for as long as that one has the lock of the repository. A hold is written anew every five
//! minutes; when it belongs to nobody any more, see [`super::super::owner`], it does not count.

use super::FOLDER;
use crate::error::Result;
use crate::repository::lease;
use crate::repository::owner::{AGAIN_AFTER, Owner, RENEWED_EVERY, found, is_silent, json};
use crate::repository::store::{Store, time_of};
use groundskeeper_core::receipt::SetId;
use jiff::Timestamp;
use object_store::{Error as StoreError, PutMode};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinHandle;

const GOING: &str = "going";
/// Between two looks whether a removal is over.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Hold {
    store: Store,
    name: String,
    renewing: JoinHandle<()>,
}

impl Hold {
    /// None when none can be had, as with credentials that may only read: a restore is worth more than its hold.
    pub(super) fn take(store: &Store, set: &SetId) -> Option<Self> {
        let hold = match Self::put(store, set) {
            Ok(hold) => hold,
            Err(error) => {
                tracing::warn!(%set, %error, "the set cannot be held; do not prune the repository while it is restored");
                return None;
            }
        };
        if let Err(error) = store.wait(wait_for_removal(store, set)) {
            let why = store.told(&error);
            tracing::warn!(%set, %why, "nobody knows whether the set is just being removed; its restore goes on");
        }
        Some(hold)
    }

    fn put(store: &Store, set: &SetId) -> Result<Self> {
        let owner = Owner::new()?;
        let name = format!("{FOLDER}/{set}/{}", owner.id);
        let content = json(&owner).map_err(|error| store.refused(&error))?;
        store.put(&name, content.clone()).map_err(|error| store.refused(&error))?;
        let renewing = store.spawn(renew(store.clone(), name.clone(), content));
        Ok(Self { store: store.clone(), name, renewing })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.renewing.abort();
        if let Err(error) = self.store.erase(&self.name) {
            let why = self.store.told(&error);
            tracing::warn!(%why, "what held the set could not be taken away; it runs out by itself");
        }
    }
}

async fn renew(store: Store, name: String, content: Vec<u8>) {
    let mut pause = RENEWED_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        pause = match store.put_mode(&name, content.clone(), PutMode::Overwrite).await {
            Ok(_) => RENEWED_EVERY,
            Err(error) => {
                let why = store.told(&error);
                tracing::warn!(%why, "what holds the set could not be written anew; it is tried again");
                AGAIN_AFTER
            }
        };
    }
}

async fn wait_for_removal(store: &Store, set: &SetId) -> std::result::Result<(), StoreError> {
    let name = format!("{FOLDER}/{set}/{GOING}");
    let mut told = false;
    while let Some(found) = found(store, &name).await? {
        let Ok(owner) = serde_json::from_slice::<Owner>(&found.content) else { break };
        if !lease::is_held_by(store, &owner.id, store.clock().await?).await? {
            break;
        }
        if !told {
            tracing::info!(%set, by = %owner, "the set is just being removed; its restore waits for the end of that");
            told = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

#[derive(Debug)]
pub(crate) struct Claim {
    store: Store,
    name: String,
}

impl Claim {
    pub(super) fn on(store: &Store, set: &SetId, clock: Timestamp) -> Result<Option<Self>> {
        let mut owner = Owner::new()?;
        if let Some(lease) = store.lease() {
            // By this it is seen whether it is still somebody's.
            owner.id.clone_from(&lease.id);
        }
        let name = format!("{FOLDER}/{set}/{GOING}");
        let content = json(&owner).map_err(|error| store.refused(&error))?;
        store.put(&name, content).map_err(|error| store.refused(&error))?;
        let claim = Self { store: store.clone(), name };
        Ok((!held_below(store, &format!("{FOLDER}/{set}"), Some(clock))?.contains(set)).then_some(claim))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.store.erase(&self.name) {
            let why = self.store.told(&error);
            tracing::warn!(%why, file = self.name, "a file stays behind; the next prune removes it");
        }
    }
}

/// The sets that somebody holds. Without the clock of the store, nobody's hold is too old.
pub(super) fn held(store: &Store, clock: Option<Timestamp>) -> Result<BTreeSet<SetId>> {
    held_below(store, FOLDER, clock)
}

fn held_below(store: &Store, folder: &str, clock: Option<Timestamp>) -> Result<BTreeSet<SetId>> {
    let marks = marks(store, folder, clock)?;
    Ok(marks.into_iter().filter(|mark| mark.holds).filter_map(|mark| mark.set).collect())
}

pub(super) fn is_any(store: &Store) -> Result<bool> {
    Ok(!store.objects_in(FOLDER).map_err(|error| store.refused(&error))?.is_empty())
}

/// While we have the lock, nobody else's claims can be alive.
pub(super) fn sweep(store: &Store, clock: Timestamp) -> Result<()> {
    for mark in marks(store, FOLDER, Some(clock))?.into_iter().filter(|mark| !mark.holds) {
        store.erase(&mark.name).map_err(|error| store.refused(&error))?;
    }
    Ok(())
}

/// What lies in the folder.
struct Mark {
    name: String,
    set: Option<SetId>,
    /// It is a hold, and somebody's.
    holds: bool,
}

fn marks(store: &Store, folder: &str, clock: Option<Timestamp>) -> Result<Vec<Mark>> {
    let objects = store.objects_in(folder).map_err(|error| store.refused(&error))?;
    let mut marks = Vec::new();
    for object in objects {
        let name = object.location.to_string();
        let mut parts = name.rsplit('/');
        let (id, set) = (parts.next(), parts.next().and_then(|set| set.parse().ok()));
        let is_old = clock.is_some_and(|clock| is_silent(time_of(&object), clock));
        let holds = id != Some(GOING) && !is_old && is_alive(store, &name)?;
        marks.push(Mark { name, set, holds });
    }
    Ok(marks)
}

/// Not one of a dead process of this machine. What nobody can read counts as alive.
fn is_alive(store: &Store, name: &str) -> Result<bool> {
    let read = store.wait(found(store, name)).map_err(|error| store.refused(&error))?;
    let Some(found) = read else { return Ok(false) };
    Ok(serde_json::from_slice::<Owner>(&found.content).map_or(true, |owner| !owner.is_gone()))
}

#[cfg(test)]
mod tests {
    use super::super::super::aged::Aged;
    use super::*;
    use std::sync::Arc;

    /// On a thread that may block, as everything of a repository.
    async fn aside<T: Send + 'static>(
        store: &(Arc<Aged>, Store),
        work: impl FnOnce(&Aged, &Store) -> T + Send + 'static,
    ) -> T {
        let (aged, store) = (Arc::clone(&store.0), store.1.clone());
        tokio::task::spawn_blocking(move || work(&aged, &store)).await.unwrap()
    }

    fn store() -> (Arc<Aged>, Store) {
        let aged = Arc::new(Aged::default());
        (Arc::clone(&aged), Store::of(aged, "s3://backups"))
    }

    fn sets() -> (SetId, SetId) {
        ("20260302T010000Z-00000001".parse().unwrap(), "20260301T010000Z-00000002".parse().unwrap())
    }

    /// A hold of another machine.
    fn foreign(store: &Store, set: &SetId) {
        let owner = Owner { machine: "another".into(), ..Owner::new().unwrap() };
        store.put(&format!("{FOLDER}/{set}/1"), json(&owner).unwrap()).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_set_that_is_held_cannot_be_claimed_and_asking_leaves_no_trace() {
        aside(&store(), |aged, store| {
            let (set, other) = sets();
            let now = aged.clock();
            assert!(held(store, None).unwrap().is_empty() && store.objects_in("").unwrap().is_empty());
            let (one, two) = (Hold::take(store, &set).unwrap(), Hold::take(store, &set).unwrap());
            assert_eq!(held(store, Some(now)).unwrap(), BTreeSet::from([set.clone()]));
            drop(one);
            assert!(Claim::on(store, &set, now).unwrap().is_none());
            assert!(Claim::on(store, &other, now).unwrap().is_some());
            drop(two);
            drop(Claim::on(store, &set, now).unwrap().unwrap());
            assert!(store.objects_in(FOLDER).unwrap().is_empty());
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hold_counts_until_it_falls_silent_by_the_clock_of_the_store_or_its_process_is_gone() {
        aside(&store(), |aged, store| {
            let (set, other) = sets();
            foreign(store, &set);
            let mut gone = Owner::new().unwrap();
            gone.started += 1;
            store.put(&format!("{FOLDER}/{other}/2"), json(&gone).unwrap()).unwrap();
            aged.set_minutes(29);
            assert_eq!(held(store, Some(aged.clock())).unwrap(), BTreeSet::from([set.clone()]));
            assert!(Claim::on(store, &other, aged.clock()).unwrap().is_some());
            aged.set_minutes(31);
            assert!(held(store, Some(aged.clock())).unwrap().is_empty());
            assert_eq!(held(store, None).unwrap(), BTreeSet::from([set]), "without a clock it is better kept");
            sweep(store, aged.clock()).unwrap();
            assert!(store.objects_in(FOLDER).unwrap().is_empty());
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_restore_waits_for_who_removes_its_set_and_not_for_a_dead_one() {
        let place = store();
        let (set, _) = sets();
        let (lock, claim) = aside(&place, {
            let set = set.clone();
            move |aged, store| {
                let lock = lease::Held::take(store, None).unwrap();
                (lock, Claim::on(store, &set, aged.clock()).unwrap().unwrap())
            }
        })
        .await;
        // Of another process: without the lease of this store.
        let other = Store::of(Arc::clone(&place.0) as _, "s3://backups");
        let waiting = {
            let (set, other) = (set.clone(), other.clone());
            tokio::task::spawn_blocking(move || Hold::take(&other, &set))
        };
        let mut written = 0;
        while written == 0 {
            written = other_marks(&other, &set).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!waiting.is_finished(), "it waits");
        tokio::task::spawn_blocking(move || drop(claim)).await.unwrap();
        let hold = waiting.await.unwrap();
        assert!(hold.is_some());
        // The claim of a prune that was killed is nobody's, as soon as its lock is gone.
        let left = json(&Owner::new().unwrap()).unwrap();
        tokio::task::spawn_blocking(move || {
            drop(lock);
            other.put(&format!("{FOLDER}/{set}/{GOING}"), left).unwrap();
            assert!(Hold::take(&other, &set).is_some());
            drop(hold);
        })
        .await
        .unwrap();
    }

    async fn other_marks(store: &Store, set: &SetId) -> usize {
        let (store, set) = (store.clone(), set.clone());
        tokio::task::spawn_blocking(move || {
            let marks = store.objects_in(&format!("{FOLDER}/{set}")).unwrap();
            marks.iter().filter(|mark| mark.location.filename() != Some(GOING)).count()
        })
        .await
        .unwrap()
    }
}
