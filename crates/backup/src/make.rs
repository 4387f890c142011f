//! Making a set.

use crate::error::{Error, Result};
use crate::repository::{Repository, SetWriter, StoredSet};
use crate::source::tie::{self, Since};
use crate::source::{configuration, contents, files, own, postgres, qdrant, redis};
use crate::vault::{Content, FileSource, Own, PostgresSource, QdrantSource, RedisSource, Settings};
use crate::wal::seal::Seal;
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Missing, Part, Receipt, Rung, SetId};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::time::Instant;
use tokio::runtime::Handle;

/// What lies in the set for whoever has nothing but restic.
#[derive(Debug, Serialize)]
struct Manifest<'a> {
    set: &'a SetId,
    made: Timestamp,
    parts: &'a [Part],
    missing: &'a [Missing],
}

pub(crate) fn make(settings: &Settings, repository: &Repository, own: Vec<Own>, now: Timestamp) -> Result<Receipt> {
    let started = Instant::now();
    let newest = repository.sets()?.into_iter().next();
    let before = newest.as_ref().and_then(|newest| repository.receipt(&newest.id).transpose()).transpose()?;
    let _shown = repository.progress().begin("making a set", before.map(|before| before.bytes()));
    // The order of sets, ours and restic's, is that of their names and snapshots; the receipt has the time as it is.
    let ordered = after_the_newest(newest.as_ref(), now);
    let set = new_id(ordered)?;
    let mut writer = repository.begin(ordered);
    let (mut parts, mut missing) = (Vec::new(), Vec::new());
    let mut first = None;
    for source in sources(settings) {
        match source.add(&mut writer, settings, &set) {
            Ok(part) => parts.push(part),
            // One system that cannot be read leaves the others their backup; a repository that fails ends them all.
            Err(error @ Error::Source { .. }) => {
                tracing::error!(%error, "a system is not in the set");
                missing.push(Missing { system: source.name(), why: error.to_string() });
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let (true, Some(error)) = (parts.is_empty(), first) {
        return Err(error);
    }
    let own = with_identity(repository, own)?;
    parts.push(add_own(&mut writer, own, &Manifest { set: &set, made: now, parts: &parts, missing: &missing })?);
    let stored = Instant::now();
    // The receipt first: a set without one could not be drilled, and nobody would know what is missing in it.
    let kept = parts.clone();
    writer.finish(&set.clone(), &kept, |added| {
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        let entries: u64 = parts.iter().map(|part| part.entries).sum();
        let shown = format!("{entries} entries with {bytes} bytes, as the sources sent them");
        let climb = Climb {
            rung: Rung::Stored,
            at: later(now, started),
            took: stored.elapsed().as_secs_f64(),
            outcome: ClimbOutcome::Proven { shown, not_covered: Vec::new() },
        };
        let took = started.elapsed().as_secs_f64();
        let receipt = Receipt { set, made: now, took, parts, missing, added, climbs: vec![climb] };
        repository.keep_receipt(&receipt)?;
        Ok(receipt)
    })
}

/// What goes into a set besides the keeper's own part.
enum Source<'s> {
    Postgres(&'s PostgresSource),
    Redis(&'s RedisSource),
    Qdrant(&'s QdrantSource, Since),
    Files(&'s FileSource),
}

/// In the order in which they are read: points after the chunks that they are made from, so that a restored index lacks
/// nothing that a follower of the restored outbox would take for done.
fn sources(settings: &Settings) -> Vec<Source<'_>> {
    let postgres = settings.postgres.iter().map(Source::Postgres);
    let redis = settings.redis.iter().map(Source::Redis);
    let qdrant = settings.qdrant.iter().map(|source| Source::Qdrant(source, tie::begin(source)));
    postgres.chain(redis).chain(qdrant).chain(settings.files.iter().map(Source::Files)).collect()
}

impl Source<'_> {
    fn name(&self) -> String {
        match self {
            Self::Postgres(source) => source.system.to_string(),
            Self::Redis(source) => source.system.to_string(),
            Self::Qdrant(source, _) => source.name.clone(),
            Self::Files(source) => source.name.clone(),
        }
    }

    fn add(&self, writer: &mut SetWriter<'_>, settings: &Settings, set: &SetId) -> Result<Part> {
        match self {
            Self::Postgres(source) => add(writer, source, set),
            Self::Redis(source) => redis::add(writer, source),
            Self::Qdrant(source, since) => qdrant::add(writer, source, since),
            Self::Files(source) => files::add(writer, source, settings),
        }
    }
}

fn add(writer: &mut SetWriter<'_>, source: &PostgresSource, set: &SetId) -> Result<Part> {
    let (runtime, label) = (Handle::current(), format!("groundskeeper {set}"));
    if source.reads_files
        && let Some(begun) = runtime.block_on(postgres::begin_in_place(source, &label))?
    {
        match copied(writer, source, begun) {
            // Whatever went wrong there, the server reads its files with its own rights and in its own place.
            Err(error @ Error::Source { .. }) => {
                tracing::warn!(%error, "its files could not be read in place; the server sends them");
            }
            ended => return ended,
        }
    }
    let begun = runtime.block_on(postgres::begin(source, &label))?;
    copied(writer, source, begun)
}

fn copied(writer: &mut SetWriter<'_>, source: &PostgresSource, begun: postgres::Begun) -> Result<Part> {
    let runtime = Handle::current();
    let found = runtime.block_on(configuration::read(source));
    let name = source.system.to_string();
    let stored = writer.add(&name, |feed| {
        let cluster = begun.send(feed, &name, &runtime)?;
        let (fingerprints, tail) = runtime.block_on(contents::take(source, &cluster));
        // Nor in the WAL that a drill replays on top of it.
        runtime.block_on(postgres::must_have_every_tablespace(source, &cluster))?;
        tail.map_or(Ok(()), |tail| tail.send(feed, &name))?;
        Ok((cluster, fingerprints, configuration::send(feed, &name, &found)?))
    })?;
    let (cluster, fingerprints, configuration) = stored.told;
    Ok(Part {
        name,
        entries: stored.entries,
        bytes: stored.bytes,
        postgres: Some(cluster),
        contents: Some(fingerprints),
        configuration,
        ..Part::default()
    })
}

/// What opens the WAL is in every set: whoever restores one with plain restic can go on from there.
fn with_identity(repository: &Repository, mut own: Vec<Own>) -> Result<Vec<Own>> {
    if let Some(seal) = Seal::find(repository)? {
        own.push(Own { name: own::WAL_IDENTITY.to_owned(), content: Content::Text(seal.text()) });
    }
    Ok(own)
}

fn add_own(writer: &mut SetWriter<'_>, mut own: Vec<Own>, manifest: &Manifest<'_>) -> Result<Part> {
    let text = serde_json::to_string_pretty(manifest).map_err(|error| Error::Worker(error.to_string()))?;
    own.push(Own { name: own::MANIFEST.to_owned(), content: Content::Text(text) });
    let stored = writer.add(own::PART, |feed| own::send(feed, &own))?;
    Ok(Part { name: own::PART.to_owned(), entries: stored.entries, bytes: stored.bytes, ..Part::default() })
}

/// The newest set is the one with the latest time. A clock that was set back, or two sets in one second, must not make an
/// older one the newest.
fn after_the_newest(newest: Option<&StoredSet>, now: Timestamp) -> Timestamp {
    let Some(newest) = newest else { return now };
    let next = newest.made.checked_add(SignedDuration::from_secs(1)).unwrap_or(newest.made);
    if next > now {
        tracing::warn!(newest = %newest.id, "the newest set is not older than now; was the clock set back?");
    }
    now.max(next)
}

fn new_id(now: Timestamp) -> Result<SetId> {
    let random = getrandom::u32().map_err(|error| Error::Worker(format!("no random number: {error}")))?;
    Ok(SetId::new(now, random))
}

/// The moment now, by a clock that only goes forward.
pub(crate) fn later(now: Timestamp, started: Instant) -> Timestamp {
    let passed = SignedDuration::try_from(started.elapsed()).unwrap_or(SignedDuration::ZERO);
    now.checked_add(passed).unwrap_or(now)
}
