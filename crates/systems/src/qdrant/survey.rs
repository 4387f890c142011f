//! What a node says of itself, of its cluster, and of what it holds.

use super::client::Endpoint;
use crate::deadline::timed_out;
use groundskeeper_core::observation::{Failure, FailureKind};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// `1.16.3`
    pub version: String,
    /// Its number in its cluster; none when it is in none.
    pub peer: Option<String>,
    /// Every node of the cluster by its number, with the address by which the others know it. That is no address of the
    /// REST interface. Empty without a cluster.
    pub peers: BTreeMap<String, String>,
    /// What `/collections/NAME` says of each: settings, schema of the payload, number of points.
    pub collections: BTreeMap<String, Value>,
    /// What `/aliases` says: snapshots have none.
    pub aliases: Value,
}

/// Asks for all of it; `deadline` is for each question.
pub async fn survey(endpoint: &Endpoint, deadline: Duration) -> Result<Node, Failure> {
    // It is the one answer without a `result`.
    let title = endpoint.send(Method::GET, &[], deadline).await?;
    let title = tokio::time::timeout(deadline, title.json::<Value>()).await;
    let title = title.map_err(|_| timed_out(deadline, endpoint.address()))?.map_err(|_| endpoint.nonsense(&[]))?;
    let version = title.get("version").and_then(Value::as_str).ok_or_else(|| endpoint.nonsense(&[]))?.to_owned();
    let (peer, peers) = members(&endpoint.ask(Method::GET, &["cluster"], deadline).await?);
    let named = endpoint.ask(Method::GET, &["collections"], deadline).await?;
    let named =
        named.get("collections").and_then(Value::as_array).ok_or_else(|| endpoint.nonsense(&["collections"]))?;
    let mut collections = BTreeMap::new();
    for collection in named {
        let name = collection.get("name").and_then(Value::as_str).ok_or_else(|| endpoint.nonsense(&["collections"]))?;
        match endpoint.ask(Method::GET, &["collections", name], deadline).await {
            Ok(info) => drop(collections.insert(name.to_owned(), info)),
            // It was dropped in between.
            Err(failure) if failure.kind == FailureKind::Missing => {}
            Err(failure) => return Err(failure),
        }
    }
    let aliases = endpoint.ask(Method::GET, &["aliases"], deadline).await?;
    Ok(Node { version, peer, peers, collections, aliases })
}

/// Numbers of peers have 64 bits, which JSON gives as numbers or as names of fields.
fn members(cluster: &Value) -> (Option<String>, BTreeMap<String, String>) {
    let peer = cluster.get("peer_id").and_then(Value::as_u64).map(|peer| peer.to_string());
    let peers = cluster.get("peers").and_then(Value::as_object);
    let address = |peer: &Value| peer.get("uri").and_then(Value::as_str).unwrap_or_default().to_owned();
    let peers = peers.into_iter().flatten().map(|(id, peer)| (id.clone(), address(peer))).collect();
    (peer, peers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_nodes_of_a_cluster_are_known_by_their_numbers() {
        // As the OpenAPI document of Qdrant has it.
        let cluster = json!({ "status": "enabled", "peer_id": 7_654_321_987_654_321_u64, "peers": {
            "7654321987654321": { "uri": "http://one:6335/" }, "42": { "uri": "http://two:6335/" } } });
        let (peer, peers) = members(&cluster);
        assert_eq!(peer.as_deref(), Some("7654321987654321"));
        assert_eq!((peers.len(), peers["42"].as_str()), (2, "http://two:6335/"));
        assert_eq!(members(&json!({ "status": "disabled" })), (None, BTreeMap::new()));
    }
}
