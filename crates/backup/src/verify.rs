//! Rungs 1 and 2: is everything there, and is it still what was written?

use crate::error::Result;
use crate::make::later;
use crate::repository::Repository;
use crate::vault::receipt;
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Receipt, Rung, SetId};
use jiff::Timestamp;
use std::time::Instant;

pub(crate) fn verify(repository: &Repository, wanted: Option<&SetId>, now: Timestamp) -> Result<Receipt> {
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
        // What keeps us from looking is not held against the set.
        Err(error) if repository.place_failed() => return Err(error),
        Err(error) => ClimbOutcome::Failed { why: error.to_string() },
    };
    kept.climbs.push(climb(Rung::Stored, started, outcome));
    let reading = Instant::now();
    let read = repository.read_back()?;
    let outcome = match read.damage.get(&set.id) {
        Some(wrong) => ClimbOutcome::Failed { why: shortened(wrong) },
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
