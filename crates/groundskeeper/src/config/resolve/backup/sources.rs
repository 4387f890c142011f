//! What goes into a set: the systems that `systems` names, or else all that can be backed up.

use crate::config::nearest::did_you_mean;
use crate::config::raw::{At, Section};
use crate::config::{Endpoint, Settings};
use groundskeeper_backup::vault::{PostgresSource, QdrantSource, RedisSource};
use groundskeeper_core::SystemId;

/// The kinds of system that can be backed up, as tables of the configuration.
const KINDS: [&str; 3] = ["postgres", "redis", "qdrant"];

#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) postgres: Vec<PostgresSource>,
    pub(super) redis: Vec<RedisSource>,
    pub(super) qdrant: Vec<QdrantSource>,
}

impl Sources {
    fn names(&self) -> Vec<String> {
        let postgres = self.postgres.iter().map(|source| source.system.to_string());
        let redis = self.redis.iter().map(|source| source.system.to_string());
        postgres.chain(redis).chain(self.qdrant.iter().map(|source| source.name.clone())).collect()
    }

    /// Leaves only what is named.
    fn keep(&mut self, named: &[String]) {
        let is_named = |system: &SystemId| named.contains(&system.to_string());
        self.postgres.retain(|source| is_named(&source.system));
        self.redis.retain(|source| is_named(&source.system));
        self.qdrant.retain(|source| named.contains(&source.name));
    }
}

pub(super) fn all(top: &Section<'_>, section: &Section<'_>, so_far: &Settings, qdrant: Vec<QdrantSource>) -> Sources {
    let mut sources = Sources { qdrant, ..Sources::default() };
    let reads_files = section.flag("read_files").unwrap_or(true);
    for system in &so_far.systems {
        match &system.endpoint {
            Endpoint::Postgres(endpoint) => {
                let (system, endpoint) = (system.id.clone(), endpoint.clone());
                sources.postgres.push(PostgresSource { system, endpoint, reads_files });
            }
            Endpoint::Redis(endpoint) => {
                sources.redis.push(RedisSource { system: system.id.clone(), endpoint: endpoint.clone() });
            }
            _ => {}
        }
    }
    if KINDS.iter().all(|kind| !top.has(kind)) && !section.has("files") {
        let message = format!(
            "[{}] has nothing to back up: no Postgres, Redis or Qdrant is configured, and no `files`; add a [postgres.main] section",
            section.name
        );
        section.problem(section.at, message);
    }
    let Some(names) = section.texts("systems") else { return sources };
    if names.is_empty() {
        let message =
            format!("[{}] has an empty `systems`; leave it out to back up all that can be backed up", section.name);
        section.problem(section.at, message);
    }
    let known = sources.names();
    for name in &names {
        if let Err(why) = can_be_named(name, &known, top) {
            section.problem(name.at, format!("`systems`{}: {why}", section.place()));
        }
    }
    sources.keep(&names.into_iter().map(|name| name.value).collect::<Vec<_>>());
    // What is not in the set cannot be compared with what is.
    for source in &sources.qdrant {
        let tied = source.chunks.as_ref().map(|chunks| &chunks.postgres);
        if let Some(left_out) = tied.filter(|tied| !sources.postgres.iter().any(|one| one.system.to_string() == **tied))
        {
            let message = format!(
                "`systems`{} leaves out {left_out}, and the chunks of [{}] are in it; name it too, or remove [{}.chunks]",
                section.place(),
                source.name,
                source.name
            );
            section.problem(section.at, message);
        }
    }
    sources
}

fn can_be_named(name: &At<String>, known: &[String], top: &Section<'_>) -> Result<(), String> {
    if known.contains(&name.value) {
        return Ok(());
    }
    let (kind, instance) = name
        .value
        .split_once('.')
        .ok_or_else(|| format!("`{}` names no system; write kind.name, such as postgres.main", name.value))?;
    if !KINDS.contains(&kind) && top.has(kind) {
        return Err(format!(
            "`{}` cannot be backed up by this version; it backs up Postgres, Redis and Qdrant",
            name.value
        ));
    }
    // A table that is there and has a mistake was already reported.
    if KINDS.contains(&kind) && top.section(kind).is_some_and(|table| table.has(instance)) {
        return Ok(());
    }
    Err(format!("there is no `{}`{}", name.value, did_you_mean(&name.value, known.iter().map(String::as_str))))
}
