//! The rungs of a Qdrant: each snapshot that was restored has the SHA-256 under which it was stored, and is a whole archive;
//! a Qdrant takes them in and counts the points.

use super::redis::{available, must_fit};
use crate::scratch::{ScratchPlace, ScratchQdrant, Setback};
use crate::source::qdrant::{ALIASES, hexadecimal};
use groundskeeper_core::quantity::{after, format_bytes, format_count, format_seconds};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, PointId, Rung, SnapshotFile, Tie, Vectors};
use groundskeeper_systems::postgres::tie::MOST_IDS;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// How far it came.
#[derive(Debug)]
pub(crate) struct Climbed {
    pub(crate) climbs: Vec<Climb>,
    /// The points of the tied collection, when one is tied and a server was asked.
    pub(crate) points: Option<Result<Vec<PointId>, String>>,
}

/// Why no Qdrant can be started on the snapshots.
pub(crate) fn not_booted(vectors: &Vectors, program: Option<&Path>) -> Option<String> {
    if vectors.nodes.len() > 1 {
        return Some("the snapshots of several nodes were not taken in: one Qdrant cannot hold a cluster's".to_owned());
    }
    program.is_none().then(|| {
        "no Qdrant took the snapshots in: there is no program `qdrant` in $PATH; install it, or name its folder in \
         `programs` of [backup]"
            .to_owned()
    })
}

/// The rungs over what was restored to `folder`, inside of `place`; the upper one only when the lower is proven, and none
/// without a program. What is not done within `budget` is not tried.
pub(crate) async fn climb(
    place: &ScratchPlace,
    folder: &Path,
    vectors: &Vectors,
    program: Option<&Path>,
    budget: Duration,
    now: Timestamp,
) -> Climbed {
    let began = Instant::now();
    let at = || after(now, began.elapsed().as_secs_f64());
    let lower = Climb { took: began.elapsed().as_secs_f64(), ..restored(folder, vectors, at()) };
    let is_proven = matches!(lower.outcome, ClimbOutcome::Proven { .. });
    let mut climbed = Climbed { climbs: vec![lower], points: None };
    let Some(program) = program.filter(|_| is_proven && not_booted(vectors, program).is_none()) else { return climbed };
    let booting = Instant::now();
    let alive = Alive { place, folder, vectors, until: began + budget };
    let (outcome, points) = match Box::pin(alive.boot(program)).await {
        Ok((shown, not_covered, points)) => (ClimbOutcome::Proven { shown, not_covered }, points),
        Err(setback) => (setback.into_outcome(), None),
    };
    climbed.points = points;
    climbed.climbs.push(Climb { rung: Rung::Alive, at: at(), took: booting.elapsed().as_secs_f64(), outcome });
    climbed
}

struct Alive<'a> {
    place: &'a ScratchPlace,
    folder: &'a Path,
    vectors: &'a Vectors,
    until: Instant,
}

type Shown = (String, Vec<String>, Option<Result<Vec<PointId>, String>>);

impl Alive<'_> {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// What was shown, what that does not cover, and the points that are tied.
    async fn boot(&self, program: &Path) -> Result<Shown, Setback> {
        let Self { vectors, .. } = self;
        let snapshots = vectors.collections.iter().flat_map(|collection| &collection.snapshots);
        must_fit(snapshots.map(|snapshot| snapshot.bytes).sum(), available())?;
        let began = Instant::now();
        let server = ScratchQdrant::start(program, self.place, self.left()).await?;
        if is_older(server.version(), &vectors.version) {
            return Err(Setback::NotTried(format!(
                "{} is Qdrant {}, and the snapshots are for {} or newer",
                program.display(),
                server.version(),
                vectors.version
            )));
        }
        let mut not_covered = vec!["what the vectors say: only the number of points was looked at".to_owned()];
        let (mut collections, mut points) = (0, 0);
        for collection in &vectors.collections {
            let (Some(snapshot), name) = (collection.snapshots.first(), &collection.name) else { continue };
            server.recover(name, &self.folder.join(&snapshot.path), self.place.user(), self.left()).await?;
            let found = server.count(name, self.left()).await?;
            if found == 0 && collection.points > 0 {
                let had = format_count(collection.points as f64);
                return Err(Setback::Failed(format!("collection {name} has no point, and had about {had}")));
            }
            if found != collection.points {
                let (found, had) = (format_count(found as f64), format_count(collection.points as f64));
                not_covered.push(format!(
                    "collection {name}: it has {found} points; about {had} were told right before it was copied"
                ));
            }
            collections += 1;
            points += found;
        }
        let took = format_seconds(began.elapsed().as_secs_f64());
        let (points, of) = (format_count(points as f64), format_count(f64::from(collections)));
        let collections = if collections == 1 { "the snapshot".to_owned() } else { format!("{of} snapshots") };
        let version = server.version();
        let shown = format!("Qdrant {version} took in {collections} and counted {points} points, in {took}");
        let tied = match &vectors.tie {
            Some(tie) => Some(self.tied(&server, tie).await),
            None => None,
        };
        Ok((shown, not_covered, tied))
    }

    async fn tied(&self, server: &ScratchQdrant, tie: &Tie) -> Result<Vec<PointId>, String> {
        let collection = self.leads_to(&tie.collection)?;
        server.ids(&collection, MOST_IDS, self.until).await
    }

    /// The collection that has this name or alias in the set.
    fn leads_to(&self, name: &str) -> Result<String, String> {
        let path = self.folder.join(ALIASES);
        let aliases: Value = fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
            .map_err(|why| format!("{}: {why}", path.display()))?;
        let aliases = aliases.get("aliases").and_then(Value::as_array);
        let text = |alias: &Value, key: &str| alias.get(key).and_then(Value::as_str).map(str::to_owned);
        let found = aliases.into_iter().flatten().find(|alias| text(alias, "alias_name").as_deref() == Some(name));
        let leads_to = found.and_then(|alias| text(alias, "collection_name")).unwrap_or_else(|| name.to_owned());
        let is_there = self.vectors.collections.iter().any(|collection| collection.name == leads_to);
        is_there.then_some(leads_to).ok_or_else(|| format!("the set has no collection or alias `{name}`"))
    }
}

