//! Redis: its data as one RDB file, as a replica gets them, and beside it what the server says of itself.
//!
//! The checksum at the end of the file is computed on the way. A file whose checksum is wrong, or that ends before it, adds
//! nothing to the set.

use super::incoming::{Incoming, Message};
use crate::error::{Error, Result};
use crate::rdb::{Checked, Seal};
use crate::repository::{SetWriter, feed::Feed};
use crate::vault::RedisSource;
use groundskeeper_core::observation::{Failure, FailureKind};
use groundskeeper_core::receipt::{Keyspace, Part};
use groundskeeper_systems::redis::{Dump, Facts, Position, dump, facts};
use rustic_core::repofile::Metadata;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

/// To connect, and for one question.
const DEADLINE: Duration = Duration::from_secs(30);
/// Redis sends something every ten seconds while it forks, and calls a replica dead after sixty.
const SILENCE: Duration = Duration::from_mins(1);
pub(crate) const RDB: &str = "dump.rdb";
const FACTS: &str = "redis.json";

/// Stores the part of one Redis.
pub(crate) fn add(writer: &mut SetWriter<'_>, source: &RedisSource) -> Result<Part> {
    let name = source.system.to_string();
    let begun = Handle::current().block_on(begin(source))?;
    let stored = writer.add(&name, |feed| begun.send(feed))?;
    Ok(Part { name, entries: stored.entries, bytes: stored.bytes, redis: Some(stored.told), ..Part::default() })
}

/// A file on its way.
struct Begun {
    incoming: Incoming,
    facts: Facts,
    position: Option<Position>,
    system: String,
}

async fn begin(source: &RedisSource) -> Result<Begun> {
    let (system, endpoint) = (source.system.to_string(), &source.endpoint);
    let facts = facts(endpoint, DEADLINE).await.map_err(|mut failure| {
        if failure.kind == FailureKind::Denied && failure.message.contains("NOPERM") {
            failure.message =
                format!("{}; allow what a backup needs: {}", failure.message, endpoint.rights_for_a_copy());
        }
        failed(&system, &failure)
    })?;
    let dump = dump(endpoint, DEADLINE, SILENCE).await.map_err(|failure| failed(&system, &failure))?;
    let position = dump.position().cloned();
    let (sender, incoming) = Incoming::new();
    tokio::spawn(pump(dump, sender));
    Ok(Begun { incoming, facts, position, system })
}

fn failed(system: &str, failure: &Failure) -> Error {
    let (why, retryable) = said(failure);
    Error::Source { system: system.to_owned(), why, retryable }
}

/// In words, and whether the same may succeed later.
fn said(failure: &Failure) -> (String, bool) {
    let lasting = matches!(failure.kind, FailureKind::Denied | FailureKind::Tls | FailureKind::Protocol);
    (format!("{}: {}", failure.address, failure.message), !lasting)
}

/// Ends, and with it the copy at the server, as soon as nobody takes the messages any more.
async fn pump(mut dump: Dump, sender: Sender<Message>) {
    loop {
        let message = match dump.next().await {
            Ok(Some(piece)) => Message::Data(piece),
            Ok(None) => Message::End,
            Err(failure) => {
                let (why, retryable) = said(&failure);
                Message::Failed(why, retryable)
            }
        };
        let is_last = !matches!(message, Message::Data(_));
        if sender.send(message).await.is_err() || is_last {
            break;
        }
    }
}

impl Begun {
    fn send(self, feed: &mut Feed) -> Result<Keyspace> {
        let meta = || Metadata { mode: Some(0o600), ..Metadata::default() };
        let mut checked = Checked::new(self.incoming);
        let streamed = feed.stream(Path::new(RDB), meta(), &mut checked);
        let seal = match (streamed, checked.seal()) {
            (Ok(_), Some(seal)) => seal,
            (Ok(_), None) => return Err(Error::Worker("the end of an RDB file was not looked at".to_owned())),
            (Err(error), _) => return Err(checked.into_inner().failure(&self.system, &error)),
        };
        let keyspace = keyspace(&self.facts, self.position, seal);
        let told = json!({ "redis": &keyspace, "primary": self.facts.is_primary, "settings": &self.facts.settings });
        let text = serde_json::to_string_pretty(&told).map_err(|error| Error::Worker(error.to_string()))?;
        feed.file(Path::new(FACTS), text.len() as u64, meta(), &mut text.as_bytes()).map_err(|error| {
            Error::Source { system: self.system.clone(), why: format!("{FACTS}: {error}"), retryable: true }
        })?;
        Ok(keyspace)
    }
}

fn keyspace(facts: &Facts, position: Option<Position>, seal: Seal) -> Keyspace {
    Keyspace {
        version: facts.version.clone(),
        rdb_version: seal.version,
        keys: facts.keys,
        memory: facts.memory,
        checksum: seal.checksum.map(|checksum| format!("{checksum:016x}")),
        position: position.map(|position| (position.id, position.offset)),
        modules: facts.modules.clone(),
    }
}
