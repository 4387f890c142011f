//! `tune`: reads a server now and advises. That needs no store and no daemon. To plan a change needs both the record, which keeps
//! the plan, and the journal, without which nothing is changed.

use super::api::{PlanView, TuneView};
use super::{App, CallError};
use crate::clock::Clock;
use crate::config::{Settings, did_you_mean};
use crate::stack::Stack;
use groundskeeper_core::observation::Observation;
use groundskeeper_core::plan::Plan;
use groundskeeper_core::tuning::postgres::{advise, planned};
use groundskeeper_core::{SystemId, SystemKind};
use jiff::Timestamp;

/// For the named Postgres (`main` or `postgres.main`), or for the only one.
pub async fn tune_postgres(settings: &Settings, name: Option<&str>) -> Result<TuneView, CallError> {
    advised(&Stack::new(settings.systems.clone()), name, Clock::wall().now()).await
}

impl App {
    /// A plan of one step, for what is advised at this moment.
    pub async fn plan_setting(&self, system: Option<&str>, setting: &str) -> Result<PlanView, CallError> {
        let shop = &self.shop;
        // What a dead process left of an earlier change has to be put right before another one is thought of.
        shop.executor.recover().await?;
        let view = advised(&shop.stack, system, shop.clock.now()).await?;
        let why_not = |why: &str| CallError::usage(format!("{setting} of {} is not changed: {why}", view.system));
        let Some(advice) = view.advised.advice.iter().find(|one| one.setting == setting) else {
            let unsure = view.advised.unknown.iter().find(|one| one.setting == setting);
            let others: Vec<&str> = view.advised.advice.iter().map(|one| one.setting.as_str()).collect();
            let hint = did_you_mean(setting, others.iter().copied());
            return Err(match unsure {
                Some(unsure) => why_not(&unsure.why),
                None => why_not(&format!("nothing else is advised for it{hint}")),
            });
        };
        let situation = shop.executor.situation().await?;
        let now = shop.clock.now();
        let (hidden, policy) = (&view.advised.hidden_files, &shop.settings.policy);
        let item = planned(advice, hidden, &view.system, policy, &situation, now).map_err(|why| why_not(&why))?;
        let plan = Plan::new(now, vec![item]);
        let kept = plan.clone();
        shop.record.with(move |store| store.keep_plan(&kept)).await?;
        Ok(PlanView { plan, unread: Vec::new() })
    }
}

async fn advised(stack: &Stack, name: Option<&str>, at: Timestamp) -> Result<TuneView, CallError> {
    let system = chosen(stack, name)?;
    let mut readings = stack.observe(at, |id| *id == system);
    let read = readings.join_next().await.ok_or_else(|| CallError::unanswered(format!("{system} was not read")))?;
    let (_, observation) = read.map_err(|panic| CallError::unanswered(format!("a reading ended in a bug: {panic}")))?;
    let Observation::Postgres(reading) = observation else {
        return Err(CallError::usage(format!("{system} is no Postgres")));
    };
    let seen = reading.outcome.map_err(|failure| {
        CallError::unanswered(format!("{system} at {} does not answer: {}", failure.address, failure.message))
    })?;
    let found = advise(&seen)
        .map_err(|gap| CallError::unanswered(format!("the settings of {system} could not be read: {}", gap.reason)))?;
    Ok(TuneView { at, address: stack.address(&system), version: seen.server.version.clone(), system, advised: found })
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
