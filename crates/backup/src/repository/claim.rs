//! The lock on an object store, where several machines may meet: an object that says who holds it, and is written anew every
//! five minutes. One that was not for thirty minutes (as restic has it), or whose process on this machine is gone, belongs to
//! nobody and is taken over.
//!
//! It is written with a condition (only if absent, only if unchanged), which S3, Google and Azure know. A store that does
//! not is asked again after a moment whether the object is still ours. Who finds that another one took its lock over, as
//! after a long sleep of the machine, writes nothing any more: [`Store::revoke`]. The snapshot that makes a set is written
//! only after another look.

use super::store::Store;
use crate::error::{Error, Result};
use crate::make::later;
use crate::scratch::process_start;
use groundskeeper_core::quantity::seconds_between;
use jiff::Timestamp;
use object_store::{Error as StoreError, PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const NAME: &str = "groundskeeper.lock";
const RENEWED_EVERY: Duration = Duration::from_mins(5);
/// After a renewal that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
const STALE_SECONDS: f64 = 1_800.0;
/// Who could not renew for so long stops by itself, before others may take over.
const GIVEN_UP_AFTER: Duration = Duration::from_mins(25);
/// How long two who write without a condition wait for each other.
const SETTLES: Duration = Duration::from_secs(2);
const TAKEN: &str = "another process has taken its lock over; run it again";
/// Others may be faster so often.
const TRIES: usize = 5;

/// Who holds the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    /// Random: one for each time that the lock is taken.
    id: String,
    host: String,
    process: u32,
    /// When the process started, and in which kernel it runs: ids come again, and containers have their own.
    started: u64,
    machine: String,
    since: Timestamp,
    renewed: Timestamp,
}

impl Claim {
    fn new(now: Timestamp) -> Result<Self> {
        let id = getrandom::u64().map_err(|error| Error::Worker(format!("no random number: {error}")))?;
        let process = std::process::id();
        Ok(Self {
            id: format!("{id:016x}"),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            process,
            started: process_start(process).unwrap_or_default(),
            machine: machine(),
            since: now,
            renewed: now,
        })
    }

    /// Why it belongs to nobody any more, if so.
    fn stale(&self, now: Timestamp) -> Option<String> {
        let silent = seconds_between(self.renewed, now);
        if silent > STALE_SECONDS {
            return Some(format!("it was not renewed for {:.0} minutes", silent / 60.0));
        }
        let here = !self.machine.is_empty() && self.machine == machine();
        (here && process_start(self.process) != Some(self.started)).then(|| "its process is gone".to_owned())
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {} since {:.0}, last heard of {:.0}", self.process, self.host, self.since, self.renewed)
    }
}

/// This boot of this kernel, and the space of process ids that we see. Empty when it cannot be told.
fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let space = std::fs::read_link("/proc/self/ns/pid").ok();
    boot.zip(space).map(|(boot, space)| format!("{} {}", boot.trim(), space.display())).unwrap_or_default()
}

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    store: Store,
    claim: Claim,
    renewing: JoinHandle<()>,
}

impl Held {
    /// On a thread that may block.
    pub(super) fn take(store: &Store, now: Timestamp) -> Result<Self> {
        let claim = Claim::new(now)?;
        let version = store.wait(acquire(store, &claim, now))?;
        store.hold(&claim.id);
        let renewing = store.spawn(renew(store.clone(), claim.clone(), version, Instant::now()));
        Ok(Self { store: store.clone(), claim, renewing })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
        let (store, id) = (&self.store, &self.claim.id);
        let released = store.wait(async {
            match look(store).await? {
                Some((Ok(held), _)) if held.id == *id => store.delete(NAME).await,
                _ => Ok(()),
            }
        });
        if let Err(error) = released {
            store.leave(id);
            let why = store.told(&error);
            tracing::warn!(%why, "the lock of the repository could not be taken away; it runs out by itself");
        }
    }
}

/// Fails when the lock is not ours any more. To be asked before what cannot be taken back: a machine that slept does not
/// know how long.
pub(super) fn confirm(store: &Store) -> Result<()> {
    let Some(id) = store.held() else { return Ok(()) };
    let seen = store.wait(look(store)).map_err(|error| store.refused(&error))?;
    if seen.is_some_and(|(held, _)| held.is_ok_and(|held| held.id == id)) {
        return Ok(());
    }
    store.revoke(TAKEN);
    Err(Error::Place { place: store.place().to_owned(), why: TAKEN.to_owned() })
}

