//! `tune`: reads a server now and advises. Needs no store and no daemon, and changes nothing.

use super::CallError;
use super::api::TuneView;
use crate::clock::Clock;
use crate::config::{Settings, did_you_mean};
use crate::stack::Stack;
use groundskeeper_core::observation::Observation;
use groundskeeper_core::tuning::postgres::advise;
use groundskeeper_core::{SystemId, SystemKind};

/// For the named Postgres (`main` or `postgres.main`), or for the only one.
pub async fn tune_postgres(settings: &Settings, name: Option<&str>) -> Result<TuneView, CallError> {
    let stack = Stack::new(settings.systems.clone());
    let system = chosen(&stack, name)?;
    let at = Clock::wall().now();
    let mut readings = stack.observe(at, |id| *id == system);
    let read = readings.join_next().await.ok_or_else(|| CallError::unanswered(format!("{system} was not read")))?;
    let (_, observation) = read.map_err(|panic| CallError::unanswered(format!("a reading ended in a bug: {panic}")))?;
    let Observation::Postgres(reading) = observation else {
        return Err(CallError::usage(format!("{system} is no Postgres")));
    };
    let seen = reading.outcome.map_err(|failure| {
        CallError::unanswered(format!("{system} at {} does not answer: {}", failure.address, failure.message))
    })?;
    let advised = advise(&seen)
        .map_err(|gap| CallError::unanswered(format!("the settings of {system} could not be read: {}", gap.reason)))?;
    Ok(TuneView { at, address: stack.address(&system), version: seen.server.version.clone(), system, advised })
}

fn chosen(stack: &Stack, name: Option<&str>) -> Result<SystemId, CallError> {
    let all: Vec<&SystemId> = stack.ids().filter(|id| id.kind == SystemKind::Postgres).collect();
    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
    match (name, all.as_slice()) {
        (_, []) => Err(CallError::usage(
            "no Postgres is configured; add a [postgres.main] section, or give an address: `groundskeeper tune postgres URL`",
        )),
        (Some(name), _) => {
            let found = all.iter().find(|id| id.name == name || id.to_string() == name);
            found.map(|id| (*id).clone()).ok_or_else(|| {
                let hint = did_you_mean(name, names.iter().map(String::as_str));
                CallError::usage(format!("there is no Postgres `{name}`{hint}"))
            })
        }
        (None, [only]) => Ok((*only).clone()),
        (None, _) => {
            Err(CallError::usage(format!("several Postgres are configured; name one of {}", names.join(", "))))
        }
    }
}
