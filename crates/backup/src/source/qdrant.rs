//! Qdrant: a snapshot of every collection by every node that is named, and beside them what snapshots do not have: the aliases,
//! and what each collection says of itself.
//!
//! A node's snapshot has the shards that lie on that node. The nodes that a cluster has and nobody named are told, because the
//! cluster knows them by addresses of its own that are none of the REST interface. A snapshot is deleted from its server as
//! soon as it was downloaded, or could not be.

use super::incoming::{Incoming, Message};
use super::tie::{self, Since};
use crate::error::{Error, Result};
use crate::repository::{SetWriter, feed::Feed};
use crate::vault::QdrantSource;
use groundskeeper_core::observation::{Failure, FailureKind};
use groundskeeper_core::receipt::{Collection, Part, SnapshotFile, Vectors};
use groundskeeper_systems::qdrant::act::{Download, Snapshot};
use groundskeeper_systems::qdrant::{Endpoint, Node, survey};
use rustic_core::repofile::Metadata;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

/// For one question.
const DEADLINE: Duration = Duration::from_secs(30);
/// The server says nothing while it makes a snapshot.
const MAKING: Duration = Duration::from_hours(2);
/// Each wait of a download.
const SILENCE: Duration = Duration::from_mins(2);
/// What lies beside the collections.
pub(crate) const ALIASES: &str = "aliases.json";
const COLLECTION: &str = "collection.json";
/// Where collections are in a part.
pub(crate) const COLLECTIONS: &str = "collections";

/// Stores the part of one Qdrant. `since` is from [`tie::begin`], asked before anything was copied.
pub(crate) fn add(writer: &mut SetWriter<'_>, source: &QdrantSource, since: &Since) -> Result<Part> {
    let runtime = Handle::current();
    let name = source.name.clone();
    let nodes = runtime.block_on(nodes(source))?;
    let copying = Copying { runtime: runtime.clone(), nodes, system: name.clone() };
    let mut stored = writer.add(&name, |feed| copying.send(feed))?;
    stored.told.tie = runtime.block_on(tie::end(source, since));
    Ok(Part { name, entries: stored.entries, bytes: stored.bytes, qdrant: Some(stored.told), ..Part::default() })
}

/// What each of the named nodes says. They have to be different nodes of one cluster, or a single one.
async fn nodes(source: &QdrantSource) -> Result<Vec<(Endpoint, Node)>> {
    let mut found: Vec<(Endpoint, Node)> = Vec::new();
    for endpoint in &source.nodes {
        let node = survey(endpoint, DEADLINE).await.map_err(|failure| failed(&source.name, &failure))?;
        let wrong = |why: String| Error::Source { system: source.name.clone(), why, retryable: false };
        if source.nodes.len() > 1 && node.peer.is_none() {
            return Err(wrong(format!("{} is in no cluster; give it a table of its own", endpoint.address())));
        }
        if let Some((other, _)) = found.iter().find(|(_, other)| node.peer.is_some() && other.peer == node.peer) {
            let (one, other) = (other.address(), endpoint.address());
            return Err(wrong(format!(
                "{one} and {other} lead to the same node; name each node once, and no balancer"
            )));
        }
        if let Some((first, _)) = found.first().filter(|(_, first)| first.peers != node.peers) {
            let (one, other) = (first.address(), endpoint.address());
            return Err(wrong(format!("{one} and {other} know different nodes: they are not of one cluster")));
        }
        found.push((endpoint.clone(), node));
    }
    Ok(found)
}

fn failed(system: &str, failure: &Failure) -> Error {
    let (why, retryable) = said(failure);
    Error::Source { system: system.to_owned(), why, retryable }
}

fn said(failure: &Failure) -> (String, bool) {
    let lasting = matches!(failure.kind, FailureKind::Denied | FailureKind::Tls | FailureKind::Protocol);
    (format!("{}: {}", failure.address, failure.message), !lasting)
}

struct Copying {
    runtime: Handle,
    nodes: Vec<(Endpoint, Node)>,
    system: String,
}

impl Copying {
    fn send(self, feed: &mut Feed) -> Result<Vectors> {
        // What one node does not know yet, or any more, another may.
        let names: BTreeSet<&String> = self.nodes.iter().flat_map(|(_, node)| node.collections.keys()).collect();
        let mut collections = Vec::new();
        feed.folder(Path::new(COLLECTIONS), private(0o700));
        for name in names {
            collections.push(self.collection(feed, name)?);
        }
        let first = self.nodes.first().map(|(_, node)| node);
        let aliases = first.map_or(Value::Null, |node| node.aliases.clone());
        let count = aliases.get("aliases").and_then(Value::as_array).map_or(0, Vec::len);
        self.text(feed, Path::new(ALIASES), &aliases)?;
        Ok(Vectors {
            version: first.map(|node| node.version.clone()).unwrap_or_default(),
            nodes: self.nodes.iter().map(|(endpoint, _)| endpoint.address().to_owned()).collect(),
            not_covered: not_covered(&self.nodes),
            aliases: count as u64,
            collections,
            tie: None,
        })
    }

    fn collection(&self, feed: &mut Feed, name: &str) -> Result<Collection> {
        let folder =
            folder(name).ok_or_else(|| self.error(format!("`{name}` cannot be the name of a folder"), false))?;
        feed.folder(&folder, private(0o700));
        let infos: Vec<&Value> = self.nodes.iter().filter_map(|(_, node)| node.collections.get(name)).collect();
        let info = infos.first().copied().unwrap_or(&Value::Null);
        self.text(feed, &folder.join(COLLECTION), info)?;
        let mut snapshots = Vec::new();
        for (number, (endpoint, node)) in (1..).zip(&self.nodes) {
            if !node.collections.contains_key(name) {
                continue;
            }
            let path = folder.join(format!("node-{number}.snapshot"));
            snapshots.push(self.snapshot(feed, endpoint, name, &path)?);
        }
        let points = info.get("points_count").and_then(Value::as_u64).unwrap_or(0);
        Ok(Collection { name: name.to_owned(), points, snapshots })
    }

