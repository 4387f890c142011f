//! The configured systems, read side by side.
//!
//! Each system is read in a task of its own under its own deadline, and its reading is handed on the moment it is
//! there: a system that hangs delays nobody but the primary whose standbys could be meant: which indexes those use is
//! counted there alone, and belongs beside what the primary has counted.

use crate::config::{Endpoint, SystemSettings};
use groundskeeper_backup::{self as backup, Lookout};
use groundskeeper_core::advice::Advice;
use groundskeeper_core::observation::{
    Deep, Failure, FailureKind, Footprints, Gap, Machine, Observation, Reading, SealKey, TableName,
};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::{self as systems, postgres::Round};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The adapters keep their deadlines themselves; this much later the reading is given up from outside.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Stack {
    systems: Arc<[SystemSettings]>,
    /// None where there is no record: then secrets are nothing but hidden.
    key: Option<Arc<SealKey>>,
}

impl Stack {
    pub fn new(systems: Vec<SystemSettings>) -> Self {
        Self { systems: systems.into(), key: None }
    }

    /// Secrets in what is read can be told from each other by who has this key.
    #[must_use]
    pub fn sealing(self, key: SealKey) -> Self {
        Self { key: Some(Arc::new(key)), ..self }
    }

    pub fn ids(&self) -> impl Iterator<Item = &SystemId> {
        self.systems.iter().map(|system| &system.id)
    }

    pub fn len(&self) -> usize {
        self.systems.len()
    }

    pub fn is_empty(&self) -> bool {
        self.systems.is_empty()
    }

    pub fn get(&self, id: &SystemId) -> Option<&SystemSettings> {
        self.systems.iter().find(|system| system.id == *id)
    }

    /// The repository of backups, when there is one.
    pub fn lookout(&self) -> Option<&Lookout> {
        self.systems.iter().find_map(|system| match &system.endpoint {
            Endpoint::Backup(lookout) => Some(lookout),
            _ => None,
        })
    }

    /// Where a system is, without credentials.
    pub fn address(&self, id: &SystemId) -> String {
        self.get(id).map_or_else(String::new, |system| address(&system.endpoint))
    }

    /// Indexes that statements on these tables of a Postgres could use, verified by its planner.
    pub async fn advise(&self, id: &SystemId, tables: &[TableName], within: Duration) -> Result<Advice, Failure> {
        match self.get(id).map(|system| &system.endpoint) {
            Some(Endpoint::Postgres(endpoint)) => systems::postgres::advise::advise(endpoint, tables, within).await,
            _ => Err(Failure {
                kind: FailureKind::Missing,
                message: format!("{id} is no Postgres of the configuration"),
                address: self.address(id),
            }),
        }
    }

    /// Puts what the pages say beside what the statistics call bloated in a Postgres. Gives what could not be read, and why.
    pub async fn confirm_bloat(
        &self,
        id: &SystemId,
        spaces: &mut Footprints,
        ratio: f64,
        wasted: f64,
        within: Duration,
    ) -> Result<Vec<(String, Gap)>, Failure> {
        match self.get(id).map(|system| &system.endpoint) {
            Some(Endpoint::Postgres(endpoint)) => {
                systems::postgres::bloat::confirm(endpoint, spaces, ratio, wasted, within).await
            }
            _ => Ok(Vec::new()),
        }
    }

    /// What only the deeper rounds ask of a Postgres; none of other systems.
    pub async fn look_deeper(&self, id: &SystemId, within: Duration) -> Option<Result<Deep, Failure>> {
        match self.get(id).map(|system| &system.endpoint) {
            Some(Endpoint::Postgres(endpoint)) => Some(systems::postgres::deep::look(endpoint, within).await),
            _ => None,
        }
    }

