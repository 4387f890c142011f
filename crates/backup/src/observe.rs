//! What the watch sees of the repository every half minute, at the cost of a few system calls.
//!
//! An object store is asked whether the repository is there, which costs next to nothing; its lists cost money, and are read
//! every five minutes.
//!
//! Opening a repository is slow on purpose (the key is stretched), so it is opened anew only when something in the folder
//! or the key's file has changed, and once in a while to be sure. What stands in between is what was read last.
//!
//! One look at a time: on a filesystem that hangs a look never ends, and the next ones wait for that one, each until its
//! deadline, instead of adding a stuck thread every half minute.

use crate::error::Error;
use crate::place::Place;
use crate::vault::{KeySource, Vault};
use crate::wal::Board;
use groundskeeper_core::observation::{
    self, Failure, FailureKind, Gap, LastRun, Part, Reading, WalGap, WalStream, of_interest,
};
use groundskeeper_core::quantity::seconds_between;
use groundskeeper_core::receipt::Receipt;
use groundskeeper_systems::deadline::within;
use jiff::Timestamp;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::sync::Mutex as Turn;

/// A reading of the sets holds for so long while nothing in the folder changes: a command that gives the key may stop
/// doing so without a trace there.
const HOLDS_SECONDS: f64 = 3_600.0;
/// And one that failed for so long, because what mends it may leave no trace there either.
const FAILED_HOLDS_SECONDS: f64 = 300.0;
/// So long a list of an object store holds.
const GLANCE_HOLDS_SECONDS: f64 = 300.0;
/// What lies in these changes all the time during a backup, and tells nothing of the sets.
const OTHERS: [&str; 7] = ["data", "index", "locks", "tmp", "holds", "wal", "groundskeeper.lock"];

/// A vault to look at again and again. Clones share what was seen.
#[derive(Debug, Clone)]
pub struct Lookout {
    vault: Vault,
    memory: Arc<Mutex<Memory>>,
    /// Held by the look that is under way, to its very end.
    turn: Arc<Turn<()>>,
    /// How the WAL streams; none where it is not to.
    board: Option<Board>,
}

#[derive(Debug, Default)]
struct Memory {
    listed: Option<Listed>,
    last_run: Option<LastRun>,
    /// What the lists of an object store looked like.
    glanced: Option<(Timestamp, u64)>,
}

/// What was read when the folder looked like this.
#[derive(Debug, Clone)]
struct Listed {
    stamp: u64,
    at: Timestamp,
    receipts: Part<Vec<Receipt>>,
    key: Part<()>,
    /// WAL that is missing in the repository.
    gaps: Vec<WalGap>,
}

impl Lookout {
    pub fn new(vault: Vault) -> Self {
        let board = vault.settings().wal.as_ref().map(|wal| Board::new(wal.board.clone()));
        Self { vault, memory: Arc::default(), turn: Arc::default(), board }
    }

    /// Where the streams of WAL tell how they stand.
    pub fn board(&self) -> Option<&Board> {
        self.board.as_ref()
    }

    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Where the repository is.
    pub fn place(&self) -> &Place {
        &self.vault.settings().place
    }

    /// Remembers how the last run that was to make a set ended: of one that made none the repository knows nothing.
    pub fn remember(&self, run: LastRun) {
        let mut memory = self.memory();
        memory.last_run = Some(run);
        // It has changed what is there.
        memory.glanced = None;
    }

