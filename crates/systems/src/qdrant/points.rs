//! What a node holds: exact counts, ids, and a snapshot that it takes in. For a server that was started for a drill.

use super::client::Endpoint;
use groundskeeper_core::observation::Failure;
use groundskeeper_core::receipt::PointId;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Ids of one answer.
const PAGE: u32 = 10_000;

impl Endpoint {
    /// Makes a collection of a snapshot, or replaces what it holds. `file` lies where the server reads it: in its own
    /// folder for snapshots.
    pub async fn recover(&self, collection: &str, file: &str, within: Duration) -> Result<(), Failure> {
        let body = json!({ "location": format!("file://{file}"), "priority": "snapshot" });
        let path = ["collections", collection, "snapshots", "recover"];
        self.ask_with(Method::PUT, &path, Some(&body), within).await.map(drop)
    }

    /// Points, counted one by one.
    pub async fn count(&self, collection: &str, within: Duration) -> Result<u64, Failure> {
        let path = ["collections", collection, "points", "count"];
        let counted = self.ask_with(Method::POST, &path, Some(&json!({ "exact": true })), within).await?;
        counted.get("count").and_then(Value::as_u64).ok_or_else(|| self.nonsense(&path))
    }

    /// The next ids from `from` on, and where to go on. `None` begins, and ends.
    pub async fn ids(
        &self,
        collection: &str,
        from: Option<PointId>,
        within: Duration,
    ) -> Result<(Vec<PointId>, Option<PointId>), Failure> {
        let path = ["collections", collection, "points", "scroll"];
        let mut body = json!({ "limit": PAGE, "with_payload": false, "with_vector": false });
        match from {
            Some(PointId::Number(number)) => body["offset"] = json!(number),
            Some(uuid @ PointId::Uuid(_)) => body["offset"] = json!(uuid.to_string()),
            None => {}
        }
        let page = self.ask_with(Method::POST, &path, Some(&body), within).await?;
        let points = page.get("points").and_then(Value::as_array).ok_or_else(|| self.nonsense(&path))?;
        let ids = points.iter().map(|point| point.get("id").and_then(of_json));
        let ids = ids.collect::<Option<Vec<PointId>>>().ok_or_else(|| self.nonsense(&path))?;
        let next = match page.get("next_page_offset") {
            None | Some(Value::Null) => None,
            Some(next) => Some(of_json(next).ok_or_else(|| self.nonsense(&path))?),
        };
        Ok((ids, next))
    }
}

fn of_json(value: &Value) -> Option<PointId> {
    value.as_u64().map(PointId::Number).or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_or_texts_of_uuids() {
        let uuid = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26";
        assert_eq!(of_json(&json!(7)), Some(PointId::Number(7)));
        assert_eq!(of_json(&json!(uuid)), uuid.parse().ok());
        assert_eq!((of_json(&json!(-1)), of_json(&json!(null)), of_json(&json!("x"))), (None, None, None));
    }
}