    /// Starts reading the chosen systems; take the readings from the set as they arrive.
    pub fn observe(&self, now: Timestamp, chosen: impl Fn(&SystemId) -> bool) -> JoinSet<(SystemId, Observation)> {
        let mut readings = JoinSet::new();
        let is_asked = |system: &&SystemSettings| chosen(&system.id);
        let databases = self.systems.iter().filter(is_asked).filter(|system| system.id.kind == SystemKind::Postgres);
        let round = Round::of(databases.count());
        for system in self.systems.iter().filter(is_asked).cloned() {
            let (round, key) = (round.clone(), self.key.clone());
            readings.spawn(async move {
                let limit = system.deadline + GRACE;
                let ours = system.clone();
                // A task of its own, so that a panic in an adapter is this system's failed reading and not a gap that
                // nobody sees.
                let reading = tokio::spawn(async move { observe(&ours, key.as_deref(), now).await });
                let aborting = reading.abort_handle();
                let observation = match tokio::time::timeout(limit, reading).await {
                    Ok(Ok(observation)) => observation,
                    Ok(Err(bug)) => failed_reading(
                        &system,
                        FailureKind::Protocol,
                        format!("reading it ended in a bug of groundskeeper: {bug}"),
                        now,
                    ),
                    Err(_) => {
                        aborting.abort();
                        failed_reading(
                            &system,
                            FailureKind::Timeout,
                            format!("no answer within {:.0} s", limit.as_secs_f64()),
                            now,
                        )
                    }
                };
                let observation = match observation {
                    Observation::Postgres(reading) => {
                        Observation::Postgres(round.completed(&system.id.name, reading).await)
                    }
                    other => other,
                };
                (system.id, observation)
            });
        }
        readings
    }
}

fn address(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Postgres(endpoint) => endpoint.address().to_owned(),
        Endpoint::Redis(endpoint) => endpoint.address().to_owned(),
        Endpoint::Http(endpoint) => endpoint.address().to_owned(),
        Endpoint::Host(_) => "this machine".to_owned(),
        Endpoint::Logs(folder) => folder.path().display().to_string(),
        Endpoint::Backup(lookout) => lookout.place().to_string(),
    }
}

async fn observe(system: &SystemSettings, key: Option<&SealKey>, now: Timestamp) -> Observation {
    let deadline = system.deadline;
    match &system.endpoint {
        Endpoint::Postgres(endpoint) => {
            let mut reading = systems::postgres::observe(endpoint, now, deadline).await;
            if let Ok(seen) = &mut reading.outcome {
                seen.machine = machine(system, endpoint).map(Box::new);
                if let Ok(settings) = &mut seen.settings {
                    settings.seal(key);
                }
            }
            Observation::Postgres(reading)
        }
        Endpoint::Redis(endpoint) => Observation::Redis(systems::redis::observe(endpoint, now, deadline).await),
        Endpoint::Http(endpoint) => Observation::Http(systems::http::observe(endpoint, now, deadline).await),
        Endpoint::Host(scope) => Observation::Host(systems::host::observe(scope, now, deadline).await),
        Endpoint::Logs(folder) => Observation::Logs(systems::logs::observe(folder, now, deadline).await),
        Endpoint::Backup(lookout) => Observation::Backup(backup::observe(lookout, now, deadline).await),
    }
}

/// What the configuration says of the server's machine; the rest is ours where the server's address is a Unix socket.
fn machine(system: &SystemSettings, endpoint: &systems::postgres::Endpoint) -> Option<Machine> {
    let told = system.machine.clone();
    let own = if endpoint.is_socket() { systems::host::capacity() } else { None };
    let Some(own) = own else { return told };
    let Some(told) = told else {
        let told_by = "this machine, whose Unix socket is the server's address (if the server has less of it, put machine = { … } into the configuration)".to_owned();
        return Some(Machine { memory: Some(own.memory), cores: Some(own.cores), storage: None, told_by });
    };
    let told_by = if told.memory.is_some() && told.cores.is_some() {
        told.told_by
    } else {
        format!("{}, and this machine for what it leaves out", told.told_by)
    };
    Some(Machine {
        memory: told.memory.or(Some(own.memory)),
        cores: told.cores.or(Some(own.cores)),
        storage: told.storage,
        told_by,
    })
}

/// An adapter that did not keep its deadline, or broke. That is our bug, and still only this system's reading.
fn failed_reading(system: &SystemSettings, kind: FailureKind, message: String, now: Timestamp) -> Observation {
    let took = (system.deadline + GRACE).as_secs_f64();
    let failure = Failure { kind, message, address: address(&system.endpoint) };
    match system.id.kind {
        SystemKind::Postgres => Observation::Postgres(failed(failure, took, now)),
        SystemKind::Redis => Observation::Redis(failed(failure, took, now)),
        SystemKind::Http => Observation::Http(failed(failure, took, now)),
        SystemKind::Host => Observation::Host(failed(failure, took, now)),
        SystemKind::Logs => Observation::Logs(failed(failure, took, now)),
        SystemKind::Backup => Observation::Backup(failed(failure, took, now)),
    }
}

fn failed<O>(failure: Failure, took: f64, now: Timestamp) -> Reading<O> {
    Reading { at: now, latency: took, took, outcome: Err(failure) }
}
