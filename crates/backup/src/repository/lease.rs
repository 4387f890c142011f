//! The lock on an object store, where several machines may meet: an object that says whose it is, and is written anew every
//! five minutes. When it belongs to nobody any more, see [`super::owner`], it is taken over.
//!
//! It is written with a condition (only if absent, only if unchanged), which S3, Google and Azure know. A store that does
//! not is asked again after a moment whether the object is still ours, and nothing is ever removed from it
//! ([`must_be_obeyed`]). Who could not renew it for 25 minutes, or finds that another one took it over, writes nothing any
//! more: [`Store::revoke`]. What cannot be taken back is done only after another look: [`confirm`].

use super::owner::{AGAIN_AFTER, Owner, RENEWED_EVERY, found, is_silent, json};
use super::store::{Found, Lease, Store, since_boot};
use crate::error::{Error, Result};
use jiff::Timestamp;
use object_store::{Error as StoreError, PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::task::JoinHandle;

pub(super) const NAME: &str = super::lock::NAME;
/// Who could not renew for so long stops by itself. A request that began before is over, one way or another, before others
/// take the lock over.
const GIVEN_UP_AFTER: Duration = Duration::from_mins(25);
/// How long two who write without a condition wait for each other.
const SETTLES: Duration = Duration::from_secs(2);
const TAKEN: &str = "another process has taken its lock over; run it again";
/// Others may be faster so often.
const TRIES: usize = 5;

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    #[serde(flatten)]
    owner: Owner,
    since: Option<Timestamp>,
    /// Makes each renewal another object: who judges an older one cannot take it over.
    renewals: u64,
}

impl Claim {
    fn new(since: Option<Timestamp>) -> Result<Self> {
        Ok(Self { owner: Owner::new()?, since, renewals: 0 })
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.since {
            Some(since) => write!(f, "{} since {since:.0}", self.owner),
            None => write!(f, "{}", self.owner),
        }
    }
}

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    store: Store,
    renewing: JoinHandle<()>,
}

impl Held {
    /// On a thread that may block.
    pub(super) fn take(store: &Store, since: Option<Timestamp>) -> Result<Self> {
        let claim = Claim::new(since)?;
        let begun = since_boot();
        let version = store.wait(acquire(store, &claim)).inspect_err(|error| {
            // It may have been written all the same; the next of this process must not wait for it.
            if !matches!(error, Error::Busy(_)) {
                store.leave(&claim.owner.id);
            }
        })?;
        store.hold(Lease::new(&claim.owner.id, begun + GIVEN_UP_AFTER));
        let renewing = store.spawn(renew(store.clone(), claim, version));
        Ok(Self { store: store.clone(), renewing })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
        let store = &self.store;
        let Some(lease) = store.lease() else { return };
        if lease.is_over() {
            // It may be another one's at any moment.
            return store.leave(&lease.id);
        }
        let released = store.wait(async {
            match look(store).await? {
                Some((Ok(held), _)) if held.owner.id == lease.id => store.delete(NAME).await,
                _ => Ok(()),
            }
        });
        if let Err(error) = released {
            store.leave(&lease.id);
            let why = store.told(&error);
            tracing::warn!(%why, "the lock of the repository could not be taken away; it runs out by itself");
        }
    }
}

/// Fails when the lock is not ours any more. To be asked before what cannot be taken back: a machine that slept may not
/// know how long.
pub(super) fn confirm(store: &Store) -> Result<()> {
    let Some(lease) = store.lease() else { return Ok(()) };
    let seen = store.wait(look(store)).map_err(|error| store.refused(&error))?;
    if !lease.is_over() && seen.is_some_and(|(held, _)| held.is_ok_and(|held| held.owner.id == lease.id)) {
        return Ok(());
    }
    store.revoke(TAKEN);
    Err(Error::Place { place: store.place().to_owned(), why: TAKEN.to_owned() })
}

/// Whoever removes something must be sure to be alone. Writes over the lock, which is ours, on the condition that it is not
/// there: a store that does so obeys no conditions.
pub(super) fn must_be_obeyed(store: &Store) -> Result<()> {
    let Some(lease) = store.lease() else { return Ok(()) };
    let refused = |error: &StoreError| store.refused(error);
    let seen = store.wait(look(store)).map_err(|error| refused(&error))?;
    let Some((Ok(held), _)) = seen.filter(|(held, _)| held.as_ref().is_ok_and(|held| held.owner.id == lease.id)) else {
        return confirm(store);
    };
    match store.wait(write(store, &held, PutMode::Create)) {
        Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(()),
        Err(error) if !unknown(&error) => Err(refused(&error)),
        Ok(_) | Err(_) => Err(Error::Place {
            place: store.place().to_owned(),
            why: "this store does not obey conditional writes (`If-None-Match`), so nobody can be sure that no backup \
                  runs on another machine; no set is removed from it. Use a store that does, or remove sets by hand with \
                  restic while every keeper is stopped"
                .to_owned(),
        }),
    }
}

