//! Readings are compared with the configuration that somebody accepted; the first one of a system accepts what it sees.

use super::Shop;
use crate::record;
use crate::scheduler::Mode;
use groundskeeper_core::SystemId;
use groundskeeper_core::observation::{Accepted, Observation, Reading};

const FIRST: &str = "the first reading";

/// Puts what was accepted beside what was seen.
pub(crate) async fn compare(
    shop: &Shop,
    system: &SystemId,
    observation: &mut Observation,
    mode: Mode,
) -> record::Result<()> {
    let Observation::Postgres(Reading { at, outcome: Ok(seen), .. }) = observation else { return Ok(()) };
    let Ok(settings) = &seen.settings else { return Ok(()) };
    let now = Accepted::of(settings, seen.access.sees_all(), *at, FIRST);
    let (id, at, read, sees_all) = (system.clone(), *at, settings.clone(), now.sees_all);
    let accepted = shop
        .record
        .with(move |store| {
            let mut accepted = match store.accepted(&id)? {
                Some(accepted) => accepted,
                None if mode == Mode::Real => store.accept(&id, &now).map(|()| now)?,
                None => now,
            };
            if accepted.reseal(&read, sees_all) && mode == Mode::Real {
                store.reseal(&id, &accepted, at)?;
            }
            if accepted.at_restart(&read, at) && mode == Mode::Real {
                store.restarted(&id, &accepted, at)?;
            }
            accepted.at_reading(at);
            for entry in store.unsettled()?.iter().filter(|entry| *entry.step.system() == id) {
                accepted.expect(entry.id, &entry.step);
            }
            Ok(accepted)
        })
        .await?;
    seen.accepted = Some(Box::new(accepted));
    Ok(())
}