    fn glanced(&self, now: Timestamp) -> Option<u64> {
        let (at, seen) = self.memory().glanced?;
        (0.0..GLANCE_HOLDS_SECONDS).contains(&seconds_between(at, now)).then_some(seen)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each change is one assignment, so it is whole, whoever panicked beside it.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn still_good(&self, stamp: u64, now: Timestamp) -> Option<Listed> {
        self.memory().listed.clone().filter(|listed| {
            let holds =
                if listed.receipts.is_ok() && listed.key.is_ok() { HOLDS_SECONDS } else { FAILED_HOLDS_SECONDS };
            listed.stamp == stamp && (0.0..holds).contains(&seconds_between(listed.at, now))
        })
    }
}

/// Reads the sets, the room and the key. A repository that is not there is a [`Failure`]; a key that opens nothing is a
/// gap, and the rest is still told.
pub async fn observe(lookout: &Lookout, now: Timestamp, deadline: Duration) -> Reading<observation::Backup> {
    let started = Instant::now();
    let address = lookout.place().to_string();
    let looking = async {
        let (turn, own, address) = (Arc::clone(&lookout.turn).lock_owned().await, lookout.clone(), address.clone());
        let bug = Failure {
            kind: FailureKind::Protocol,
            message: "the look at it ended in a bug of groundskeeper".to_owned(),
            address: address.clone(),
        };
        // A task of its own, so that what was begun is finished and remembered, also when nobody waits any more.
        let look = tokio::spawn(async move {
            let _turn = turn;
            look(&own, &address, started, now).await
        });
        look.await.unwrap_or(Err(bug))
    };
    let outcome = within(deadline, &address, looking).await;
    let took = started.elapsed().as_secs_f64();
    let (latency, outcome) = match outcome {
        Ok((latency, seen)) => (latency, Ok(seen)),
        Err(failure) => (took, Err(failure)),
    };
    Reading { at: now, latency, took, outcome }
}

/// Gives what was seen, and after how many seconds the folder answered.
async fn look(
    lookout: &Lookout,
    address: &str,
    started: Instant,
    now: Timestamp,
) -> Result<(f64, observation::Backup), Failure> {
    let stamp = stamp(lookout, address, now).await?;
    let latency = started.elapsed().as_secs_f64();
    let space = match lookout.vault.space().await {
        Ok(Some(space)) => Ok(observation::Space { total: space.total, free: space.free }),
        Ok(None) => Err(Gap::new("an object store does not tell how much room is left; watch its quota and its bill")),
        Err(error) => Err(Gap::new(error.to_string())),
    };
    let listed = if let Some(listed) = lookout.still_good(stamp, now) {
        listed
    } else {
        let listed = list(&lookout.vault, stamp, address, now).await?;
        lookout.memory().listed = Some(listed.clone());
        listed
    };
    let seen = observation::Backup {
        repository: address.to_owned(),
        receipts: listed.receipts,
        space,
        key: listed.key,
        last_run: lookout.memory().last_run.clone(),
        wal: lookout.board().map(Board::streams).unwrap_or_default().into_iter().map(with(&listed.gaps)).collect(),
    };
    Ok((latency, seen))
}

/// A stream with what was found to be missing since it last looked.
fn with(gaps: &[WalGap]) -> impl FnMut(WalStream) -> WalStream {
    move |mut stream| {
        let ours = gaps.iter().filter(|gap| Some(&gap.system_identifier) == stream.system_identifier.as_ref());
        let is_new =
            |gap: &&WalGap| stream.gaps.iter().all(|known| (known.timeline, known.from) != (gap.timeline, gap.from));
        let new: Vec<WalGap> = ours.filter(is_new).cloned().collect();
        stream.gaps.extend(new);
        stream
    }
}

/// Opens the repository, which needs the key, and reads every set.
async fn list(vault: &Vault, stamp: u64, address: &str, now: Timestamp) -> Result<Listed, Failure> {
    let listed = |receipts, key| Ok(Listed { stamp, at: now, receipts, key, gaps: Vec::new() });
    let error = match vault.receipts().await {
        Ok(receipts) => {
            let gaps = if vault.settings().wal.is_some() { vault.wal_gaps(now).await } else { Ok(Vec::new()) };
            let gaps = gaps.unwrap_or_else(|error| {
                tracing::warn!(%error, "whether WAL is missing is not known");
                Vec::new()
            });
            return Ok(Listed { stamp, at: now, receipts: Ok(of_interest(receipts)), key: Ok(()), gaps });
        }
        Err(error) => error,
    };
    let gap = Gap::new(error.to_string());
    let kind = match error {
        Error::Key(_) | Error::WrongKey { .. } => return listed(Err(gap.clone()), Err(gap)),
        Error::NoRepository { .. } => FailureKind::Missing,
        Error::Place { .. } => FailureKind::Interrupted,
        Error::Damaged { .. } => FailureKind::Protocol,
        _ => return listed(Err(gap), Ok(())),
    };
    Err(Failure { kind, message: gap.reason, address: address.to_owned() })
}

/// What the place and the key's file look like, in one number.
async fn stamp(lookout: &Lookout, address: &str, now: Timestamp) -> Result<u64, Failure> {
    let settings = lookout.vault.settings();
    let key = if let KeySource::File(file) = &settings.key { Some(file.clone()) } else { None };
    let Some(folder) = settings.place.folder().map(Path::to_owned) else {
        return stamp_of_objects(lookout, key.as_deref(), address, now).await;
    };
    let looking = async {
        // A thread of its own: a filesystem whose server is gone never answers.
        let looked = groundskeeper_systems::deadline::aside("backup-stamp", move || stamp_of(&folder, key.as_deref()))?;
        looked.await.map_err(|_| io::Error::other("the look at the folder ended without an answer"))?
    };
    looking.await.map_err(|error| unreached(&error, address))
}

async fn stamp_of_objects(
    lookout: &Lookout,
    key: Option<&Path>,
    address: &str,
    now: Timestamp,
) -> Result<u64, Failure> {
    let known = lookout.glanced(now);
    let seen = lookout.vault.glance(known.is_none()).await.map_err(|error| {
        let (kind, message) = match error {
            Error::NoRepository { .. } => (FailureKind::Missing, NOT_MADE.to_owned()),
            Error::Place { why, .. } => (FailureKind::Interrupted, why),
            other => (FailureKind::Interrupted, other.to_string()),
        };
        Failure { kind, message, address: address.to_owned() }
    })?;
    if let Some(seen) = seen {
        lookout.memory().glanced = Some((now, seen));
    }
    let mut hasher = DefaultHasher::new();
    seen.or(known).hash(&mut hasher);
    hash_key(&mut hasher, key);
    Ok(hasher.finish())
}

fn stamp_of(folder: &Path, key: Option<&Path>) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    // Its `config` makes a folder a repository.
    fs::metadata(folder.join("config"))?;
    for (path, entry) in entries(folder)? {
        if entry.is_dir() {
            for (path, entry) in entries(&path)? {
                hash(&mut hasher, &path, &entry);
            }
        } else {
            hash(&mut hasher, &path, &entry);
        }
    }
    hash_key(&mut hasher, key);
    Ok(hasher.finish())
}

