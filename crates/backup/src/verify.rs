//! Rungs 1 and 2: is everything there, and is it still what was written?

use crate::error::{Error, Result};
use crate::make::later;
use crate::repository::Repository;
use crate::vault::receipt;
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Receipt, Rung, SetId};
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// Nothing is begun any more after `budget`.
pub(crate) fn verify(
    repository: &Repository,
    wanted: Option<&SetId>,
    budget: Duration,
    now: Timestamp,
) -> Result<Receipt> {
    let started = Instant::now();
    let set = repository.set(wanted)?;
    let mut kept = receipt(repository, &set)?;
    let climb = |rung, started: Instant, outcome| Climb {
        rung,
        at: later(now, started),
        took: started.elapsed().as_secs_f64(),
        outcome,
    };
    let outcome = match repository.stored(&set, &kept.parts) {
        Ok(wrong) if !wrong.is_empty() => ClimbOutcome::Failed { why: wrong.join("; ") },
        Ok(_) if kept.parts.is_empty() => ClimbOutcome::Failed {
            why: "its receipt was lost, so nobody knows what should be in it; the next set has one".to_owned(),
        },
        Ok(_) => ClimbOutcome::Proven {
            shown: "every entry, byte and chunk that the sources sent is there".to_owned(),
            not_covered: Vec::new(),
        },
        Err(Error::Damaged { why, .. }) => ClimbOutcome::Failed { why },
        // A place that does not answer says nothing of the set.
        Err(error) => return Err(error),
    };
    kept.climbs.push(climb(Rung::Stored, started, outcome));
    // Kept at once: what follows takes long, and may end otherwise.
    repository.keep_receipt(&kept)?;
    let reading = Instant::now();
    let read = match repository.read_back(budget.saturating_sub(started.elapsed())) {
        Ok(read) => read,
        Err(Error::Damaged { why, .. }) => {
            kept.climbs.push(climb(Rung::Intact, reading, ClimbOutcome::Failed { why }));
            repository.keep_receipt(&kept)?;
            return Ok(kept);
        }
        Err(error) => return Err(error),
    };
    let outcome = match read.damage.get(&set.id) {
        Some(wrong) => ClimbOutcome::Failed { why: shortened(wrong) },
        None if read.unread > 0 => ClimbOutcome::NotTried {
            why: format!(
                "{} of {} packs were not read back when the time for it was over; the next verification goes on with them",
                read.unread,
                read.unread + read.read + read.known
            ),
        },
        None => ClimbOutcome::Proven {
            shown: format!(
                "{} packs with {} bytes read back, decrypted and hashed; {} were read before",
                read.read, read.bytes, read.known
            ),
            not_covered: Vec::new(),
        },
    };
    kept.climbs.push(climb(Rung::Intact, reading, outcome));
    repository.keep_receipt(&kept)?;
    for (lost, why) in repository.lost()? {
        let Some(mut theirs) = repository.receipt(&lost)? else { continue };
        theirs.climbs.push(climb(Rung::Stored, reading, ClimbOutcome::Failed { why }));
        repository.keep_receipt(&theirs)?;
    }
    // The same packs may be needed by other sets: what was believed of those is not true any more.
    for (other, wrong) in read.damage.iter().filter(|(id, _)| **id != set.id) {
        let other = repository.set(Some(other))?;
        let mut theirs = receipt(repository, &other)?;
        theirs.climbs.push(climb(Rung::Intact, reading, ClimbOutcome::Failed { why: shortened(wrong) }));
        repository.keep_receipt(&theirs)?;
    }
    Ok(kept)
}

/// The first few of many sentences.
fn shortened(sentences: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = sentences.len().saturating_sub(SHOWN);
    let shown = sentences[..sentences.len() - more].join("; ");
    if more == 0 { shown } else { format!("{shown}; and {more} more") }
}
