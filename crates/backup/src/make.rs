//! Making a set.

use crate::error::{Error, Result};
use crate::repository::{Repository, SetWriter};
use crate::source::{own, postgres};
use crate::vault::{Content, Own, PostgresSource, Settings};
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
    let now = after_the_newest(repository, now)?;
    let set = new_id(now)?;
    let mut writer = repository.begin(now)?;
    let (mut parts, mut missing) = (Vec::new(), Vec::new());
    let mut first = None;
    for source in &settings.postgres {
        match add(&mut writer, source, &set) {
            Ok(part) => parts.push(part),
            // One system that cannot be read leaves the others their backup; a repository that fails ends them all.
            Err(error @ Error::Source { .. }) => {
                tracing::error!(%error, "a system is not in the set");
                missing.push(Missing { system: source.system.clone(), why: error.to_string() });
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
    let added = writer.finish(&set, &parts)?;
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
}

fn add(writer: &mut SetWriter<'_>, source: &PostgresSource, set: &SetId) -> Result<Part> {
    let runtime = Handle::current();
    let begun = runtime.block_on(postgres::begin(source, &format!("groundskeeper {set}")))?;
    let stream = begun.stream();
    let name = source.system.to_string();
    let stored = writer.add(&name, |feed| stream.send(feed))?;
    Ok(Part { name, entries: stored.entries, bytes: stored.bytes, postgres: Some(stored.told) })
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
    Ok(Part { name: own::PART.to_owned(), entries: stored.entries, bytes: stored.bytes, postgres: None })
}

/// The newest set is the one with the latest time. A clock that was set back, or two sets in one second, must not make an
/// older one the newest.
fn after_the_newest(repository: &Repository, now: Timestamp) -> Result<Timestamp> {
    let Some(newest) = repository.sets()?.into_iter().next() else { return Ok(now) };
    let next = newest.made.checked_add(SignedDuration::from_secs(1)).unwrap_or(newest.made);
    if next > now {
        tracing::warn!(newest = %newest.id, "the newest set is not older than now; was the clock set back?");
    }
    Ok(now.max(next))
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