/// The lock as it is written now; `Err` inside when nobody can read it.
type Seen = (std::result::Result<Claim, serde_json::Error>, UpdateVersion);

async fn look(store: &Store) -> std::result::Result<Option<Seen>, StoreError> {
    match store.get_version(NAME).await {
        Ok((content, version)) => Ok(Some((serde_json::from_slice(&content), version))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn write(store: &Store, claim: &Claim, mode: PutMode) -> std::result::Result<UpdateVersion, StoreError> {
    let json = serde_json::to_vec_pretty(claim)
        .map_err(|error| StoreError::Generic { store: "the lock", source: Box::new(error) })?;
    store.put_mode(NAME, json, mode).await
}

/// Whether a store does not know conditions.
fn unknown(error: &StoreError) -> bool {
    matches!(error, StoreError::NotImplemented { .. } | StoreError::NotSupported { .. })
        || error.to_string().contains("<Code>NotImplemented</Code>")
}

async fn acquire(store: &Store, claim: &Claim, now: Timestamp) -> Result<UpdateVersion> {
    let refused = |error: &StoreError| Error::Place { place: store.place().to_owned(), why: store.told(error) };
    for _ in 0..TRIES {
        let mode = match look(store).await.map_err(|error| refused(&error))? {
            None => PutMode::Create,
            Some((held, version)) => {
                take_over(store, held, claim, now)?;
                PutMode::Update(version)
            }
        };
        let written = match write(store, claim, mode).await {
            Err(error) if unknown(&error) => unconditionally(store, claim).await,
            written => written,
        };
        match written {
            // Some stores take a condition and do not obey it, so that of two writers both believe.
            Ok(version) => match look(store).await.map_err(|error| refused(&error))? {
                Some((Ok(held), _)) if held.id == claim.id => return Ok(version),
                _ => {}
            },
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } | StoreError::NotFound { .. }) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(Error::Busy("unknown: others take the lock all the time".to_owned()))
}

/// Fine when what is held may be taken over.
fn take_over(
    store: &Store,
    held: std::result::Result<Claim, serde_json::Error>,
    claim: &Claim,
    now: Timestamp,
) -> Result<()> {
    let held = held.map_err(|_| Error::Busy(format!("unknown: {NAME} cannot be read; remove it if nothing runs")))?;
    // A write of ours whose answer was lost, or a lock of ours that we could not take away.
    if held.id == claim.id || store.was_left(&held.id) {
        return Ok(());
    }
    let why = held.stale(now).ok_or_else(|| Error::Busy(held.to_string()))?;
    tracing::warn!(%held, %why, "the lock of the repository was left behind and is taken over");
    Ok(())
}

async fn unconditionally(store: &Store, claim: &Claim) -> std::result::Result<UpdateVersion, StoreError> {
    let version = write(store, claim, PutMode::Overwrite).await?;
    tokio::time::sleep(SETTLES).await;
    Ok(version)
}

/// Writes it anew for as long as it is ours.
async fn renew(store: Store, first: Claim, mut version: UpdateVersion, taken: Instant) {
    let mut last = Instant::now();
    let mut pause = RENEWED_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let claim = Claim { renewed: later(first.since, taken), ..first.clone() };
        match again(&store, &claim, &version).await {
            Ok(Some(next)) => {
                (version, last, pause) = (next, Instant::now(), RENEWED_EVERY);
            }
            Ok(None) => return store.revoke(TAKEN),
            Err(error) if last.elapsed() > GIVEN_UP_AFTER => {
                let why = store.told(&error);
                return store.revoke(&format!("its lock could not be renewed, so others may take it over: {why}"));
            }
            Err(error) => {
                let why = store.told(&error);
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
        Some((Ok(held), seen)) if held.id == claim.id => match write(store, claim, PutMode::Update(seen)).await {
            Err(error) if unknown(&error) => write(store, claim, PutMode::Overwrite).await.map(Some),
            written => written.map(Some),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;
    use std::sync::Arc;

    const NOW: &str = "2026-11-22T01:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn store() -> Store {
        Store::of(Arc::new(InMemory::new()), "s3://backups")
    }

    fn minutes(minutes: f64) -> Timestamp {
        groundskeeper_core::quantity::after(now(), minutes * 60.0)
    }

    /// Of another machine.
    fn other() -> Claim {
        Claim { host: "db2".into(), machine: "another".into(), ..Claim::new(now()).unwrap() }
    }

    #[tokio::test]
    async fn a_lock_of_another_machine_is_respected_and_named_until_it_falls_silent() {
        let store = store();
        acquire(&store, &other(), now()).await.unwrap();
        let mine = Claim::new(minutes(29.0)).unwrap();
        let busy = acquire(&store, &mine, minutes(29.0)).await.unwrap_err();
        assert!(matches!(&busy, Error::Busy(who) if who.contains(" on db2 since 2026-11-22T01:00:00Z")), "{busy}");
        acquire(&store, &mine, minutes(31.0)).await.unwrap();
        // Its clock may be ahead of ours.
        let busy = acquire(&store, &other(), minutes(-600.0)).await.unwrap_err();
        assert!(matches!(busy, Error::Busy(_)), "{busy}");
    }

    #[tokio::test]
    async fn a_lock_whose_process_on_this_machine_is_gone_is_taken_over_at_once() {
        let store = store();
        let mut gone = Claim::new(now()).unwrap();
        gone.started += 1;
        acquire(&store, &gone, now()).await.unwrap();
        acquire(&store, &Claim::new(now()).unwrap(), now()).await.unwrap();
        let busy = acquire(&store, &Claim::new(now()).unwrap(), now()).await.unwrap_err();
        assert!(matches!(busy, Error::Busy(_)), "the same process twice: {busy}");
    }

    #[tokio::test]
    async fn of_many_at_once_one_gets_it() {
        let store = store();
        let claims: Vec<Claim> = (0..20).map(|_| Claim::new(now()).unwrap()).collect();
        let taken = futures_util::future::join_all(claims.iter().map(|claim| acquire(&store, claim, now()))).await;
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 1);
    }

    #[tokio::test]
    async fn what_nobody_can_read_is_not_taken_over() {
        let store = store();
        store.put_mode(NAME, b"?".to_vec(), PutMode::Create).await.unwrap();
        let busy = acquire(&store, &other(), minutes(6_000.0)).await.unwrap_err();
        assert!(busy.to_string().contains("remove it if nothing runs"), "{busy}");
    }

    #[tokio::test]
    async fn a_renewal_keeps_it_and_finds_out_that_another_one_has_it() {
        let store = store();
        let mine = Claim::new(now()).unwrap();
        let version = acquire(&store, &mine, now()).await.unwrap();
        let renewed = Claim { renewed: minutes(20.0), ..mine.clone() };
        let next = again(&store, &renewed, &version).await.unwrap().unwrap();
        assert!(matches!(acquire(&store, &other(), minutes(45.0)).await, Err(Error::Busy(_))));
        // The answer to a renewal was lost: the version is not the one that we know.
        assert!(again(&store, &renewed, &version).await.unwrap().is_some());
        acquire(&store, &other(), minutes(60.0)).await.unwrap();
        assert_eq!(again(&store, &renewed, &next).await.unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_lost_the_lock_writes_nothing_any_more_and_leaves_the_others_alone() {
        let store = store();
        let blocking = store.clone();
        let held = tokio::task::spawn_blocking(move || Held::take(&blocking, now()).unwrap()).await.unwrap();
        let blocking = store.clone();
        let confirmed = move || confirm(&blocking);
        tokio::task::spawn_blocking(confirmed.clone()).await.unwrap().unwrap();
        acquire(&store, &other(), minutes(60.0)).await.unwrap();
        assert!(tokio::task::spawn_blocking(confirmed).await.unwrap().is_err());
        let error = store.put_mode("snapshots/1", Vec::new(), PutMode::Overwrite).await.unwrap_err();
        assert!(store.told(&error).contains("has taken its lock over"), "{error}");
        tokio::task::spawn_blocking(move || drop(held)).await.unwrap();
        assert_eq!(look(&store).await.unwrap().unwrap().0.unwrap().host, "db2");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lock_goes_with_its_value() {
        let store = store();
        let blocking = store.clone();
        tokio::task::spawn_blocking(move || drop(Held::take(&blocking, now()).unwrap())).await.unwrap();
        assert!(look(&store).await.unwrap().is_none());
    }
}