/// Whether a version is older than another, by its first two numbers. One that cannot be read is not.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| {
        let mut numbers = text.split('.').map(str::parse::<u32>);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    numbers(version).zip(numbers(than)).is_some_and(|(version, than)| version < than)
}

/// What was restored to `folder`.
fn restored(folder: &Path, vectors: &Vectors, at: Timestamp) -> Climb {
    let snapshots = || vectors.collections.iter().flat_map(|collection| &collection.snapshots);
    let wrong: Vec<String> = snapshots().filter_map(|snapshot| wrong(folder, snapshot)).collect();
    let outcome = if wrong.is_empty() {
        let bytes = format_bytes(snapshots().map(|snapshot| snapshot.bytes).sum::<u64>() as f64);
        let count = format_count(snapshots().count() as f64);
        let uncompared = snapshots().filter(|snapshot| !snapshot.compared).count();
        let mut not_covered = vectors.not_covered.iter().map(|node| format!("the node {node}")).collect::<Vec<_>>();
        if uncompared > 0 {
            not_covered.push(format!("{uncompared} snapshots for which the server gave no checksum"));
        }
        let shown =
            format!("{count} snapshots with {bytes} have the SHA-256 under which they came, and are whole archives");
        ClimbOutcome::Proven { shown, not_covered }
    } else {
        ClimbOutcome::Failed { why: wrong.join("; ") }
    };
    Climb { rung: Rung::Restored, at, took: 0.0, outcome }
}

fn wrong(folder: &Path, snapshot: &SnapshotFile) -> Option<String> {
    let path = folder.join(&snapshot.path);
    let read = || -> io::Result<String> {
        let sum = hash(&mut File::open(&path)?)?;
        let mut archive = tar::Archive::new(File::open(&path)?);
        for entry in archive.entries()? {
            entry?;
        }
        Ok(sum)
    };
    match read() {
        Ok(sum) if sum == snapshot.sha256 => None,
        Ok(sum) => Some(format!("{} has the SHA-256 {sum}, and the set {}", snapshot.path, snapshot.sha256)),
        Err(error) => Some(format!("{}: {error}", snapshot.path)),
    }
}

fn hash(file: &mut File) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::Collection;

    #[test]
    fn a_snapshot_that_differs_or_is_no_archive_fails() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive.append_data(&mut header, "config.json", io::empty()).unwrap();
        let whole = archive.into_inner().unwrap();
        let climbed = |content: &[u8], of: &[u8]| {
            std::fs::write(folder.path().join("node-1.snapshot"), content).unwrap();
            let sha256 = hexadecimal(&Sha256::digest(of));
            let bytes = of.len() as u64;
            let snapshot = SnapshotFile { path: "node-1.snapshot".into(), bytes, sha256, compared: false };
            let collections = vec![Collection { name: "docs".into(), points: 1, snapshots: vec![snapshot] }];
            let vectors = Vectors { collections, ..Vectors::default() };
            restored(folder.path(), &vectors, Timestamp::UNIX_EPOCH).outcome
        };
        let ClimbOutcome::Proven { not_covered, .. } = climbed(&whole, &whole) else { panic!("it is whole") };
        assert!(not_covered[0].contains("no checksum"), "{not_covered:?}");
        let why = |outcome: ClimbOutcome| {
            if let ClimbOutcome::Failed { why } = outcome { why } else { panic!("{outcome:?}") }
        };
        assert!(why(climbed(&whole, b"other")).contains("SHA-256"));
        let torn = vec![b'x'; 1024];
        assert!(why(climbed(&torn, &torn)).starts_with("node-1.snapshot: "));
    }

    #[test]
    fn an_older_server_is_told_by_its_first_two_numbers() {
        assert!(is_older("1.15.9", "1.16.0") && is_older("0.9.0", "1.0.0"));
        assert!(!is_older("1.16.0", "1.16.3") && !is_older("1.100.0", "1.16.3") && !is_older("dev", "1.16.3"));
    }
}