/// Whether the lock is held under this id by somebody who is alive, as far as can be told without writing.
pub(super) async fn is_held_by(store: &Store, id: &str, clock: Timestamp) -> std::result::Result<bool, StoreError> {
    Ok(match look(store).await? {
        Some((Ok(held), seen)) if held.owner.id == id => !held.owner.is_gone() && !is_silent(seen.written, clock),
        _ => false,
    })
}

/// The lock as it is written now; `Err` inside when nobody can read it.
type Seen = (std::result::Result<Claim, serde_json::Error>, Found);

async fn look(store: &Store) -> std::result::Result<Option<Seen>, StoreError> {
    Ok(found(store, NAME).await?.map(|found| (serde_json::from_slice(&found.content), found)))
}

async fn write(store: &Store, claim: &Claim, mode: PutMode) -> std::result::Result<UpdateVersion, StoreError> {
    store.put_mode(NAME, json(claim)?, mode).await
}

/// Whether a store does not know conditions.
fn unknown(error: &StoreError) -> bool {
    matches!(error, StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })
        || error.to_string().contains("<Code>NotImplemented</Code>")
}

async fn acquire(store: &Store, claim: &Claim) -> Result<UpdateVersion> {
    let refused = |error: &StoreError| store.refused(error);
    for _ in 0..TRIES {
        let mode = match look(store).await.map_err(|error| refused(&error))? {
            None => PutMode::Create,
            Some((held, seen)) => {
                take_over(store, held, &seen, claim).await?;
                PutMode::Update(seen.version)
            }
        };
        let written = match write(store, claim, mode).await {
            Err(error) if unknown(&error) => unconditionally(store, claim).await,
            written => written,
        };
        match written {
            // Some stores take a condition and do not obey it, so that of two writers both believe.
            Ok(version) => match look(store).await.map_err(|error| refused(&error))? {
                Some((Ok(held), _)) if held.owner.id == claim.owner.id => return Ok(version),
                _ => {}
            },
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(Error::Busy("unknown: others take the lock all the time".to_owned()))
}

/// Fine when what is held may be taken over.
async fn take_over(
    store: &Store,
    held: std::result::Result<Claim, serde_json::Error>,
    seen: &Found,
    claim: &Claim,
) -> Result<()> {
    let held = held.map_err(|_| Error::Busy(format!("unknown: {NAME} cannot be read; remove it if nothing runs")))?;
    // A write of ours whose answer was lost, or a lock of ours that we could not take away.
    if held.owner.id == claim.owner.id || store.was_left(&held.owner.id) {
        return Ok(());
    }
    if held.owner.is_gone() {
        tracing::warn!(%held, "the lock of the repository is taken over: its process is gone");
        return Ok(());
    }
    let clock = store.clock().await.map_err(|error| store.refused(&error))?;
    if !is_silent(seen.written, clock) {
        return Err(Error::Busy(format!("{held}, last heard of {:.0}", seen.written)));
    }
    tracing::warn!(%held, written = %seen.written, "the lock of the repository is taken over: nobody renewed it");
    Ok(())
}

async fn unconditionally(store: &Store, claim: &Claim) -> std::result::Result<UpdateVersion, StoreError> {
    let version = write(store, claim, PutMode::Overwrite).await?;
    tokio::time::sleep(SETTLES).await;
    Ok(version)
}

/// Writes it anew for as long as it is ours.
async fn renew(store: Store, mut claim: Claim, mut version: UpdateVersion) {
    let mut pause = RENEWED_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        claim.renewals += 1;
        let begun = since_boot();
        match again(&store, &claim, &version).await {
            Ok(Some(next)) => {
                (version, pause) = (next, RENEWED_EVERY);
                if let Some(lease) = store.lease() {
                    lease.prolong(begun + GIVEN_UP_AFTER);
                }
            }
            Ok(None) => return store.revoke(TAKEN),
            Err(error) => {
                let why = store.told(&error);
                if store.lease().is_none_or(Lease::is_over) {
                    return store.revoke(&format!("its lock could not be renewed, so others may take it over: {why}"));
                }
                tracing::warn!(%why, "the lock of the repository could not be renewed; it is tried again");
                pause = AGAIN_AFTER;
            }
        }
    }
}

/// None when it is another one's.
async fn again(
    store: &Store,
    claim: &Claim,
    version: &UpdateVersion,
) -> std::result::Result<Option<UpdateVersion>, StoreError> {
    match write(store, claim, PutMode::Update(version.clone())).await {
        Ok(version) => return Ok(Some(version)),
        Err(StoreError::Precondition { .. } | StoreError::NotFound { .. } | StoreError::AlreadyExists { .. }) => {}
        Err(error) if unknown(&error) => {}
        Err(error) => return Err(error),
    }
    // Ours all the same when the answer to an earlier renewal was lost, or the store knows no conditions.
    match look(store).await? {
        Some((Ok(held), seen)) if held.owner.id == claim.owner.id => {
            match write(store, claim, PutMode::Update(seen.version)).await {
                Err(error) if unknown(&error) => write(store, claim, PutMode::Overwrite).await.map(Some),
                written => written.map(Some),
            }
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