    /// Makes one, takes it, and deletes it whatever came of that.
    fn snapshot(&self, feed: &mut Feed, endpoint: &Endpoint, name: &str, path: &Path) -> Result<SnapshotFile> {
        let made = self.runtime.block_on(endpoint.snapshot(name, MAKING));
        let made = made.map_err(|failure| failed(&self.system, &failure))?;
        let taken = self.take(feed, endpoint, name, &made, path);
        if let Err(failure) = self.runtime.block_on(endpoint.delete_snapshot(name, &made.name, DEADLINE)) {
            let (address, why, snapshot) = (endpoint.address(), failure.message, made.name);
            tracing::warn!(%address, collection = name, %snapshot, %why, "a snapshot could not be deleted; delete it by hand");
        }
        taken
    }

    fn take(
        &self,
        feed: &mut Feed,
        endpoint: &Endpoint,
        name: &str,
        made: &Snapshot,
        path: &Path,
    ) -> Result<SnapshotFile> {
        let (sender, incoming) = Incoming::new();
        let (endpoint, name, wanted) = (endpoint.clone(), name.to_owned(), made.clone());
        self.runtime.spawn(async move {
            match endpoint.download(&name, &wanted, SILENCE).await {
                Ok(download) => pump(download, sender).await,
                Err(failure) => {
                    let (why, retryable) = said(&failure);
                    // Nobody may wait for it any more.
                    let _ = sender.send(Message::Failed(why, retryable)).await;
                }
            }
        });
        let mut hashed = Hashed { from: incoming, hash: Sha256::new(), wanted: made.checksum.clone() };
        let bytes = feed.stream(path, private(0o600), &mut hashed);
        let sha256 = hashed.sum();
        match bytes {
            Ok(bytes) => {
                let path = path.display().to_string();
                Ok(SnapshotFile { path, bytes, sha256, compared: made.checksum.is_some() })
            }
            Err(error) => Err(hashed.from.failure(&self.system, &error)),
        }
    }

    fn text(&self, feed: &mut Feed, path: &Path, value: &Value) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Error::Worker(error.to_string()))?;
        feed.file(path, text.len() as u64, private(0o600), &mut text.as_bytes())
            .map_err(|error| self.error(format!("{}: {error}", path.display()), true))
    }

    fn error(&self, why: String, retryable: bool) -> Error {
        Error::Source { system: self.system.clone(), why, retryable }
    }
}

async fn pump(mut download: Download, sender: Sender<Message>) {
    loop {
        let message = match download.next().await {
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

/// Nodes of the cluster that nobody named.
fn not_covered(nodes: &[(Endpoint, Node)]) -> Vec<String> {
    let named: BTreeSet<&String> = nodes.iter().filter_map(|(_, node)| node.peer.as_ref()).collect();
    let all = nodes.first().map(|(_, node)| &node.peers);
    let others = all.into_iter().flatten().filter(|(peer, _)| !named.contains(peer));
    others.map(|(peer, address)| format!("{peer} ({address})")).collect()
}

/// Qdrant refuses what no file system takes; what would lead elsewhere is refused here.
fn folder(name: &str) -> Option<PathBuf> {
    let plain = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    plain.then(|| Path::new(COLLECTIONS).join(name))
}

fn private(mode: u32) -> Metadata {
    Metadata { mode: Some(mode), ..Metadata::default() }
}

/// Passes bytes on; at the end their SHA-256 has to be the wanted one.
struct Hashed {
    from: Incoming,
    hash: Sha256,
    wanted: Option<String>,
}

impl Hashed {
    fn sum(&self) -> String {
        hexadecimal(&self.hash.clone().finalize())
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hash.update(&buffer[..read]);
        if read == 0
            && !buffer.is_empty()
            && let Some(wanted) = &self.wanted
        {
            let sum = self.sum();
            if !sum.eq_ignore_ascii_case(wanted) {
                return Err(io::Error::other(format!("its SHA-256 is {sum}, and the server said {wanted}")));
            }
        }
        Ok(read)
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn nodes_that_nobody_named_are_told() {
        let endpoint = || Endpoint::new("http://one:6333", None, None).unwrap();
        let peers = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), format!("http://{id}:6335/"))).collect();
        let node = |peer: Option<&str>, peers: BTreeMap<String, String>| Node {
            version: "1.16.3".into(),
            peer: peer.map(str::to_owned),
            peers,
            collections: BTreeMap::new(),
            aliases: Value::Null,
        };
        assert_eq!(not_covered(&[(endpoint(), node(None, BTreeMap::new()))]), [""; 0]);
        let one = (endpoint(), node(Some("1"), peers(&["1", "2"])));
        assert_eq!(not_covered(&[one]), ["2 (http://2:6335/)"]);
        let both =
            [(endpoint(), node(Some("1"), peers(&["1", "2"]))), (endpoint(), node(Some("2"), peers(&["1", "2"])))];
        assert_eq!(not_covered(&both), [""; 0]);
    }

    #[test]
    fn a_collection_is_a_folder_and_leads_nowhere_else() {
        assert_eq!(folder("docs v1"), Some(PathBuf::from("collections/docs v1")));
        for name in ["", ".", "..", "a/b", "../../etc"] {
            assert_eq!(folder(name), None, "{name}");
        }
    }
}
