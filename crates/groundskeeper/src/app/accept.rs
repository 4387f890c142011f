//! `accept`: the present configuration of a system becomes the one that later readings are compared with.

use super::api::AcceptView;
use super::{App, CallError};
use groundskeeper_core::observation::{Accepted, Observation};
use groundskeeper_core::{SystemId, SystemKind};

impl App {
    /// `main` or `postgres.main`. Reads it now: what is accepted is what is there, not what was.
    pub async fn accept(&self, name: &str, by: &str) -> Result<AcceptView, CallError> {
        let shop = &self.shop;
        let is_meant = |id: &&SystemId| id.kind == SystemKind::Postgres && (id.name == name || id.to_string() == name);
        let system = shop.stack.ids().find(is_meant).cloned().ok_or_else(|| {
            let all = shop.stack.ids().filter(|id| id.kind == SystemKind::Postgres);
            let all: Vec<String> = all.map(ToString::to_string).collect();
            let known =
                if all.is_empty() { "none is configured".to_owned() } else { format!("there is {}", all.join(", ")) };
            CallError::usage(format!("`{name}` is no Postgres of the configuration; {known}"))
        })?;
        let mut readings = shop.stack.observe(shop.clock.now(), |id| *id == system);
        let Some(Ok((_, Observation::Postgres(reading)))) = readings.join_next().await else {
            return Err(CallError::unanswered(format!("{system} could not be read")));
        };
        let at = reading.at;
        let seen = reading.outcome.map_err(|failure| {
            CallError::unanswered(format!("{system} at {} does not answer: {}", failure.address, failure.message))
        })?;
        let settings = seen.settings.as_ref().map_err(|gap| {
            CallError::unanswered(format!("the settings of {system} could not be read: {}", gap.reason))
        })?;
        let accepted = Accepted::of(settings, seen.access.sees_all(), at, by);
        let (id, count, kept) = (system.clone(), accepted.settings.len(), accepted.clone());
        let before = shop
            .record
            .with(move |store| {
                let before = store.accepted(&id)?;
                store.accept(&id, &kept)?;
                Ok(before)
            })
            .await?;
        let changes = before.map(|mut before| {
            before.reseal(settings, seen.access.sees_all());
            before.drift(settings)
        });
        Ok(AcceptView { system, at, settings: count, changes })
    }
}