fn hash_key(hasher: &mut DefaultHasher, key: Option<&Path>) {
    let Some(key) = key else { return };
    match fs::metadata(key) {
        Ok(file) => hash(hasher, key, &file),
        Err(error) => error.kind().hash(hasher),
    }
}

/// In the order of their names. What vanished meanwhile is left out.
fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let mut found: Vec<(OsString, PathBuf, fs::Metadata)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if OTHERS.iter().any(|other| name == *other) {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) => found.push((name, entry.path(), metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found.into_iter().map(|(_, path, metadata)| (path, metadata)).collect())
}

fn hash(hasher: &mut DefaultHasher, path: &Path, entry: &fs::Metadata) {
    path.hash(hasher);
    entry.len().hash(hasher);
    let modified = entry.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    modified.hash(hasher);
}

const NOT_MADE: &str = "there is no repository in it; `groundskeeper backup init` makes one";

fn unreached(error: &io::Error, address: &str) -> Failure {
    let (kind, message) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => (FailureKind::Missing, NOT_MADE.to_owned()),
        ErrorKind::PermissionDenied => (FailureKind::Denied, "permission denied".to_owned()),
        _ => (FailureKind::Interrupted, error.to_string()),
    };
    Failure { kind, message, address: address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Settings;
    use secrecy::SecretString;

    const NOW: &str = "2026-03-02T09:00:00Z";

    fn lookout(folder: &Path) -> Lookout {
        Lookout::new(Vault::new(Settings {
            place: Place::of_folder(folder),
            key: KeySource::Given(SecretString::from("secret")),
            postgres: Vec::new(),
            redis: Vec::new(),
            files: Vec::new(),
            qdrant: Vec::new(),
            scratch: folder.join("scratch"),
            leave_free: 0,
            programs: Vec::new(),
            run_as: "postgres".into(),
            wal: None,
            probes: Vec::new(),
        }))
    }

    #[tokio::test]
    async fn a_folder_without_a_repository_is_missing_and_the_next_step_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_owned(), folder.path().join("nowhere")] {
            let reading = observe(&lookout(&path), NOW.parse().unwrap(), Duration::from_secs(30)).await;
            let failure = reading.outcome.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Missing);
            assert!(failure.message.contains("`groundskeeper backup init`"), "{failure:?}");
            assert_eq!(failure.address, path.display().to_string());
        }
    }

    #[tokio::test]
    async fn while_a_look_hangs_the_next_one_begins_nothing_and_keeps_its_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let lookout = lookout(folder.path());
        let hanging = lookout.turn.lock().await;
        let reading = observe(&lookout, NOW.parse().unwrap(), Duration::from_millis(50)).await;
        assert_eq!(reading.outcome.unwrap_err().kind, FailureKind::Timeout);
        drop(hanging);
        let reading = observe(&lookout, NOW.parse().unwrap(), Duration::from_secs(30)).await;
        assert_eq!(reading.outcome.unwrap_err().kind, FailureKind::Missing);
    }

    #[test]
    fn the_stamp_changes_with_the_sets_and_the_key_and_not_with_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let (root, key) = (folder.path().join("repository"), folder.path().join("key"));
        for name in ["snapshots", "data"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("config"), "x").unwrap();
        let now = || stamp_of(&root, Some(&key)).unwrap();
        let mut seen = vec![now()];
        assert_eq!(now(), seen[0]);
        fs::write(root.join("data/pack"), "x").unwrap();
        assert_eq!(now(), seen[0]);
        fs::write(root.join("snapshots/one"), "x").unwrap();
        seen.push(now());
        fs::write(&key, "secret").unwrap();
        seen.push(now());
        fs::remove_file(root.join("snapshots/one")).unwrap();
        seen.push(now());
        let different: std::collections::BTreeSet<u64> = seen.iter().copied().collect();
        assert_eq!(different.len(), seen.len(), "{seen:?}");
    }

    #[test]
    fn a_list_of_an_object_store_holds_for_five_minutes_and_until_we_change_it() {
        let lookout = lookout(Path::new("/nowhere"));
        let at: Timestamp = NOW.parse().unwrap();
        let later = |seconds| groundskeeper_core::quantity::after(at, seconds);
        lookout.memory().glanced = Some((at, 7));
        assert_eq!(lookout.glanced(later(290.0)), Some(7));
        assert_eq!((lookout.glanced(later(310.0)), lookout.glanced(later(-1.0))), (None, None));
        lookout.remember(LastRun { at, failed: None });
        assert_eq!(lookout.glanced(at), None);
    }

    #[test]
    fn what_was_listed_holds_while_nothing_changed_and_not_for_ever() {
        let lookout = lookout(Path::new("/nowhere"));
        let at: Timestamp = NOW.parse().unwrap();
        let later = |seconds| groundskeeper_core::quantity::after(at, seconds);
        let listed = |key: Part<()>| Listed { stamp: 7, at, receipts: Ok(Vec::new()), key, gaps: Vec::new() };
        lookout.memory().listed = Some(listed(Ok(())));
        let holds = |stamp, at| lookout.still_good(stamp, at).is_some();
        assert!(holds(7, later(30.0)) && holds(7, later(3_500.0)));
        assert!(!holds(8, later(30.0)) && !holds(7, later(3_700.0)) && !holds(7, later(-1.0)));
        lookout.memory().listed = Some(listed(Err(Gap::new("no key"))));
        assert!(holds(7, later(30.0)) && !holds(7, later(400.0)));
    }
}
